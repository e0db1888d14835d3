"""Victron Instant Readout: where each value of each kind of record lies, and which field of the catalogue it is.

Source: "Extra Manufacturer Data" (Victron Energy, 2022-12-14), bits counted from the lowest of the first byte. The
library reads the values; the table says where a value's bits are, so that "no value" is told by the bits as they
were sent. The library compares after sign extension in places, where the pattern cannot be met any more.

Signs: Victron counts a battery's current positive while charging, the catalogue positive on discharge.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from telemetry.model.fields import DeviceKind


@dataclass(frozen=True, slots=True)
class Row:
    """One value: the library's name of it, its bits, the pattern of "no value", the field (None: not listed).

    ``factor`` is from the library's unit to the catalogue's. ``raw``: the bits are the value, the library's reading
    is an enumeration that knows single bits only and fails for two alarms at once. ``allowed``: what the bits can be,
    where not everything: with room for what a firmware may add, and still the best sign of a wrong key there is.
    """

    name: str
    at: int
    bits: int
    none: int | None
    field: str | None
    factor: float = 1.0
    raw: bool = False
    allowed: tuple[range, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One kind of record: the library's class of it, the kind of device, the bits that every such record has."""

    parser: str
    kind: DeviceKind
    bits: int
    rows: tuple[Row, ...]


def _state(at: int) -> Row:
    return Row("state", at, 8, 0xFF, "operating_state_code", raw=True, allowed=(range(12), range(244, 256)))


def _error(at: int) -> Row:
    return Row("error", at, 8, 0xFF, "alert_code", raw=True, allowed=(range(128), range(200, 220), range(255, 256)))


def _off_reason(at: int) -> Row:
    return Row("off_reason", at, 32, None, None, raw=True, allowed=(range(1 << 16),))


def _unused(name: str, at: int, bits: int, none: int | None) -> Row:
    return Row(name, at, bits, none, None)


_MONITOR: Final = (
    _unused("remaining_mins", 0, 16, 0xFFFF),
    Row("voltage", 16, 16, 0x7FFF, "battery_voltage_v"),
    Row("alarm", 32, 16, None, "alert_code", raw=True),
    # The auxiliary input; its mode, at bit 64, says which of the three it is.
    _unused("starter_voltage", 48, 16, 0x7FFF),
    _unused("midpoint_voltage", 48, 16, 0xFFFF),
    Row("temperature_kelvin", 48, 16, 0xFFFF, "battery_temperature_c"),
    Row("current", 66, 22, 0x3FFFFF, "battery_current_a", -1.0),
    _unused("consumed_ah", 88, 20, 0xFFFFF),
    Row("soc", 108, 10, 0x3FF, "battery_soc_pct"),
)

_SOLAR_CHARGER: Final = Record(
    "SolarCharger",
    DeviceKind.INVERTER,
    89,
    (
        _state(0),
        _error(8),
        Row("battery_voltage", 16, 16, 0x7FFF, "battery_voltage_v"),
        Row("battery_charging_current", 32, 16, 0x7FFF, "battery_current_a", -1.0),
        Row("yield_today", 48, 16, 0xFFFF, "energy_day_wh"),
        Row("solar_power", 64, 16, 0xFFFF, "dc_power_w"),
        _unused("external_device_load", 80, 9, 0x1FF),
    ),
)
_BATTERY_MONITOR: Final = Record("BatteryMonitor", DeviceKind.BATTERY, 118, _MONITOR)
_INVERTER: Final = Record(
    "Inverter",
    DeviceKind.INVERTER,
    82,
    (
        _state(0),
        Row("alarm", 8, 16, None, "alert_code", raw=True),
        Row("battery_voltage", 24, 16, 0x7FFF, "battery_voltage_v"),
        Row("ac_apparent_power", 40, 16, 0xFFFF, "ac_apparent_power_va"),
        Row("ac_voltage", 56, 15, 0x7FFF, "ac_voltage_v"),
        Row("ac_current", 71, 11, 0x7FF, "ac_current_a"),
    ),
)
_DCDC_CONVERTER: Final = Record(
    "DcDcConverter",
    DeviceKind.INVERTER,
    80,
    (
        _state(0),
        _error(8),
        Row("input_voltage", 16, 16, 0xFFFF, "dc_voltage_v"),
        Row("output_voltage", 32, 16, 0x7FFF, "battery_voltage_v"),
        _off_reason(48),
    ),
)
_SMART_LITHIUM: Final = Record(
    "SmartLithium",
    DeviceKind.BATTERY,
    127,
    (
        Row("bms_flags", 0, 32, None, None, raw=True),
        Row("error_flags", 32, 16, None, "alert_code", raw=True),
        # Eight cells of 7 bits from bit 48 on: victron.py takes their extremes.
        Row("battery_voltage", 104, 12, 0xFFF, "battery_voltage_v"),
        Row("balancer_status", 116, 4, 0xF, None, raw=True),
        Row("battery_temperature", 120, 7, 0x7F, "battery_temperature_c"),
    ),
)
_AC_CHARGER: Final = Record(
    "AcCharger",
    DeviceKind.INVERTER,
    104,
    (
        _state(0),
        _error(8),
        Row("output_voltage1", 16, 13, 0x1FFF, "battery_voltage_v"),
        Row("output_current1", 29, 11, 0x7FF, "battery_current_a", -1.0),
        _unused("output_voltage2", 40, 13, 0x1FFF),
        _unused("output_current2", 53, 11, 0x7FF),
        _unused("output_voltage3", 64, 13, 0x1FFF),
        _unused("output_current3", 77, 11, 0x7FF),
        Row("temperature", 88, 7, 0x7F, "temperature_c"),
        Row("ac_current", 95, 9, 0x1FF, "ac_current_a"),
    ),
)
_BATTERY_PROTECT: Final = Record(
    "SmartBatteryProtect",
    DeviceKind.JUNCTION_BOX,
    120,
    (
        _state(0),
        Row("output_state", 8, 8, 0xFF, None, raw=True),
        _error(16),
        Row("alarm_reason", 24, 16, None, None, raw=True),
        Row("warning_reason", 40, 16, None, None, raw=True),
        Row("input_voltage", 56, 16, 0x7FFF, "dc_voltage_v"),
        _unused("output_voltage", 72, 16, 0xFFFF),
        _off_reason(88),
    ),
)
_LYNX_BMS: Final = Record(
    "LynxSmartBMS",
    DeviceKind.BATTERY,
    127,
    (
        Row("error_flags", 0, 8, None, None, raw=True),
        _unused("remaining_mins", 8, 16, 0xFFFF),
        Row("voltage", 24, 16, 0x7FFF, "battery_voltage_v"),
        Row("current", 40, 16, 0x7FFF, "battery_current_a", -1.0),
        Row("io_status", 56, 16, None, None, raw=True),
        Row("alarm_flags", 72, 18, None, "alert_code", raw=True),
        Row("soc", 90, 10, 0x3FF, "battery_soc_pct"),
        _unused("consumed_ah", 100, 20, 0xFFFFF),
        Row("battery_temperature", 120, 7, 0x7F, "battery_temperature_c"),
    ),
)
_MULTI_RS: Final = Record(
    "MultiRS",
    DeviceKind.INVERTER,
    112,
    (
        _state(0),
        _error(8),
        Row("battery_current", 16, 16, 0x7FFF, "battery_current_a", -1.0),
        Row("battery_voltage", 32, 14, 0x3FFF, "battery_voltage_v"),
        Row("active_ac_in", 46, 2, 3, None, raw=True),
        Row("active_ac_in_power", 48, 16, 0x7FFF, "grid_power_w"),
        Row("active_ac_out_power", 64, 16, 0x7FFF, "ac_power_w"),
        Row("pv_power", 80, 16, 0xFFFF, "dc_power_w"),
        Row("yield_today", 96, 16, 0xFFFF, "energy_day_wh", 1000.0),
    ),
)
_VEBUS: Final = Record(
    "VEBus",
    DeviceKind.INVERTER,
    102,
    (
        _state(0),
        _error(8),
        Row("battery_current", 16, 16, 0x7FFF, "battery_current_a", -1.0),
        Row("battery_voltage", 32, 14, 0x3FFF, "battery_voltage_v"),
        Row("ac_in_state", 46, 2, 3, None, raw=True),
        Row("ac_in_power", 48, 19, 0x3FFFF, "grid_power_w"),
        Row("ac_out_power", 67, 19, 0x3FFFF, "ac_power_w"),
        Row("alarm", 86, 2, 3, None, raw=True),
        Row("battery_temperature", 88, 7, 0x7F, "battery_temperature_c"),
        Row("soc", 95, 7, 0x7F, "battery_soc_pct"),
    ),
)
_DC_METER: Final = Record(
    "DcEnergyMeter",
    DeviceKind.METER,
    88,
    (
        Row("meter_type", 0, 16, None, None, raw=True, allowed=(range(64), range(0xFFC0, 1 << 16))),
        Row("voltage", 16, 16, 0x7FFF, "dc_voltage_v"),
        Row("alarm", 32, 16, None, "alert_code", raw=True),
        _unused("starter_voltage", 48, 16, 0x7FFF),
        Row("temperature_kelvin", 48, 16, 0xFFFF, "temperature_c"),
        Row("current", 66, 22, 0x3FFFFF, "dc_current_a"),
    ),
)
_ORION_XS: Final = Record(
    "OrionXS",
    DeviceKind.INVERTER,
    112,
    (
        _state(0),
        _error(8),
        Row("output_voltage", 16, 16, 0xFFFF, "battery_voltage_v"),
        Row("output_current", 32, 16, 0xFFFF, "battery_current_a", -1.0),
        Row("input_voltage", 48, 16, 0xFFFF, "dc_voltage_v"),
        Row("input_current", 64, 16, 0xFFFF, "dc_current_a"),
        _off_reason(80),
    ),
)

RECORDS: Final = MappingProxyType(
    {
        0x01: _SOLAR_CHARGER,
        0x02: _BATTERY_MONITOR,
        0x03: _INVERTER,
        0x04: _DCDC_CONVERTER,
        0x05: _SMART_LITHIUM,
        0x08: _AC_CHARGER,
        0x09: _BATTERY_PROTECT,
        0x0A: _LYNX_BMS,
        0x0B: _MULTI_RS,
        0x0C: _VEBUS,
        0x0D: _DC_METER,
        0x0F: _ORION_XS,
    }
)
# The Smart Battery Sense sends the record of a battery monitor under other types.
BATTERY_SENSE_MODELS: Final = frozenset({0xA3A4, 0xA3A5})
BATTERY_SENSE: Final = Record("BatterySense", DeviceKind.BATTERY, 118, _MONITOR)

# Victron's states of operation as SunSpec's (model 101, point St); others have no equal there and are not kept.
STATES: Final = MappingProxyType(
    {
        0: 1,  # off
        1: 8,  # low power: standby
        2: 7,  # fault
        3: 4,  # bulk, and the other ways of charging: running
        4: 4,
        5: 4,
        6: 4,
        7: 4,
        9: 4,  # inverting
        11: 4,  # power supply
        245: 3,  # starting
        246: 4,
        247: 4,
        248: 8,  # battery safe: standby
        252: 5,  # controlled from outside: throttled
    }
)
