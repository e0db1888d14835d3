"""Venus OS: a value a message below the portal's id; a GX device has a home's devices as services with instances."""

import hashlib
from collections.abc import Sequence
from typing import Final

import orjson

from device_sim.devices import Device
from device_sim.dialects.spoken import Spoken, mark
from device_sim.message import Reading

# kind → service, and field → (path, factor from the catalogue's value to Venus's)
_SERVICES: Final[dict[str, tuple[str, dict[str, tuple[str, float]]]]] = {
    "inverter": ("pvinverter", {"ac_power_w": ("Ac/Power", 1), "energy_total_wh": ("Ac/Energy/Forward", 0.001)}),
    "meter": (
        "grid",
        {
            "grid_power_w": ("Ac/Power", 1),
            "grid_power_l1_w": ("Ac/L1/Power", 1),
            "grid_import_energy_total_wh": ("Ac/Energy/Forward", 0.001),
            "grid_export_energy_total_wh": ("Ac/Energy/Reverse", 0.001),
        },
    ),
    "battery": (
        "battery",
        {
            "battery_power_w": ("Dc/0/Power", -1),
            "battery_current_a": ("Dc/0/Current", -1),
            "battery_voltage_v": ("Dc/0/Voltage", 1),
            "battery_soc_pct": ("Soc", 1),
        },
    ),
    "ev_charger": ("evcharger", {"ev_power_w": ("Ac/Power", 1), "ev_session_energy_wh": ("Session/Energy", 0.001)}),
}


def portal(gateway: str) -> str:
    """The VRM portal id of a gateway: twelve hexadecimal digits, as a MAC address has."""
    return hashlib.blake2b(f"portal/{gateway}".encode(), digest_size=6).hexdigest()


def private(gateway: str) -> list[str]:
    """The portal, a password, a name, and a number plate."""
    return [portal(gateway), *(mark("venus", what, gateway) for what in ("password", "name", "plate"))]


def greet(gateway: str, devices: Sequence[Device]) -> list[Spoken]:
    """Serials, names, settings with a password, and where the house and the car are."""
    id_, password, name, plate = private(gateway)
    said = [_value(id_, "system/0/Serial", id_)._replace(retain=True)]
    said += [
        _value(id_, path, value)
        for path, value in (
            ("settings/0/Settings/Services/MqttPassword", password),
            ("gps/1/Position/Latitude", 48.13713),
            ("gps/1/Position/Longitude", 11.57541),
            ("ev/9/Position/Latitude", 48.13713),
            ("ev/9/CustomName", plate),
            ("platform/0/Network/Ethernet", "02:00:5e:00:53:b0"),
            ("system/0/Ac/Genset/L1/Power", None),
        )
    ]
    for device in devices:
        if device.kind in _SERVICES:
            place = f"{_SERVICES[device.kind][0]}/{instance(device.serial)}"
            said += [_value(id_, f"{place}/Serial", device.serial), _value(id_, f"{place}/CustomName", name)]
    return said


def say(gateway: str, reading: Reading) -> list[Spoken]:
    """A message for each value."""
    if reading.kind not in _SERVICES:
        return []
    service, paths = _SERVICES[reading.kind]
    id_, number = portal(gateway), instance(reading.serial)
    said = []
    for field, (path, factor) in paths.items():
        value = reading.fields.get(field)
        if isinstance(value, int | float):
            spoken = _value(id_, f"{service}/{number}/{path}", value * factor)
            said.append(spoken._replace(serial=f"{id_}/{service}/{number}", field=field, value=float(value)))
    return said


def instance(serial: str) -> int:
    """The device instance of a serial: small, and the same every time."""
    return int.from_bytes(hashlib.blake2b(serial.encode(), digest_size=2).digest())


def _value(portal_id: str, path: str, value: object) -> Spoken:
    return Spoken(f"N/{portal_id}/{path}", orjson.dumps({"value": value}))
