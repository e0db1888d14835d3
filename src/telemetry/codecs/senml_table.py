"""What SenML's names and units mean in the catalogue.

Units: the registry of RFC 8428 (section 12.1) and the secondary units of RFC 8798.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from telemetry.model.fields import FIELD_BY_NAME, FIELD_NAMES

_SECONDS_PER_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Conversion:
    """To the catalogue's unit: ``value * times / by + plus``. Two factors, so that 3600 J are exactly 1 Wh."""

    times: float = 1.0
    by: float = 1.0
    plus: float = 0.0

    @property
    def same(self) -> bool:
        """Whether it changes nothing."""
        return self == _SAME

    def __call__(self, value: float) -> float:
        """``value`` in the catalogue's unit."""
        return value * self.times / self.by + self.plus


_SAME: Final = Conversion()
_KILO: Final = Conversion(times=1e3)
_MILLI: Final = Conversion(by=1e3)

# the last part of a field's name -> SenML unit -> conversion
_UNITS: Final = {
    "w": {"W": _SAME, "kW": _KILO, "MW": Conversion(times=1e6), "mW": _MILLI},
    "va": {"VA": _SAME, "kVA": _KILO},
    "var": {"var": _SAME, "kvar": _KILO},
    "wh": {"Wh": _SAME, "kWh": _KILO, "MWh": Conversion(times=1e6), "J": Conversion(by=_SECONDS_PER_HOUR)},
    "v": {"V": _SAME, "kV": _KILO, "mV": _MILLI},
    "a": {"A": _SAME, "mA": _MILLI},
    "hz": {"Hz": _SAME, "kHz": _KILO},
    "c": {"Cel": _SAME, "K": Conversion(plus=-273.15)},
    "pct": {"%": _SAME, "%EL": _SAME, "/": Conversion(times=100.0)},
    "ratio": {"/": _SAME, "%": Conversion(by=100.0)},
    "s": {"s": _SAME, "ms": _MILLI, "min": Conversion(times=60.0), "h": Conversion(times=_SECONDS_PER_HOUR)},
    "dbm": {"dBm": _SAME, "dBW": Conversion(plus=30.0)},
    "count": {"count": _SAME},
    "code": {"count": _SAME},
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
    return _SAME if not unit else _UNITS[field.rpartition("_")[2]].get(unit)


def sum_in_wh(field: str, unit: str, value: float) -> float | None:
    """A sum of power over seconds as watt hours."""
    to_watts = conversion(field, unit)
    return None if to_watts is None else to_watts(value) / _SECONDS_PER_HOUR
