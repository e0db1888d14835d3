"""When to ping and when to give up: MQTT 5.0, sections 3.1.2.10 and 3.12, for the client. No clock, no I/O."""

import enum
from typing import Final

_PING_AFTER: Final = 0.75  # of the interval without traffic in either direction
_GIVE_UP_AFTER: Final = 0.5  # of the interval after a PINGREQ that nothing follows


class Due(enum.Enum):
    """What is due now."""

    NOTHING = enum.auto()
    PING = enum.auto()
    GIVE_UP = enum.auto()


class KeepAlive:
    """Pings a connection on which either side was quiet; whatever the broker sends counts as its answer.

    While this side does not read, an answer cannot be seen and none is missed; pings still go out, because the
    broker counts them. Times are seconds of any monotonic clock; an interval of 0 switches it off.
    """

    def __init__(self, interval_s: float, now: float) -> None:
        self.interval_s = interval_s
        self._sent_at = self._heard_at = now
        self._ping_at: float | None = None

    def sent(self, now: float) -> None:
        """Something was written."""
        self._sent_at = now

    def heard(self, now: float) -> None:
        """Something was read."""
        self._heard_at = now

    def answered(self) -> None:
        """PINGRESP came."""
        self._ping_at = None

    def resumed(self, now: float) -> None:
        """Reading began again: the time in which it did not is nobody's silence."""
        self._ping_at, self._heard_at = None, now

    def due(self, now: float, *, reading: bool) -> Due:
        """What to do now. After PING the caller sends one, and calls ``sent``."""
        if not self.interval_s:
            return Due.NOTHING
        if self._ping_at is not None and reading:
            silence = now - max(self._ping_at, self._heard_at)
            if silence >= self.interval_s * _GIVE_UP_AFTER:
                return Due.GIVE_UP
        quiet_since = self._sent_at if self._ping_at is not None else min(self._sent_at, self._heard_at)
        if now - quiet_since < self.interval_s * _PING_AFTER:
            return Due.NOTHING
        if self._ping_at is None:
            self._ping_at = now
        return Due.PING
