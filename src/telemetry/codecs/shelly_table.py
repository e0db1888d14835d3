"""What the status of Shelly's components means in the catalogue: "component.attribute", nested with a dot.

Source: Shelly's technical documentation, Gen2+: EM, EMData, EM1, EM1Data, PM1, Switch, Cover, Temperature, WiFi, Sys.
"""

from types import MappingProxyType
from typing import Final

from telemetry.codecs.entries import PLACE, Entry, Meaning
from telemetry.model.fields import DeviceKind

_PHASES: Final = (("a", 1), ("b", 2), ("c", 3))

# A relay, a roller shutter and a meter without relay measure alike; energy in Wh.
_CHANNEL: Final[dict[str, Meaning]] = {
    "apower": Entry("ac_power_w"),
    "aprtpower": Entry("ac_apparent_power_va"),
    "voltage": Entry("ac_voltage_v"),
    "current": Entry("ac_current_a"),
    "freq": Entry("ac_frequency_hz"),
    "pf": Entry("ac_power_factor_ratio"),
    "aenergy.total": Entry("energy_total_wh"),
    "temperature.tC": Entry("temperature_c"),
}
TABLE: Final[MappingProxyType[str, dict[str, Meaning]]] = MappingProxyType(
    {
        "em": {  # three phases at the grid connection: import positive
            "total_act_power": Entry("grid_power_w"),
            "total_aprt_power": Entry("ac_apparent_power_va"),
            "total_current": Entry("ac_current_a"),
            "a_freq": Entry("ac_frequency_hz"),
            **{f"{phase}_act_power": Entry(f"grid_power_l{n}_w") for phase, n in _PHASES},
            **{f"{phase}_voltage": Entry(f"ac_voltage_l{n}_v") for phase, n in _PHASES},
            **{f"{phase}_current": Entry(f"ac_current_l{n}_a") for phase, n in _PHASES},
        },
        "emdata": {
            "total_act": Entry("grid_import_energy_total_wh"),
            "total_act_ret": Entry("grid_export_energy_total_wh"),
        },
        "em1": {  # one clamp, around whatever its user chose
            "act_power": Entry("ac_power_w"),
            "aprt_power": Entry("ac_apparent_power_va"),
            "voltage": Entry("ac_voltage_v"),
            "current": Entry("ac_current_a"),
            "freq": Entry("ac_frequency_hz"),
            "pf": Entry("ac_power_factor_ratio"),
        },
        "em1data": {"total_act_energy": Entry("energy_total_wh")},
        "pm1": _CHANNEL,
        "switch": _CHANNEL,
        "cover": _CHANNEL,
        "temperature": {"tC": Entry("temperature_c")},
        "sys": {"uptime": Entry("uptime_s")},
        "wifi": {
            "rssi": Entry("rssi_dbm"),
            "ssid": PLACE,
            "bssid": PLACE,
            "ap_client_count": None,  # how many phones are about
        },
    }
)
KIND: Final = MappingProxyType({"em": DeviceKind.METER, "emdata": DeviceKind.METER})
