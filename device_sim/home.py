"""One home: who lives in it by seed, and what every part of it does over a day.

Powers are held over each step of ``STEP_S``; counters are their exact integrals and linear in between, so that at
any instant   grid = load + car - pv - battery   (battery positive while it delivers, grid positive on import).
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from device_sim import battery as storage
from device_sim.household import Household, Session, load_w, session_of_day
from device_sim.noise import Floats, ornstein_uhlenbeck
from device_sim.solar import DAY_S, Panels, Place, ac_power_w, cloud_index, dc_power_w, sky_of_day, under_clouds

STEP_S: Final = 10.0
STEPS: Final = int(DAY_S / STEP_S)
_EPOCH_DAY: Final = 20_000  # October 2024: counters begin near zero there
_BUSY_DAY_WH: Final = 120_000.0  # no home of ours counts more in a day, so a later run's counters start higher
# the purposes of a home's random streams; a new one gets a new number, so that the others stay as they are
_TRAITS, _SKY, _LOAD, _CAR, _NETWORK = range(5)


@dataclass(frozen=True, slots=True)
class Traits:
    """What does not change in a home. ``ac_rated_w`` is the sum of its inverters'."""

    place: Place
    strings: tuple[Panels, Panels]
    ac_rated_w: float
    household: Household
    battery: storage.Battery
    phase_share: tuple[float, float, float]
    has_battery: bool
    has_car: bool


@dataclass(frozen=True, slots=True)
class Day:
    """A day on the grid: ``held`` has STEPS values each (over the step), ``edges`` STEPS + 1 (at its ends)."""

    number: int
    held: dict[str, Floats]
    edges: dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Carry:
    """What one day hands to the next: energy in the battery and every counter, in Wh."""

    stored_wh: float
    counters: dict[str, float] = field(default_factory=dict)


class Home:
    """A home of a fleet, the same for the same ``seed`` and ``index``. Days are computed in order, when asked."""

    def __init__(self, seed: int, index: int, *, battery: bool = True, car: bool = True) -> None:
        self._key = (seed, index)
        self.traits = _traits(self._rng(_TRAITS, 0), battery=battery, car=car)
        self._day: Day | None = None
        self._carry: Carry | None = None

    def sample(self, at_s: Floats) -> dict[str, Floats]:
        """Every quantity of the home at ``at_s`` (n, seconds since 1970 UTC, ascending; later than before).

        Names end in their unit; ``*_wh`` are running counters, except ``stored_wh`` and ``session_wh``.
        """
        days = (at_s // DAY_S).astype(np.int64)
        parts = [self._sample_day(int(day), at_s[days == day]) for day in np.unique(days)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def day(self, number: int) -> Day:
        """The whole day ``number`` (days since 1970 UTC). Days may be skipped, not gone back to."""
        if self._day is None or self._day.number != number:
            if self._day is not None and number < self._day.number:
                raise ValueError("a home's days are computed forwards only")
            if self._carry is None:
                self._carry = self._beginning(number)
            for each in range(number if self._day is None else self._day.number + 1, number + 1):
                self._day, self._carry = self._compute(each, self._carry)
        if self._day is None:
            raise AssertionError("a day was computed")
        return self._day

    def _rng(self, purpose: int, day: int) -> np.random.Generator:
        return np.random.default_rng((*self._key, purpose, day))

    def _sample_day(self, number: int, at_s: Floats) -> dict[str, Floats]:
        day = self.day(number)
        position = (at_s - number * DAY_S) / STEP_S
        index: NDArray[np.intp] = np.minimum(position.astype(np.intp), STEPS - 1)
        within = position - index
        out = {name: values[index] for name, values in day.held.items()}
        for name, values in day.edges.items():
            out[name] = values[index] + (values[index + 1] - values[index]) * within
        return out

    def _beginning(self, number: int) -> Carry:
        rng = self._rng(_TRAITS, 1)
        traits = self.traits
        past_wh = max(0, number - _EPOCH_DAY) * _BUSY_DAY_WH
        names = ("pv_wh", "load_wh", "import_wh", "export_wh", "charge_wh", "discharge_wh", "car_wh")
        counters = {name: past_wh + rng.uniform(0, 1e5) for name in names}
        return Carry(rng.uniform(0.3, 0.8) * traits.battery.capacity_wh if traits.has_battery else 0.0, counters)

    def _compute(self, number: int, carry: Carry) -> tuple[Day, Carry]:
        traits = self.traits
        grid_s: Floats = np.arange(STEPS, dtype=np.float64) * STEP_S
        offset_s = traits.place.longitude_deg / 360 * DAY_S
        held = self._weather(number, grid_s, offset_s)
        held["load_w"] = load_w(self._rng(_LOAD, number), traits.household, grid_s, offset_s)
        session_wh = self._car(number, grid_s, offset_s, held)
        demand = held["load_w"] + held["car_w"] - held["pv_w"]
        if traits.has_battery:
            held["battery_w"], stored = storage.run(traits.battery, demand, carry.stored_wh, STEP_S)
        else:
            held["battery_w"], stored = np.zeros(STEPS), np.zeros(STEPS + 1)
        held["grid_w"] = demand - held["battery_w"]
        held |= self._network(number)
        sums = {
            "pv_wh": held["pv_w"],
            "load_wh": held["load_w"],
            "import_wh": np.maximum(held["grid_w"], 0),
            "export_wh": np.maximum(-held["grid_w"], 0),
            "charge_wh": np.maximum(-held["battery_w"], 0),
            "discharge_wh": np.maximum(held["battery_w"], 0),
            "car_wh": held["car_w"],
        }
        edges = {name: carry.counters[name] + _integral_wh(power) for name, power in sums.items()}
        after = Carry(float(stored[-1]), {name: float(values[-1]) for name, values in edges.items()})
        edges |= {"stored_wh": stored, "session_wh": session_wh, "pv_day_wh": _integral_wh(held["pv_w"])}
        return Day(number, held, edges), after

    def _weather(self, number: int, grid_s: Floats, offset_s: float) -> dict[str, Floats]:
        rng, traits = self._rng(_SKY, number), self.traits
        season = np.cos((number % 365.25 - 15) / 365.25 * 2 * np.pi)
        local_h = ((grid_s + offset_s) % DAY_S) / 3600
        air_c = 10 - 9 * season + 5 * np.cos((local_h - 15) / 24 * 2 * np.pi) + rng.normal(0, 2.5)
        sky = under_clouds(sky_of_day(traits.place, number, grid_s), cloud_index(rng, STEPS, STEP_S))
        first, second = (dc_power_w(panels, sky, air_c) for panels in traits.strings)
        pv_w = ac_power_w(first + second, traits.ac_rated_w)
        # beyond its rating the inverter moves the strings off their best point: less comes in, not only out
        taken = np.minimum(1.0, traits.ac_rated_w / 0.965 / np.maximum(first + second, 1e-9))
        return {"air_c": air_c, "pv1_w": first * taken, "pv2_w": second * taken, "pv_w": pv_w}

    def _car(self, number: int, grid_s: Floats, offset_s: float, held: dict[str, Floats]) -> Floats:
        at_s = grid_s + number * DAY_S
        edge_s = np.append(at_s, at_s[-1] + STEP_S)
        held |= {"car_w": np.zeros(STEPS), "car_soc_pct": np.full(STEPS, np.nan), "car_state": np.ones(STEPS)}
        session_wh = np.zeros(STEPS + 1)
        if not self.traits.has_car:
            return session_wh
        for each in (number - 1, number):  # yesterday's car may still be charging
            session = session_of_day(self._rng(_CAR, each), self.traits.household, each, offset_s)
            if session is not None:
                _charge(session, at_s, held, self.traits.household.ev_capacity_wh)
                # since midnight or arrival; what was charged before it is added, so that the gauge goes on
                there = (edge_s >= session.arrival_s) & (edge_s < session.departure_s)
                before = max(0.0, min(at_s[0], session.full_s) - session.arrival_s) / 3600 * session.power_w
                since = _integral_wh(held["car_w"])
                start = since[np.argmax(there)] if there.any() else 0.0
                session_wh = np.where(there, before + since - start, session_wh)
        return session_wh

    def _network(self, number: int) -> dict[str, Floats]:
        rng = self._rng(_NETWORK, number)

        def around(mean: float, sigma: float, relax_s: float) -> Floats:
            return ornstein_uhlenbeck(rng, np.full(STEPS, mean), sigma=sigma, relax_s=relax_s, step_s=STEP_S)

        return {
            "voltage_l1_v": around(231, 1.8, 600),
            "voltage_l2_v": around(230, 1.8, 600),
            "voltage_l3_v": around(232, 1.8, 600),
            "frequency_hz": around(50, 0.015, 60),
            "rssi_dbm": around(-64, 4, 1800),
            "box_c": around(4, 0.5, 900),  # above the air
        }


def _integral_wh(power_w: Floats) -> Floats:
    return np.append(0.0, np.cumsum(power_w) * (STEP_S / 3600))


def _charge(session: Session, at_s: Floats, held: dict[str, Floats], capacity_wh: float) -> None:
    power, soc, state = held["car_w"], held["car_soc_pct"], held["car_state"]
    there = (at_s >= session.arrival_s) & (at_s < session.departure_s)
    charging = there & (at_s < session.full_s)
    power[charging] = session.power_w
    gained_wh = session.power_w * (np.minimum(at_s, session.full_s) - session.arrival_s) / 3600
    soc[there] = session.soc_pct + 100 * gained_wh[there] / capacity_wh
    state[there] = 2  # IEC 61851-1 state B: connected
    state[charging] = 3  # state C: charging


def _traits(rng: np.random.Generator, *, battery: bool, car: bool) -> Traits:
    place = Place(rng.uniform(47.5, 54.5), rng.uniform(6.5, 14.5), rng.uniform(5, 600), rng.uniform(2.5, 4.0))
    peak_w = rng.uniform(4_000, 14_000)
    tilt, facing = rng.uniform(15, 45), rng.normal(180, 25)
    share = rng.uniform(0.4, 0.6)
    strings = (Panels(tilt, facing - 40, peak_w * share), Panels(tilt, facing + 40, peak_w * (1 - share)))
    household = Household(
        base_w=rng.uniform(60, 220),
        mean_w=rng.uniform(150, 450),
        fridge_w=rng.uniform(60, 120),
        ev_limit_w=float(rng.choice([3_700.0, 7_400.0, 11_000.0])),
        ev_capacity_wh=rng.uniform(40_000, 80_000),
        ev_chance=rng.uniform(0.4, 0.9),
    )
    capacity_wh = rng.uniform(5_000, 15_000)
    phases = rng.dirichlet((6, 6, 6))
    return Traits(
        place=place,
        strings=strings,
        ac_rated_w=round(peak_w * rng.uniform(0.75, 1.0), -2),
        household=household,
        battery=storage.Battery(capacity_wh, capacity_wh / 2),
        phase_share=(float(phases[0]), float(phases[1]), float(phases[2])),
        has_battery=battery,
        has_car=car,
    )
