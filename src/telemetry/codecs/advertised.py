"""What a Bluetooth advertisement comes to: one frame with values, or the reason why it is none.

An advertisement is read with the key of its device where it is received, never later: keys stay with whoever listens.
What leaves this place has no key, no address and no name in it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from telemetry.model.bluetooth import KEY_BYTES, Fault
from telemetry.model.fields import FIELD_BY_NAME, DeviceKind, FieldKind

__all__ = ["KEY_BYTES", "MAX_FRAME_BYTES", "Fault", "Frame", "Gathered"]

MAX_FRAME_BYTES: Final = 254  # the data of an extended advertisement; a legacy one has 31


@dataclass(frozen=True, slots=True)
class Frame:
    """The values of one advertisement.

    ``values``: catalogue fields. ``unlisted``: values that no table lists, by the format's own name. ``implausible``:
    fields whose value cannot be. ``counter``: the sender's, of ``counter_bits`` bits, None without one. ``trusted``:
    it was made with the device's key.
    """

    kind: DeviceKind
    values: Mapping[str, float | int]
    unlisted: Mapping[str, int] = field(default_factory=dict)
    implausible: tuple[str, ...] = ()
    counter: int | None = None
    counter_bits: int = 0
    trusted: bool = True


@dataclass(slots=True)
class Gathered:
    """A frame's values on their way: the first of a field counts, what comes after it is withheld."""

    values: dict[str, float | int] = field(default_factory=dict)
    unlisted: Counter[str] = field(default_factory=Counter)

    def add(self, name: str | None, value: float, source: str) -> None:
        """Keep ``value`` as field ``name``; without a field count it under the format's name ``source``."""
        if name is None or name in self.values:
            self.unlisted[source] += 1
            return
        whole = FIELD_BY_NAME[name].kind is FieldKind.STATUS
        # Plus zero: no negative zero.
        self.values[name] = int(value) if whole else round(float(value), 6) + 0.0

    def out_of_range(self) -> Iterator[str]:
        """Fields whose value the catalogue calls impossible."""
        for name, value in self.values.items():
            known = FIELD_BY_NAME[name]
            if not known.minimum <= value <= known.maximum:
                yield name
