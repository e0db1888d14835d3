"""What roofs make under made-up weather, in quarters of an hour: device_sim's sun and panels, days that hang together.

Homes of one cell share their sky but for a part of their own. ``fine`` days are clear, ``dull`` ones overcast all day,
``hazy`` ones under a thin and even layer: the hardest to tell from a fault.
"""

from dataclasses import dataclass

import numpy as np

from device_sim.noise import ornstein_uhlenbeck, regimes
from device_sim.solar import Panels, Place, ac_power_w, dc_power_w, sky_of_day, under_clouds

STEP_S = 60.0
STEPS = 1440
QUARTER_US = 900_000_000
DAY_US = 86_400_000_000
# By type of day: weights of clear, broken, overcast, and how likely the next day is of each type.
TYPES = ("fine", "mixed", "dull", "hazy")
_WEIGHTS = {"fine": (0.92, 0.08, 0.0), "mixed": (0.4, 0.35, 0.25), "dull": (0.0, 0.1, 0.9)}
_MEAN, _SIGMA, _DWELL = np.array([1.0, 0.65, 0.22]), np.array([0.02, 0.22, 0.07]), (5400.0, 2400.0, 7200.0)


@dataclass(frozen=True)
class Roof:
    latitude: float
    longitude: float
    strings: tuple[Panels, ...]
    rated_w: float


def weather(rng: np.random.Generator, days: int, shares=(0.25, 0.4, 0.25, 0.1), stay: float = 0.5) -> list[str]:
    found = [str(rng.choice(TYPES, p=shares))]
    while len(found) < days:
        found.append(found[-1] if rng.random() < stay else str(rng.choice(TYPES, p=shares)))
    return found


def sky_index(rng: np.random.Generator, kind: str) -> np.ndarray:
    if kind == "hazy":
        level = np.full(STEPS, rng.uniform(0.35, 0.75))
        slow = ornstein_uhlenbeck(rng, level, sigma=0.05, relax_s=7200.0, step_s=STEP_S)
        return np.clip(slow, 0.05, 1.0)
    state = regimes(rng, STEPS, dwell_s=_DWELL, weights=_WEIGHTS[kind], step_s=STEP_S)
    return np.clip(ornstein_uhlenbeck(rng, _MEAN[state], sigma=_SIGMA[state], relax_s=120.0, step_s=STEP_S), 0.05, 1.08)


def roof(rng: np.random.Generator, latitude: float = 51.0, longitude: float = 10.0) -> Roof:
    peak, tilt, facing, share = rng.uniform(4e3, 14e3), rng.uniform(15, 45), rng.normal(180, 35), rng.uniform(0.4, 0.6)
    strings = (Panels(tilt, facing - 40, peak * share), Panels(tilt, facing + 40, peak * (1 - share)))
    return Roof(latitude, longitude, strings, round(peak * rng.uniform(0.75, 1.0), -2))


def day_wh(
    rng: np.random.Generator, home: Roof, day: int, index: np.ndarray, failed: float = 0.0, dead: int | None = None
) -> np.ndarray:
    """96 quarters of a UTC day, in Wh. ``failed``: share of the modules that is gone; ``dead``: a whole string."""
    grid = np.arange(STEPS) * STEP_S
    place = Place(home.latitude, home.longitude, 100.0, 3.0)
    own = np.clip(index + ornstein_uhlenbeck(rng, np.zeros(STEPS), sigma=0.03, relax_s=900.0, step_s=STEP_S), 0.05, 1.1)
    sky = under_clouds(sky_of_day(place, day, grid), own)
    season = np.cos((day % 365.25 - 15) / 365.25 * 2 * np.pi)
    air = 10 - 9 * season + rng.normal(0, 2.5) + np.zeros(STEPS)
    dc = sum(dc_power_w(panels, sky, air) for n, panels in enumerate(home.strings) if n != dead)
    ac = ac_power_w(dc * (1 - failed), home.rated_w)
    return ac.reshape(96, 15).mean(axis=1) / 4


@dataclass(frozen=True)
class Made:
    """``wh`` (days, 96) of UTC days from ``first_day`` on, and what kind of day each was."""

    home: Roof
    first_day: int
    wh: np.ndarray
    kinds: list[str]


def cell(seed: int, first_day: int, days: int, homes: int, *, snow=(), **sky) -> list[Made]:
    """Homes under one sky. ``snow``: days (counted from the first) under snow."""
    rng = np.random.default_rng((seed, first_day))
    kinds = weather(rng, days, **sky)
    skies = [sky_index(rng, kind) for kind in kinds]
    latitude, longitude = rng.uniform(47.5, 54.5), rng.uniform(6.5, 14.5)
    found = []
    for number in range(homes):
        own = np.random.default_rng((seed, first_day, number))
        home = roof(own, latitude, longitude)
        wh = np.array([day_wh(own, home, first_day + d, skies[d]) for d in range(days)])
        for d in snow:
            wh[d] *= own.choice([0.0, own.uniform(0.0, 0.03)])
        found.append(Made(home, first_day, wh, kinds))
    return found
