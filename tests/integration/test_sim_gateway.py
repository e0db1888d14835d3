"""The simulated gateways against a real broker: what they promise holds whatever breaks."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from device_sim import ledger
from device_sim.figures import Figures
from device_sim.fleet import FleetSettings, run
from device_sim.gateway import Delivery
from device_sim.link import Broker, Credential
from tests.support.committing_service import CommittingService
from tests.support.counting_broker import CountingBroker
from tests.support.plain_broker import PlainBroker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[PlainBroker]:
    made = PlainBroker(tmp_path)
    yield made
    made.kill()


def fleet(broker: PlainBroker | CountingBroker, tmp_path: Path, **more: object) -> FleetSettings:
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


async def test_what_is_published_arrives_once_and_is_in_the_ledger(broker: PlainBroker, tmp_path: Path) -> None:
    async with CommittingService(broker.port).running() as service:
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
    async with CommittingService(broker.port).running() as service:
        await run(fleet(broker, tmp_path, gateways=1))
        await asyncio.sleep(0.2)
    async with CommittingService(broker.port).running() as later:
        await asyncio.sleep(0.2)

    assert [state for _, state in service.status] == ["online", "offline"]
    assert later.status == [("gw-0001", "offline")]


async def test_a_gateway_that_is_cut_off_leaves_its_will_and_backfills_in_order(
    broker: PlainBroker, tmp_path: Path
) -> None:
    settings = fleet(broker, tmp_path, gateways=1, speed=1000.0, messages=60, delivery=Delivery(outages=((0.4, 0.8),)))
    async with CommittingService(broker.port).running() as service:
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

    async with CommittingService(broker.port).running() as service:
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
    async with CommittingService(broker.port, lose=1.0).running() as service:
        summary = await run(fleet(broker, tmp_path, delivery=delivery))

    assert summary.complete
    assert summary.figures.resent_messages >= 12  # every third of twice twenty
    assert summary.figures.published == 400, "sending again is not publishing more"
    for gateway in ("gw-0001", "gw-0002"):
        assert sorted(service.got[gateway]) == list(range(1, 21))
    assert ledger.read(tmp_path / "run.jsonl").messages["committed"].all()


async def test_without_watermark_nothing_is_sent_twice(broker: PlainBroker, tmp_path: Path) -> None:
    async with CommittingService(broker.port, lose=1.0).running() as service:
        summary = await run(fleet(broker, tmp_path))
        await asyncio.sleep(0.2)

    assert summary.complete
    assert summary.figures.resent_messages == 0
    assert len(service.got["gw-0001"]) == 14


async def test_waiting_for_a_service_that_is_not_there_ends_incomplete(broker: PlainBroker, tmp_path: Path) -> None:
    summary = await run(fleet(broker, tmp_path, delivery=Delivery(wait_watermark=True), drain_s=0.1, duration_s=0.8))

    assert summary.figures.acknowledged == 400
    assert summary.unfinished_messages == 40
    assert not summary.complete


async def test_the_broker_s_receive_maximum_is_respected(tmp_path: Path) -> None:
    async with CountingBroker(receive_maximum=7) as counting:
        settings = fleet(counting, tmp_path, messages=120, delivery=Delivery(window=200))
        summary = await run(settings)

    assert summary.complete
    assert counting.most_unacknowledged == 7


async def test_so_is_the_gateway_s_own_window(tmp_path: Path) -> None:
    async with CountingBroker(receive_maximum=100) as counting:
        summary = await run(fleet(counting, tmp_path, messages=120, delivery=Delivery(window=11)))

    assert summary.complete
    assert counting.most_unacknowledged == 11


async def test_a_message_refused_once_is_delivered_later(tmp_path: Path) -> None:
    async with CountingBroker(refuse_first=3) as counting:
        summary = await run(fleet(counting, tmp_path, gateways=1, messages=10))

    assert summary.complete
    assert summary.figures.refused_messages == 3
    assert summary.figures.published == summary.figures.acknowledged == 100
    assert counting.accepted == 10


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
