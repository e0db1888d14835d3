"""What SenML's names and units mean in the catalogue.

Units: the registry of RFC 8428 (section 12.1) and the secondary units of RFC 8798.
"""

from types import MappingProxyType
from typing import Final

from telemetry.codecs.units import KILO, MILLI, SAME, SECONDS_PER_HOUR, Conversion
from telemetry.model.fields import FIELD_BY_NAME, FIELD_NAMES

# the last part of a field's name -> SenML unit -> conversion
_UNITS: Final = {
    "w": {"W": SAME, "kW": KILO, "MW": Conversion(times=1e6), "mW": MILLI},
    "va": {"VA": SAME, "kVA": KILO},
    "var": {"var": SAME, "kvar": KILO},
    "wh": {"Wh": SAME, "kWh": KILO, "MWh": Conversion(times=1e6), "J": Conversion(by=SECONDS_PER_HOUR)},
    "v": {"V": SAME, "kV": KILO, "mV": MILLI},
    "a": {"A": SAME, "mA": MILLI},
    "hz": {"Hz": SAME, "kHz": KILO},
    "c": {"Cel": SAME, "K": Conversion(plus=-273.15)},
    "pct": {"%": SAME, "%EL": SAME, "/": Conversion(times=100.0)},
    "ratio": {"/": SAME, "%": Conversion(by=100.0)},
    "s": {"s": SAME, "ms": MILLI, "min": Conversion(times=60.0), "h": Conversion(times=SECONDS_PER_HOUR)},
    "dbm": {"dBm": SAME, "dBW": Conversion(plus=30.0)},
    "count": {"count": SAME},
    "code": {"count": SAME},
    "bits": {},
}

# Names that sensors use, beside the catalogue's own.
_OTHER_NAMES: Final = {
    "power": "ac_power_w",
    "apparent_power": "ac_apparent_power_va",
    "reactive_power": "ac_reactive_power_var",
    "power_factor": "ac_power_factor_ratio",
    "voltage": "ac_voltage_v",
    "current": "ac_current_a",
    "frequency": "ac_frequency_hz",
    "energy": "energy_total_wh",
    "temperature": "temperature_c",
    "temp": "temperature_c",
    "soc": "battery_soc_pct",
    "soh": "battery_soh_pct",
    "rssi": "rssi_dbm",
    "uptime": "uptime_s",
}
FIELD_OF_NAME: Final = MappingProxyType(_OTHER_NAMES | {name: name for name in FIELD_NAMES})

# A name that is only a device's: the unit says what was measured.
FIELD_OF_UNIT: Final = MappingProxyType(
    {
        **dict.fromkeys(("W", "kW"), "ac_power_w"),
        **dict.fromkeys(("VA", "kVA"), "ac_apparent_power_va"),
        **dict.fromkeys(("var", "kvar"), "ac_reactive_power_var"),
        **dict.fromkeys(("J", "Wh", "kWh"), "energy_total_wh"),
        **dict.fromkeys(("V", "mV", "kV"), "ac_voltage_v"),
        **dict.fromkeys(("A", "mA"), "ac_current_a"),
        "Hz": "ac_frequency_hz",
        **dict.fromkeys(("Cel", "K"), "temperature_c"),
        "%EL": "battery_soc_pct",
        **dict.fromkeys(("dBm", "dBW"), "rssi_dbm"),
    }
)

# A sum is a value integrated over seconds: of power it is energy.
SUM_OF_FIELD: Final = MappingProxyType(
    {
        "ac_power_w": "energy_total_wh",
        "load_power_w": "load_energy_total_wh",
        "ev_power_w": "ev_energy_total_wh",
    }
)


def conversion(field: str, unit: str) -> Conversion | None:
    """From ``unit`` to the unit of ``field``; without a unit it is taken to be the catalogue's; None: impossible."""
    assert field in FIELD_BY_NAME  # noqa: S101 - the tables above name catalogue fields only
    return SAME if not unit else _UNITS[field.rpartition("_")[2]].get(unit)


def sum_in_wh(field: str, unit: str, value: float) -> float | None:
    """A sum of power over seconds as watt hours."""
    to_watts = conversion(field, unit)
    return None if to_watts is None else to_watts(value) / SECONDS_PER_HOUR
