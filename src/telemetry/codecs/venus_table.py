"""What the paths of Venus OS mean in the catalogue.

Source: the Venus OS wiki, "dbus" (services, paths, units), and its EV charging station and grid meter pages. Powers
are W, energies kWh. Venus counts a battery's current and power positive while it charges, the catalogue while it
discharges; an inverter/charger's DC side is positive while it charges, here while it takes from DC.

What is not here is withheld: states in Victron's own numbers, serials, names, addresses, and every service that is
not listed. ``gps`` and positions are a place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from telemetry.codecs.units import KILO, NEGATED, SAME, Conversion
from telemetry.model.fields import DeviceKind

NEVER_DECODED: Final = "settings"  # holds credentials


@dataclass(frozen=True, slots=True)
class Path:
    """The catalogue field of a path, "" where it is none by itself. ``codes``: what a status number becomes.
    ``only_phase``: the field that it is too where the device has a single phase.
    """

    name: str
    convert: Conversion = SAME
    codes: Mapping[int, int] = field(default_factory=dict)
    only_phase: str = ""


def _phases(pattern: str, into: str, only_phase: str = "") -> dict[str, Path]:
    """The three phases: L1 is the whole where it is the only one."""
    return {pattern.format(n): Path(into.format(n), only_phase=only_phase if n == 1 else "") for n in (1, 2, 3)}


# IEC 61851-1 letters as numbers, A = 1 … F = 6, of Victron's 0 disconnected, 1 connected, 2 charging, 3 charged,
# 4 to 7 waiting for sun, RFID, start, charge level, 8 to 12 faults, 20 and above limiting or starting
_EV_STATES: Final = MappingProxyType(
    {0: 1, 2: 3, **dict.fromkeys((1, 3, 4, 5, 6, 7, 20, 21, 22, 23, 24), 2), **dict.fromkeys(range(8, 15), 6)}
)
_BATTERY: Final = {
    "Dc/0/Voltage": Path("battery_voltage_v"),
    "Dc/0/Current": Path("battery_current_a", NEGATED),
    "Dc/0/Power": Path("battery_power_w", NEGATED),
    "Dc/0/Temperature": Path("battery_temperature_c"),
    "Soc": Path("battery_soc_pct"),
    "Soh": Path("battery_soh_pct"),
    "System/MinCellVoltage": Path("battery_cell_voltage_min_v"),
    "System/MaxCellVoltage": Path("battery_cell_voltage_max_v"),
    "History/ChargeCycles": Path("battery_cycles_count"),
    "History/ChargedEnergy": Path("battery_charge_energy_total_wh", KILO),
    "History/DischargedEnergy": Path("battery_discharge_energy_total_wh", KILO),
    "ErrorCode": Path("alert_code"),
}
_SYSTEM: Final = {
    **_phases("Ac/Grid/L{}/Power", "grid_power_l{}_w", "grid_power_w"),
    "Ac/Consumption/L1/Power": Path("", only_phase="load_power_w"),
    "Dc/Battery/Power": Path("battery_power_w", NEGATED),
    "Dc/Battery/Current": Path("battery_current_a", NEGATED),
    "Dc/Battery/Voltage": Path("battery_voltage_v"),
    "Dc/Battery/Soc": Path("battery_soc_pct"),
    "Dc/Battery/Temperature": Path("battery_temperature_c"),
    "Dc/Pv/Power": Path("dc_power_w"),
    "Dc/Pv/Current": Path("dc_current_a"),
}
_PV_INVERTER: Final = {
    "Ac/Power": Path("ac_power_w"),
    "Ac/Voltage": Path("ac_voltage_v"),
    "Ac/Current": Path("ac_current_a"),
    "Ac/Energy/Forward": Path("energy_total_wh", KILO),
    "Ac/MaxPower": Path("nominal_power_w"),
    "Ac/PowerLimit": Path("power_limit_w"),
    **_phases("Ac/L{}/Voltage", "ac_voltage_l{}_v"),
    **_phases("Ac/L{}/Current", "ac_current_l{}_a"),
    "ErrorCode": Path("alert_code"),
}
_SOLAR_CHARGER: Final = {
    "Yield/Power": Path("dc_power_w"),
    "Yield/System": Path("energy_total_wh", KILO),
    "History/Daily/0/Yield": Path("energy_day_wh", KILO),
    "Pv/V": Path("pv1_voltage_v"),
    "Pv/I": Path("pv1_current_a"),
    **{f"Pv/{n}/V": Path(f"pv{n + 1}_voltage_v") for n in range(4)},
    **{f"Pv/{n}/P": Path(f"pv{n + 1}_power_w") for n in range(4)},
    "Dc/0/Voltage": Path("dc_voltage_v"),
    "Dc/0/Current": Path("dc_current_a"),
    "Dc/0/Temperature": Path("temperature_c"),
    "ErrorCode": Path("alert_code"),
}
_VEBUS: Final = {
    "Ac/ActiveIn/P": Path("grid_power_w"),
    **_phases("Ac/ActiveIn/L{}/P", "grid_power_l{}_w"),
    **_phases("Ac/ActiveIn/L{}/V", "ac_voltage_l{}_v"),
    **_phases("Ac/ActiveIn/L{}/I", "ac_current_l{}_a"),
    "Ac/ActiveIn/L1/F": Path("ac_frequency_hz"),
    "Ac/Out/P": Path("load_power_w"),
    "Dc/0/Voltage": Path("dc_voltage_v"),
    "Dc/0/Current": Path("dc_current_a", NEGATED),
    "Dc/0/Power": Path("dc_power_w", NEGATED),
    "Dc/0/Temperature": Path("battery_temperature_c"),
    "Soc": Path("battery_soc_pct"),
    "VebusError": Path("alert_code"),
}
_INVERTER: Final = {
    "Ac/Out/L1/P": Path("ac_power_w"),
    "Ac/Out/L1/S": Path("ac_apparent_power_va"),
    "Ac/Out/L1/V": Path("ac_voltage_v"),
    "Ac/Out/L1/I": Path("ac_current_a"),
    "Ac/Out/L1/F": Path("ac_frequency_hz"),
    "Dc/0/Voltage": Path("dc_voltage_v"),
    "ErrorCode": Path("alert_code"),
}
_EV_CHARGER: Final = {
    "Ac/Power": Path("ev_power_w"),
    "Ac/Energy/Forward": Path("ev_energy_total_wh", KILO),
    "Current": Path("ev_current_a"),
    "Session/Energy": Path("ev_session_energy_wh", KILO),
    "Status": Path("ev_state_code", codes=_EV_STATES),
}
_GRID: Final = {
    "Ac/Power": Path("grid_power_w"),
    **_phases("Ac/L{}/Power", "grid_power_l{}_w"),
    **_phases("Ac/L{}/Voltage", "ac_voltage_l{}_v"),
    **_phases("Ac/L{}/Current", "ac_current_l{}_a"),
    "Ac/Frequency": Path("ac_frequency_hz"),
    "Ac/Energy/Forward": Path("grid_import_energy_total_wh", KILO),
    "Ac/Energy/Reverse": Path("grid_export_energy_total_wh", KILO),
}
_LOAD: Final = {
    "Ac/Power": Path("load_power_w"),
    "Ac/Energy/Forward": Path("load_energy_total_wh", KILO),
    "Ac/Frequency": Path("ac_frequency_hz"),
}
_VEHICLE: Final = {"Soc": Path("ev_soc_pct")}

SERVICES: Final[Mapping[str, tuple[DeviceKind, Mapping[str, Path]]]] = MappingProxyType(
    {
        "system": (DeviceKind.INVERTER, _SYSTEM),  # what the house has together: grid, loads, battery, PV
        "battery": (DeviceKind.BATTERY, _BATTERY),
        "pvinverter": (DeviceKind.INVERTER, _PV_INVERTER),
        "solarcharger": (DeviceKind.INVERTER, _SOLAR_CHARGER),
        "vebus": (DeviceKind.INVERTER, _VEBUS),
        "inverter": (DeviceKind.INVERTER, _INVERTER),
        "evcharger": (DeviceKind.EV_CHARGER, _EV_CHARGER),
        "ev": (DeviceKind.EV_CHARGER, _VEHICLE),
        "grid": (DeviceKind.METER, _GRID),
        "acload": (DeviceKind.METER, _LOAD),
    }
)
# How many phases these parts of the system have, by the path of a phase's power
PHASE_COUNTS: Final[Mapping[str, str]] = MappingProxyType(
    {"Ac/Grid/L1/Power": "Ac/Grid/NumberOfPhases", "Ac/Consumption/L1/Power": "Ac/Consumption/NumberOfPhases"}
)


def is_place(service: str, path: str) -> bool:
    """Whether this tells where somebody is."""
    return service == "gps" or path.partition("/")[0] in {"Position", "Latitude", "Longitude", "Geofence", "AtSite"}
