"""What travels between the parts of the simulator: readings and the messages that carry them."""

from dataclasses import dataclass
from typing import NamedTuple

Value = float | int | str | None


class Reading(NamedTuple):
    """One reading: who, what kind, when (µs since 1970 UTC), and its fields by the catalogue's names."""

    serial: str
    kind: str
    ts_us: int
    fields: dict[str, Value]


@dataclass(slots=True)
class Message:
    """One MQTT message of a gateway.

    ``sequence`` counts from 1 within ``stream``. ``expected``: the readings that a correct receiver ends up with,
    without unlisted and implausible values. ``poison`` names the fault of a message that must end in quarantine;
    it counts as one reading. ``duplicate_of`` is the sequence whose readings this one repeats, or 0. ``due_s``:
    seconds after the run's start before which it is not published. ``values``: readings that it counts for where none
    are expected by time, because the format carries none.
    """

    sequence: int
    topic: str
    payload: bytes
    content_type: str | None
    expected: list[Reading]
    poison: str = ""
    duplicate_of: int = 0
    due_s: float = 0.0
    retain: bool = False
    values: int = 0
    sends: int = 0
    acknowledged: bool = False

    @property
    def readings(self) -> int:
        """How many readings it counts for."""
        return 1 if self.poison else self.values or len(self.expected)
