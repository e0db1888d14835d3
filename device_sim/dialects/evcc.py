"""evcc: the site's sums and the load points, no time, one scalar a topic."""

from collections.abc import Sequence
from typing import Final

from device_sim.devices import Device
from device_sim.dialects.scalars import Said, scalars
from device_sim.dialects.spoken import Spoken, mark
from device_sim.message import Reading

_SITE: Final = "evcc/site"
_LOADPOINT: Final = "evcc/loadpoints/1"
# kind of device -> what the format calls the device, prefix of its topics, fields
_TABLES: Final = {
    "meter": (
        "evcc/site",
        _SITE,
        {
            "grid_power_w": Said("gridPower"),
            "load_power_w": Said("homePower"),
            "grid_import_energy_total_wh": Said("grid/energy", per=1000.0),
        },
    ),
    "inverter": (
        "evcc/pv",
        _SITE,
        {"ac_power_w": Said("pvPower"), "energy_total_wh": Said("pvEnergy", per=1000.0)},
    ),
    "battery": (
        "evcc/battery",
        _SITE,
        {"battery_power_w": Said("batteryPower"), "battery_soc_pct": Said("batterySoc")},
    ),
    "ev_charger": (
        _LOADPOINT,
        _LOADPOINT,
        {
            "ev_power_w": Said("chargePower"),
            "ev_session_energy_wh": Said("chargedEnergy"),
            "ev_energy_total_wh": Said("chargeTotalImport", per=1000.0),
            "ev_soc_pct": Said("vehicleSoc"),
        },
    ),
}


def private(gateway: str) -> list[str]:
    """The site's title, the vehicle's and the load point's."""
    return [mark("evcc", what, gateway) for what in ("site", "vehicle", "loadpoint")]


def greet(gateway: str, _: Sequence[Device]) -> list[Spoken]:
    """Titles and names."""
    site, vehicle, loadpoint = private(gateway)
    said = {"site/siteTitle": site, "loadpoints/1/vehicleTitle": vehicle, "loadpoints/1/title": loadpoint}
    said[f"vehicles/{vehicle}/title"] = vehicle
    return [Spoken(f"evcc/{topic}", text.encode()) for topic, text in said.items()]


def say(_: str, reading: Reading) -> list[Spoken]:
    """A message for each value, and an empty one for the state of charge of a car that is not there."""
    if (known := _TABLES.get(reading.kind)) is None:
        return []
    serial, prefix, table = known
    spoken = scalars(prefix, serial, reading, table)
    if reading.kind == "ev_charger" and reading.fields.get("ev_soc_pct") is None:
        spoken.append(Spoken(f"{_LOADPOINT}/vehicleSoc", b""))
    return spoken
