"""Home Assistant's MQTT discovery: a retained announcement of every value, abbreviated for some devices; then scalars
for inverters and one JSON document for all others.
"""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from device_sim.devices import Device
from device_sim.dialects.spoken import Spoken, mark
from device_sim.message import Reading

# field → entity's name, device class, unit, and what a value of the catalogue's is multiplied by to be sent
_ENTITIES: Final[dict[str, tuple[str, str, str, float]]] = {
    "ac_power_w": ("Power", "power", "W", 1),
    "ac_voltage_v": ("Voltage", "voltage", "V", 1),
    "ac_current_a": ("Current", "current", "mA", 1000),
    "ac_frequency_hz": ("Frequency", "frequency", "Hz", 1),
    "energy_total_wh": ("YieldTotal", "energy", "kWh", 0.001),
    "energy_day_wh": ("YieldDay", "energy", "Wh", 1),
    "pv1_power_w": ("String 1 power", "power", "W", 1),
    "pv2_power_w": ("String 2 power", "power", "W", 1),
    "temperature_c": ("Temperature", "temperature", "°C", 1),
    "grid_power_w": ("Grid power", "power", "kW", 0.001),
    "grid_import_energy_total_wh": ("Grid import", "energy", "kWh", 0.001),
    "grid_export_energy_total_wh": ("Grid export", "energy", "kWh", 0.001),
    "load_power_w": ("Load power", "power", "W", 1),
    "battery_power_w": ("Battery power", "power", "W", 1),
    "battery_voltage_v": ("Battery voltage", "voltage", "V", 1),
    "battery_soc_pct": ("Battery SoC", "battery", "%", 1),
    "ev_power_w": ("Wallbox power", "power", "W", 1),
    "ev_energy_total_wh": ("Wallbox energy", "energy", "kWh", 0.001),
}
_REPORTED: Final = {
    "inverter": (
        *("ac_power_w", "ac_voltage_v", "ac_current_a", "energy_total_wh", "energy_day_wh"),
        *("pv1_power_w", "pv2_power_w", "temperature_c"),
    ),
    "meter": ("grid_power_w", "grid_import_energy_total_wh", "grid_export_energy_total_wh", "load_power_w"),
    "battery": ("battery_power_w", "battery_voltage_v", "battery_soc_pct"),
    "ev_charger": ("ev_power_w", "ev_energy_total_wh"),
}
_SHORT: Final = {
    "device_class": "dev_cla",
    "unit_of_measurement": "unit_of_meas",
    "state_topic": "stat_t",
    "unique_id": "uniq_id",
    "device": "dev",
}


def private(gateway: str) -> list[str]:
    """Names of people, rooms and networks."""
    return [mark("ha", what, gateway) for what in ("owner", "room", "ssid", "phone")]


def greet(gateway: str, devices: Sequence[Device]) -> list[Spoken]:
    """Every value announced, and a telephone as device tracker, whose state and place must stay out."""
    owner, room, _, phone = private(gateway)
    said = [_config(device, field, owner, room) for device in devices for field in _REPORTED.get(device.kind, ())]
    tracker = {
        "name": f"{owner}'s phone",
        "state_topic": f"phones/{phone}",
        "json_attributes_topic": f"phones/{phone}/attributes",
        "unique_id": phone,
    }
    said.append(Spoken(f"homeassistant/device_tracker/{phone}/config", orjson.dumps(tracker), retain=True))
    said.append(Spoken(f"phones/{phone}", b"home"))
    said.append(Spoken(f"phones/{phone}/attributes", orjson.dumps({"latitude": 48.13713, "longitude": 11.57541})))
    return said


def say(gateway: str, reading: Reading) -> list[Spoken]:
    """An inverter's values one by one; another device's in one document, with the network's name beside them."""
    fields = [name for name in _REPORTED.get(reading.kind, ()) if reading.fields.get(name) is not None]
    if reading.kind == "inverter":
        return [
            Spoken(
                _topic(reading.serial, reading.kind, name),
                f"{_sent(reading, name):.10g}".encode(),
                serial=reading.serial,
                field=name,
                value=_number(reading, name),
            )
            for name in fields
        ]
    document: dict[str, Any] = {name: _sent(reading, name) for name in fields}
    if not document:
        return []
    document["wifi"] = {"ssid": private(gateway)[2], "rssi": -60}
    payload = orjson.dumps(document)
    first = fields[0]
    topic = _topic(reading.serial, reading.kind, first)
    return [Spoken(topic, payload, serial=reading.serial, field=first, value=_number(reading, first))]


def _number(reading: Reading, name: str) -> float:
    value = reading.fields[name]
    assert isinstance(value, int | float)  # noqa: S101 - _ENTITIES lists numbers only
    return float(value)


def _sent(reading: Reading, name: str) -> float:
    return _number(reading, name) * _ENTITIES[name][3]


def _topic(serial: str, kind: str, field: str) -> str:
    return f"homes/{serial}/{field}" if kind == "inverter" else f"homes/{serial}"


def _config(device: Device, field: str, owner: str, room: str) -> Spoken:
    name, device_class, unit, _ = _ENTITIES[field]
    config: dict[str, Any] = {
        "name": name,
        "device_class": device_class,
        "unit_of_measurement": unit,
        "state_topic": _topic(device.serial, device.kind, field),
        "unique_id": f"{device.serial}_{field}",
        "device": {
            "identifiers": [device.serial],
            "name": f"{owner}'s {device.kind}",
            "suggested_area": room,
            "connections": [["mac", "02:00:5e:00:53:af"]],
            "configuration_url": "http://192.0.2.77/",
        },
    }
    if device.kind != "inverter":
        config["value_template"] = f"{{{{ value_json.{field} | float }}}}"
    if device.kind in {"inverter", "battery"}:
        config = {_SHORT.get(key, key): value for key, value in config.items()}
    topic = f"homeassistant/sensor/{device.serial}/{field}/config"
    return Spoken(topic, orjson.dumps(config), retain=True)
