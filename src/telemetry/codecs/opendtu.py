"""Codec ``opendtu``: OpenDTU, the gateway of Hoymiles micro-inverters, one scalar a topic.

``<base>/<serial>/0/power`` is the AC side, ``<base>/<serial>/[1-4]/power`` a DC input. The serial is twelve
hexadecimal digits. Power in W, yieldday in Wh, yieldtotal in kWh, power factor in percent by the documentation and as
a ratio by some firmware. ``<base>/ac`` and ``<base>/dc`` are sums of what the inverters report, and would count it
twice: they are withheld, and so are the address and host name in ``<base>/dtu`` and every name.

Source: the OpenDTU documentation, "MQTT Topics" (opendtu.solar/firmware/mqtt_topics).
"""

import re
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from telemetry.codecs.entries import Entry, ratio
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.scalar_topics import Found, ScalarTopics
from telemetry.codecs.units import KILO
from telemetry.model.fields import DeviceKind

# The base is the user's, up to three levels of it ("solar" as delivered). Anything below an inverter's serial is ours.
TOPICS: Final = ("+/dtu/#",)
_INVERTER: Final = re.compile(r"(?:[^/]+/){1,3}?(?P<serial>1[0-9A-Fa-f]{11})/(?P<name>.+)")
_STATION: Final = re.compile(
    r"(?P<base>(?:[^/]+/){0,2}?[^/]+)/(?P<name>dtu/.+"
    r"|ac/(?:power|yieldtotal|yieldday|is_valid)|dc/(?:power|irradiation|is_valid))"
)

_INVERTER_TABLE: Final = MappingProxyType(
    {
        "0/power": Entry("ac_power_w"),
        "0/powerdc": Entry("dc_power_w"),
        "0/voltage": Entry("ac_voltage_v"),
        "0/current": Entry("ac_current_a"),
        "0/frequency": Entry("ac_frequency_hz"),
        "0/reactivepower": Entry("ac_reactive_power_var"),
        "0/powerfactor": Entry("ac_power_factor_ratio"),
        "0/temperature": Entry("temperature_c"),
        "0/yieldday": Entry("energy_day_wh"),
        "0/yieldtotal": Entry("energy_total_wh", KILO),
        **{f"{n}/power": Entry(f"pv{n}_power_w") for n in range(1, 5)},
        **{f"{n}/voltage": Entry(f"pv{n}_voltage_v") for n in range(1, 5)},
        **{f"{n}/current": Entry(f"pv{n}_current_a") for n in range(1, 5)},
        "status/producing": Entry("operating_state_code", codes={0.0: 8, 1.0: 4}),  # SunSpec St: STANDBY, MPPT
        "status/limit_relative": Entry("power_limit_pct"),
        "status/limit_absolute": Entry("power_limit_w"),
        "radio/rssi": Entry("rssi_dbm"),
    }
)
_STATION_TABLE: Final = MappingProxyType(
    {
        "dtu/rssi": Entry("rssi_dbm"),
        "dtu/temperature": Entry("temperature_c"),
        "dtu/uptime": Entry("uptime_s"),
    }
)


def opendtu(limits: CodecLimits) -> ScalarTopics:
    """The codec; pure, safe to call from any thread."""
    return ScalarTopics(limits, "opendtu", find)


def claims(topic: str) -> bool:
    """Whether OpenDTU publishes on such a topic, under whatever base its user chose."""
    return bool(_INVERTER.fullmatch(topic) or _STATION.fullmatch(topic))


@lru_cache(maxsize=8192)
def find(topic: str) -> Found:
    """What ``topic`` says; the station itself is called after its base, for it has no other name of its own."""
    if match := _INVERTER.fullmatch(topic):
        name = match["name"]
        prepare = ratio if name == "0/powerfactor" else None
        return Found(match["serial"].upper(), DeviceKind.INVERTER, name, _INVERTER_TABLE.get(name), prepare)
    match = _STATION.fullmatch(topic)
    base, name = (match["base"], match["name"]) if match else ("", topic.rpartition("/")[2])
    return Found(f"{base}/dtu", DeviceKind.GATEWAY, name, _STATION_TABLE.get(name) if match else None)
