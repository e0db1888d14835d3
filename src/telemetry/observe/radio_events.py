"""What Bluetooth tells of itself; part of events.py, which says what an event may hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from telemetry.model.bluetooth import Fault
from telemetry.observe.event import Event, Level


@dataclass(frozen=True, slots=True)
class AdvertisementsHeard(Event):
    """What became of Bluetooth frames since the last such event, and how the radio and the spool stand now.

    ``missed``: numbers that never arrived. ``dropped``: readings for which there was no room, or that were thrown
    away because listening was forbidden. ``damaged``: files of the spool that were cut short or altered.
    """

    level: ClassVar[Level] = "debug"
    repetitive: ClassVar[bool] = True
    taken: int
    untrusted: int
    strangers: int
    repeated: int
    thinned: int
    empty: int
    missed: int
    values_unlisted: int
    dropped: int
    damaged: int
    spool_bytes: int
    permitted: bool
    scanning: bool
    refused: Mapping[Fault, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RadioFailed(Event):
    """Bluetooth cannot be scanned; it is tried again."""

    level: ClassVar[Level] = "warning"
    repetitive: ClassVar[bool] = True
    error: BaseException | None = None
