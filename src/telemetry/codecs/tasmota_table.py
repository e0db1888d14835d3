"""What Tasmota's names mean in the catalogue."""

from types import MappingProxyType
from typing import Final

from telemetry.codecs.entries import PLACE, Entry, Meaning
from telemetry.codecs.units import KILO

# The ENERGY object of a SENSOR message. "Name[2]" is the second entry of an array.
ENERGY: Final = MappingProxyType(
    {
        "Power": Entry("ac_power_w"),
        "ApparentPower": Entry("ac_apparent_power_va"),
        "ReactivePower": Entry("ac_reactive_power_var"),
        "Factor": Entry("ac_power_factor_ratio"),
        "Frequency": Entry("ac_frequency_hz"),
        "Voltage": Entry("ac_voltage_v"),
        "Current": Entry("ac_current_a"),
        "Total": Entry("energy_total_wh", KILO),
        "Today": Entry("energy_day_wh", KILO),
        **{f"Voltage[{n}]": Entry(f"ac_voltage_l{n}_v") for n in (1, 2, 3)},
        **{f"Current[{n}]": Entry(f"ac_current_l{n}_a") for n in (1, 2, 3)},
    }
)
SUMMED: Final = frozenset({"Power", "ApparentPower", "ReactivePower", "Total", "Today"})

# A meter behind the Smart Meter Interface, by the names of the documentation's scripts: import positive, kWh.
METER: Final = MappingProxyType(
    {
        **dict.fromkeys(
            ("Power_curr", "Power_cur", "curr_w", "Power", "P", "Watt_Summe"),
            Entry("grid_power_w"),
        ),
        **dict.fromkeys(
            ("Total_in", "E_in", "total_kwh", "total_in"),
            Entry("grid_import_energy_total_wh", KILO),
        ),
        **dict.fromkeys(
            ("Total_out", "E_out", "export_total_kwh", "total_out"),
            Entry("grid_export_energy_total_wh", KILO),
        ),
        **{f"Power_p{n}": Entry(f"grid_power_l{n}_w") for n in (1, 2, 3)},
        **{f"Volt_p{n}": Entry(f"ac_voltage_l{n}_v") for n in (1, 2, 3)},
        **{f"volt_p{n}": Entry(f"ac_voltage_l{n}_v") for n in (1, 2, 3)},
        **{f"Amperage_p{n}": Entry(f"ac_current_l{n}_a") for n in (1, 2, 3)},
        **{f"Curr_p{n}": Entry(f"ac_current_l{n}_a") for n in (1, 2, 3)},
        "HZ": Entry("ac_frequency_hz"),
        "freq": Entry("ac_frequency_hz"),
    }
)
METER_SIGNS: Final = frozenset({"Total_in", "E_in", "total_kwh", "total_in"})  # an object with one of these is a meter

STATE: Final[MappingProxyType[str, Meaning]] = MappingProxyType(
    {
        "UptimeSec": Entry("uptime_s"),
        "Wifi.RSSI": Entry("link_quality_pct"),  # percent, for all its name
        "Wifi.Signal": Entry("rssi_dbm"),
        "Wifi.BSSId": PLACE,
        "Wifi.SSId": PLACE,
        "Wifi.Channel": PLACE,  # with the others of a street it narrows down which access point
    }
)
