"""Rollup by rules 10 to 15 of SEMANTICS.md, one sample and one window at a time: slow, plain, and to be read.

Shares nothing with the package but the catalogue's facts, which the caller hands in. Instants are µs, spans ms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

MS = 1000
MINUTE = 60_000_000
FIXED = {"PT1M": 1, "PT15M": 15, "PT30M": 30, "PT1H": 60}


@dataclass(frozen=True)
class Window:
    start: int
    end: int


@dataclass
class Value:
    """What one window holds: integral, increment or last value; how much of it is known; which slots."""

    amount: int = 0
    covered_ms: int = 0
    last_at: int | None = None
    lowest: int | None = None
    highest: int | None = None
    slots: int = 0


@dataclass(frozen=True)
class Span:
    """From ``start`` to ``end`` (ms) the field is known; ``amount`` tells how much belongs to a part of it."""

    start: int
    end: int
    amount: Callable[[int, int], int]
    value: int | None
    last_at: int | None = None


def window_of(instant: int, resolution: str, zone: str = "UTC") -> Window:
    """Rule 10. Days and months by the calendar of ``zone``, all else by the UTC clock."""
    if resolution in FIXED:
        length = FIXED[resolution] * MINUTE
        start = instant - instant % length
        return Window(start, start + length)
    tz = ZoneInfo(zone)
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant)).astimezone(tz).date()
    if resolution == "P1D":
        first, following = local, local + timedelta(days=1)
    else:
        first = local.replace(day=1)
        following = (first + timedelta(days=31)).replace(day=1)
    return Window(_midnight(first, tz), _midnight(following, tz))


def _midnight(day: date, tz: ZoneInfo) -> int:
    seconds = datetime(day.year, day.month, day.day, tzinfo=tz).timestamp()
    return round(seconds) * 1_000_000


def half_even(value: Fraction) -> int:
    return round(value)  # Fractions round half to even


def in_steps(value: float, step: float) -> int:
    return round(value * round(1 / step))


def spans_of(samples: dict[int, float], kind: str, step: float, hold_max: int, gap_max: int) -> list[Span]:
    """Rules 12 to 14 for one field of one device. ``samples``: instant → value."""
    by_ms: dict[int, int] = {}
    for instant in sorted(samples):
        by_ms[instant // MS] = in_steps(samples[instant], step) if kind != "status" else int(samples[instant])
    times = sorted(by_ms)
    found = []
    for position, at in enumerate(times):
        value = by_ms[at]
        following = times[position + 1] if position + 1 < len(times) else None
        if kind in {"last", "status"}:
            found.append(Span(at, at + 1, lambda a, b, v=value: v, value, last_at=at * MS))
        elif kind == "state":
            until = at + hold_max // MS
            if following is not None:
                until = min(until, following)
            found.append(Span(at, until, lambda a, b, v=value: v * (b - a), value))
        elif following is not None and following - at <= gap_max // MS and by_ms[following] >= value:

            def grown(a: int, b: int, at: int = at, to: int = following, low: int = value) -> int:
                high = by_ms[to]
                edge = lambda t: half_even(low + Fraction((high - low) * (t - at), to - at))
                return edge(b) - edge(a)

            found.append(Span(at, following, grown, None))
    return found


def fold(value: Value, span: Span, a: int, b: int, window: Window, extremes: bool) -> None:
    """Add the part [a, b) of ``span`` to the window."""
    if span.last_at is not None:
        if value.last_at is None or span.last_at > value.last_at:
            value.amount, value.last_at = span.amount(a, b), span.last_at
        value.covered_ms = (window.end - window.start) // MS
    else:
        value.amount += span.amount(a, b)
        value.covered_ms += b - a
    if extremes:
        value.lowest = span.value if value.lowest is None else min(value.lowest, span.value)
        value.highest = span.value if value.highest is None else max(value.highest, span.value)
    length = (window.end - window.start) // MS
    for slot in range(60):
        low, high = window.start // MS + slot * length // 60, window.start // MS + (slot + 1) * length // 60
        if a < high and b > low:
            value.slots |= 1 << slot


def rollup_field(
    samples: dict[int, float],
    resolution: str,
    *,
    kind: str,
    step: float,
    extremes: bool = False,
    zone: str = "UTC",
    hold_max: int = 5 * MINUTE,
    gap_max: int = 60 * MINUTE,
) -> dict[int, Value]:
    """Window start → value. ``kind``: state, counter, last or status."""
    found: dict[int, Value] = {}
    for span in spans_of(samples, kind, step, hold_max, gap_max):
        at = span.start
        while at < span.end:
            window = window_of(at * MS, resolution, zone)
            until = min(span.end, window.end // MS)
            fold(found.setdefault(window.start, Value()), span, at, until, window, extremes)
            at = until
    return found


def fill(
    stored: dict[int, Value],
    samples: dict[int, float],
    resolution: str,
    *,
    kind: str,
    step: float,
    extremes: bool = False,
    zone: str = "UTC",
    hold_max: int = 5 * MINUTE,
    gap_max: int = 60 * MINUTE,
    until_us: int | None = None,
) -> None:
    """Rule 15: what late samples add to ``stored``, in slots that were not covered before this call.

    ``until_us``: windows that end later are left alone.
    """
    before = {start: value.slots for start, value in stored.items()}
    for span in spans_of(samples, kind, step, hold_max, gap_max):
        at = span.start
        while at < span.end:
            window = window_of(at * MS, resolution, zone)
            length = (window.end - window.start) // MS
            slot = (at - window.start // MS) * 60 // length
            until = min(span.end, window.start // MS + (slot + 1) * length // 60)
            allowed = until_us is None or window.end <= until_us
            if allowed and not before.get(window.start, 0) >> slot & 1:
                fold(stored.setdefault(window.start, Value()), span, at, until, window, extremes)
            at = until
