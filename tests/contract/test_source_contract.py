"""What a source owes the pipeline, against every broker that the service starts by itself."""

import asyncio
import random

import pytest
import uvloop

from telemetry.embedded.broker import find_mosquitto
from telemetry.ports import Source
from telemetry.sources.mqtt import MqttSource
from tests.support.broker import (
    Receiver,
    WallClock,
    broker_config,
    eventually,
    gateway,
    numbered,
    properties,
    publish,
    quiet,
    temporary_broker,
)
from tests.support.stall import StallingProxy

needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
KINDS = [pytest.param("mosquitto", marks=needs_mosquitto), "rumqttd"]


@pytest.fixture(params=KINDS)
async def broker(request):
    async with temporary_broker(request.param) as running:
        yield running


async def test_it_is_a_source(broker):
    assert isinstance(MqttSource(broker_config(broker), WallClock()), Source)


async def test_messages_arrive_in_order_with_what_the_gateway_said(broker):
    async with Receiver(broker) as worker, gateway(broker) as home:
        await home.publish("gw/home-0001/readings", b"first", 1, properties=properties(41))
        await publish(home, numbered(0, 90))
        await worker.has(91)
        first = worker.messages[0]
        assert (first.gateway, first.topic, first.payload) == ("home-0001", "readings", b"first")
        assert (first.sequence, first.stream, first.retained) == (41, "boot-1", False)
        assert worker.payloads[1:] == numbered(0, 90)
        assert len({message.token for message in worker.messages}) == 91


async def test_a_burst_of_5000_messages(broker):
    async with Receiver(broker) as worker, gateway(broker) as home:
        publishing = asyncio.create_task(publish(home, numbered(0, 5000)))
        await acknowledge_all(worker, 5000)
        await publishing
        assert worker.payloads == numbered(0, 5000)
        assert worker.lists < 5000  # handed over in lists, not one by one
        assert worker.source.counters.connections == 1
    async with Receiver(broker) as again:
        await quiet(again, 0)


async def test_what_is_not_acknowledged_comes_back_to_the_next_process_and_the_rest_does_not(broker):
    async with gateway(broker) as home:
        worker = await Receiver(broker).__aenter__()
        await publish(home, numbered(0, 50))
        await worker.has(50)
        worker.acknowledge(worker.messages[:20])
        await asyncio.sleep(0.2)  # so that the broker has read the PUBACKs
        await worker.kill()
        await publish(home, numbered(50, 60))  # while nobody listens
        async with Receiver(broker) as heir:
            await quiet(heir, 40)
            assert heir.payloads == numbered(20, 60)
            heir.acknowledge(heir.messages)
        async with Receiver(broker) as last:
            await quiet(last, 0)


async def test_after_a_reconnection_old_tokens_acknowledge_nothing(broker):
    async with Receiver(broker) as worker, gateway(broker) as home:
        await publish(home, numbered(0, 10))
        await worker.has(10)
        worker.cut()
        await worker.has(20)
        old, new = worker.messages[:10], worker.messages[10:]
        assert worker.payloads[10:] == numbered(0, 10)
        assert not {message.token for message in old} & {message.token for message in new}
        worker.acknowledge(old)
        await asyncio.sleep(0.2)
        await worker.kill()
        async with Receiver(broker) as heir:
            await quiet(heir, 10)
            heir.acknowledge(heir.messages)
        async with Receiver(broker) as last:
            await quiet(last, 0)


async def test_a_broker_that_lost_its_session_is_not_told_about_old_messages(broker):
    """Packet ids begin again, so that an old PUBACK would acknowledge a stranger."""
    async with Receiver(broker) as worker:
        async with gateway(broker) as home:
            await publish(home, numbered(0, 5))
            await worker.has(5)
        await broker.kill()
        await broker.start()
        await eventually(lambda: worker.source.counters.sessions_lost == 1 and worker.source.connected)
        async with gateway(broker) as home:
            await publish(home, numbered(5, 10))
        await worker.has(10)
        worker.acknowledge(worker.messages[:5])
        await asyncio.sleep(0.2)
        assert worker.source.counters.connections == 2
        await worker.kill()
    async with Receiver(broker) as heir:
        await quiet(heir, 5)
        assert heir.payloads == numbered(5, 10)


async def test_released_in_any_order_acknowledged_in_the_order_received(broker):
    """The broker rumqttd ends the connection at the first PUBACK out of order."""
    async with Receiver(broker) as worker, gateway(broker) as home:
        await publish(home, numbered(0, 90))
        await worker.has(90)
        shuffled = random.Random(7).sample(worker.messages, 90)
        for message in shuffled:
            worker.acknowledge([message])
            await asyncio.sleep(0)
        await asyncio.sleep(0.2)
        assert worker.source.counters.connections == 1
        assert worker.source.pending_messages == 0
    async with Receiver(broker) as heir:
        await quiet(heir, 0)


async def test_receive_maximum_bounds_what_is_unacknowledged(broker):
    async with Receiver(broker, receive_maximum=10) as worker, gateway(broker) as home:
        await publish(home, numbered(0, 40))
        await worker.has(10)
        await asyncio.sleep(0.3)
        held = len(worker.messages)
        if broker.kind == "rumqttd":
            assert held <= 100  # its own bound: it does not read ours
        else:
            assert held == 10
        for first in range(0, 40, 10):
            await worker.has(first + 10)
            worker.acknowledge(worker.messages[first : first + 10])
        await quiet(worker, 40)
        assert worker.payloads == numbered(0, 40)


async def test_bytes_bound_what_is_unacknowledged(broker):
    """The limit and what one read may bring, whatever the broker would send."""
    limit, buffer = 2**20, 256 * 1024 + 256 * 1024
    payloads = [bytes([number]) * 100_000 for number in range(60)]
    async with Receiver(broker, max_pending_bytes=limit) as worker, gateway(broker) as home:
        await publish(home, payloads)
        await worker.has(11)
        await asyncio.sleep(0.3)
        assert limit < worker.source.pending_bytes <= limit + buffer
        done = 0
        while done < 60:
            await worker.has(done + 1)
            fresh = worker.messages[done:]
            assert worker.source.pending_bytes <= limit + buffer
            worker.acknowledge(fresh)
            done += len(fresh)
        assert worker.payloads == payloads
        assert worker.source.counters.connections == 1


async def test_a_pause_longer_than_the_keep_alive_ends_nothing(broker):
    payloads = [bytes([number]) * 100_000 for number in range(40)]
    async with (
        Receiver(broker, max_pending_bytes=2**20, keep_alive_s=1) as worker,
        gateway(broker) as home,
    ):
        await publish(home, payloads)
        await worker.has(11)
        await asyncio.sleep(2.0)  # the source would give up after 1.25 s, the broker after 1.5 s
        await acknowledge_all(worker, 40)
        assert worker.payloads == payloads
        assert worker.source.counters.connections == 1


async def test_a_peer_that_falls_silent_is_left_and_its_messages_come_again(broker):
    async with gateway(broker) as home, StallingProxy(broker.host, broker.port) as proxy:
        worker = Receiver(broker, port=proxy.port, keep_alive_s=1)
        async with worker:
            await publish(home, numbered(0, 10))
            await worker.has(10)
            proxy.stall()
            await publish(home, numbered(10, 20))
            await eventually(lambda: not worker.source.connected)
            assert "stopped answering" in str(worker.source._session.failure)
            proxy.resume()
            await eventually(lambda: set(worker.payloads[10:]) == set(numbered(0, 20)))
            assert worker.source.counters.connections >= 2


async def test_qos_0_is_delivered_and_needs_no_acknowledgement(broker):
    async with Receiver(broker) as worker, gateway(broker) as home:
        await publish(home, numbered(0, 20), qos=0)
        await worker.has(20)
        worker.acknowledge(worker.messages)
        assert worker.source.pending_messages == 0
        await publish(home, numbered(20, 40))
        await worker.has(40)
        worker.acknowledge(worker.messages[20:])
        await asyncio.sleep(0.2)
        assert worker.source.counters.connections == 1


async def test_the_watermark_reaches_the_gateway_and_does_not_come_back(broker):
    async with Receiver(broker) as worker, gateway(broker) as home:
        await home.subscribe("gw/home-0001/committed", 1)
        assert await worker.source.publish("gw/home-0001/committed", b'{"sequence":1}')
        received = await asyncio.wait_for(anext(home.messages), 20)
        assert received.payload == b'{"sequence":1}'
        await home.publish("gw/home-0001/committed", b"forged", 1)
        await publish(home, numbered(0, 3))
        await quiet(worker, 3)
        assert worker.payloads == numbered(0, 3)
        assert worker.source.counters.watermarks_returned >= 1
        worker.acknowledge(worker.messages)
        await asyncio.sleep(0.2)
        assert worker.source.counters.connections == 1
    async with Receiver(broker) as heir:
        await quiet(heir, 0)


async def test_publishing_while_disconnected_says_so(broker):
    source = MqttSource(broker_config(broker), WallClock())
    assert not await source.publish("gw/home-0001/committed", b"{}")
    assert source.counters.publishes_dropped == 1


async def test_a_broker_that_is_away_is_waited_for(broker):
    await broker.kill()
    source = MqttSource(broker_config(broker), WallClock())
    running = asyncio.create_task(source.run())
    await eventually(lambda: source.last_error is not None)
    assert not running.done()
    await broker.start()
    await eventually(lambda: source.connected)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_on_uvloop(kind):
    async def check():
        payloads = [bytes([number]) * 100_000 for number in range(30)]
        async with (
            temporary_broker(kind) as broker,
            gateway(broker) as home,
            Receiver(broker, max_pending_bytes=2**20) as worker,
        ):
            await publish(home, payloads)
            await acknowledge_all(worker, 30)
            assert worker.payloads == payloads
            worker.cut()
            await eventually(lambda: worker.source.counters.connections == 2)
            await publish(home, numbered(0, 3))
            await worker.has(33)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check())


async def acknowledge_all(worker, count):
    """Acknowledge whatever arrives until so many have."""
    done = 0
    while done < count:
        await worker.has(done + 1)
        fresh = worker.messages[done:]
        worker.acknowledge(fresh)
        done += len(fresh)
