"""Codec ``ahoydtu``: AhoyDTU, another gateway of Hoymiles micro-inverters, one scalar a topic.

``<base>/<name>/ch0/P_AC`` is the AC side, ``<base>/<name>/ch[1-4]/P_DC`` a DC input, where the name is what the user
called the inverter: the only identity that there is, so it is the serial, and sealed like one. Power in W, YieldDay in
Wh, YieldTotal in kWh, PF_AC in percent. ``sunrise`` and ``sunset`` give the place away to some tens of kilometres, and
``comm_start`` and ``comm_stop`` are the same shifted by a constant: place. ``<base>/total`` sums what the inverters
report and would count it twice: withheld.

Source: the user manual of AhoyDTU ("MQTT Publish") and its publisher (lumapu/ahoy: manual/User_Manual.md,
src/publisher/pubMqttIvData.h).
"""

import re
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from telemetry.codecs.entries import PLACE, Entry, Meaning, ratio
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.scalar_topics import Found, ScalarTopics
from telemetry.codecs.units import KILO
from telemetry.model.fields import DeviceKind

# The base is the user's ("inverter" as delivered), and so is the inverter's name; neither holds a slash by default.
_INVERTER: Final = re.compile(
    r"(?P<base>[^/]+)/(?P<serial>[^/]+)/"
    r"(?P<name>ch[0-6]/[^/]+|available|last_success|ack_pwr_limit|firmware|hardware|radio_stat|alarm(?:/.+)?)"
)
_STATION: Final = re.compile(
    r"(?P<base>[^/]+)/(?P<name>sunrise|sunset|comm_(?:start|stop|disabled|dis_ts)|dis_night_comm|free_heap|wifi_rssi"
    r"|ip_addr|uptime|version|device|mqtt|status)"
)
# Names that nobody else uses tell AhoyDTU under any base; the others only under the one that it is delivered with.
_OWN_NAMES: Final = re.compile(r"[^/]+/(?:sunrise|sunset|comm_.+|dis_night_comm|free_heap|wifi_rssi|ip_addr)")
_DEFAULT_BASE: Final = "inverter"
TOPICS: Final = ("inverter/total/#",)

_INVERTER_TABLE: Final = MappingProxyType(
    {
        "ch0/P_AC": Entry("ac_power_w"),
        "ch0/Q_AC": Entry("ac_reactive_power_var"),
        "ch0/U_AC": Entry("ac_voltage_v"),
        "ch0/I_AC": Entry("ac_current_a"),
        "ch0/F_AC": Entry("ac_frequency_hz"),
        "ch0/PF_AC": Entry("ac_power_factor_ratio"),
        "ch0/U_AC_1N": Entry("ac_voltage_l1_v"),  # three-phase inverters (HMT)
        "ch0/U_AC_2N": Entry("ac_voltage_l2_v"),
        "ch0/U_AC_3N": Entry("ac_voltage_l3_v"),
        "ch0/I_AC_1": Entry("ac_current_l1_a"),
        "ch0/I_AC_2": Entry("ac_current_l2_a"),
        "ch0/I_AC_3": Entry("ac_current_l3_a"),
        "ch0/P_DC": Entry("dc_power_w"),
        "ch0/Temp": Entry("temperature_c"),
        "ch0/YieldDay": Entry("energy_day_wh"),
        "ch0/YieldTotal": Entry("energy_total_wh", KILO),
        "ch0/active_PowerLimit": Entry("power_limit_pct"),
        "ch0/PowerLimit": Entry("power_limit_pct"),  # its name up to 0.5
        "ch0/rssi": Entry("rssi_dbm"),
        **{f"ch{n}/P_DC": Entry(f"pv{n}_power_w") for n in range(1, 5)},
        **{f"ch{n}/U_DC": Entry(f"pv{n}_voltage_v") for n in range(1, 5)},
        **{f"ch{n}/I_DC": Entry(f"pv{n}_current_a") for n in range(1, 5)},
        # 0 off, 1 available, 2 producing, 3 was producing, 4 was available → SunSpec St: OFF, STANDBY, MPPT
        "available": Entry("operating_state_code", codes={0.0: 1, 1.0: 8, 2.0: 4, 3.0: 8, 4.0: 1}),
    }
)
_STATION_TABLE: Final[MappingProxyType[str, Meaning]] = MappingProxyType(
    {
        "wifi_rssi": Entry("rssi_dbm"),
        "uptime": Entry("uptime_s"),
        "sunrise": PLACE,
        "sunset": PLACE,
        "comm_start": PLACE,
        "comm_stop": PLACE,
        "comm_disabled": PLACE,  # turns at the two instants above
        "comm_dis_ts": PLACE,
    }
)


def ahoydtu(limits: CodecLimits) -> ScalarTopics:
    """The codec; pure, safe to call from any thread."""
    return ScalarTopics(limits, "ahoydtu", find)


def claims(topic: str) -> bool:
    """Whether AhoyDTU publishes on such a topic, under whatever base its user chose."""
    if _OWN_NAMES.fullmatch(topic):
        return True
    match = _INVERTER.fullmatch(topic)
    if match and match["name"].startswith("ch"):
        return True
    match = match or _STATION.fullmatch(topic)
    return match is not None and match["base"] == _DEFAULT_BASE


@lru_cache(maxsize=8192)
def find(topic: str) -> Found:
    """What ``topic`` says; the station itself is called after its base, for it has no other name of its own."""
    if match := _INVERTER.fullmatch(topic):
        name = match["name"]
        meaning = _INVERTER_TABLE.get(name)
        prepare = ratio if name == "ch0/PF_AC" else None
        return Found(match["serial"], DeviceKind.INVERTER, name, meaning, prepare)
    match = _STATION.fullmatch(topic)
    base, name = (match["base"], match["name"]) if match else (_DEFAULT_BASE, topic.rpartition("/")[2])
    return Found(f"{base}/dtu", DeviceKind.GATEWAY, name, _STATION_TABLE.get(name) if match else None)
