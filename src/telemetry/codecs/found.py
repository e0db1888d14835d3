"""One reading of a slow-path format while its values come together, and where it ends."""

import re
from dataclasses import dataclass, field
from typing import Final

from telemetry.codecs.native_rows import as_number, is_serial
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.units import SAME, Conversion
from telemetry.model.batch import Reason, Withheld
from telemetry.model.fields import FIELD_BY_NAME, DeviceKind

_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_LONGEST: Final = 40


@dataclass(slots=True)
class Found:
    """A reading of one device. ``values``: by catalogue field, in its unit; ``unlisted``: what no table lists, by
    the sender's name; ``implausible``: listed fields whose value is none.
    """

    values: dict[str, object] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)
    implausible: list[str] = field(default_factory=list)

    def put(self, name: str, value: object, convert: Conversion = SAME) -> None:
        """Take a value of catalogue field ``name``; None is no value, anything but a number is implausible."""
        if value is None:
            return
        given = number(value)
        if given is not None and not convert.same:
            given = convert(given)
        wanted = FIELD_BY_NAME[name]
        stored = None if given is None else as_number(wanted, given)
        if stored is None:
            self.implausible.append(name)
        else:
            self.values[name] = stored

    def close(self, message: int, serial: object, kind: DeviceKind | None, ts: int | None, outcome: Outcome) -> None:
        """Write the reading down: as a row, as withheld (nothing but unlisted values) or as rejected. ``ts``: µs
        since 1970, None where the format carries no time.
        """
        if not is_serial(serial):
            outcome.reject(message, Reason.BAD_SERIAL)
            return
        outcome.unlisted.update(self.unlisted)
        outcome.implausible.update(self.implausible)
        if self.values:
            row = {"message": message, "serial": serial, "kind": None if kind is None else int(kind), "ts": ts}
            outcome.rows.append(row | self.values)
        elif self.unlisted and not self.implausible:
            outcome.withhold(Withheld.UNLISTED, 1)
        else:
            outcome.reject(message, Reason.EMPTY)


def number(value: object) -> int | float | None:
    """``value`` where it is a number: not a truth value, not text."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def number_in_text(payload: bytes) -> int | float | None:
    """The number that a scalar payload writes in decimal; None where it is something else or too long."""
    if len(payload) > _LONGEST:
        return None
    text = payload.decode("utf-8", "replace").strip()
    if not _NUMBER.fullmatch(text):
        return None
    return int(text) if text.lstrip("+-").isdigit() else float(text)
