"""What Bluetooth tells of itself: counts by named outcome, and nothing that came through the air."""

import asyncio

import pytest

from telemetry import bluetooth
from telemetry.observe import Observer
from tests.support.bluetooth import FakeScanner, Station
from tests.support.broker import eventually
from tests.unit.test_ble_source import plug, scanning


@pytest.fixture(autouse=True)
def quiet_world():
    FakeScanner.reset()
    yield
    FakeScanner.reset()


def sample(observer, name, **labels):
    return observer.metrics.registry.get_sample_value(name, labels) or 0.0


async def test_every_frame_is_counted_once_by_what_became_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(bluetooth, "_TELL_INTERVAL_S", 0.05)
    observer = Observer()
    async with Station(tmp_path, silence_s=0.2) as built:
        station = bluetooth.Station(built.source, built.radio, built.permission, None)
        told = [asyncio.create_task(station.tell(observer))]
        await scanning(built)
        for counter in (1, 1, 4):
            plug(counter)
        plug(2)
        plug(0, key=bytes(16))
        FakeScanner.advertise("C0:FF:EE:99:99:99")
        await eventually(lambda: sample(observer, "telemetry_ble_frames_total", outcome="taken") == 2)
        assert sample(observer, "telemetry_ble_scanning") == 1
        await eventually(lambda: sample(observer, "telemetry_ble_spool_bytes") > 0)
        found = {
            outcome: sample(observer, "telemetry_ble_frames_total", outcome=outcome)
            for outcome in ("taken", "repeated", "replayed", "wrong_key", "strangers", "thinned")
        }
        assert found == {"taken": 2, "repeated": 1, "replayed": 1, "wrong_key": 1, "strangers": 1, "thinned": 0}
        assert sample(observer, "telemetry_ble_missed_total") == 2
        await built.permission.set(False)
        await eventually(lambda: sample(observer, "telemetry_ble_dropped_total") == 2)
        await eventually(lambda: sample(observer, "telemetry_ble_scanning") == 0)
        for task in told:
            task.cancel()
        await asyncio.gather(*told, return_exceptions=True)
