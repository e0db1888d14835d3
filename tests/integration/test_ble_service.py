"""Bluetooth inside the service: the owner's permission, and a frame that is committed like any message."""

import asyncio
import contextlib
import functools

import pytest

from telemetry import app
from telemetry.app import Worker
from telemetry.bluetooth import open_station
from telemetry.config import load_config
from telemetry.embedded.broker import find_mosquitto
from telemetry.errors import RegistryError
from telemetry.model.identity import new_key
from telemetry.observe import Observer
from telemetry.privacy.keys import Purpose
from telemetry.servers import Endpoints
from telemetry.sources.ble_permission import Permission
from telemetry.store.ble_devices import BleDevices, open_ble_secret
from telemetry.store.bluetooth import SitePermission, set_permission
from telemetry.store.keystore import INGEST_SECRETS, FileKeystore
from tests.support.bluetooth import DEVICES, FakeScanner
from tests.support.broker import broker_config, eventually, temporary_broker
from tests.support.postgres import temporary_postgres
from tests.support.registry import registry_world
from tests.unit.test_ble_source import plug, shunt


@pytest.fixture
async def world(tmp_path):
    FakeScanner.reset()
    async with temporary_postgres() as postgres, registry_world(postgres, tmp_path / "keys") as found:
        yield found
    FakeScanner.reset()


@contextlib.asynccontextmanager
async def followed(world, name, **options):
    permission = Permission()
    follow = SitePermission(world.connector("telemetry_ingest"), world.blind.gateway(name), permission.set, **options)
    running = asyncio.create_task(follow.run())
    try:
        yield permission
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_no_word_is_no_and_a_change_arrives_at_once(world):
    home, other = await world.home(), await world.home()
    operator = await world.connect("telemetry_operator")
    async with followed(world, home.gateway_name, poll_s=600.0) as permission:  # only a notification is that quick
        await asyncio.wait_for(permission.until_forbidden(), 20)
        await set_permission(operator, other.site_key, permitted=True)
        await asyncio.sleep(0.1)
        assert not permission.granted
        await set_permission(operator, home.site_key, permitted=True)
        await asyncio.wait_for(permission.until_granted(), 20)
        await set_permission(operator, home.site_key, permitted=False)
        await asyncio.wait_for(permission.until_forbidden(), 20)
    actions = await operator.fetch("SELECT action, owner_key FROM audit.event WHERE subject_key = $1", home.site_key)
    assert [(row["action"], row["owner_key"]) for row in actions if "bluetooth" in row["action"]] == [
        ("bluetooth.permit", home.owner_key),
        ("bluetooth.forbid", home.owner_key),
    ]
    await operator.close()


async def test_it_ends_with_the_owner_and_with_the_gateway(world):
    home, operator = await world.home(), await world.connect("telemetry_operator")
    await set_permission(operator, home.site_key, permitted=True)
    async with followed(world, home.gateway_name, poll_s=0.05) as permission:
        await asyncio.wait_for(permission.until_granted(), 20)
        buyer = await world.home()
        admin = await world.admin()
        await admin.execute(
            "UPDATE consent.site SET owner_key = $1 WHERE site_key = $2", buyer.owner_key, home.site_key
        )
        await asyncio.wait_for(permission.until_forbidden(), 20)  # a house that was sold
        await admin.close()
    second = await world.home()
    await set_permission(operator, second.site_key, permitted=True)
    async with followed(world, second.gateway_name, poll_s=600.0) as permission:
        await asyncio.wait_for(permission.until_granted(), 20)
        await world.administration.revoke_gateway(second.gateway_key)
        await asyncio.wait_for(permission.until_forbidden(), 20)
    await operator.close()


async def test_a_database_that_is_away_is_no_permission(world):
    home, operator = await world.home(), await world.connect("telemetry_operator")
    await set_permission(operator, home.site_key, permitted=True)
    async with followed(world, home.gateway_name) as permission:
        await asyncio.wait_for(permission.until_granted(), 20)
        told = asyncio.create_task(permission.until_not_granted())
        admin = await world.admin()
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'telemetry_ingest'")
        await asyncio.wait_for(told, 20)
        await asyncio.wait_for(permission.until_granted(), 20)
        await admin.close()
    await operator.close()


async def test_who_may_and_who_may_not(world):
    home = await world.home()
    for role in ("telemetry_ingest", "telemetry_views", "telemetry_rollup"):
        connection = await world.connect(role)
        with pytest.raises(Exception, match=r"permission denied|refused"):
            await set_permission(connection, home.site_key, permitted=True)
        await connection.close()
    operator = await world.connect("telemetry_operator")
    with pytest.raises(RegistryError):
        await set_permission(operator, new_key(), permitted=True)
    await operator.close()


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
async def test_a_frame_is_committed_like_any_message_and_forbidding_ends_it(world, tmp_path, monkeypatch):
    home = await world.home()
    secret = open_ble_secret(tmp_path, create=True)
    for device in DEVICES:
        BleDevices(tmp_path, secret).put(device)
    config = load_config(
        data_dir=tmp_path,
        embedded=False,
        database={"dsn": world.postgres.dsn("telemetry", "")},
        ble={"enabled": True, "gateway": home.gateway_name, "interval_s": 0},
    )
    monkeypatch.setattr(app, "open_station", functools.partial(open_station, backend=FakeScanner))
    operator, admin = await world.connect("telemetry_operator"), await world.admin()
    async with temporary_broker("mosquitto") as broker:
        endpoints = Endpoints(world.postgres.dsn("telemetry", ""), broker_config(broker))
        observer = Observer()
        worker = Worker(config, endpoints, FileKeystore(tmp_path / "keys", allowed=INGEST_SECRETS), observer)
        running = asyncio.create_task(worker.run())
        await eventually(lambda: worker.ready.is_set() or running.done())
        await asyncio.sleep(0.3)
        assert FakeScanner.running == []  # nobody has permitted it
        await set_permission(operator, home.site_key, permitted=True)
        await eventually(lambda: FakeScanner.running)
        shunt(1)
        plug(1)
        await eventually(lambda: worker.source.pending_messages == 0 and observer.snapshot()["stored"] == 2)
        assert len(worker._station.source.spool) == 0
        await admin.execute("ALTER TABLE consent.bluetooth DISABLE TRIGGER tell")
        await set_permission(operator, home.site_key, permitted=False)
        assert FakeScanner.running
        shunt(2)  # before the news of it has arrived here: nobody was told, and it is asked for every two seconds
        await eventually(lambda: not FakeScanner.running)
        shunt(3)
        await asyncio.sleep(0.3)
        worker.stop()
        await asyncio.wait_for(running, 30)
    rows = await admin.fetch("SELECT battery_voltage_v, ac_voltage_v FROM readings.hot ORDER BY 1")
    assert [tuple(row) for row in rows] == [(12.52, None), (None, 229.8)]
    devices = await world.administration.devices(site_key=home.site_key)
    serials = await world.administration.reveal(
        Purpose.DEVICE_SERIAL, [(row["owner_key"], row["device_key"]) for row in devices]
    )
    assert sorted(serials.values()) == ["C0:FF:EE:00:00:01", "C0:FF:EE:00:00:02"]
    await operator.close()
    await admin.close()
