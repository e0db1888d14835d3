"""Simulated Bluetooth devices: read by our codecs, through a fake radio, and through real bleak on a mock of BlueZ."""

import json
import secrets
import tempfile
from pathlib import Path

import pytest

from device_sim.bluetooth import BTHOME, VICTRON, Plug, Shunt, SimulatedScanner, home_devices
from device_sim.cli import main
from telemetry.codecs.bthome import decode_bthome
from telemetry.codecs.victron import decode_victron
from telemetry.model.bluetooth import BleDevice, BleFormat, parsed_address
from tests.support.bluetooth import Station
from tests.support.bluez_mock import mocked_bluez, why_not
from tests.support.broker import eventually


def registered(devices):
    formats = {Shunt: BleFormat.VICTRON, Plug: BleFormat.BTHOME}
    return tuple(BleDevice(parsed_address(each.address), formats[type(each)], each.key) for each in devices)


@pytest.fixture
def world():
    SimulatedScanner.devices = home_devices(secrets.randbelow(1000))
    SimulatedScanner.interval_s, SimulatedScanner.speed, SimulatedScanner.adapter = 0.02, 600.0, True
    SimulatedScanner.sent.clear()
    return SimulatedScanner.devices


def close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("seed", range(20))
def test_frames_decode_to_what_was_meant(seed):
    shunt, plug = home_devices(seed)
    for hour in range(24):
        told = shunt.advertise(hour * 3600.0, without_current=hour % 5 == 0)
        close(decode_victron(told.manufacturer[VICTRON], shunt.key).values, told.values)
        told = plug.advertise(hour * 3600.0)
        frame = decode_bthome(told.services[BTHOME], plug.key, parsed_address(plug.address))
        close(frame.values, told.values)
        assert frame.unlisted == {"motion": 1}


async def test_through_a_fake_radio(world, tmp_path):
    async with Station(tmp_path, backend=SimulatedScanner, devices=registered(world), silence_s=30.0) as station:
        await eventually(lambda: len(station.messages) >= 20)
        heard = station.source.heard
        assert heard.repeated >= 2 * (len(station.messages) - 2)
        assert (heard.missed, heard.strangers, dict(heard.refused)) == (0, 0, {})
        sent = [(one.address, dict(one.values)) for one in SimulatedScanner.sent]
    for message, (address, values) in zip(station.messages, sent, strict=False):
        reading = json.loads(message.payload)
        assert reading.pop("serial") == address
        close({k: v for k, v in reading.items() if k not in {"kind", "ts"}}, values)


async def test_an_adapter_that_goes_away_shows_as_missed_frames(world, tmp_path):
    async with Station(tmp_path, backend=SimulatedScanner, devices=registered(world), silence_s=0.2) as station:
        await eventually(lambda: len(station.messages) >= 4)
        SimulatedScanner.adapter = False
        await eventually(lambda: station.radio.last_error is not None)
        for device in world:
            for second in range(5):
                device.advertise(float(second))  # nobody hears these
        SimulatedScanner.adapter = True
        before = len(station.messages)
        await eventually(lambda: len(station.messages) > before + 2)
        assert station.source.heard.missed == 10


@pytest.mark.skipif(bool(why_not()), reason=why_not())
async def test_through_real_bleak_on_a_mock_of_bluez(world, tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="bz-") as directory:
        async with mocked_bluez(Path(directory), monkeypatch) as bluez:
            await bluez.add_adapter()
            async with Station(tmp_path, backend=None, devices=registered(world), silence_s=30.0) as station:
                await eventually(lambda: station.radio.scanning)
                expected = []
                for second in range(5):
                    for device in world:
                        told = device.advertise(second * 600.0)
                        expected.append((told.address, told.values))
                        await bluez.advertise(
                            told.address, manufacturer=dict(told.manufacturer), services=dict(told.services)
                        )
                await eventually(lambda: len(station.messages) == 10)
    for message, (address, values) in zip(station.messages, expected, strict=True):
        reading = json.loads(message.payload)
        assert reading.pop("serial") == address
        close({k: v for k, v in reading.items() if k not in {"kind", "ts"}}, values)


def test_printed_for_telemetry_decode(capsys):
    assert main(["bluetooth", "--seed", "3", "--count", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["format"] for line in lines] == ["victron-ble", "bthome"] * 2
    first = lines[0]
    found = decode_victron(bytes.fromhex(first["advertisement"]), bytes.fromhex(first["key"]))
    close(found.values, first["values"])
