"""The simulated homes obey physics: energy is conserved, the sun sets, counters grow."""

from datetime import UTC, datetime

import numpy as np
import pytest

from device_sim import battery as storage
from device_sim.devices import KINDS, columns, devices_of_home
from device_sim.home import STEP_S, STEPS, Home
from device_sim.noise import ornstein_uhlenbeck
from device_sim.solar import DAY_S, Panels, Place, ac_power_w, clear_sky, dc_power_w, sky_of_day
from telemetry.model.fields import FIELD_BY_NAME, KIND_BY_LABEL, FieldKind

GRID_S = np.arange(STEPS) * STEP_S
MUNICH = Place(48.1, 11.6, 520, 3.0)


def day_number(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() // DAY_S)


JUNE, DECEMBER = day_number("2026-06-21"), day_number("2026-12-21")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("number", [JUNE, DECEMBER])
def test_energy_balance_holds_at_every_step(seed: int, number: int) -> None:
    held = Home(seed, 0).day(number).held
    charge, discharge = np.maximum(-held["battery_w"], 0), np.maximum(held["battery_w"], 0)

    grid = held["load_w"] + held["car_w"] + charge - held["pv_w"] - discharge

    np.testing.assert_allclose(held["grid_w"], grid, atol=1e-9)
    assert not np.any((charge > 0) & (held["grid_w"] > 1e-9)), "charged from the grid"
    assert not np.any((discharge > 0) & (held["grid_w"] < -1e-9)), "discharged into the grid"


def test_energy_balance_holds_in_what_the_devices_report() -> None:
    home = Home(1, 0)
    at_s = JUNE * DAY_S + np.arange(0, DAY_S, 97.0)
    sample = home.sample(at_s)
    report = {device.kind: columns(device, home, at_s, sample) for device in devices_of_home(0, 6)}

    pv = np.array(report["inverter"]["ac_power_w"])
    load = np.array(report["meter"]["load_power_w"])
    car = np.array(report["ev_charger"]["ev_power_w"])
    battery = np.array(report["battery"]["battery_power_w"])
    grid = np.array(report["meter"]["grid_power_w"])
    phases = sum(np.array(report["meter"][f"grid_power_l{i}_w"]) for i in (1, 2, 3))

    np.testing.assert_allclose(grid, load + car - battery - pv, atol=0.25)  # five values rounded to 0.1 W
    np.testing.assert_allclose(phases, grid, atol=1e-6)


def test_several_inverters_share_what_the_meter_sees() -> None:
    home = Home(1, 0)
    at_s = JUNE * DAY_S + np.array([43_200.0])
    sample = home.sample(at_s)
    devices = devices_of_home(0, 9)

    inverters = [columns(d, home, at_s, sample)["ac_power_w"][0] for d in devices if d.kind == "inverter"]

    assert len(inverters) == 4
    assert sum(inverters) == pytest.approx(sample["pv_w"][0], abs=0.3)


@pytest.mark.parametrize("seed", range(3))
def test_battery_stays_within_its_limits_and_accounts_for_every_watt_hour(seed: int) -> None:
    home = Home(seed, 0)
    unit = home.traits.battery
    day = home.day(JUNE)
    stored, power = day.edges["stored_wh"], day.held["battery_w"]

    charge, discharge = np.maximum(-power, 0), np.maximum(power, 0)
    gained = (charge * unit.efficiency - discharge / unit.efficiency) * STEP_S / 3600

    np.testing.assert_allclose(np.diff(stored), gained, atol=1e-6)
    assert stored.min() >= unit.soc_min * unit.capacity_wh - 1e-6
    assert stored.max() <= unit.soc_max * unit.capacity_wh + 1e-6
    assert np.abs(power).max() <= unit.power_w


def test_a_full_battery_takes_nothing_and_an_empty_one_gives_nothing() -> None:
    unit = storage.Battery(1000, 500, soc_min=0.1)

    surplus, _ = storage.run(unit, np.full(10, -400.0), 1000.0, 10.0)
    demand, _ = storage.run(unit, np.full(10, 400.0), 100.0, 10.0)

    assert not surplus.any()
    assert not demand.any()


def test_counters_only_grow_over_days_and_match_the_powers() -> None:
    home = Home(3, 0)
    at_s = JUNE * DAY_S + np.arange(0, 3 * DAY_S, 301.0)
    sample = home.sample(at_s)

    for name in ("pv_wh", "load_wh", "import_wh", "export_wh", "charge_wh", "discharge_wh", "car_wh"):
        assert np.diff(sample[name]).min() >= 0, name
    day = home.day(JUNE + 2)
    net = day.edges["import_wh"] - day.edges["export_wh"]
    assert net[-1] - net[0] == pytest.approx(day.held["grid_w"].sum() * STEP_S / 3600)


def test_a_later_run_begins_with_higher_counters() -> None:
    ends = Home(3, 0).day(JUNE).edges
    begins = Home(3, 0).day(JUNE + 1).edges

    for name in ("pv_wh", "load_wh", "import_wh", "export_wh", "car_wh"):
        assert begins[name][0] > ends[name][-1], name


def test_the_sky_is_dark_at_night_and_bright_at_noon() -> None:
    sky = clear_sky(MUNICH, JUNE * DAY_S + GRID_S[::30])
    night, day = sky.zenith_deg > 90, sky.zenith_deg < 60

    assert not sky.ghi[night].any()
    assert 800 < sky.ghi.max() < 1000
    # ghi = dni·cos(zenith) + dhi, up to pvlib's refraction corrections
    np.testing.assert_allclose(sky.ghi[day], (sky.dni * np.cos(np.radians(sky.zenith_deg)) + sky.dhi)[day], rtol=1e-6)
    # solar noon at 11.6° east lies near 11:14 UTC, give or take the equation of time
    noon_h = GRID_S[::30][np.argmin(sky.zenith_deg)] / 3600
    assert noon_h == pytest.approx(11.25, abs=0.1)


def test_panels_give_more_in_june_than_in_december_and_never_more_than_their_size() -> None:
    panels = Panels(30, 180, 8000)
    energy = {}
    for number in (JUNE, DECEMBER):
        power = dc_power_w(panels, sky_of_day(MUNICH, number, GRID_S), np.full(STEPS, 15.0))
        assert power.max() <= 8000
        energy[number] = power.sum() * STEP_S / 3600

    # clear days in Munich: about 6 and 3 kWh for each kWp at 30° south
    assert 5 < energy[JUNE] / 8000 < 8
    assert 1.5 < energy[DECEMBER] / 8000 < 4


def test_the_inverter_clips_and_loses_a_little() -> None:
    dc = np.array([0.0, 100.0, 4000.0, 20_000.0])

    ac = ac_power_w(dc, 5000.0)

    assert ac[0] == 0
    assert 0 < ac[1] < 100
    assert 0.94 < ac[2] / 4000 < 0.975
    assert ac[3] == 5000


@pytest.mark.parametrize("seed", range(4))
def test_a_home_makes_no_power_at_night_and_stays_below_its_inverter(seed: int) -> None:
    home = Home(seed, 0)
    day = home.day(JUNE)
    dark = sky_of_day(home.traits.place, JUNE, GRID_S).zenith_deg > 91

    assert not day.held["pv_w"][dark].any()
    assert 0 < day.held["pv_w"].max() <= home.traits.ac_rated_w
    np.testing.assert_array_less(day.held["pv_w"], day.held["pv1_w"] + day.held["pv2_w"] + 1e-9)


def test_a_car_charges_within_its_limit_and_its_gauges_agree() -> None:
    found = 0
    for index in range(6):
        home = Home(7, index)
        at_s = JUNE * DAY_S + np.arange(0, 2 * DAY_S, 60.0)
        sample = home.sample(at_s)
        charging = sample["car_state"] == 3
        found += charging.any()
        assert set(np.unique(sample["car_w"])) <= {0.0, home.traits.household.ev_limit_w}
        assert (sample["car_w"] > 0).tolist() == charging.tolist()
        assert np.nanmax(sample["car_soc_pct"], initial=0) <= 95.0 + 1e-9
        # while charging, the session's gauge grows as fast as the charger's counter
        both = charging[1:] & charging[:-1]
        np.testing.assert_allclose(np.diff(sample["session_wh"])[both], np.diff(sample["car_wh"])[both], atol=1e-6)
        assert not sample["session_wh"][sample["car_state"] == 1].any()
    assert found >= 3


def test_devices_report_only_catalogue_fields_within_their_ranges() -> None:
    home = Home(5, 0)
    at_s = DECEMBER * DAY_S + np.arange(0, DAY_S, 61.0)
    sample = home.sample(at_s)

    for device in devices_of_home(0, len(KINDS)):
        assert device.kind in KIND_BY_LABEL
        for name, values in columns(device, home, at_s, sample).items():
            field = FIELD_BY_NAME[name]
            present = [value for value in values if value is not None]
            assert min(present, default=field.minimum) >= field.minimum, name
            assert max(present, default=field.maximum) <= field.maximum, name
            if field.kind is FieldKind.STATUS:
                assert all(type(value) is int for value in present), name
            if field.kind is FieldKind.COUNTER and name not in {"energy_day_wh", "ev_session_energy_wh"}:
                assert np.diff(present).min() >= 0, name


def test_every_kind_of_the_catalogue_is_simulated() -> None:
    assert set(KINDS) == set(KIND_BY_LABEL)


def test_serials_of_a_fleet_are_unique_and_look_alike() -> None:
    serials = [d.serial for index in range(50) for d in devices_of_home(index, 8)]

    assert len(set(serials)) == 400
    assert devices_of_home(0, 1)[0].serial == "INV00000001"
    assert devices_of_home(0, 1, "T7")[0].serial == "T7INV00000001"


def test_noise_settles_at_its_spread() -> None:
    rng = np.random.default_rng(1)

    values = ornstein_uhlenbeck(rng, np.full(200_000, 5.0), sigma=2.0, relax_s=50.0, step_s=10.0)

    assert values.mean() == pytest.approx(5.0, abs=0.1)
    assert values[100:].std() == pytest.approx(2.0, rel=0.05)
    lag = np.corrcoef(values[:-5], values[5:])[0, 1]
    assert lag == pytest.approx(np.exp(-1), abs=0.03)


def test_noise_is_the_recursion_it_says_it_is() -> None:
    mean, sigma, keep = np.linspace(0, 3, 500), 0.7, float(np.exp(-10 / 60))
    shock = np.random.default_rng(4).standard_normal(500) * sigma * np.sqrt(1 - keep * keep)
    expected = [mean[0] + shock[0]]
    for m, s in zip(mean[1:], shock[1:], strict=True):
        expected.append(m + (expected[-1] - m) * keep + s)

    values = ornstein_uhlenbeck(np.random.default_rng(4), mean, sigma=sigma, relax_s=60.0, step_s=10.0)

    np.testing.assert_allclose(values, expected, atol=1e-12)
