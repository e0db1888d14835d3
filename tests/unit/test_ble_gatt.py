"""Batteries over GATT: the table, the polling, and what is recognised by its advertisement (Python 3.12)."""

import asyncio
import json
import sys

import pytest
from bleak.backends.scanner import AdvertisementData

from telemetry.errors import ConfigurationError
from telemetry.model.bluetooth import BleDevice, BleFormat, Fault, Heard
from telemetry.model.fields import FIELD_BY_NAME
from telemetry.sources.ble_gatt import FIELDS, Batteries, BatteryReader, battery_values, find_reader
from telemetry.sources.ble_permission import Permission
from tests.support.bluetooth import SHUNT
from tests.support.broker import WallClock, eventually
from tests.support.shared_data import shared_data

NEW = tuple(sys.version_info) >= (3, 12)
needs_new = pytest.mark.skipif(not NEW, reason="aiobmsble needs Python 3.12")
BATTERY = BleDevice(SHUNT, BleFormat.GATT)
SAMPLE = {
    "voltage": 13.2,
    "current": -4.5,  # discharging
    "power": -59.4,
    "battery_level": 61,
    "battery_charging": False,
    "cycles": 12,
    "cell_voltages": [3.301, 3.299, 3.305, 3.3],
    "temperature": 21.5,
    "temp_values": [21.0, 22.0],
    "problem": False,
    "problem_code": 0,
    "runtime": 3600,
    "serial_number": "canary-0006",
    "brand_new_field": 5,
}


def test_a_sample_in_the_catalogue_s_units_and_signs():
    found = battery_values(SAMPLE)
    assert found.values == {
        "battery_voltage_v": 13.2,
        "battery_current_a": 4.5,
        "battery_power_w": 59.4,
        "battery_soc_pct": 61,
        "battery_cycles_count": 12,
        "battery_cell_voltage_min_v": 3.299,
        "battery_cell_voltage_max_v": 3.305,
        "battery_temperature_c": 21.5,
        "alert_code": 0,
    }
    assert found.unlisted == {
        "battery_charging": 1,
        "temp_values": 1,
        "problem": 1,
        "runtime": 1,
        "serial_number": 1,
        "brand_new_field": 1,
    }


def test_impossible_values_cost_themselves():
    found = battery_values({"voltage": 13.2, "battery_level": 300, "temperature": float("nan")})
    assert found.values == {"battery_voltage_v": 13.2}
    assert found.unlisted == {"battery_soc_pct": 1, "battery_temperature_c": 1}
    assert battery_values({}).values == {}


def test_the_table_names_fields_of_the_catalogue():
    assert {field for field, _ in FIELDS.values()} <= set(FIELD_BY_NAME)


class World:
    def __init__(self, read, *, untrusted=True):
        self.readings, self.heard, self.permission = [], Heard(), Permission(granted=True)
        self.batteries = Batteries(
            [BATTERY],
            read=read,
            put=self.readings.append,
            heard=self.heard,
            permission=self.permission,
            clock=WallClock(),
            interval_s=0.02,
            untrusted=untrusted,
        )

    async def __aenter__(self):
        self._task = asyncio.create_task(self.batteries.run())
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_it_polls_and_reads_what_it_may():
    async def read(device):
        assert device is BATTERY
        return SAMPLE

    async with World(read) as world:
        await eventually(lambda: len(world.readings) >= 3)
        first = json.loads(world.readings[0])
        assert (first["serial"], first["kind"], first["battery_power_w"]) == ("C0:FF:EE:00:00:01", "battery", 59.4)
        assert "canary" not in str(world.readings)


async def test_a_battery_that_does_not_answer_is_tried_again():
    attempts = 0

    async def read(_):
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise TimeoutError("C0:FF:EE:00:00:01 is not there")
        return SAMPLE

    async with World(read) as world:
        await eventually(lambda: world.readings)
        assert attempts >= 3


async def test_forbidden_in_the_middle_of_reading_gives_up_at_once():
    started, ended = asyncio.Event(), asyncio.Event()

    async def read(_):
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return SAMPLE

    async with World(read) as world:
        await started.wait()
        await world.permission.set(False)
        await asyncio.wait_for(ended.wait(), 10)
        await asyncio.sleep(0.05)
        assert world.readings == []


async def test_without_authentication_it_is_off():
    async def read(_):
        raise AssertionError("it must not connect")

    async with World(read, untrusted=False) as world:
        await asyncio.sleep(0.05)
        assert world.heard.refused == {Fault.UNTRUSTED: 1}


class FakeBattery:
    """A FAKE protocol of aiobmsble: answers, or not."""

    answers = True
    opened = 0

    def __init__(self, ble_device, keep_alive):
        assert not keep_alive  # the owner's app wants its turn

    async def __aenter__(self):
        type(self).opened += 1
        return self

    async def __aexit__(self, *_):
        return None

    async def async_update(self):
        if not self.answers:
            raise TimeoutError
        return SAMPLE


async def test_of_several_protocols_that_match_the_one_that_answers_is_kept():
    silent = type("FakeSilent", (FakeBattery,), {"answers": False, "__module__": "a"})
    right = type("FakeRight", (FakeBattery,), {"__module__": "b"})

    class Scanner:
        near = True

        @classmethod
        async def discover(cls, **_):
            ble = type("Device", (), {"address": "c0:ff:ee:00:00:01"})
            return {"x": (ble, None)} if cls.near else {}

    async def matching(_, address):
        assert address == "C0:FF:EE:00:00:01"
        return [right, silent]

    read = BatteryReader(scanner=Scanner, matching=matching)
    assert await read(BATTERY) == SAMPLE
    assert await read(BATTERY) == SAMPLE
    assert (silent.opened, right.opened) == (1, 2)
    right.answers = False
    with pytest.raises(LookupError):
        await read(BATTERY)
    Scanner.near = False
    with pytest.raises(TimeoutError):
        await read(BATTERY)


@pytest.mark.skipif(NEW, reason="this Python has the library")
def test_an_old_python_says_so():
    with pytest.raises(ConfigurationError, match=r"Python 3\.12"):
        find_reader()


@needs_new
def test_a_new_python_reads():
    assert callable(find_reader())


@needs_new
@pytest.mark.parametrize("maker", ["daly_bms", "jbd_bms", "redodo_bms", "renogy_bms"])
async def test_recorded_advertisements_are_recognised(maker):
    from aiobmsble.utils import bms_matching

    recognised, others = 0, []
    for sample in json.loads(shared_data("bms-advertisements", f"{maker}.json").read_text()):
        said = sample["advertisement"]
        address = (said.get("platform_data") or ["C0:FF:EE:00:00:01"])[0]
        data = AdvertisementData(
            said.get("local_name"),
            {int(number): bytes.fromhex(text) for number, text in said.get("manufacturer_data", {}).items()},
            {uuid: bytes.fromhex(text) for uuid, text in said.get("service_data", {}).items()},
            said.get("service_uuids", []),
            said.get("tx_power"),
            said.get("rssi", -60),
            (),
        )
        found = [one.__module__.rpartition(".")[2] for one in await bms_matching(data, address)]
        if sample["type"] in found:
            recognised += 1
        else:
            others.append((sample["type"], found))
    print(f"{maker}: {recognised} recognised, otherwise {others}")
    assert recognised
    # One of the recordings is of a maker to whom the library has given a protocol of its own since.
    assert others == ([("jbd_bms", ["daren_bms"])] if maker == "jbd_bms" else [])
