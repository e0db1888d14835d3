"""A device that makes far less than the same device made under the same sun. Pure.

What the sky takes away and what a fault takes away look alike in a sum; they differ in shape. Clouds come and go within
the hour. Under a clear sky the share of what is expected stays the same for hours, near one where all is well. So:

    off    hours of nothing while the sun is high: no cloud does that
    less   hours of a steady share well below one on three days of ten, at the same level, and not one clear moment
           near one since the first of them

Expected is, at each hour of the sun, a high quantile of the 30 days before, each scaled by how strong a clear sky is at
the sun's height then and now. On a day on which the neighbours were far behind too nothing is found: snow lies on all
roofs. Neighbours take an alarm away and never give one (docs/decisions/0063-alerts.md).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from telemetry.alerts.sun import DAY_US, Floats, Instants, clear_strength, sine_of_elevation

Flags = npt.NDArray[np.bool_]

PAST_DAYS: Final = 30
LAST_DAYS: Final = 10
SPAN_DAYS: Final = PAST_DAYS + LAST_DAYS + 1
LOW_DAYS: Final = 3
_LEAST_PAST_DAYS: Final = 10
_LEAST_SAMPLES: Final = 7  # of one hour of the sun
_CLEAR_QUANTILE: Final = 0.9
_HIGH_SUN: Final = 0.25  # of the day's most: lower, shadows and hills decide
_NEAR_ONE: Final = 0.88
_FAR_BELOW: Final = 0.8  # the most that any moment of the day may reach
_DIM: Final = 0.3  # below it a steady share is a thick layer of cloud as well
_NOTHING: Final = 0.01
_SOMETHING: Final = 0.03
_STEADY_RATIO: Final = 1.08  # greatest by least share within an hour
_STEADY_HOURS: Final = 2.0
_OFF_HOURS: Final = 3.0
_SAME_LEVEL: Final = 0.05
_TOP_QUANTILE: Final = 0.9
DARK: Final = 0.85  # the neighbours' best moments reach no further


@dataclass(frozen=True, slots=True)
class Sums:
    """What one device made in windows of equal length: ``start_us`` (n, ascending), ``made`` (n, any unit).

    Only windows that are known whole, and in which nobody had told the device to hold back.
    """

    start_us: Instants
    made: Floats
    minutes: int


@dataclass(frozen=True, slots=True)
class Low:
    """Far behind from ``since_us`` on. ``off``: makes nothing at all."""

    since_us: int
    off: bool


@dataclass(frozen=True, slots=True)
class Shares:
    """What was made of what was expected: ``share`` (days, slots), NaN where the sun is low or too little is known.

    ``start_us``: (days, slots). ``day``: number of each day since 1970, by the sun. ``first``: the first day judged.
    """

    share: Floats
    start_us: Instants
    day: Instants
    first: int
    minutes: int

    @property
    def tops(self) -> dict[int, float]:
        """Of each day judged that is known: the best that its moments reached."""
        days = range(self.first, self.share.shape[0])
        known = {index: self.share[index][np.isfinite(self.share[index])] for index in days}
        return {int(self.day[n]): float(np.quantile(of, _TOP_QUANTILE)) for n, of in known.items() if of.size}


def shares_of(sums: Sums, place: tuple[float, float] | None, since_us: int | None = None) -> Shares | None:
    """What was made of what was expected on the last days; None where nothing is known.

    ``place``: latitude and longitude in degrees, as coarse as is known; None: days are compared as they are.
    ``since_us``: when what is open began; days from then on are held to the days before it.
    """
    if not sums.start_us.size:
        return None
    length = sums.minutes * 60_000_000
    slots = DAY_US // length
    shift = _shift_us(sums, place) // length * length
    number = (int(sums.start_us[0]) + shift) // DAY_US
    index = (sums.start_us + shift - number * DAY_US) // length
    days = int(index[-1]) // slots + 1
    made = np.full(days * slots, np.nan)
    made[index] = sums.made
    starts = number * DAY_US - shift + np.arange(days * slots, dtype=np.int64) * length
    strength = np.ones(starts.size)
    if place is not None:
        strength = clear_strength(sine_of_elevation(starts + length // 2, *place))
    by_day = made.reshape(days, slots), strength.reshape(days, slots)
    frozen = days if since_us is None else max(0, int((since_us - starts[0]) // DAY_US))
    first = min(frozen, max(0, days - LAST_DAYS))
    share = np.full((days, slots), np.nan)
    for day in range(first, days):
        share[day] = _of_day(*by_day, day, min(day, frozen))
    return Shares(share, starts.reshape(days, slots), number + np.arange(days), first, sums.minutes)


def _shift_us(sums: Sums, place: tuple[float, float] | None) -> int:
    """From UTC to days that begin when the sun is lowest: by longitude, else by the middle of what was made."""
    if place is not None:
        return round(place[1] / 360 * DAY_US)
    turn = (sums.start_us % DAY_US) / DAY_US * 2 * np.pi
    weight = np.maximum(sums.made, 0.0)
    middle = float(np.arctan2((weight * np.sin(turn)).sum(), (weight * np.cos(turn)).sum())) / (2 * np.pi) * DAY_US
    return round(DAY_US / 2 - middle)


def _of_day(made: Floats, strength: Floats, day: int, until: int) -> Floats:
    nothing = np.full(made.shape[1], np.nan)
    past = slice(max(0, until - PAST_DAYS), until)
    if np.isfinite(made[past]).any(axis=1).sum() < _LEAST_PAST_DAYS:
        return nothing
    scaled = np.where(strength[past] > 0, made[past] / np.maximum(strength[past], 1e-9), np.nan)
    enough = np.isfinite(scaled).sum(axis=0) >= _LEAST_SAMPLES
    if not enough.any():
        return nothing
    factor = nothing.copy()
    factor[enough] = np.nanquantile(scaled[:, enough], _CLEAR_QUANTILE, axis=0)
    expected = factor * strength[day]
    most = np.nanmax(expected)
    if not most > 0:
        return nothing
    high = expected >= _HIGH_SUN * most
    return np.where(high, made[day] / np.where(high, expected, 1.0), np.nan)


def find_low(shares: Shares, dark: Collection[int] = ()) -> Low | None:
    """What begins, as of the last slot known. ``dark``: days on which the neighbours were far behind too."""
    lit = np.where(np.isin(shares.day, list(dark))[:, None], np.nan, shares.share)
    return _off(shares, lit) or _less(shares, lit)


def find_end(shares: Shares, low: Low) -> int | None:
    """The end of the second slot since then that is near one, or, of what was off, that is more than nothing."""
    starts, flat = shares.start_us.ravel(), shares.share.ravel()
    good = np.flatnonzero((starts >= low.since_us) & (flat >= (_SOMETHING if low.off else _NEAR_ONE)))
    return int(starts[good[1]]) + shares.minutes * 60_000_000 if good.size > 1 else None


def _off(shares: Shares, share: Floats) -> Low | None:
    """Nothing at all for hours of high sun, up to the last slot known."""
    flat = share.ravel()
    known = np.flatnonzero(np.isfinite(flat))
    some = np.flatnonzero(flat[known] > _NOTHING)
    since = known[some[-1] + 1 :] if some.size else known
    if since.size * shares.minutes < _OFF_HOURS * 60:
        return None
    return Low(int(shares.start_us.ravel()[since[0]]), off=True)


def _less(shares: Shares, share: Floats) -> Low | None:
    """A steady share far below one on some days, with no moment near one after the first of them."""
    found: list[tuple[int, float]] = []
    for day in range(max(shares.first, share.shape[0] - LAST_DAYS), share.shape[0]):
        known = share[day][np.isfinite(share[day])]
        if (known >= _NEAR_ONE).sum() * shares.minutes >= 30:
            found = []
            continue
        steady = _steady(share[day], shares.minutes)
        if steady.sum() * shares.minutes >= _STEADY_HOURS * 60 and known.max() <= _FAR_BELOW:
            begin = int(shares.start_us[day][np.flatnonzero(steady)[0]])
            found.append((begin, float(np.median(share[day][steady]))))
    alike = [[begin for begin, level in found if abs(level - middle) <= _SAME_LEVEL] for _, middle in found]
    most = max(alike, key=len, default=[])
    return Low(most[0], off=False) if len(most) >= LOW_DAYS else None


def _steady(share: Floats, minutes: int) -> Flags:
    """Slots within an hour (two slots at least) in which the share hardly changed and was not dim."""
    run = max(2, 60 // minutes)
    found = np.zeros(share.size, dtype=np.bool_)
    parts = np.lib.stride_tricks.sliding_window_view(share, run)
    lowest, highest = parts.min(axis=1), parts.max(axis=1)  # NaN where any is
    good = (lowest >= _DIM) & (highest <= _STEADY_RATIO * lowest)
    for offset in range(run):
        found[offset : offset + good.size] |= good
    return found
