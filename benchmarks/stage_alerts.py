"""Stage ``alerts``: how often a fault is found and how often none is there, over a year's seasons; and how fast.

Homes under one sky (device_sim's sun and clouds, days that hang together, a tenth of them under an even haze, which is
the hardest to tell from a fault). Every evening is judged as the job does. "Readings" are windows judged a second by
one core, against the bare quantile that the judgement cannot do without.

    false       homes with nothing wrong that had an alert, per home and month, alone and with neighbours
    found       a third of the modules gone, one of two strings gone, the inverter off: within 20 days, after how many
    snow        two days of snow on every roof of the cell
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.measure import alternate, result
from telemetry.alerts.production import DARK, LAST_DAYS, PAST_DAYS, SPAN_DAYS, Low, Sums, find_low, shares_of
from tests.support.sunny import DAY_US, QUARTER_US, Made, cell, day_wh

SEASONS = {"winter": 20_440, "spring": 20_530, "summer": 20_620, "autumn": 20_720}
DAYS, FROM, FAULT, WITHIN, K = 75, 42, 45, 20, 15
Tops = list[dict[int, float]]


def sums_of(made: Made, days: int, wh: np.ndarray) -> Sums:
    first = max(0, days - SPAN_DAYS)
    starts = (made.first_day + first) * DAY_US + np.arange((days - first) * 96, dtype=np.int64) * QUARTER_US
    return Sums(starts, wh[first:days].ravel(), 15)


def place(made: Made) -> tuple[float, float]:
    return round(made.home.latitude, 1), round(made.home.longitude, 1)


def dark_of(tops: Sequence[dict[int, float]], but: int) -> frozenset[int]:
    """As the job has it: days on which most of enough neighbours were far behind."""
    found = set()
    for day in tops[but]:
        others = [of[day] for n, of in enumerate(tops) if n != but and day in of]
        if len(others) >= K and np.median(others) < DARK:
            found.add(day)
    return frozenset(found)


def evenings(
    made: Made, wh: np.ndarray, first: int, last: int, dark: Callable[[int, dict[int, float]], Any] | None = None
) -> tuple[int, Low] | None:
    """The first evening with an alert."""
    for day in range(first, last):
        shares = shares_of(sums_of(made, day + 1, wh), place(made))
        if shares is not None and (low := find_low(shares, dark(day, shares.tops) if dark else ())):
            return day, low
    return None


def faults(made: Made, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    third, off, string = made.wh.copy(), made.wh.copy(), made.wh.copy()
    third[FAULT:] *= 0.67
    off[FAULT:] = 0.0
    one = [panels.peak_w for panels in made.home.strings]
    gone = int(rng.integers(2))
    clear = [
        [day_wh(rng, made.home, made.first_day + d, np.ones(1440), dead=dead) for dead in (None, gone)]
        for d in range(FAULT, DAYS)
    ]
    for d, (whole, rest) in enumerate(clear):
        string[FAULT + d] *= np.where(whole > 1, rest / np.maximum(whole, 1), 1 - one[gone] / sum(one))
    return {"third": third, "string": string, "off": off}


def judged(seasons: Sequence[str], seeds: int, homes: int) -> dict[str, Any]:
    counts: dict[str, list[Any]] = defaultdict(lambda: [0, 0, []])

    def note(what: str, found: tuple[int, Low] | None) -> None:
        counts[what][0] += found is not None
        counts[what][1] += 1
        if found is not None:
            counts[what][2].append(found[0] - FAULT)

    for season in seasons:
        for seed in range(seeds):
            group = cell(seed, SEASONS[season], DAYS, homes)
            tops: dict[int, Tops] = {}
            for day in range(FROM, DAYS):
                shares = [shares_of(sums_of(made, day + 1, made.wh), place(made)) for made in group]
                tops[day] = [{} if one is None else one.tops for one in shares]
            for n, made in enumerate(group):

                def dark(day: int, own: dict[int, float], n: int = n, tops: dict[int, Tops] = tops) -> frozenset[int]:
                    return dark_of([own if m == n else of for m, of in enumerate(tops[day])], n)

                note("false alone", evenings(made, made.wh, FROM, DAYS))
                note("false with neighbours", evenings(made, made.wh, FROM, DAYS, dark))
                if n < 4:
                    for name, wh in faults(made, seed).items():
                        note(f"{name} alone {season}", evenings(made, wh, FAULT, FAULT + WITHIN))
                        note(f"{name} with neighbours {season}", evenings(made, wh, FAULT, FAULT + WITHIN, dark))
            snow = cell(seed, SEASONS[season], FAULT + 4, homes, snow=(FAULT, FAULT + 1))
            white = [shares_of(sums_of(made, FAULT + 2, made.wh), place(made)) for made in snow]
            of = [{} if one is None else one.tops for one in white]
            for n, one in enumerate(white):
                low, alone = (find_low(one, dark_of(of, n)), find_low(one)) if one is not None else (None, None)
                note("snow with neighbours", None if low is None else (FAULT, low))
                note("snow alone", None if alone is None else (FAULT, alone))
    months = (DAYS - FROM) / 30
    told: dict[str, Any] = {}
    for what, (found, of_all, after) in counts.items():
        if what.startswith(("false", "snow")):
            told[what] = {"alerts": found, "homes": of_all}
            if what.startswith("false"):
                told[what]["per_home_month"] = round(found / of_all / months, 4)
        else:
            told[what] = {"found": found, "of": of_all, "days_median": float(np.median(after)) if after else None}
    return told


def run(quick: bool) -> dict[str, Any]:
    """Quick: one season, one cell."""
    seasons, seeds = (["spring"], 1) if quick else (list(SEASONS), 3)
    started = time.perf_counter()
    told = judged(seasons, seeds, K + 1)
    made = cell(1, SEASONS["spring"], SPAN_DAYS, 1)[0]
    sums = sums_of(made, SPAN_DAYS, made.wh)
    matrix = sums.made[: PAST_DAYS * 96].reshape(PAST_DAYS, 96)

    def quantiles() -> None:
        for _ in range(LAST_DAYS):
            np.nanquantile(matrix, 0.9, axis=0)

    seconds = alternate(5 if quick else 25, {"judge": lambda: shares_of(sums, (51.0, 10.0)), "limit": quantiles})
    windows = sums.made.size
    return result(
        readings_per_second=windows / seconds["judge"],
        limit_per_second=windows / seconds["limit"],
        cpu_us_per_reading={"judge": round(seconds["judge"] / windows * 1e6, 3)},
        judged=told,
        judged_s=round(time.perf_counter() - started, 1),
    )
