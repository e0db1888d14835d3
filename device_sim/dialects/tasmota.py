"""Tasmota: plugs with a meter and readers of a smart meter's optical port, JSON, local time without an offset."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from device_sim.devices import Device
from device_sim.dialects.spoken import Spoken, mark
from device_sim.message import Reading

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LOCAL: Final = timedelta(hours=2)
_FIELDS: Final = {
    "inverter": (
        ("ac_power_w", "Power", 1.0, 0),
        ("ac_apparent_power_va", "ApparentPower", 1.0, 0),
        ("ac_reactive_power_var", "ReactivePower", 1.0, 0),
        ("ac_voltage_v", "Voltage", 1.0, 0),
        ("ac_current_a", "Current", 1.0, 3),
        ("energy_total_wh", "Total", 1000.0, 3),
        ("energy_day_wh", "Today", 1000.0, 3),
    ),
    "meter": (
        ("grid_power_w", "Power_curr", 1.0, 0),
        ("grid_import_energy_total_wh", "Total_in", 1000.0, 4),
        ("grid_export_energy_total_wh", "Total_out", 1000.0, 4),
    ),
}


def private(gateway: str) -> list[str]:
    """The network, the access point, the host name, and the meter's number."""
    return [
        mark("tasmota", "network", gateway),
        "02:00:5e:00:53:c1",
        mark("tasmota", "host", gateway),
        "1EMH0012345678",
    ]


def greet(gateway: str, devices: Sequence[Device]) -> list[Spoken]:
    """STATE and INFO of each plug."""
    network, access_point, host, _ = private(gateway)
    said = []
    for device in devices:
        if device.kind in _FIELDS:
            topic = f"tele/tasmota_{device.serial}"
            wifi = {"AP": 1, "SSId": network, "BSSId": access_point}
            info = {"Info2": {"Hostname": host, "IPAddress": "192.0.2.173"}}
            said.append(Spoken(f"{topic}/STATE", orjson.dumps({"Wifi": wifi})))
            said.append(Spoken(f"{topic}/INFO2", orjson.dumps(info)))
    return said


def say(gateway: str, reading: Reading) -> list[Spoken]:
    """A SENSOR message for each reading."""
    if (fields := _FIELDS.get(reading.kind)) is None:
        return []
    said: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for name, label, per, digits in fields:
        if isinstance(value := reading.fields.get(name), int | float):
            said[label] = round(value / per, digits)
            kept[name] = said[label] * per
    local = (_EPOCH + timedelta(microseconds=reading.ts_us) + _LOCAL).strftime("%Y-%m-%dT%H:%M:%S")
    number = private(gateway)[-1]
    inner = {"ENERGY": said} if reading.kind == "inverter" else {"SML": {**said, "Meter_number": number}}
    serial = f"tasmota_{reading.serial}"
    payload = orjson.dumps({"Time": local, **inner})
    return [Spoken(f"tele/{serial}/SENSOR", payload, serial=serial, kept=kept)]
