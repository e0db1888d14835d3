"""What the names of Sparkplug metrics mean in the catalogue.

Metrics are called whatever their maker likes, in folders (``Inverter/AC/Power``). Listed are: the catalogue's own names
in any folder, for their unit says what they are; and, whole, the names below, without regard to case.
"""

from functools import lru_cache
from types import MappingProxyType
from typing import Final

from telemetry.codecs.entries import Entry
from telemetry.codecs.senml_table import conversion
from telemetry.model.fields import FIELD_BY_NAME

_NAMES: Final = MappingProxyType(
    {
        "ac/power": "ac_power_w",
        "ac/apparent power": "ac_apparent_power_va",
        "ac/reactive power": "ac_reactive_power_var",
        "ac/power factor": "ac_power_factor_ratio",
        "ac/voltage": "ac_voltage_v",
        "ac/current": "ac_current_a",
        "ac/frequency": "ac_frequency_hz",
        "ac/energy": "energy_total_wh",
        "ac/energy today": "energy_day_wh",
        "dc/power": "dc_power_w",
        "dc/voltage": "dc_voltage_v",
        "dc/current": "dc_current_a",
        **{f"pv{n}/power": f"pv{n}_power_w" for n in range(1, 5)},
        **{f"pv{n}/voltage": f"pv{n}_voltage_v" for n in range(1, 5)},
        **{f"pv{n}/current": f"pv{n}_current_a" for n in range(1, 5)},
        "grid/power": "grid_power_w",
        "grid/import": "grid_import_energy_total_wh",
        "grid/export": "grid_export_energy_total_wh",
        "load/power": "load_power_w",
        "load/energy": "load_energy_total_wh",
        "battery/power": "battery_power_w",
        "battery/voltage": "battery_voltage_v",
        "battery/current": "battery_current_a",
        "battery/temperature": "battery_temperature_c",
        "battery/soc": "battery_soc_pct",
        "battery/soh": "battery_soh_pct",
        "ev/power": "ev_power_w",
        "ev/current": "ev_current_a",
        "ev/soc": "ev_soc_pct",
        "ev/session energy": "ev_session_energy_wh",
        "ev/energy": "ev_energy_total_wh",
        "temperature": "temperature_c",
        "rssi": "rssi_dbm",
        "uptime": "uptime_s",
    }
)
# Ignition and others write units as people do.
_UNITS: Final = MappingProxyType({"°C": "Cel", "C": "Cel", "degC": "Cel", "kvar": "kvar", "VAr": "var", "": ""})


@lru_cache(maxsize=4096)
def field_of(name: str) -> str | None:
    """The catalogue's field for a metric's name; None where it is not listed."""
    last = name.rpartition("/")[2]
    if last in FIELD_BY_NAME:
        return last
    return _NAMES.get(name.casefold().replace("_", " "))


@lru_cache(maxsize=4096)
def entry_of(field: str, unit: str) -> Entry | None:
    """A field given in the unit of property ``engUnit``; None where they do not fit."""
    convert = conversion(field, _UNITS.get(unit, unit))
    return None if convert is None else Entry(field, convert)
