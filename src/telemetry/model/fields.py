"""The catalogue: every field that can exist.

What is not listed here is withheld and counted, in every format. A field's unit stands last in its name; units
are SI, except energy in Wh. Signs follow the device's point of view where there is one: grid power is positive on
import, battery power positive on discharge (what it delivers to the home), EV power positive while charging.

Sources of ranges: residential devices up to 100 kVA; SunSpec models 101-103, 120, 160, 201-203, 802 for
names and states; IEC 61000-4-30 for frequency and voltage.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final

import polars as pl


class DeviceKind(IntEnum):
    """Kinds of device. The number is what batches and tables hold; 0 is never used."""

    INVERTER = 1
    BATTERY = 2
    GATEWAY = 3
    JUNCTION_BOX = 4
    EV_CHARGER = 5
    METER = 6

    @property
    def label(self) -> str:
        """The name on the wire: lower case, as in ``junction_box``."""
        return self.name.lower()


KIND_BY_LABEL: Final = MappingProxyType({kind.label: kind for kind in DeviceKind})


class FieldKind(StrEnum):
    """How a field behaves in time: ``state`` is sampled, ``counter`` only grows, ``status`` is a code."""

    STATE = "state"
    COUNTER = "counter"
    STATUS = "status"


class DataClass(StrEnum):
    """What an owner shares or withholds as one."""

    PRODUCTION = "production"
    CONSUMPTION = "consumption"
    BATTERY = "battery"
    CHARGING = "charging"
    GRID = "grid"
    OPERATION = "operation"
    ALERT = "alert"
    NETWORK = "network"
    LOG = "log"


class Sensitivity(StrEnum):
    """How much a series of the field tells about people: low, household (habits), presence (who is in now)."""

    LOW = "low"
    HOUSEHOLD = "household"
    PRESENCE = "presence"


@dataclass(frozen=True, slots=True)
class Field:
    """One row of the catalogue.

    ``minimum`` and ``maximum`` are inclusive, in the field's unit. ``step`` is the smallest difference that
    windows keep: their integers count steps (state: step x ms; counter: steps, 0.001 Wh = 1 mWh).
    """

    name: str
    kind: FieldKind
    data_class: DataClass
    minimum: float
    maximum: float
    step: float
    sensitivity: Sensitivity = Sensitivity.LOW

    @property
    def dtype(self) -> pl.DataType:
        """Int64 for codes, Float64 for all else."""
        return pl.Int64() if self.kind is FieldKind.STATUS else pl.Float64()


_P, _C, _B, _E, _G = (
    DataClass.PRODUCTION,
    DataClass.CONSUMPTION,
    DataClass.BATTERY,
    DataClass.CHARGING,
    DataClass.GRID,
)
_O, _A, _N, _L = DataClass.OPERATION, DataClass.ALERT, DataClass.NETWORK, DataClass.LOG
_HOME, _IN = Sensitivity.HOUSEHOLD, Sensitivity.PRESENCE
_STATE, _COUNTER, _STATUS = FieldKind.STATE, FieldKind.COUNTER, FieldKind.STATUS
_WH: Final = 1e10  # 10 GWh: no home device counts further
_UINT32: Final = 2.0**32 - 1

CATALOGUE: Final[tuple[Field, ...]] = (
    # inverter, AC side
    Field("ac_power_w", _STATE, _P, -1e5, 1e5, 1.0, _HOME),
    Field("ac_apparent_power_va", _STATE, _P, 0, 1e5, 1.0, _HOME),
    Field("ac_reactive_power_var", _STATE, _O, -1e5, 1e5, 1.0),
    Field("ac_power_factor_ratio", _STATE, _O, -1, 1, 0.001),
    Field("ac_voltage_v", _STATE, _O, 0, 1000, 0.1),
    Field("ac_voltage_l1_v", _STATE, _O, 0, 1000, 0.1),
    Field("ac_voltage_l2_v", _STATE, _O, 0, 1000, 0.1),
    Field("ac_voltage_l3_v", _STATE, _O, 0, 1000, 0.1),
    Field("ac_current_a", _STATE, _O, -500, 500, 0.01, _HOME),
    Field("ac_current_l1_a", _STATE, _O, -500, 500, 0.01, _HOME),
    Field("ac_current_l2_a", _STATE, _O, -500, 500, 0.01, _HOME),
    Field("ac_current_l3_a", _STATE, _O, -500, 500, 0.01, _HOME),
    Field("ac_frequency_hz", _STATE, _O, 40, 70, 0.001),
    Field("energy_total_wh", _COUNTER, _P, 0, _WH, 0.001, _HOME),
    Field("energy_day_wh", _COUNTER, _P, 0, 1e7, 0.001, _HOME),
    # inverter, DC side
    Field("dc_power_w", _STATE, _P, -1e5, 1e5, 1.0, _HOME),
    Field("dc_voltage_v", _STATE, _O, 0, 1500, 0.1),
    Field("dc_current_a", _STATE, _O, -500, 500, 0.01),
    Field("pv1_power_w", _STATE, _P, 0, 1e5, 1.0, _HOME),
    Field("pv1_voltage_v", _STATE, _O, 0, 1500, 0.1),
    Field("pv1_current_a", _STATE, _O, 0, 200, 0.01),
    Field("pv2_power_w", _STATE, _P, 0, 1e5, 1.0, _HOME),
    Field("pv2_voltage_v", _STATE, _O, 0, 1500, 0.1),
    Field("pv2_current_a", _STATE, _O, 0, 200, 0.01),
    Field("pv3_power_w", _STATE, _P, 0, 1e5, 1.0, _HOME),
    Field("pv3_voltage_v", _STATE, _O, 0, 1500, 0.1),
    Field("pv3_current_a", _STATE, _O, 0, 200, 0.01),
    Field("pv4_power_w", _STATE, _P, 0, 1e5, 1.0, _HOME),
    Field("pv4_voltage_v", _STATE, _O, 0, 1500, 0.1),
    Field("pv4_current_a", _STATE, _O, 0, 200, 0.01),
    # home and grid
    Field("load_power_w", _STATE, _C, -1e5, 1e5, 1.0, _IN),
    Field("load_energy_total_wh", _COUNTER, _C, 0, _WH, 0.001, _IN),
    Field("grid_power_w", _STATE, _G, -1e5, 1e5, 1.0, _IN),
    Field("grid_power_l1_w", _STATE, _G, -1e5, 1e5, 1.0, _IN),
    Field("grid_power_l2_w", _STATE, _G, -1e5, 1e5, 1.0, _IN),
    Field("grid_power_l3_w", _STATE, _G, -1e5, 1e5, 1.0, _IN),
    Field("grid_import_energy_total_wh", _COUNTER, _G, 0, _WH, 0.001, _IN),
    Field("grid_export_energy_total_wh", _COUNTER, _G, 0, _WH, 0.001, _HOME),
    # battery
    Field("battery_power_w", _STATE, _B, -1e5, 1e5, 1.0, _HOME),
    Field("battery_voltage_v", _STATE, _B, 0, 1500, 0.01),
    Field("battery_current_a", _STATE, _B, -1000, 1000, 0.01, _HOME),
    Field("battery_temperature_c", _STATE, _B, -60, 150, 0.1),
    Field("battery_soc_pct", _STATE, _B, 0, 100, 0.1, _HOME),
    Field("battery_soh_pct", _STATE, _B, 0, 100, 0.1),
    Field("battery_capacity_wh", _STATE, _B, 0, 1e6, 1.0),
    Field("battery_cell_voltage_min_v", _STATE, _B, 0, 10, 0.001),
    Field("battery_cell_voltage_max_v", _STATE, _B, 0, 10, 0.001),
    Field("battery_cycles_count", _COUNTER, _B, 0, 1e6, 1.0),
    Field("battery_charge_energy_total_wh", _COUNTER, _B, 0, _WH, 0.001, _HOME),
    Field("battery_discharge_energy_total_wh", _COUNTER, _B, 0, _WH, 0.001, _HOME),
    # EV charger
    Field("ev_power_w", _STATE, _E, -1e5, 1e5, 1.0, _IN),
    Field("ev_current_a", _STATE, _E, -500, 500, 0.01, _IN),
    Field("ev_soc_pct", _STATE, _E, 0, 100, 0.1, _IN),
    Field("ev_session_energy_wh", _COUNTER, _E, 0, 1e6, 0.001, _IN),
    Field("ev_energy_total_wh", _COUNTER, _E, 0, _WH, 0.001, _IN),
    Field("ev_state_code", _STATUS, _E, 0, 255, 1.0, _IN),  # IEC 61851-1: 1 = A (unplugged) … 6 = F (fault)
    # operation, parameters
    Field("temperature_c", _STATE, _O, -60, 150, 0.1),
    Field("operating_state_code", _STATUS, _O, 0, 65535, 1.0),  # SunSpec model 101, point St: 1 = OFF … 8 = STANDBY
    Field("nominal_power_w", _STATE, _O, 0, 1e5, 1.0),
    Field("power_limit_pct", _STATE, _O, 0, 110, 0.1),
    Field("power_limit_w", _STATE, _O, 0, 1e5, 1.0),
    # alerts
    Field("alert_bits", _STATUS, _A, 0, _UINT32, 1.0),  # SunSpec Evt1, bitfield32
    Field("alert_code", _STATUS, _A, 0, _UINT32, 1.0),  # the maker's own number
    Field("alert_severity_code", _STATUS, _A, 0, 7, 1.0),  # RFC 5424 severity
    # network
    Field("rssi_dbm", _STATE, _N, -150, 20, 1.0),
    Field("link_quality_pct", _STATE, _N, 0, 100, 1.0),
    Field("link_type_code", _STATUS, _N, 0, 255, 1.0),  # 1 Ethernet, 2 Wi-Fi, 3 cellular, 4 PLC, 5 sub-GHz, 6 BLE
    Field("uptime_s", _COUNTER, _N, 0, _UINT32, 1.0),
    # operating log: numbers only, free text carries identity
    Field("log_code", _STATUS, _L, 0, _UINT32, 1.0),
    Field("log_severity_code", _STATUS, _L, 0, 7, 1.0),  # RFC 5424 severity
    Field("restarts_count", _COUNTER, _L, 0, _UINT32, 1.0),
)

FIELD_BY_NAME: Final = MappingProxyType({field.name: field for field in CATALOGUE})
FIELD_NAMES: Final[tuple[str, ...]] = tuple(field.name for field in CATALOGUE)
FIELD_INDEX: Final = MappingProxyType({name: index for index, name in enumerate(FIELD_NAMES)})
FIELD_SCHEMA: Final = MappingProxyType({field.name: field.dtype for field in CATALOGUE})

_AC: Final = frozenset(
    name for name in FIELD_NAMES if name.startswith("ac_")
)  # what every device between DC and the grid can measure
_COMMON: Final = frozenset(
    field.name for field in CATALOGUE if field.data_class in {_A, _N, _L} or field.name == "temperature_c"
)
_ENERGY: Final = frozenset({"energy_total_wh", "energy_day_wh"})
_RUNNING: Final = frozenset({"operating_state_code", "nominal_power_w", "power_limit_pct", "power_limit_w"})


def _starting(*prefixes: str) -> frozenset[str]:
    return frozenset(name for name in FIELD_NAMES if name.startswith(prefixes))


# What a device of each kind can report at all: what is not granted of these is named to a recipient as not shared,
# whether or not this device reports it (rule 22). Hybrid inverters measure load, grid and battery as well.
FIELDS_OF_KIND: Final = MappingProxyType(
    {
        DeviceKind.INVERTER: _COMMON | _AC | _ENERGY | _RUNNING | _starting("dc_", "pv", "load_", "grid_", "battery_"),
        DeviceKind.BATTERY: _COMMON | _RUNNING | _starting("battery_", "dc_"),
        DeviceKind.GATEWAY: _COMMON,
        DeviceKind.JUNCTION_BOX: _COMMON | _starting("dc_", "pv"),
        DeviceKind.EV_CHARGER: _COMMON | _AC | _RUNNING | _starting("ev_"),
        DeviceKind.METER: _COMMON | _AC | _ENERGY | _starting("load_", "grid_"),
    }
)
