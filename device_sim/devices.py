"""The devices of a home and what each of them reports, by the catalogue's names and units.

Kept apart from the service on purpose: what both must agree on is the wire format, and tests compare the two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from device_sim.home import Home, Traits
from device_sim.noise import Floats

# kinds in the order in which a home gets them; homes with more devices get further inverters
KINDS: Final = ("inverter", "meter", "battery", "gateway", "ev_charger", "junction_box")
_SERIAL: Final = {
    "inverter": "INV",
    "meter": "MTR",
    "battery": "BAT",
    "gateway": "GWY",
    "ev_charger": "EVC",
    "junction_box": "JBX",
}
Columns = dict[str, Sequence[float | int | None]]


@dataclass(frozen=True, slots=True)
class Device:
    """One device; ``share`` is its part of the home's PV where there are several inverters."""

    serial: str
    kind: str
    share: float = 1.0


def devices_of_home(index: int, count: int, prefix: str = "") -> tuple[Device, ...]:
    """The ``count`` devices of home ``index``, with made-up serials that no other home of the fleet has."""
    kinds = [KINDS[i] if i < len(KINDS) else "inverter" for i in range(count)]
    inverters = kinds.count("inverter")
    return tuple(
        Device(
            f"{prefix}{_SERIAL[kind]}{index * count + i + 1:08}",
            kind,
            1 / inverters if kind == "inverter" else 1.0,
        )
        for i, kind in enumerate(kinds)
    )


def columns(device: Device, home: Home, at_s: Floats, sample: dict[str, Floats]) -> Columns:
    """What ``device`` reports at ``at_s`` (n): field → n values, rounded as its display would; None for none."""
    return _REPORTS[device.kind](home.traits, device.share, at_s, sample)


def _round(values: Floats | Any, digits: int) -> list[float]:
    # adding zero turns -0.0 into 0.0, which every format writes alike
    return (np.round(values, digits) + 0.0).tolist()  # type: ignore[no-any-return]


def _whole(values: Floats | Any) -> list[int]:
    return np.asarray(values).astype(np.int64).tolist()  # type: ignore[no-any-return]


def _constant(value: float, n: int) -> list[float]:
    return [value] * n


def _inverter(traits: Traits, share: float, at_s: Floats, s: dict[str, Floats]) -> Columns:
    n = at_s.size
    ac = s["pv_w"] * share
    pv1, pv2 = s["pv1_w"] * share, s["pv2_w"] * share
    reactive = 0.03 * ac
    volts = s["voltage_l1_v"]
    apparent = np.hypot(ac, reactive)
    # string voltage falls a little under load; the current follows from the power
    pv1_v, pv2_v = (np.where(p > 1, 380 - 0.01 * p, 0.0) for p in (pv1, pv2))
    rated = traits.ac_rated_w * share
    throttled = ac >= rated * 0.9999
    state = np.where(pv1 + pv2 <= 1, 2, np.where(throttled, 5, 4))  # SunSpec 101 St: sleeping, MPPT, throttled
    return {
        "ac_power_w": _round(ac, 1),
        "ac_apparent_power_va": _round(apparent, 1),
        "ac_reactive_power_var": _round(reactive, 1),
        "ac_power_factor_ratio": _round(np.where(apparent > 0, ac / np.maximum(apparent, 1e-9), 1.0), 3),
        "ac_voltage_v": _round(volts, 1),
        "ac_current_a": _round(apparent / volts, 2),
        "ac_frequency_hz": _round(s["frequency_hz"], 3),
        "energy_total_wh": _round(s["pv_wh"] * share, 2),
        "energy_day_wh": _round(s["pv_day_wh"] * share, 2),
        "dc_power_w": _round(pv1 + pv2, 1),
        "pv1_power_w": _round(pv1, 1),
        "pv1_voltage_v": _round(pv1_v, 1),
        "pv1_current_a": _round(pv1 / np.maximum(pv1_v, 1), 2),
        "pv2_power_w": _round(pv2, 1),
        "pv2_voltage_v": _round(pv2_v, 1),
        "pv2_current_a": _round(pv2 / np.maximum(pv2_v, 1), 2),
        "temperature_c": _round(s["air_c"] + 5 + 30 * ac / rated, 1),
        "operating_state_code": _whole(state),
        "nominal_power_w": _constant(round(rated, 1), n),
        "alert_bits": [0] * n,
    }


def _meter(traits: Traits, _share: float, _at_s: Floats, s: dict[str, Floats]) -> Columns:
    one, two, _ = traits.phase_share
    l1, l2 = np.round(s["grid_w"] * one, 1), np.round(s["grid_w"] * two, 1)
    return {
        "grid_power_w": _round(s["grid_w"], 1),
        "grid_power_l1_w": _round(l1, 1),
        "grid_power_l2_w": _round(l2, 1),
        "grid_power_l3_w": _round(np.round(s["grid_w"], 1) - l1 - l2, 1),
        "grid_import_energy_total_wh": _round(s["import_wh"], 2),
        "grid_export_energy_total_wh": _round(s["export_wh"], 2),
        "load_power_w": _round(s["load_w"], 1),
        "load_energy_total_wh": _round(s["load_wh"], 2),
        "ac_voltage_l1_v": _round(s["voltage_l1_v"], 1),
        "ac_voltage_l2_v": _round(s["voltage_l2_v"], 1),
        "ac_voltage_l3_v": _round(s["voltage_l3_v"], 1),
        "ac_frequency_hz": _round(s["frequency_hz"], 3),
    }


def _battery(traits: Traits, _share: float, at_s: Floats, s: dict[str, Floats]) -> Columns:
    n, unit = at_s.size, traits.battery
    soc = s["stored_wh"] / unit.capacity_wh
    cell = 3.2 + 0.25 * soc - 0.00001 * s["battery_w"]
    volts = 16 * cell  # sixteen LFP cells in series
    spread = 0.002 + 0.00000004 * np.abs(s["battery_w"])
    throughput = s["discharge_wh"] / unit.capacity_wh
    return {
        "battery_power_w": _round(s["battery_w"], 1),
        "battery_voltage_v": _round(volts, 2),
        "battery_current_a": _round(s["battery_w"] / volts, 2),
        "battery_temperature_c": _round(18 + 0.25 * s["air_c"] + 6 * np.abs(s["battery_w"]) / unit.power_w, 1),
        "battery_soc_pct": _round(100 * soc, 1),
        "battery_soh_pct": _constant(97.5, n),
        "battery_capacity_wh": _constant(round(unit.capacity_wh), n),
        "battery_cell_voltage_min_v": _round(cell - spread, 3),
        "battery_cell_voltage_max_v": _round(cell + spread, 3),
        "battery_cycles_count": _round(np.floor(throughput), 0),
        "battery_charge_energy_total_wh": _round(s["charge_wh"], 2),
        "battery_discharge_energy_total_wh": _round(s["discharge_wh"], 2),
    }


def _gateway(_traits: Traits, _share: float, at_s: Floats, s: dict[str, Floats]) -> Columns:
    n = at_s.size
    up_since = 1_700_000_000  # one long uptime, so that it only grows
    return {
        "rssi_dbm": _round(s["rssi_dbm"], 0),
        "link_quality_pct": _round(np.clip(2 * (s["rssi_dbm"] + 100), 0, 100), 0),
        "link_type_code": [2] * n,  # Wi-Fi
        "uptime_s": _round(np.floor(at_s - up_since), 0),
        "restarts_count": _constant(3, n),
        "temperature_c": _round(s["air_c"] * 0.3 + 28, 1),
        "log_code": [0] * n,
        "log_severity_code": [6] * n,  # RFC 5424: informational
    }


def _ev_charger(_traits: Traits, _share: float, _at_s: Floats, s: dict[str, Floats]) -> Columns:
    there = np.isfinite(s["car_soc_pct"])
    soc = np.nan_to_num(s["car_soc_pct"])
    return {
        "ev_power_w": _round(s["car_w"], 1),
        "ev_current_a": _round(s["car_w"] / 3 / s["voltage_l1_v"], 2),
        "ev_soc_pct": [value if there_ else None for value, there_ in zip(_round(soc, 1), there, strict=True)],
        "ev_session_energy_wh": _round(s["session_wh"], 2),
        "ev_energy_total_wh": _round(s["car_wh"], 2),
        "ev_state_code": _whole(s["car_state"]),
    }


def _junction_box(_traits: Traits, _share: float, at_s: Floats, s: dict[str, Floats]) -> Columns:
    power = s["pv1_w"] + s["pv2_w"]
    volts = np.where(power > 1, 380 - 0.005 * power, 0.0)
    return {
        "dc_power_w": _round(power, 1),
        "dc_voltage_v": _round(volts, 1),
        "dc_current_a": _round(power / np.maximum(volts, 1), 2),
        "temperature_c": _round(s["air_c"] + s["box_c"], 1),
        "alert_code": [0] * at_s.size,
        "alert_severity_code": [6] * at_s.size,
    }


_REPORTS: Final[dict[str, Callable[[Traits, float, Floats, dict[str, Floats]], Columns]]] = {
    "inverter": _inverter,
    "meter": _meter,
    "battery": _battery,
    "gateway": _gateway,
    "ev_charger": _ev_charger,
    "junction_box": _junction_box,
}
