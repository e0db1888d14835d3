"""A whole worker on nats-server, MQTT 3.1.1: committed, then acknowledged; what was not is there for the next one."""

import asyncio
import time

import orjson

from telemetry.app import Worker
from telemetry.config import load_config
from telemetry.observe import Observer
from telemetry.servers import Endpoints
from telemetry.store.keystore import INGEST_SECRETS, FileKeystore
from tests.support.broker import broker_config, eventually, gateway, publish, source_for
from tests.support.nats_broker import needs_nats, temporary_nats
from tests.support.postgres import temporary_postgres
from tests.support.registry import registry_world

pytestmark = needs_nats


def readings(first, last):
    now_ms = time.time_ns() // 1_000_000
    return [
        orjson.dumps({"serial": "INV00000042", "kind": "inverter", "ts": now_ms + number, "ac_power_w": number})
        for number in range(first, last)
    ]


async def test_two_workers_one_after_the_other_store_everything_once(tmp_path):
    async with (
        temporary_nats() as broker,
        temporary_postgres() as postgres,
        registry_world(postgres, tmp_path / "keys") as world,
    ):
        home = await world.home(name="home-0001")
        assert home.gateway_name == "home-0001"
        config = load_config(data_dir=tmp_path, embedded=False, database={"dsn": postgres.dsn("telemetry", "")})
        endpoints = Endpoints(postgres.dsn("telemetry", ""), broker_config(broker, protocol="3.1.1"))
        keystore = FileKeystore(tmp_path / "keys", allowed=INGEST_SECRETS)
        stored = 0
        for payloads in (readings(0, 200), readings(1000, 1300)):
            observer = Observer()
            worker = Worker(config, endpoints, keystore, observer)
            running = asyncio.create_task(worker.run())
            await eventually(lambda worker=worker, running=running: worker.connected or running.done(), timeout_s=40)
            async with gateway(broker) as sender:
                await publish(sender, payloads)
            expected = len(payloads)
            await eventually(
                lambda observer=observer, expected=expected: observer.snapshot()["stored"] == expected, timeout_s=40
            )
            stored += expected
            await eventually(lambda worker=worker: worker.source.pending_messages == 0)
            worker.stop()
            await asyncio.wait_for(running, 40)
        admin = await world.admin()
        rows = await admin.fetchval("SELECT count(*) FROM readings.hot")
        await admin.close()
        assert rows == stored == 500
        left = source_for(broker, protocol="3.1.1")
        listening = asyncio.create_task(left.run())
        await eventually(lambda: left.connected)
        await asyncio.sleep(1.5)
        assert left.pending_messages == 0
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
