"""What people do with electricity: base load, a day's shape, appliances, and a car that comes home."""

from dataclasses import dataclass

import numpy as np

from device_sim.noise import Floats, ornstein_uhlenbeck
from device_sim.solar import DAY_S

# relative demand by local hour 0 … 24, after the shape of the standard load profile H0: morning, noon, evening
_SHAPE = np.array(
    (
        *(0.45, 0.38, 0.34, 0.33, 0.33, 0.4, 0.7, 1.0, 1.05, 1.0, 0.95, 1.05, 1.25),
        *(1.15, 1.0, 0.95, 1.0, 1.2, 1.5, 1.7, 1.65, 1.4, 1.1, 0.75, 0.45),
    )
)
# appliance: power in W, minutes it runs, uses a day, local hours in which it starts
_APPLIANCES = (
    (2200.0, (2, 5), 6.0, (6, 22)),  # kettle
    (1100.0, (15, 50), 1.5, (11, 20)),  # oven, hob
    (1900.0, (20, 35), 0.6, (8, 20)),  # washing machine heats
    (2000.0, (15, 30), 0.5, (12, 22)),  # dishwasher heats
    (900.0, (5, 20), 1.0, (8, 19)),  # vacuum cleaner, iron
    (120.0, (60, 240), 1.5, (16, 23)),  # television
)


@dataclass(frozen=True, slots=True)
class Household:
    """``base_w`` always on; ``mean_w`` of the shaped part; fridge compressor in W; the car's charging habits."""

    base_w: float
    mean_w: float
    fridge_w: float
    ev_limit_w: float
    ev_capacity_wh: float
    ev_chance: float


@dataclass(frozen=True, slots=True)
class Session:
    """The car at the charger: seconds since 1970 of arrival, end of charging and departure; W; SoC in % before."""

    arrival_s: float
    full_s: float
    departure_s: float
    power_w: float
    soc_pct: float

    @property
    def energy_wh(self) -> float:
        """What the whole session delivers."""
        return self.power_w * (self.full_s - self.arrival_s) / 3600


def load_w(rng: np.random.Generator, home: Household, grid_s: Floats, local_offset_s: float) -> Floats:
    """The household's demand (n, W) without the car at ``grid_s`` (n, seconds of a UTC day, evenly spaced)."""
    step_s = float(grid_s[1] - grid_s[0])
    local_h = ((grid_s + local_offset_s) % DAY_S) / 3600
    shaped = home.mean_w * np.interp(local_h, np.arange(25), _SHAPE)
    wander = ornstein_uhlenbeck(rng, np.ones(grid_s.size), sigma=0.18, relax_s=900.0, step_s=step_s)
    total = home.base_w + shaped * np.clip(wander, 0.4, 1.8)
    period_s = rng.uniform(2400, 3600)
    total += home.fridge_w * (((grid_s + rng.uniform(0, period_s)) % period_s) < 0.35 * period_s)
    for power, (short, long), uses, (first, last) in _APPLIANCES:
        for _ in range(int(rng.poisson(uses))):
            start = (rng.uniform(first, last) * 3600 - local_offset_s) % DAY_S
            minutes = rng.uniform(short, long)
            total += power * ((grid_s >= start) & (grid_s < start + minutes * 60))
    return np.asarray(np.maximum(total, 20.0))


def session_of_day(rng: np.random.Generator, home: Household, day: int, local_offset_s: float) -> Session | None:
    """The car's stay that begins on ``day`` (days since 1970), if it needs charging at all."""
    needs = rng.random() < home.ev_chance
    arrival_h, share, stay_h = rng.normal(17.8, 1.6), rng.uniform(0.1, 0.7), rng.uniform(1.0, 6.0)
    if not needs:
        return None
    # whole tens of seconds, the step of a day's grid: a session across midnight then adds up exactly
    arrival_s = round(day * DAY_S + float(np.clip(arrival_h, 7, 22.5)) * 3600 - local_offset_s, -1)
    full_s = arrival_s + share * home.ev_capacity_wh / home.ev_limit_w * 3600 // 10 * 10
    return Session(arrival_s, full_s, full_s + round(stay_h * 3600, -1), home.ev_limit_w, 95.0 - 100 * share)
