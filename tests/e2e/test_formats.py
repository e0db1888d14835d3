"""Formats with memory or without time, through broker, worker and PostgreSQL: deaths, keep-alives, canaries."""

import asyncio
import json
import time
from pathlib import Path

import aiomqtt
import pytest
import typer
from typer.testing import CliRunner

from device_sim.dialects import DIALECTS
from device_sim.fleet import devices_of_home
from device_sim.formats import single
from device_sim.gateway import Delivery
from device_sim.message import Message, Reading
from telemetry.cli.identify import identify
from telemetry.codecs.registry import CODEC_BY_NAME
from telemetry.maintenance.scan import scan
from telemetry.maintenance.scan_places import BytesPlace, DatabasePlace, FilePlace
from tests.support.system import System, system

CONFIG = {
    "state_topic": "home/panel",
    "device_class": "power",
    "unit_of_measurement": "kW",
    "value_template": "{{ value_json.p }}",
    "unique_id": "U1",
    "device": {"identifiers": ["PANEL00000077"]},
}


def numbered(*said: tuple[str, object], retain: bool = False, first: int = 1) -> list[Message]:
    """Messages (topic, payload as bytes or JSON), each counting as one reading."""
    return [
        Message(
            number,
            topic,
            payload if isinstance(payload, bytes) else json.dumps(payload).encode(),
            None,
            [],
            retain=retain,
            values=1,
        )
        for number, (topic, payload) in enumerate(said, first)
    ]


async def stored(found: System, field: str) -> list[float]:
    rows = await found.fetch(f"SELECT {field} FROM readings.hot WHERE {field} IS NOT NULL ORDER BY {field}")
    return [row[0] for row in rows]


async def publish(found: System, gateway, messages: list[Message], stream: str) -> None:
    feed = found.messages(gateway, messages, stream=stream)
    await feed.finish(stop=False)


async def tick_apart() -> None:
    """Wait until the next tick: values of one tick and device would be one row."""
    await asyncio.sleep(5.05 - time.time() % 5.0)


@pytest.mark.parametrize("kind", ["mosquitto", "rumqttd"])
async def test_a_worker_killed_and_restarted_decodes_the_next_message_that_needs_memory(kind, seed: int) -> None:
    async with system(kind=kind, seed=seed) as found:
        found.worker.prepare()
        (gateway,) = await found.enrol()
        await publish(found, gateway, numbered(("homeassistant/sensor/p/config", CONFIG), retain=True), "a")
        await publish(found, gateway, numbered(("home/panel", {"p": 1.0})), "b")
        await found.drain()
        assert await stored(found, "ac_power_w") == [1000.0]
        found.worker.kill()
        # while nobody is there: a value that only makes sense with what was announced before
        await tick_apart()
        await publish(found, gateway, numbered(("home/panel", {"p": 2.5})), "c")
        found.worker.start()
        await found.settle()
        assert await stored(found, "ac_power_w") == [1000.0, 2500.0]
        assert await found.fetchval("SELECT count(*) FROM readings.quarantine") == 0
        (row,) = await found.fetch("SELECT codec, sealed FROM readings.codec_state")
        assert row["codec"] == "home-assistant"
        for secret in (b"PANEL00000077", b"home/panel", gateway.username.encode()):
            assert secret not in row["sealed"]


async def test_a_withdrawn_gateways_memory_goes_and_does_not_come_back(seed: int) -> None:
    async with system(seed=seed) as found:
        (gateway,) = await found.enrol()
        await publish(found, gateway, numbered(("homeassistant/sensor/p/config", CONFIG)), "a")
        await found.drain()
        assert await found.fetchval("SELECT count(*) FROM readings.codec_state") == 1
        async with found.administration() as admin:
            await admin.revoke_gateway(await admin.gateway_named(gateway.username))
        assert await found.fetchval("SELECT count(*) FROM readings.codec_state") == 0
        again = [("homeassistant/sensor/q/config", CONFIG), ("home/panel", {"p": 1.0})]
        await publish(found, gateway, numbered(*again), "b")
        await found.settle()
        assert await found.fetchval("SELECT count(*) FROM readings.codec_state") == 0
        assert await stored(found, "ac_power_w") == []


async def test_venus_is_kept_alive_through_the_gateways_prefix_after_a_restart_too(seed: int) -> None:
    async with system(seed=seed) as found:
        found.worker.prepare()
        (gateway,) = await found.enrol()
        asked: list[tuple[str, bytes]] = []
        async with aiomqtt.Client(
            "127.0.0.1", found.broker.port, username=gateway.username, password=gateway.password, identifier="listener"
        ) as client:
            await client.subscribe(f"gw/{gateway.username}/R/+/keepalive")
            await client.publish(f"gw/{gateway.username}/N/c0619ab9929a/battery/5/Soc", b'{"value": 50}', qos=1)
            await _until(client, asked, 1)
            await found.drain()
            found.worker.kill()
            found.worker.start()  # and Venus, asked by nobody meanwhile, has fallen silent
            await _until(client, asked, 2)
        assert asked == [(f"gw/{gateway.username}/R/c0619ab9929a/keepalive", b"")] * 2
        await found.settle()
        assert await stored(found, "battery_soc_pct") == [50.0]


async def _until(client: aiomqtt.Client, asked: list, count: int) -> None:
    async with asyncio.timeout(60):
        while len(asked) < count:
            message = await anext(aiter(client.messages))
            asked.append((str(message.topic), bytes(message.payload)))


async def test_three_formats_a_lost_connection_and_a_backlog(seed: int) -> None:
    """Nothing is lost; in the format that carries time nothing comes twice."""
    async with system(seed=seed) as found:
        (gateway,) = await found.enrol()
        now_us = time.time_ns() // 1_000_000_000 * 1_000_000
        messages = numbered(("homeassistant/sensor/p/config", CONFIG), retain=True)
        for number in range(300):
            if number % 3 == 0:
                reading = Reading("INV00000042", "inverter", now_us + number, {"ac_voltage_v": float(number)})
                messages.append(Message(0, *single([reading]), expected=[reading]))
            elif number % 3 == 1:
                messages += numbered(("home/panel", {"p": number / 1000}))
            else:
                messages += numbered((f"N/c0619ab9929a/battery/{number}/Soc", {"value": number % 100}))
        for number, message in enumerate(messages, 1):
            message.sequence, message.due_s = number, number * 0.01
        feed = found.messages(gateway, messages, delivery=Delivery(outages=((0.5, 2.0),)))
        await feed.finish(stop=False)
        await found.settle()
        voltages = await stored(found, "ac_voltage_v")
        assert voltages == [float(number) for number in range(0, 300, 3)]
        assert len(await stored(found, "battery_soc_pct")) == 100  # each of them a device of its own
        assert await stored(found, "ac_power_w")
        assert await found.fetchval("SELECT count(*) FROM readings.quarantine") == 0
        gaps = await found.fetch("SELECT highest, received FROM readings.sequence WHERE highest = $1", len(messages))
        assert len(gaps) == 1


async def test_identify_listens_beside_the_worker_and_leaves_nothing_behind(seed: int) -> None:
    async with system(seed=seed) as found:
        gateway, other = await found.enrol(2)
        messages = numbered(
            ("homeassistant/sensor/p/config", CONFIG),
            *((f"N/c0619ab9929a/battery/{number}/Soc", {"value": number}) for number in range(100)),
        )
        for message in messages:
            message.due_s = message.sequence * 0.1
        feeds = [found.messages(gateway, messages), found.messages(other, numbered(("readings", {"serial": 1})))]
        app = typer.Typer()
        app.command()(identify)
        arguments = ["--gateway", gateway.username, "--seconds", "6", "--json", "--config", str(found.worker.config)]
        told = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert told.exit_code == 0, told.output
        formats = {one["format"]: one for one in json.loads(told.stdout)["formats"]}
        assert formats["victron"]["kept"]["battery_soc_pct"] > 5
        assert "native-json" not in formats  # another gateway's
        for secret in (gateway.username, "c0619ab9929a", "PANEL00000077"):
            assert secret not in told.output
        broker = found.directory / "data" / "broker"
        assert "telemetry-identify" not in (broker / "passwords").read_text() + (broker / "acl").read_text()
        for feed in feeds:
            await feed.finish(stop=False)
        await found.settle()
        assert await stored(found, "battery_soc_pct") == [float(number) for number in range(100)]
        assert found.worker.starts == 1


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_nothing_private_of_a_format_is_anywhere(dialect: str, seed: int, tmp_path: Path) -> None:
    async with system(kind="rumqttd", seed=seed) as found:  # keeps nothing on disk
        (gateway,) = await found.enrol()
        feed = found.fleet([gateway], format=dialect, messages=300, messages_per_second=100.0, serial_prefix="CANARY")
        await feed.finish(stop=False)
        await found.drain()
        figures = await found.worker.metrics()
        private = DIALECTS[dialect].private(gateway.username)
        serials = [device.serial for device in devices_of_home(0, 6, "CANARY")]
        log = found.worker.log
        places = [
            DatabasePlace("database", found.postgres.dsn("telemetry")),
            FilePlace("cluster", found.postgres.place.home),
            FilePlace("log", log),
            BytesPlace("metrics", lambda: "\n".join(figures).encode()),
        ]
        report = await scan(places, [*private, *serials, "02:00:5e:00:53:af", "48.13713", "11.57541"], self_test=True)
        assert report.findings == ()
        assert report.clean, report.skipped
        await found.settle()
        assert await found.fetchval("SELECT count(*) FROM readings.hot") > 0
        remembering = CODEC_BY_NAME[dialect].keeps is not None
        assert await found.fetchval("SELECT count(*) FROM readings.codec_state") == int(remembering)
