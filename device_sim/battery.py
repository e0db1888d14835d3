"""A home battery that serves its home first: it charges from surplus and discharges into demand only."""

from dataclasses import dataclass

import numpy as np

from device_sim.noise import Floats


@dataclass(frozen=True, slots=True)
class Battery:
    """Usable between ``soc_min`` and ``soc_max`` (shares of ``capacity_wh``); ``efficiency`` of each direction."""

    capacity_wh: float
    power_w: float
    efficiency: float = 0.96
    soc_min: float = 0.05
    soc_max: float = 1.0


def run(battery: Battery, demand_w: Floats, stored_wh: float, step_s: float) -> tuple[Floats, Floats]:
    """Follow ``demand_w`` (n, W: load and car minus PV; negative is surplus) from ``stored_wh`` on.

    Returns (n) the power delivered to the home (W, negative while charging), held over each step, and (n + 1)
    the stored energy (Wh) at each step's edges: stored' = stored + (charge·efficiency - discharge/efficiency)·dt.
    A scalar loop, because each step's limit depends on the one before; it costs half a microsecond a step.
    """
    hours = step_s / 3600
    low, high = battery.soc_min * battery.capacity_wh, battery.soc_max * battery.capacity_wh
    limit, gain = battery.power_w, battery.efficiency
    power: list[float] = []
    stored: list[float] = [stored_wh]
    level = stored_wh
    for demand in demand_w.tolist():
        if demand >= 0:
            given = max(0.0, min(demand, limit, (level - low) * gain / hours))
            level -= given / gain * hours
        else:
            given = -max(0.0, min(-demand, limit, (high - level) / gain / hours))
            level -= given * gain * hours
        power.append(given)
        stored.append(level)
    return np.array(power), np.array(stored)
