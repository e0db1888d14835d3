"""Codec ``evcc``: the charging controller evcc, one scalar a topic, ``evcc/site/*`` and ``evcc/loadpoints/<n>/*``.

Grid power is positive on import and battery power on discharge, as in the catalogue. Power in W, energy in kWh but
for the charged energy of a session, which is in Wh; currents in A. Lists count from 1, and the topic of a list itself
holds its length, so only its entries are read. An empty payload erases a value. Durations are seconds (the publisher
writes ``Seconds()``, whatever older documentation says of nanoseconds); the catalogue has no field for any.

evcc knows no serials: a device is called after its place in the tree (``evcc/loadpoints/1``). The site has sums and,
below them, the same by meter (``site/pv/1/power``); a recipient who adds up would count twice, so only the sums are
kept: every version of evcc publishes those.

Identity and habit: the vehicle's identity, name, title and odometer, the site's and the meters' titles, plans and their
times. None of them is in the table.

Source: evcc's publisher and its keys (evcc-io/evcc: server/mqtt.go, core/keys/*.go, core/types/types.go).
"""

import re
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from telemetry.codecs.entries import Entry
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.scalar_topics import Found, ScalarTopics
from telemetry.codecs.units import KILO
from telemetry.model.fields import DeviceKind

TOPICS: Final = ("evcc/#",)
_LOADPOINT: Final = re.compile(r"evcc/loadpoints/(?P<number>[1-9][0-9]{0,2})/(?P<name>.+)")
_SITE: Final = "evcc/site/"
_UNPLUGGED, _CHARGING = 1, 3  # IEC 61851-1: states A and C

_PHASES: Final = (1, 2, 3)
_SITE_TABLE: Final = MappingProxyType(
    {
        "gridPower": Entry("grid_power_w"),
        "homePower": Entry("load_power_w"),
        "gridEnergy": Entry("grid_import_energy_total_wh", KILO),
        # newer versions: the grid's values are a structure
        "grid/power": Entry("grid_power_w"),
        "grid/energy": Entry("grid_import_energy_total_wh", KILO),
        **{f"grid/powers/{n}": Entry(f"grid_power_l{n}_w") for n in _PHASES},
        **{f"grid/currents/{n}": Entry(f"ac_current_l{n}_a") for n in _PHASES},
        **{f"gridPowers/l{n}": Entry(f"grid_power_l{n}_w") for n in _PHASES},
        **{f"gridCurrents/l{n}": Entry(f"ac_current_l{n}_a") for n in _PHASES},
    }
)
_PV_TABLE: Final = MappingProxyType(
    {
        "pvPower": Entry("ac_power_w"),
        "pvEnergy": Entry("energy_total_wh", KILO),
    }
)
_BATTERY_TABLE: Final = MappingProxyType(
    {
        "batteryPower": Entry("battery_power_w"),
        "batterySoc": Entry("battery_soc_pct"),
        "batteryCapacity": Entry("battery_capacity_wh", KILO),
        "batteryEnergy": Entry("battery_discharge_energy_total_wh", KILO),
        # and so are the battery's
        "battery/power": Entry("battery_power_w"),
        "battery/soc": Entry("battery_soc_pct"),
        "battery/capacity": Entry("battery_capacity_wh", KILO),
        "battery/energy": Entry("battery_discharge_energy_total_wh", KILO),
    }
)
_LOADPOINT_TABLE: Final = MappingProxyType(
    {
        "chargePower": Entry("ev_power_w"),
        "chargedEnergy": Entry("ev_session_energy_wh"),
        "sessionEnergy": Entry("ev_session_energy_wh"),  # the newer name
        "chargeTotalImport": Entry("ev_energy_total_wh", KILO),
        "vehicleSoc": Entry("ev_soc_pct"),
        # Each says one state and, of the others, only that it is none of these.
        "charging": Entry("ev_state_code", codes={True: _CHARGING, False: None}),
        "connected": Entry("ev_state_code", codes={True: None, False: _UNPLUGGED}),
        **{f"chargeCurrents/l{n}": Entry(f"ac_current_l{n}_a") for n in _PHASES},
        **{f"chargeVoltages/l{n}": Entry(f"ac_voltage_l{n}_v") for n in _PHASES},
        **{f"chargeCurrents/{n}": Entry(f"ac_current_l{n}_a") for n in _PHASES},
        **{f"chargeVoltages/{n}": Entry(f"ac_voltage_l{n}_v") for n in _PHASES},
    }
)
_OF_SITE: Final = (
    ("evcc/pv", DeviceKind.INVERTER, _PV_TABLE),
    ("evcc/battery", DeviceKind.BATTERY, _BATTERY_TABLE),
    ("evcc/site", DeviceKind.METER, _SITE_TABLE),
)


def evcc(limits: CodecLimits) -> ScalarTopics:
    """The codec; pure, safe to call from any thread."""
    return ScalarTopics(limits, "evcc", find)


@lru_cache(maxsize=8192)
def find(topic: str) -> Found:
    """What ``topic`` says."""
    if match := _LOADPOINT.fullmatch(topic):
        name = match["name"]
        serial = f"evcc/loadpoints/{match['number']}"
        return Found(serial, DeviceKind.EV_CHARGER, _plain(name), _LOADPOINT_TABLE.get(name))
    if topic.startswith(_SITE):
        name = topic[len(_SITE) :]
        for serial, kind, table in _OF_SITE:
            if name in table:
                return Found(serial, kind, name, table[name])
    return Found("evcc/site", DeviceKind.METER, _plain(topic.removeprefix("evcc/")), None)


def _plain(name: str) -> str:
    """The last level alone: those before it may be called by people (``vehicles/<name>/title``)."""
    return name.rpartition("/")[2]
