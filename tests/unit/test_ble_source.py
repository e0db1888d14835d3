"""The Bluetooth source on a fake backend: what is heard, what is believed, what is obeyed."""

import asyncio
import json
import secrets

import pytest

from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.registry import decode_batch
from telemetry.errors import UnsealError
from telemetry.model.bluetooth import BleDevice, BleFormat, Fault, parsed_address, shown_address
from telemetry.model.fields import DeviceKind
from telemetry.ports import Source
from telemetry.privacy.ble import BleSecret
from telemetry.sources.ble_counters import Counters, Verdict
from telemetry.sources.ble_permission import FILE_NAME, Permission, follow_file
from tests.support.advertisements import bthome, victron
from tests.support.bluetooth import DEVICES, KEY, NEIGHBOUR, PLUG, SHUNT, FakeScanner, Station
from tests.support.broker import eventually

COMPANY, UUID = 0x02E1, "0000fcd2-0000-1000-8000-00805f9b34fb"
METER = bytes.fromhex("0b020000" + "4afa08" + "2101")


@pytest.fixture(autouse=True)
def quiet_world():
    FakeScanner.reset()
    yield
    FakeScanner.reset()


def shunt(counter, volts=12.52, key=KEY):
    bits = round(volts * 100) << 16 | 3 << 64 | 500 << 108
    frame = victron(key, 2, bits.to_bytes(15, "little"), counter=counter)
    FakeScanner.advertise(shown_address(SHUNT), manufacturer={COMPANY: frame})


def plug(counter, key=KEY, objects=METER):
    frame = bthome(objects, key=key, counter=counter, address=PLUG)
    FakeScanner.advertise(shown_address(PLUG), services={UUID: frame})


async def scanning(station):
    await eventually(lambda: station.radio.scanning)


async def test_it_is_a_source(tmp_path):
    assert isinstance(Station(tmp_path).source, Source)


async def test_both_formats_become_native_readings(tmp_path):
    async with Station(tmp_path) as station:
        await scanning(station)
        shunt(1)
        plug(1)
        await eventually(lambda: len(station.messages) == 2)
        decoded = decode_batch(station.messages, CodecLimits())
        assert not decoded.rejections
        rows = decoded.rows.to_dicts()
        assert [(row["serial"], row["kind"]) for row in rows] == [
            ("C0:FF:EE:00:00:01", DeviceKind.BATTERY),
            ("C0:FF:EE:00:00:02", DeviceKind.METER),
        ]
        assert rows[0]["battery_voltage_v"] == 12.52
        assert rows[1]["ac_voltage_v"] == 229.8
        assert all(message.gateway == "home-0001" and message.topic == "readings" for message in station.messages)
        assert station.source.heard.untrusted == 0
        assert station.source.heard.values_unlisted == 3  # motion; remaining time and consumed charge


async def test_who_is_not_registered_is_not_looked_at(tmp_path):
    async with Station(tmp_path, untrusted=True) as station:
        await scanning(station)
        FakeScanner.advertise(NEIGHBOUR, services={UUID: bthome(METER)})
        FakeScanner.advertise("9A1B2C3D-0000-0000-0000-000000000000", services={UUID: bthome(METER)})
        shunt(1)
        await eventually(lambda: station.messages)
        assert (len(station.messages), station.source.heard.strangers) == (1, 2)


async def test_names_and_addresses_go_nowhere_but_into_the_serial(tmp_path, caplog):
    async with Station(tmp_path) as station:
        await scanning(station)
        shunt(1)
        plug(2, key=secrets.token_bytes(16))
        await eventually(lambda: station.messages)
        assert set(json.loads(station.messages[0].payload)) == {
            "serial", "kind", "ts", "battery_voltage_v", "battery_current_a", "battery_soc_pct", "alert_code"
        }  # fmt: skip
        told = f"{station.source.heard!r} {DEVICES!r} {caplog.text} {station.radio.last_error}"
        for path in tmp_path.rglob("*"):
            told += path.name + (path.read_bytes().decode("latin-1") if path.is_file() else "")
        for canary in ("canary-name", "C0:FF:EE", "c0ffee", "C0FFEE", KEY.hex(), SHUNT.decode("latin-1")):
            assert canary not in told


async def test_a_repeated_frame_is_one_reading_and_an_older_one_is_a_replay(tmp_path):
    async with Station(tmp_path) as station:
        await scanning(station)
        for counter in (10, 10, 11, 9, 11, 15):
            plug(counter)
        await eventually(lambda: len(station.messages) == 3)
        heard = station.source.heard
        assert (heard.taken, heard.repeated, heard.missed) == (3, 2, 3)
        assert heard.refused == {Fault.REPLAYED: 1}


async def test_a_replay_after_a_restart_is_refused(tmp_path):
    secret = secrets.token_bytes(32)
    async with Station(tmp_path, secret=secret) as station:
        await scanning(station)
        plug(100)
        shunt(65_535)
        await eventually(lambda: len(station.messages) == 2)
        station.source.acknowledge([message.token for message in station.messages])
    async with Station(tmp_path, secret=secret) as again:
        await scanning(again)
        plug(100)
        plug(99)
        shunt(65_000)
        shunt(3)  # after the wrap
        await eventually(lambda: len(again.messages) == 1)
        assert again.source.heard.refused == {Fault.REPLAYED: 2}
        assert again.source.heard.missed == 3


async def test_a_device_added_anew_may_begin_again(tmp_path):
    secret = secrets.token_bytes(32)
    async with Station(tmp_path, secret=secret) as station:
        await scanning(station)
        plug(100)
        await eventually(lambda: station.messages)
    anew = (BleDevice(PLUG, BleFormat.BTHOME, KEY, generation=1),)
    async with Station(tmp_path, secret=secret, devices=anew) as again:
        await scanning(again)
        plug(1)
        await eventually(lambda: len(again.messages) == 2)  # what was not acknowledged, and the new one


async def test_formats_in_clear_are_off_and_untrusted(tmp_path):
    devices = (BleDevice(PLUG, BleFormat.BTHOME),)
    async with Station(tmp_path / "off", devices=devices) as station:
        await scanning(station)
        plug(0, key=None)
        assert station.source.heard.refused == {Fault.UNTRUSTED: 1}
        assert station.messages == []
    async with Station(tmp_path / "on", devices=devices, untrusted=True) as station:
        await scanning(station)
        plug(0, key=None)
        plug(0, key=None)
        await eventually(lambda: station.messages)
        heard = station.source.heard
        assert (heard.taken, heard.untrusted, heard.repeated) == (1, 1, 1)


async def test_a_keyed_device_is_never_heard_in_clear(tmp_path):
    async with Station(tmp_path, untrusted=True) as station:
        await scanning(station)
        plug(0, key=None)
        plug(0, key=secrets.token_bytes(16))
        assert station.source.heard.refused == {Fault.DOWNGRADED: 1, Fault.WRONG_KEY: 1}
        assert station.messages == []


async def test_the_interval_thins_and_says_so(tmp_path):
    async with Station(tmp_path, interval_us=60_000_000) as station:
        await scanning(station)
        for counter in range(1, 6):
            plug(counter)
        await eventually(lambda: station.messages)
        assert (station.source.heard.taken, station.source.heard.thinned) == (1, 4)


async def test_unacknowledged_readings_survive_a_restart_and_acknowledged_ones_do_not(tmp_path):
    secret = secrets.token_bytes(32)
    async with Station(tmp_path, secret=secret) as station:
        await scanning(station)
        shunt(1)
        await eventually(lambda: len(station.messages) == 1)
        station.source.acknowledge([station.messages[0].token])
        plug(1)
        await eventually(lambda: len(station.messages) == 2)
        expected = station.messages[1].payload
    async with Station(tmp_path, secret=secret) as again:
        await eventually(lambda: again.messages)
        assert [message.payload for message in again.messages] == [expected]


class TestPermission:
    async def test_nothing_is_scanned_before_it_is_granted(self, tmp_path):
        async with Station(tmp_path, permission=Permission()) as station:
            await asyncio.sleep(0.1)
            assert FakeScanner.running == []
            await station.permission.set(True)
            await scanning(station)

    async def test_forbidding_stops_at_once_and_throws_away_what_waits(self, tmp_path):
        async with Station(tmp_path, silence_s=3600.0) as station:
            await scanning(station)
            shunt(1)
            await eventually(lambda: station.messages)
            assert len(station.spool) == 1
            await station.permission.set(False)
            shunt(2)  # the scanner may not have stopped yet
            await eventually(lambda: FakeScanner.running == [])
            await eventually(lambda: len(station.spool) == 0)
            shunt(3)
            await asyncio.sleep(0.1)
            assert len(station.messages) == 1
            await station.permission.set(True)
            await scanning(station)
            shunt(4)
            await eventually(lambda: len(station.messages) == 2)
            assert station.source.heard.taken == 2

    async def test_unknown_stops_and_keeps(self, tmp_path):
        async with Station(tmp_path) as station:
            await scanning(station)
            shunt(1)
            await eventually(lambda: station.messages)
            await station.permission.set(None)
            await eventually(lambda: FakeScanner.running == [])
            assert len(station.spool) == 1
        async with Station(tmp_path, secret=station.raw_secret, permission=Permission()) as again:
            await asyncio.sleep(0.1)
            assert again.messages == []
            await again.permission.set(True)
            await eventually(lambda: len(again.messages) == 1)

    async def test_what_is_heard_before_the_news_of_a_refusal_arrives_is_not_handed_on(self, tmp_path):
        permitted = True

        async def confirm():
            return permitted

        async with Station(tmp_path) as station:
            station.permission.asks(confirm)
            await scanning(station)
            shunt(1)
            await eventually(lambda: station.messages)
            permitted = False  # nobody has told the permission yet
            shunt(2)
            await eventually(lambda: len(station.spool) == 2)
            await asyncio.sleep(0.1)
            assert len(station.messages) == 1

    async def test_the_file_of_a_gateway(self, tmp_path):
        permission = Permission()
        following = asyncio.create_task(follow_file(permission, tmp_path))
        await permission.until_forbidden()
        (tmp_path / FILE_NAME).touch()
        await asyncio.wait_for(permission.until_granted(), 5)
        (tmp_path / FILE_NAME).unlink()
        await asyncio.wait_for(permission.until_forbidden(), 5)
        following.cancel()


async def test_an_adapter_that_goes_and_comes_back(tmp_path):
    async with Station(tmp_path, silence_s=0.1) as station:
        await scanning(station)
        FakeScanner.adapter = False
        await eventually(lambda: station.radio.last_error is not None)
        assert not station.radio.scanning
        assert "canary" not in str(station.radio.last_error)
        FakeScanner.adapter = True
        await scanning(station)
        shunt(1)
        await eventually(lambda: station.messages)


@pytest.mark.parametrize("mode", ["active", "passive"])
async def test_both_ways_of_scanning(tmp_path, mode):
    async with Station(tmp_path, mode=mode) as station:
        await scanning(station)
        assert set(FakeScanner.modes) == {mode}


async def test_silence_begins_the_scan_anew(tmp_path):
    async with Station(tmp_path, silence_s=0.05) as station:
        await eventually(lambda: station.radio.scans >= 3)
        assert station.radio.last_error is None


class TestCounters:
    def test_wrapping_and_not(self, tmp_path):
        counters = Counters(tmp_path / "c", BleSecret(bytes(32)))
        assert counters.see("a", 65_534, 16) == (Verdict.NEW, 0)
        assert counters.see("a", 2, 16) == (Verdict.NEW, 3)
        assert counters.see("a", 65_535, 16) == (Verdict.OLD, 0)
        assert counters.see("b", 2**32 - 1, 32) == (Verdict.NEW, 0)
        assert counters.see("b", 0, 32) == (Verdict.OLD, 0)
        assert counters.see("b", 2**32 - 1, 32) == (Verdict.REPEATED, 0)

    def test_an_altered_file_is_refused_and_not_begun_anew(self, tmp_path):
        counters = Counters(tmp_path / "c", BleSecret(bytes(32)))
        counters.see("a", 5, 32)
        counters.save()
        content = bytearray((tmp_path / "c").read_bytes())
        content[-1] ^= 1
        (tmp_path / "c").write_bytes(bytes(content))
        with pytest.raises(UnsealError):
            Counters(tmp_path / "c", BleSecret(bytes(32)))
        with pytest.raises(UnsealError):
            Counters(tmp_path / "c", BleSecret(b"\1" * 32))

    def test_the_counter_is_on_disk_before_the_reading(self, tmp_path, monkeypatch):
        """A crash between the two loses a frame; the other way round it could be played again."""
        order = []

        async def check():
            async with Station(tmp_path) as station:
                monkeypatch.setattr(station.counters, "save", lambda: order.append("counter"))
                append = station.spool.append
                monkeypatch.setattr(station.spool, "append", lambda values: (order.append("reading"), append(values)))
                await scanning(station)
                shunt(1)
                await eventually(lambda: station.messages)

        asyncio.run(check())
        assert order[:2] == ["counter", "reading"]


@pytest.mark.parametrize("text", ["c0:ff:ee:00:00:01", " C0-FF-EE-00-00-01 "])
def test_addresses(text):
    assert parsed_address(text) == SHUNT


@pytest.mark.parametrize("text", ["", "c0ffee000001", "c0:ff:ee:00:00", "g0:ff:ee:00:00:01"])
def test_what_is_no_address(text):
    assert parsed_address(text) is None
