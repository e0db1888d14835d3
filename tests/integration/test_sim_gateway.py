"""The simulated gateways against a real broker: what they promise holds whatever breaks."""

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import aiomqtt
import pytest

from device_sim import ledger
from device_sim.figures import Figures
from device_sim.fleet import FleetSettings, run
from device_sim.gateway import Delivery
from device_sim.link import Broker, Credential
from tests.support.plain_broker import PlainBroker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[PlainBroker]:
    made = PlainBroker(tmp_path)
    yield made
    made.kill()


def fleet(broker: PlainBroker, tmp_path: Path, **more: object) -> FleetSettings:
    base: dict[str, object] = {
        "broker": Broker(port=broker.port),
        "gateways": 2,
        "speed": math.inf,
        "messages": 40,
        "readings_per_message": 10,
        "ledger": tmp_path / "run.jsonl",
        "drain_s": 30.0,
    }
    return FleetSettings(**(base | more))  # type: ignore[arg-type]


class Service:
    """Stands in for the service: subscribes, remembers, and reports as committed what it did not lose at first."""

    def __init__(self, port: int, *, lose: float = 0.0, wait_s: float = 0.1) -> None:
        self.got: dict[str, dict[int, list[bytes]]] = defaultdict(lambda: defaultdict(list))
        self.order: dict[str, list[int]] = defaultdict(list)
        self.streams: dict[str, str] = {}
        self.status: list[tuple[str, str]] = []
        self.content_types: set[str | None] = set()
        self._port, self._lose, self._wait_s = port, lose, wait_s
        self._dropped: set[tuple[str, int]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Service"]:
        ready = asyncio.Event()
        task = asyncio.create_task(self._run(ready))
        await asyncio.wait_for(ready.wait(), 20)
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self, ready: asyncio.Event) -> None:
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    "127.0.0.1", self._port, identifier="service", protocol=aiomqtt.ProtocolVersion.V5
                ) as client:
                    await client.subscribe("gw/+/readings", qos=1)
                    await client.subscribe("gw/+/status", qos=1)
                    ready.set()
                    speaker = asyncio.create_task(self._speak(client))
                    try:
                        async for message in client.messages:
                            self._receive(message)
                    finally:
                        speaker.cancel()
            await asyncio.sleep(0.05)

    def _receive(self, message: aiomqtt.Message) -> None:
        _, gateway, what = str(message.topic).split("/")
        payload = bytes(message.payload)  # type: ignore[arg-type]
        if what == "status":
            self.status.append((gateway, json.loads(payload)["state"]))
            return
        properties = dict(message.properties.UserProperty)  # type: ignore[union-attr]
        sequence = int(properties["seq"])
        self.streams[gateway] = properties["stream"]
        self.content_types.add(getattr(message.properties, "ContentType", None))
        # every third message's first arrival vanishes, as if a broker had lost it after its acknowledgement
        if sequence % 3 == 0 and self._lose and (gateway, sequence) not in self._dropped:
            self._dropped.add((gateway, sequence))
            return
        self.got[gateway][sequence].append(payload)
        self.order[gateway].append(sequence)

    async def _speak(self, client: aiomqtt.Client) -> None:
        while True:
            await asyncio.sleep(self._wait_s)
            for gateway, have in self.got.items():
                highest = max(have, default=0)
                missing = [n for n in range(1, highest + 1) if n not in have]
                mark = {
                    "stream": self.streams[gateway],
                    "sequence": missing[0] - 1 if missing else highest,
                    "highest": highest,
                    "missing": [[n, n] for n in missing],
                }
                await client.publish(f"gw/{gateway}/committed", json.dumps(mark))


async def test_what_is_published_arrives_once_and_is_in_the_ledger(broker: PlainBroker, tmp_path: Path) -> None:
    async with Service(broker.port).running() as service:
        summary = await run(fleet(broker, tmp_path, format="arrow"))
        await asyncio.sleep(0.3)

    assert summary.complete
    assert summary.figures.published == summary.figures.acknowledged == 400
    book = ledger.read(tmp_path / "run.jsonl")
    assert book.messages["acknowledged"].all()
    assert book.distinct().height == 400
    for gateway in ("gw-0001", "gw-0002"):
        assert service.order[gateway] == list(range(1, 21))
        assert set(service.streams.values()) == set(book.messages["stream"])
    assert len(set(service.streams.values())) == 2
    assert service.content_types == {"application/vnd.apache.arrow.stream"}


async def test_birth_and_farewell_are_retained(broker: PlainBroker, tmp_path: Path) -> None:
    async with Service(broker.port).running() as service:
        await run(fleet(broker, tmp_path, gateways=1))
        await asyncio.sleep(0.2)
    async with Service(broker.port).running() as later:
        await asyncio.sleep(0.2)

    assert [state for _, state in service.status] == ["online", "offline"]
    assert later.status == [("gw-0001", "offline")]


async def test_a_gateway_that_is_cut_off_leaves_its_will_and_backfills_in_order(
    broker: PlainBroker, tmp_path: Path
) -> None:
    settings = fleet(
        broker, tmp_path, gateways=1, speed=1000.0, messages=60, delivery=Delivery(outages=((0.4, 0.8),))
    )
    async with Service(broker.port).running() as service:
        summary = await run(settings)
        await asyncio.sleep(0.2)

    assert [state for _, state in service.status] == ["online", "offline", "online", "offline"]
    assert summary.complete
    assert summary.figures.connections == 2
    firsts = list(dict.fromkeys(service.order["gw-0001"]))
    assert firsts == list(range(1, 61))


async def test_nothing_is_lost_when_the_broker_restarts(broker: PlainBroker, tmp_path: Path) -> None:
    settings = fleet(broker, tmp_path, gateways=2, speed=None, messages_per_second=100.0, messages=200)

    async def restart() -> None:
        await asyncio.sleep(0.7)
        await asyncio.to_thread(broker.stop)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(broker.start)

    async with Service(broker.port).running() as service:
        restarting = asyncio.create_task(restart())
        summary = await run(replace(settings, delivery=Delivery(reconnect_max_s=0.5, wait_watermark=True)))
        await restarting

    assert summary.complete
    assert summary.figures.connections >= 4
    assert summary.figures.committed == summary.figures.published == 2000
    for gateway in ("gw-0001", "gw-0002"):
        assert sorted(service.got[gateway]) == list(range(1, 101))
        assert all(len(set(payloads)) == 1 for payloads in service.got[gateway].values())


async def test_with_watermark_what_the_service_never_saw_is_sent_again_under_its_number(
    broker: PlainBroker, tmp_path: Path
) -> None:
    delivery = Delivery(wait_watermark=True, missing_resend_s=0.2, resend_s=0.5)
    async with Service(broker.port, lose=1.0).running() as service:
        summary = await run(fleet(broker, tmp_path, delivery=delivery))

    assert summary.complete
    assert summary.figures.resent_messages >= 12  # every third of twice twenty
    assert summary.figures.published == 400, "sending again is not publishing more"
    for gateway in ("gw-0001", "gw-0002"):
        assert sorted(service.got[gateway]) == list(range(1, 21))
    assert ledger.read(tmp_path / "run.jsonl").messages["committed"].all()


async def test_without_watermark_nothing_is_sent_twice(broker: PlainBroker, tmp_path: Path) -> None:
    async with Service(broker.port, lose=1.0).running() as service:
        summary = await run(fleet(broker, tmp_path))
        await asyncio.sleep(0.2)

    assert summary.complete
    assert summary.figures.resent_messages == 0
    assert len(service.got["gw-0001"]) == 14


async def test_waiting_for_a_service_that_is_not_there_ends_incomplete(
    broker: PlainBroker, tmp_path: Path
) -> None:
    summary = await run(
        fleet(broker, tmp_path, delivery=Delivery(wait_watermark=True), drain_s=0.1, duration_s=0.8)
    )

    assert summary.figures.acknowledged == 400
    assert summary.unfinished_messages == 40
    assert not summary.complete


async def test_the_broker_s_receive_maximum_is_respected(tmp_path: Path) -> None:
    broker = PlainBroker(tmp_path, "max_inflight_messages 7\n")
    try:
        summary = await run(fleet(broker, tmp_path, messages=400, delivery=Delivery(window=200)))
    finally:
        broker.kill()

    assert summary.complete
    assert summary.figures.connections == 2, "a client beyond the limit is disconnected"


async def test_what_the_broker_refuses_is_not_acknowledged_and_kept(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic write gw/gw-0001/#\ntopic read gw/#\n")
    # mosquitto 2.0.11 with max_queued_messages 0 takes a refused message for a full queue and disconnects
    broker = PlainBroker(tmp_path, f"max_inflight_messages 100\nacl_file {acl}\n")
    try:
        summary = await run(fleet(broker, tmp_path, drain_s=0.5, duration_s=1.0))
    finally:
        broker.kill()

    assert summary.figures.acknowledged == 200
    assert summary.figures.refused_messages >= 20
    assert summary.unfinished_messages == 20
    refused = ledger.read(tmp_path / "run.jsonl").messages.filter(gateway="gw-0002")
    assert not refused["acknowledged"].any()


async def test_a_wrong_password_is_reported_and_tried_again(tmp_path: Path) -> None:
    broker = PlainBroker(tmp_path, "allow_anonymous false\n")
    try:
        summary = await run(
            fleet(
                broker,
                tmp_path,
                credentials=(Credential("gw-a", "wrong"),),
                gateways=1,
                duration_s=1.0,
                drain_s=0.1,
            )
        )
    finally:
        broker.kill()

    assert summary.figures.published == 0
    assert summary.unfinished_messages > 0
    (reason,) = summary.figures.connection_errors
    assert "authori" in reason.lower() or "password" in reason.lower()
    assert summary.figures.connection_errors[reason] >= 2


async def test_figures_are_reported_while_it_runs_and_stop_ends_it(broker: PlainBroker, tmp_path: Path) -> None:
    stop, seen = asyncio.Event(), []

    def progress(figures: Figures) -> None:
        seen.append((figures.published, figures.gateways_online))
        if len(seen) == 3:
            stop.set()

    settings = fleet(broker, tmp_path, speed=None, messages_per_second=50.0, messages=None)
    summary = await run(settings, progress=progress, progress_interval_s=0.2, stop=stop)

    assert summary.complete
    assert seen[1][1] == 2
    assert seen[-1][0] == summary.figures.published > 0


async def command(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "device_sim",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def test_a_killed_simulator_s_ledger_holds_all_that_the_broker_got(
    broker: PlainBroker, tmp_path: Path
) -> None:
    path = tmp_path / "run.jsonl"
    async with Service(broker.port).running() as service:
        process = await command(
            "fleet", "--port", str(broker.port), "--gateways", "2", "--messages-per-second", "300",
            "--readings-per-message", "10", "--ledger", str(path),
        )  # fmt: skip
        async with asyncio.timeout(60):
            while len(service.order["gw-0001"]) < 60:
                await asyncio.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        await process.communicate()
        await asyncio.sleep(0.2)

    book = ledger.read(path)
    noted = {(g, q) for g, q in book.messages.select("gateway", "sequence").rows()}
    acknowledged = book.messages.filter(acknowledged=True).select("gateway", "sequence").rows()
    received = {(gateway, sequence) for gateway, have in service.got.items() for sequence in have}
    assert received <= noted
    assert set(acknowledged) <= received
    assert len(acknowledged) > 50


@pytest.mark.long
async def test_the_command_ends_cleanly_on_ctrl_c_with_its_summary(broker: PlainBroker, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    process = await command("fleet", "--port", str(broker.port), "--speed", "600", "--json", "--ledger", str(path))
    async with asyncio.timeout(60):
        while not path.exists() or path.stat().st_size < 5000:
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = await asyncio.wait_for(process.communicate(), 30)

    summary = json.loads(output)
    assert process.returncode == 0
    assert summary["complete"] is True
    assert summary["published"] == summary["acknowledged"] == ledger.read(path).messages["readings"].sum()
