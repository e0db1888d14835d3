"""What is told of alerts and their delivery; the other events are in events.py."""

from dataclasses import dataclass
from typing import ClassVar

from telemetry.observe.event import Event, Level


@dataclass(frozen=True, slots=True)
class AlertsFound(Event):
    """A pass over ``devices`` is done: alerts that began and that ended."""

    level: ClassVar[Level] = "debug"
    devices: int
    begun: int
    ended: int


@dataclass(frozen=True, slots=True)
class MessagesSent(Event):
    """A round of delivery. ``waiting``: messages that are due now or later, after it."""

    level: ClassVar[Level] = "debug"
    repetitive: ClassVar[bool] = True
    delivered: int
    failed: int
    withdrawn: int
    given_up: int
    waiting: int
