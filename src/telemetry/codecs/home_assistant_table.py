"""What Home Assistant's sensors mean in the catalogue: device class, unit and the words of their names.

Device classes and units: Home Assistant's documentation, "Sensor". A device class says what is measured and not of
what: one inverter has the power of its grid side, its strings and its battery, all of class ``power``. So words of
the entity's own ids and name choose between the fields, the first row that fits; and what stays unclear is withheld,
above all whatever has a direction that a row here does not state.

Signs, as Home Assistant's energy settings have them: grid power positive on import, battery power positive on
discharge: the catalogue's own. One-way powers (charge, discharge, import, export) are half of a signed one, withheld.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from telemetry.codecs.units import KILO, MEGA, MILLI, SAME, SECONDS_PER_HOUR, Conversion

Words = frozenset[str]


@dataclass(frozen=True, slots=True)
class Choice:
    """A field for names that have one word of each of ``all_of`` (alternatives) and none of ``none_of``. A field of
    ``companion`` says something of an energy device only beside another field: it may be a room's thermometer or a
    button's cell.
    """

    field: str
    all_of: tuple[Words, ...] = ()
    none_of: Words = frozenset()
    companion: bool = False


def _any(*words: str) -> Words:
    return frozenset(words)


_BATTERY: Final = _any("battery", "batt", "bat", "bms", "accu", "akku")
_GRID: Final = _any("grid", "mains", "meter", "utility", "netz")
_LOAD: Final = _any("load", "home", "house", "household", "consumption", "haus")
_EV: Final = _any("ev", "evse", "wallbox", "charger", "car", "vehicle", "chargepoint")
_DC: Final = _any("dc", "pv")
_ONE_WAY: Final = _any("charge", "charging", "discharge", "discharging", "import", "export", "imported", "exported")
_IMPORT: Final = _any("import", "imported", "consumed", "purchased", "bezug")
_EXPORT: Final = _any("export", "exported", "returned", "return", "feed", "injected", "sold", "einspeisung")
_PARTS: Final = _any("yesterday", "hour", "hourly", "week", "weekly", "month", "monthly", "year", "yearly", "annual")
_DAY: Final = _any("today", "day", "daily", "yieldday")
_OTHERS: Final = _any("limit", "max", "maximum", "min", "minimum", "rated", "nominal", "average", "forecast", "peak")
_PHASES: Final = (_any("l1", "phasea", "phase1"), _any("l2", "phaseb", "phase2"), _any("l3", "phasec", "phase3"))
_ANY_PHASE: Final = _PHASES[0] | _PHASES[1] | _PHASES[2]
# "PV1", "String 2", "MPPT 3": words and a number that follows them are one word here
_STRINGS: Final = tuple(_any(*(f"{name}{n}" for name in ("pv", "string", "mppt", "dc", "input"))) for n in "1234")
_ANY_STRING: Final = frozenset().union(*_STRINGS)
_SIDES: Final = _BATTERY | _GRID | _LOAD | _EV | _DC | _ANY_STRING


def _strings(quantity: str) -> tuple[Choice, ...]:
    return tuple(Choice(f"pv{n}_{quantity}", (words,), _OTHERS) for n, words in enumerate(_STRINGS, 1))


def _phases(field: str, *also: Words) -> tuple[Choice, ...]:
    none = _OTHERS | _BATTERY | _EV | _LOAD
    return tuple(Choice(field.format(n), (words, *also), none) for n, words in enumerate(_PHASES, 1))


_POWER: Final = (
    Choice("power_limit_w", (_any("limit"),), _any("relative", "min", "minimum", "max", "maximum")),
    *_strings("power_w"),
    *_phases("grid_power_l{}_w", _GRID),
    Choice("battery_power_w", (_BATTERY,), _ONE_WAY | _OTHERS | _ANY_PHASE),
    Choice("ev_power_w", (_EV,), _OTHERS | _ANY_PHASE | _any("discharge")),
    Choice("grid_power_w", (_GRID,), _ONE_WAY | _EXPORT | _OTHERS | _ANY_PHASE),
    Choice("load_power_w", (_LOAD,), _OTHERS | _ANY_PHASE),
    Choice("dc_power_w", (_DC,), _OTHERS),
    Choice("ac_power_w", (), _OTHERS | _ONE_WAY | _EXPORT | _SIDES | _ANY_PHASE),
)
_ENERGY: Final = (
    Choice("energy_day_wh", (_DAY,), _SIDES | _ONE_WAY | _IMPORT | _EXPORT | _PARTS),
    Choice("ev_session_energy_wh", (_EV | _any("charging"), _any("session")), _PARTS),
    Choice("battery_discharge_energy_total_wh", (_BATTERY, _any("discharge", "discharged")), _PARTS | _DAY),
    Choice("battery_charge_energy_total_wh", (_BATTERY, _any("charge", "charged")), _PARTS | _DAY),
    Choice("ev_energy_total_wh", (_EV,), _PARTS | _DAY | _EXPORT | _ANY_PHASE),
    Choice("grid_export_energy_total_wh", (_EXPORT,), _PARTS | _DAY | _ANY_PHASE),
    Choice("grid_import_energy_total_wh", (_IMPORT,), _PARTS | _DAY | _ANY_PHASE),
    Choice("load_energy_total_wh", (_LOAD,), _PARTS | _DAY | _ANY_PHASE),
    Choice("energy_total_wh", (), _SIDES | _ONE_WAY | _PARTS | _DAY | _ANY_PHASE),
)
_VOLTAGE: Final = (
    *_strings("voltage_v"),
    *_phases("ac_voltage_l{}_v"),
    Choice("battery_cell_voltage_min_v", (_any("cell"), _any("min", "minimum", "lowest"))),
    Choice("battery_cell_voltage_max_v", (_any("cell"), _any("max", "maximum", "highest"))),
    Choice("battery_voltage_v", (_BATTERY,), _OTHERS | _any("cell")),
    Choice("dc_voltage_v", (_DC,), _OTHERS),
    Choice("ac_voltage_v", (), _OTHERS | _BATTERY | _DC | _ANY_STRING | _ANY_PHASE | _any("cell")),
)
_CURRENT: Final = (
    *_strings("current_a"),
    *_phases("ac_current_l{}_a"),
    Choice("battery_current_a", (_BATTERY,), _ONE_WAY | _OTHERS),
    Choice("ev_current_a", (_EV,), _OTHERS | _ANY_PHASE),
    Choice("dc_current_a", (_DC,), _OTHERS),
    Choice("ac_current_a", (), _OTHERS | _ONE_WAY | _SIDES | _ANY_PHASE | _any("neutral", "leakage")),
)
CHOICES: Final[Mapping[str, tuple[Choice, ...]]] = MappingProxyType(
    {
        "power": _POWER,
        "apparent_power": (Choice("ac_apparent_power_va", (), _OTHERS | _ANY_PHASE | _BATTERY | _EV | _LOAD),),
        "reactive_power": (Choice("ac_reactive_power_var", (), _OTHERS | _ANY_PHASE | _BATTERY | _EV | _LOAD),),
        "power_factor": (Choice("ac_power_factor_ratio", (), _ANY_PHASE),),
        "energy": _ENERGY,
        "energy_storage": (Choice("battery_capacity_wh", (_any("capacity"),)),),
        "voltage": _VOLTAGE,
        "current": _CURRENT,
        "frequency": (Choice("ac_frequency_hz"),),
        "battery": (Choice("battery_soc_pct", (), _any("min", "minimum", "max", "maximum", "target"), companion=True),),
        "temperature": (
            Choice("battery_temperature_c", (_BATTERY,), _OTHERS, companion=True),
            Choice("temperature_c", (), _OTHERS | _any("outdoor", "room", "target", "water"), companion=True),
        ),
        "signal_strength": (Choice("rssi_dbm", companion=True),),
        "duration": (Choice("uptime_s", (_any("uptime"),), companion=True),),
    }
)

_FAHRENHEIT: Final = Conversion(5.0, 9.0, -160.0 / 9.0)
UNITS: Final[Mapping[str, Mapping[str, Conversion]]] = MappingProxyType(
    {
        "power": {"W": SAME, "kW": KILO, "MW": MEGA, "mW": MILLI},
        "apparent_power": {"VA": SAME, "kVA": KILO, "mVA": MILLI},
        "reactive_power": {"var": SAME, "kvar": KILO, "mvar": MILLI},
        "power_factor": {"": SAME, "%": Conversion(by=100.0)},
        "energy": {
            "Wh": SAME,
            "kWh": KILO,
            "MWh": MEGA,
            "mWh": MILLI,
            "J": Conversion(by=SECONDS_PER_HOUR),
            "kJ": Conversion(times=1e3, by=SECONDS_PER_HOUR),
            "MJ": Conversion(times=1e6, by=SECONDS_PER_HOUR),
        },
        "energy_storage": {"Wh": SAME, "kWh": KILO, "MWh": MEGA},
        "voltage": {"V": SAME, "mV": MILLI, "kV": KILO},
        "current": {"A": SAME, "mA": MILLI},
        "frequency": {"Hz": SAME, "kHz": KILO},
        "battery": {"%": SAME},
        "temperature": {"°C": SAME, "°F": _FAHRENHEIT, "K": Conversion(plus=-273.15)},
        "signal_strength": {"dBm": SAME},
        "duration": {
            "s": SAME,
            "ms": MILLI,
            "min": Conversion(times=60.0),
            "h": Conversion(times=SECONDS_PER_HOUR),
            "d": Conversion(times=24 * SECONDS_PER_HOUR),
        },
    }
)


def choose(device_class: str, words: Words) -> Choice | None:
    """The field of a sensor of this class whose ids and name have these words; None where none fits."""
    for choice in CHOICES.get(device_class, ()):
        if all(alternatives & words for alternatives in choice.all_of) and not choice.none_of & words:
            return choice
    return None
