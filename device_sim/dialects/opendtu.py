"""OpenDTU, a gateway of Hoymiles micro-inverters: inverters only, one scalar a topic, no time."""

import zlib
from collections.abc import Sequence
from typing import Final

from device_sim.devices import Device
from device_sim.dialects.scalars import Said, scalars
from device_sim.dialects.spoken import Spoken, mark
from device_sim.message import Reading

_TABLE: Final = {
    "ac_power_w": Said("0/power", digits=1),
    "ac_voltage_v": Said("0/voltage", digits=1),
    "ac_current_a": Said("0/current", digits=2),
    "ac_frequency_hz": Said("0/frequency"),
    "energy_day_wh": Said("0/yieldday", digits=0),
    "energy_total_wh": Said("0/yieldtotal", per=1000.0),
    "pv1_power_w": Said("1/power", digits=1),
    "pv1_voltage_v": Said("1/voltage", digits=1),
    "pv2_power_w": Said("2/power", digits=1),
    "pv2_voltage_v": Said("2/voltage", digits=1),
    "temperature_c": Said("0/temperature", digits=1),
}
_ADDRESS: Final = "192.0.2.171"


def hoymiles_serial(serial: str) -> str:
    """A made-up serial of twelve hexadecimal digits for the simulator's device ``serial``."""
    return f"1141{zlib.crc32(serial.encode()):08X}"


def private(gateway: str) -> list[str]:
    """Address, host name, and what the user called inverter and input."""
    return [_ADDRESS, *(mark("opendtu", what, gateway) for what in ("host", "name", "input"))]


def greet(gateway: str, devices: Sequence[Device]) -> list[Spoken]:
    """The station, and the names of inverters."""
    address, host, name, dc_input = private(gateway)
    said = [("dtu/ip", address), ("dtu/hostname", host), ("dtu/status", "online")]
    for device in devices:
        if device.kind == "inverter":
            serial = hoymiles_serial(device.serial)
            said += [(f"{serial}/name", name), (f"{serial}/1/name", dc_input)]
    return [Spoken(f"solar/{topic}", text.encode()) for topic, text in said]


def say(_: str, reading: Reading) -> list[Spoken]:
    """A message for each value of an inverter."""
    if reading.kind != "inverter":
        return []
    serial = hoymiles_serial(reading.serial)
    return scalars(f"solar/{serial}", serial, reading, _TABLE)
