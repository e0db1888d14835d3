"""Real bleak on a mock of BlueZ: scan, advertisement, connect, read, notify, an adapter that goes and comes back."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from bleak import BleakClient, BleakScanner

from telemetry.model.bluetooth import shown_address
from tests.support.advertisements import bthome, victron
from tests.support.bluetooth import KEY, NEIGHBOUR, PLUG, SHUNT, Station
from tests.support.bluez_mock import mocked_bluez, why_not
from tests.support.broker import eventually

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
UUID = "0000fcd2-0000-1000-8000-00805f9b34fb"
CHARACTERISTIC, SERVICE = "0000ff01-0000-1000-8000-00805f9b34fb", "0000ff00-0000-1000-8000-00805f9b34fb"


@pytest.fixture
async def bluez(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="bz-") as directory:
        async with mocked_bluez(Path(directory), monkeypatch) as found:
            await found.add_adapter()
            yield found


def station(directory, **options):
    return Station(directory, backend=None, **options)  # the platform's own: bleak's BlueZ backend


async def advertise_shunt(bluez, counter):
    bits = 1252 << 16 | 3 << 64 | 500 << 108
    frame = victron(KEY, 2, bits.to_bytes(15, "little"), counter=counter)
    await bluez.advertise(shown_address(SHUNT), manufacturer={0x02E1: frame})


async def advertise_plug(bluez, counter):
    frame = bthome(bytes.fromhex("0b0200004afa08"), key=KEY, counter=counter, address=PLUG)
    await bluez.advertise(shown_address(PLUG), services={UUID: frame})


async def test_advertisements_of_both_formats_become_readings(bluez, tmp_path):
    async with station(tmp_path, silence_s=30.0) as found:
        await eventually(lambda: found.radio.scanning)
        assert "StartDiscovery" in await bluez.calls()
        for counter in (1, 2, 2, 3):
            await advertise_shunt(bluez, counter)
            await advertise_plug(bluez, counter)
        await bluez.advertise(NEIGHBOUR, services={UUID: bthome(b"\x57\xea")})
        await eventually(lambda: len(found.messages) == 6)
        assert found.source.heard.strangers >= 1
        assert found.source.heard.repeated >= 2
        assert not found.source.heard.refused
        assert all(b"canary" not in message.payload for message in found.messages)


async def test_passive_scanning_registers_a_monitor_and_discovers_nothing(bluez, tmp_path):
    await bluez.add_monitor_manager()
    async with station(tmp_path, silence_s=30.0, mode="passive") as found:
        await eventually(lambda: found.radio.scanning or found.radio.last_error is not None)
        assert found.radio.last_error is None
        await advertise_shunt(bluez, 1)
        await eventually(lambda: len(found.messages) == 1)
        called = await bluez.calls()
        assert "RegisterMonitor" in called
        assert "StartDiscovery" not in called


async def test_an_adapter_that_is_pulled_out_and_put_back(bluez, tmp_path):
    async with station(tmp_path, silence_s=0.5) as found:
        await eventually(lambda: found.radio.scanning)
        await advertise_shunt(bluez, 1)
        await eventually(lambda: len(found.messages) == 1)
        await bluez.remove_adapter()
        await eventually(lambda: found.radio.last_error is not None)
        assert not found.radio.scanning
        await bluez.add_adapter()
        await eventually(lambda: found.radio.scanning)
        await advertise_shunt(bluez, 2)
        await eventually(lambda: len(found.messages) == 2)


async def test_no_adapter_at_the_start(bluez, tmp_path):
    await bluez.remove_adapter()
    async with station(tmp_path) as found:
        await eventually(lambda: found.radio.last_error is not None)
        assert "Bluetooth cannot be scanned" in str(found.radio.last_error)
        await bluez.add_adapter()
        await eventually(lambda: found.radio.scanning)


async def test_forbidding_stops_discovery_at_the_adapter(bluez, tmp_path):
    async with station(tmp_path, silence_s=30.0) as found:
        await eventually(lambda: found.radio.scanning)
        await found.permission.set(False)
        await eventually(lambda: not found.radio.scanning)
        async with asyncio.timeout(20):
            while "StopDiscovery" not in await bluez.calls():
                await asyncio.sleep(0.05)
        await advertise_shunt(bluez, 1)
        await asyncio.sleep(0.2)
        assert found.messages == []


async def test_connect_read_and_notify(bluez):
    """What batteries over GATT need of bleak."""
    address = shown_address(SHUNT)
    async with BleakScanner() as scanner:
        await bluez.advertise(address, services={})
        device = None
        async with asyncio.timeout(20):
            while device is None:
                device = next((one for one in scanner.discovered_devices if one.address == address), None)
                await asyncio.sleep(0.05)
    path = await bluez.add_characteristic(address, SERVICE, CHARACTERISTIC, b"\xdd\x03\x00")
    heard = []
    async with BleakClient(device) as client:
        assert client.is_connected
        assert bytes(await client.read_gatt_char(CHARACTERISTIC)) == b"\xdd\x03\x00"
        await client.start_notify(CHARACTERISTIC, lambda _, data: heard.append(bytes(data)))
        await bluez.notify(path, b"\xdd\x04\x01")
        await eventually(lambda: heard == [b"\xdd\x04\x01"])
        await client.stop_notify(CHARACTERISTIC)
    assert not client.is_connected
