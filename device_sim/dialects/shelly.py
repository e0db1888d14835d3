"""Shelly Gen2+: a full status when a device connects, afterwards what has changed, with the time in seconds."""

import zlib
from collections.abc import Sequence
from typing import Any, Final

import orjson

from device_sim.devices import Device
from device_sim.dialects.spoken import Spoken, mark
from device_sim.message import Reading

# kind -> model, component of states and of counters, (field, attribute); counters are in Wh, as in the catalogue
_MODELS: Final = {
    "meter": (
        "shellypro3em",
        "em:0",
        (
            ("grid_power_w", "total_act_power"),
            ("grid_power_l1_w", "a_act_power"),
            ("grid_power_l2_w", "b_act_power"),
            ("grid_power_l3_w", "c_act_power"),
            ("ac_voltage_l1_v", "a_voltage"),
            ("ac_voltage_l2_v", "b_voltage"),
            ("ac_voltage_l3_v", "c_voltage"),
        ),
        "emdata:0",
        (("grid_import_energy_total_wh", "total_act"), ("grid_export_energy_total_wh", "total_act_ret")),
    ),
    "inverter": (
        "shellypmminig3",
        "pm1:0",
        (
            ("ac_power_w", "apower"),
            ("ac_voltage_v", "voltage"),
            ("ac_current_a", "current"),
            ("ac_frequency_hz", "freq"),
        ),
        "pm1:0",
        (("energy_total_wh", "aenergy"),),
    ),
}


def private(gateway: str) -> list[str]:
    """The network, an access point, an address, and what the user calls the topic."""
    network, prefix = (mark("shelly", what, gateway) for what in ("network", "prefix"))
    return [network, "02:00:5e:00:53:c2", "192.0.2.174", prefix]


class Shelly:
    """The home's Shelly devices below a prefix of the user's."""

    def __init__(self) -> None:
        self._last: dict[str, dict[str, Any]] = {}

    def greet(self, gateway: str, devices: Sequence[Device], /) -> list[Spoken]:
        """Who is online."""
        prefix = private(gateway)[-1]
        return [
            Spoken(f"{prefix}/{_id(one.kind, one.serial)}/online", b"true") for one in devices if one.kind in _MODELS
        ]

    def say(self, gateway: str, reading: Reading, /) -> list[Spoken]:
        """A notification for each reading: NotifyFullStatus the first time, NotifyStatus then."""
        return [self._notify(private(gateway), reading)] if reading.kind in _MODELS else []

    def _notify(self, names: Sequence[str], reading: Reading) -> Spoken:
        network, access_point, address, prefix = names
        _, states, state_fields, counters, counter_fields = _MODELS[reading.kind]
        device = _id(reading.kind, reading.serial)
        fields = {name: value for name, value in reading.fields.items() if isinstance(value, int | float)}
        current = {label: fields[name] for name, label in state_fields if name in fields}
        before = self._last.get(device)
        changed = current if before is None else {k: v for k, v in current.items() if before.get(k) != v}
        self._last[device] = current
        params: dict[str, Any] = {"ts": reading.ts_us / 1e6}
        if before is None:
            params["sys"] = {"mac": device[-12:].upper(), "cfg_rev": 7}
            params["wifi"] = {"sta_ip": address, "ssid": network, "bssid": access_point, "status": "got ip"}
        params[states] = {"id": 0, **changed}
        for name, label in counter_fields:
            if name in fields:
                value: Any = {"total": fields[name]} if label == "aenergy" else fields[name]
                params.setdefault(counters, {"id": 0})[label] = value
        method = "NotifyFullStatus" if before is None else "NotifyStatus"
        frame = {"src": device, "dst": f"{device}/events", "method": method, "params": params}
        kept = {name: fields[name] for name, _ in (*state_fields, *counter_fields) if name in fields}
        expected = Reading(device, reading.kind, reading.ts_us, {**kept})
        return Spoken(f"{prefix}/{device}/events/rpc", orjson.dumps(frame), expected=(expected,))


def _id(kind: str, serial: str) -> str:
    """A device's id: model and MAC address."""
    return f"{_MODELS[kind][0]}-{zlib.crc32(serial.encode()):012x}"
