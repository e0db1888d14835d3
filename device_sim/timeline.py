"""When readings are taken and when messages are due: simulated time against the wall clock."""

import math
from dataclasses import dataclass
from typing import Self

_USUAL_INTERVAL_S = 5.0
_RECENT_S = 3_000.0  # readings made faster than the clock lie within the last 50 minutes
_ENDLESS_TICKS = 100_000  # a run without a bound is laid out as if it had so many


@dataclass(frozen=True, slots=True)
class Timeline:
    """Tick k is taken at ``start_us + k · interval_us``.

    ``speed``: simulated seconds per wall second; 0 where messages are paced by number (``message_s`` apart in each
    gateway) or not at all (0). ``behind_s``: how far ``start_us`` lies behind the wall clock at the run's start.
    ``linger_ticks``: a message is closed after so many ticks even if it is not full; 0 never.
    """

    start_us: int
    interval_us: int
    speed: float
    message_s: float
    behind_s: float
    linger_ticks: int
    gateways: int

    @classmethod
    def fit(
        cls,
        *,
        now_s: float,
        gateways: int,
        devices: int,
        readings_per_message: int,
        interval_s: float | None,
        start_s: float | None,
        speed: float | None,
        messages_per_second: float | None,
        duration_s: float | None,
        messages: int | None,
        linger_s: float,
    ) -> Self:
        """Choose what is left open, so that readings lie close behind the clock and never ahead of it."""
        by_number = messages_per_second is not None or speed == math.inf
        message_s = gateways / messages_per_second if messages_per_second else 0.0
        if by_number:
            if messages is not None:
                count = messages / gateways
            elif duration_s is not None and message_s:
                count = duration_s / message_s
            else:
                count = _ENDLESS_TICKS * devices / readings_per_message
            ticks = max(1.0, count * readings_per_message / devices)
            # whole milliseconds, so that every format can write the times
            step_s = interval_s or min(_USUAL_INTERVAL_S, max(1.0, _RECENT_S * 1000 // ticks) / 1000)
            span_s, linger, pace = ticks * step_s, 0, 0.0
        else:
            pace = speed or 1.0
            step_s = interval_s or _USUAL_INTERVAL_S
            span_s = (duration_s if duration_s is not None else 3600.0) * max(0.0, pace - 1)
            linger = max(1, int(linger_s * pace / step_s))
        start = start_s if start_s is not None else math.floor(now_s - span_s)
        return cls(
            start_us=round(start * 1e6),
            interval_us=max(1, round(step_s * 1e6)),
            speed=pace,
            message_s=message_s,
            behind_s=now_s - start,
            linger_ticks=linger,
            gateways=gateways,
        )

    def due_s(self, sequence: int, ts_us: int, index: int) -> float:
        """Seconds after the run's start at which gateway ``index`` may publish message ``sequence``.

        ``ts_us``: the time of its last reading, which is never published before the wall clock shows it.
        """
        since_start_s = (ts_us - self.start_us) / 1e6
        # without a speed the gateways take turns within a message's interval
        turn = sequence - 1 + index / self.gateways
        paced_s = since_start_s / self.speed if self.speed else turn * self.message_s
        return max(paced_s, since_start_s - self.behind_s)
