"""AhoyDTU, another gateway of Hoymiles micro-inverters: named as their user does, one scalar a topic, no time."""

from collections.abc import Sequence
from typing import Final

from device_sim.devices import Device
from device_sim.dialects.scalars import Said, scalars
from device_sim.dialects.spoken import Spoken, mark
from device_sim.message import Reading

_TABLE: Final = {
    "ac_power_w": Said("ch0/P_AC", digits=1),
    "ac_voltage_v": Said("ch0/U_AC", digits=1),
    "ac_current_a": Said("ch0/I_AC", digits=2),
    "ac_frequency_hz": Said("ch0/F_AC"),
    "energy_day_wh": Said("ch0/YieldDay", digits=0),
    "energy_total_wh": Said("ch0/YieldTotal", per=1000.0),
    "pv1_power_w": Said("ch1/P_DC", digits=1),
    "pv1_voltage_v": Said("ch1/U_DC", digits=1),
    "temperature_c": Said("ch0/Temp", digits=1),
}
_SUNRISE, _SUNSET = "1777607123", "1777659487"


def private(gateway: str) -> list[str]:
    """The station's name and address, and when the sun rises and sets where it is."""
    return [mark("ahoydtu", "station", gateway), "192.0.2.172", _SUNRISE, _SUNSET]


def greet(gateway: str, _: Sequence[Device]) -> list[Spoken]:
    """The station's name and address, and its day."""
    station, address, sunrise, sunset = private(gateway)
    said = {"device": station, "ip_addr": address, "sunrise": sunrise, "sunset": sunset}
    return [Spoken(f"inverter/{topic}", text.encode()) for topic, text in said.items()]


def say(_: str, reading: Reading) -> list[Spoken]:
    """A message for each value of an inverter."""
    if reading.kind != "inverter":
        return []
    name = f"Roof {reading.serial}"
    return scalars(f"inverter/{name}", name, reading, _TABLE)
