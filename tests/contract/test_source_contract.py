"""What a source owes the pipeline: each source, against every broker of its version of MQTT.

A *line* is a broker and the version that the worker speaks to it: MQTT 5 on brokers that the service starts by itself,
3.1.1 on mosquitto and on nats-server, which knows no other.
"""

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop

from telemetry.embedded.broker import find_mosquitto
from telemetry.ports import Source
from tests.support.broker import (
    Receiver,
    eventually,
    gateway,
    numbered,
    properties,
    publish,
    quiet,
    source_for,
    taken_in,
    temporary_broker,
)
from tests.support.nats_broker import ACK_WAIT_S, needs_nats, temporary_nats
from tests.support.stall import StallingProxy

needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
LINES = [
    pytest.param("mosquitto 5", marks=needs_mosquitto),
    "rumqttd 5",
    pytest.param("mosquitto 3.1.1", marks=needs_mosquitto),
    pytest.param("nats 3.1.1", marks=needs_nats),
]


@dataclass
class Line:
    """A running broker and the version of MQTT in use; what is not here is the broker's."""

    broker: Any
    protocol: str

    def __getattr__(self, name):
        return getattr(self.broker, name)

    @property
    def returns_late(self):
        """Whether what was in flight to a client that ended comes again after a while only, behind newer messages."""
        return self.broker.kind == "nats"

    def worker(self, **overrides):
        receiver = Receiver(self.broker, protocol=self.protocol, **overrides)
        if self.returns_late:
            receiver.quiet_s = ACK_WAIT_S * 1.5
        return receiver

    def in_order(self, payloads):
        """As they came; each once and sorted where a message that waits longer than a second comes again."""
        return sorted(set(payloads), key=lambda payload: (len(payload), payload)) if self.returns_late else payloads

    def source(self):
        return source_for(self.broker, protocol=self.protocol)


@contextlib.asynccontextmanager
async def open_line(name):
    kind, _, protocol = name.partition(" ")
    async with temporary_nats() if kind == "nats" else temporary_broker(kind) as running:
        yield Line(running, protocol)


@pytest.fixture(params=LINES)
async def broker(request):
    async with open_line(request.param) as line:
        yield line


async def test_it_is_a_source(broker):
    assert isinstance(broker.source(), Source)


async def test_messages_arrive_in_order_with_what_the_gateway_said(broker):
    async with broker.worker() as worker, gateway(broker) as home:
        said = properties(41) if broker.kind != "nats" else None
        await home.publish("gw/home-0001/readings", b"first", 1, properties=said)
        await publish(home, numbered(0, 90))
        await worker.has(91)
        first = worker.messages[0]
        assert (first.gateway, first.topic, first.payload) == ("home-0001", "readings", b"first")
        heard = (41, "boot-1") if broker.protocol == "5" else (-1, "")  # 3.1.1 has no user properties
        assert (first.sequence, first.stream, first.retained) == (*heard, False)
        assert worker.payloads[1:] == numbered(0, 90)
        assert len({message.token for message in worker.messages}) == 91


async def test_a_burst(broker):
    count = 1000 if broker.returns_late else 5000
    async with broker.worker() as worker, gateway(broker) as home:
        publishing = asyncio.create_task(publish(home, numbered(0, count)))
        await acknowledge_all(worker, count, distinct=True)
        await publishing
        await drained(worker)
        await taken_in(worker, home)
        assert broker.in_order(worker.payloads) == numbered(0, count)
        assert worker.lists < count  # handed over in lists, not one by one
        assert worker.source.counters.connections == 1
    async with broker.worker() as again:
        await quiet(again, 0)


async def test_what_is_not_acknowledged_comes_back_to_the_next_process_and_the_rest_does_not(broker):
    async with gateway(broker) as home:
        worker = await broker.worker().__aenter__()
        await publish(home, numbered(0, 50))
        await worker.has(50)
        worker.acknowledge(worker.messages[:20])
        await taken_in(worker, home)
        await worker.kill()
        await publish(home, numbered(50, 60))  # while nobody listens
        async with broker.worker() as heir:
            await quiet(heir, 40)
            assert broker.in_order(heir.payloads) == numbered(20, 60)
            heir.acknowledge(heir.messages)
            await taken_in(heir, home)
        async with broker.worker() as last:
            await quiet(last, 0)


async def test_after_a_reconnection_old_tokens_acknowledge_nothing(broker):
    async with broker.worker() as worker, gateway(broker) as home:
        await publish(home, numbered(0, 10))
        await worker.has(10)
        worker.cut()
        await worker.has(20)
        old, new = worker.messages[:10], worker.messages[10:]
        assert broker.in_order(worker.payloads[10:]) == numbered(0, 10)
        assert not {message.token for message in old} & {message.token for message in new}
        worker.acknowledge(old)
        await taken_in(worker, home)
        await worker.kill()
        async with broker.worker() as heir:
            await quiet(heir, 10)
            heir.acknowledge(heir.messages)
            await taken_in(heir, home)
        async with broker.worker() as last:
            await quiet(last, 0)


async def test_a_broker_that_lost_its_session_is_not_told_about_old_messages(broker):
    """Packet ids begin again, so that an old PUBACK would acknowledge a stranger."""
    if broker.kind == "nats":
        pytest.skip("nats-server keeps sessions and messages through a power cut: the next test")
    async with broker.worker() as worker:
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
    async with broker.worker() as heir:
        await quiet(heir, 5)
        assert heir.payloads == numbered(5, 10)


async def test_a_broker_that_keeps_its_sessions_loses_nothing_to_a_power_cut(broker):
    if broker.kind != "nats":
        pytest.skip("only nats-server promises it here; mosquitto's own tests cover a graceful restart")
    async with broker.worker() as worker:
        async with gateway(broker) as home:
            await publish(home, numbered(0, 50))
            await worker.has(50)
            worker.acknowledge(worker.messages[:20])
            await asyncio.sleep(0.2)
        await broker.kill()
        await broker.start()
        await eventually(lambda: worker.source.counters.connections == 2)
        await eventually(lambda: set(worker.payloads[50:]) >= set(numbered(20, 50)))
        assert worker.source.counters.sessions_lost == 0


async def test_what_is_sent_again_while_it_is_held_is_not_handed_over_twice(broker):
    """NATS repeats on a living connection what is not acknowledged within its acknowledgement wait."""
    async with broker.worker() as worker, gateway(broker) as home:
        await publish(home, numbered(0, 5))
        await worker.has(5)
        await asyncio.sleep(ACK_WAIT_S * 2.5)
        assert worker.payloads == numbered(0, 5)
        worker.acknowledge(worker.messages)
        await publish(home, numbered(5, 10))
        await quiet(worker, 10)
        assert worker.source.counters.connections == 1


async def test_released_in_any_order_acknowledged_in_the_order_received(broker):
    """The broker rumqttd ends the connection at the first PUBACK out of order."""
    async with broker.worker() as worker, gateway(broker) as home:
        await publish(home, numbered(0, 90))
        await worker.has(90)
        shuffled = random.Random(7).sample(worker.messages, 90)
        for message in shuffled:
            worker.acknowledge([message])
            await asyncio.sleep(0)
        await taken_in(worker, home)
        assert worker.source.counters.connections == 1
        assert worker.source.pending_messages == 0
    async with broker.worker() as heir:
        await quiet(heir, 0)


async def test_receive_maximum_bounds_what_is_unacknowledged(broker):
    async with broker.worker(receive_maximum=10) as worker, gateway(broker) as home:
        await publish(home, numbered(0, 40))
        await worker.has(10)
        await asyncio.sleep(0.3)
        held = len(worker.messages)
        if broker.kind == "rumqttd":
            assert held <= 100  # its own bound: it does not read ours
        else:
            assert held == 10
        done = 0
        while done < 40:
            # What has come, and not ten at a time: once acknowledged, mosquitto counts one too many or too few.
            await worker.has(done + 1)
            fresh = worker.messages[done:]
            worker.acknowledge(fresh)
            done += len(fresh)
        await quiet(worker, 40)
        assert worker.payloads == numbered(0, 40)


async def test_bytes_bound_what_is_unacknowledged(broker):
    """The limit and what one read may bring, whatever the broker would send."""
    limit, buffer = 2**20, 256 * 1024 + 256 * 1024
    payloads = [bytes([number]) * 100_000 for number in range(60)]
    async with broker.worker(max_pending_bytes=limit) as worker, gateway(broker) as home:
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
        broker.worker(max_pending_bytes=2**20, keep_alive_s=2) as worker,
        gateway(broker) as home,
    ):
        await publish(home, payloads)
        await worker.has(11)
        await asyncio.sleep(4.0)  # the source would give up after 2.5 s, the broker after 3 s
        await acknowledge_all(worker, 40, distinct=True)
        await eventually(lambda: len(set(worker.payloads)) == 40)
        assert broker.in_order(worker.payloads) == payloads
        assert worker.source.counters.connections == 1


async def test_a_peer_that_falls_silent_is_left_and_its_messages_come_again(broker):
    async with gateway(broker) as home, StallingProxy(broker.host, broker.port) as proxy:
        worker = broker.worker(port=proxy.port, keep_alive_s=1)
        async with worker:
            await publish(home, numbered(0, 10))
            await worker.has(10)
            proxy.stall()
            await publish(home, numbered(10, 20))
            await eventually(lambda: not worker.source.connected)
            await eventually(lambda: worker.source.last_error is not None)
            assert "stopped answering" in str(worker.source.last_error)
            proxy.resume()
            await eventually(lambda: set(worker.payloads[10:]) == set(numbered(0, 20)))
            assert worker.source.counters.connections >= 2


async def test_qos_0_is_delivered_and_needs_no_acknowledgement(broker):
    async with broker.worker() as worker, gateway(broker) as home:
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
    async with broker.worker() as worker, gateway(broker) as home:
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
        await taken_in(worker, home)
        assert worker.source.counters.connections == 1
    async with broker.worker() as heir:
        await quiet(heir, 0)


async def test_what_a_format_asks_of_a_gateway_does_not_come_back(broker):
    """A keep-alive below the gateway's prefix matches our own subscription."""
    if broker.kind == "rumqttd":
        pytest.skip("rumqttd does not know No Local; it is for demonstrations, with native gateways")
    async with broker.worker() as worker, gateway(broker) as home:
        assert await worker.source.publish("gw/home-0001/R/portal/keepalive", b"")
        assert await worker.source.publish("gw/home-0001/R/portal/keepalive", b"")
        await publish(home, numbered(0, 3))
        await quiet(worker, 3)
        assert worker.payloads == numbered(0, 3)


async def test_publishing_while_disconnected_says_so(broker):
    source = broker.source()
    assert not await source.publish("gw/home-0001/committed", b"{}")
    assert source.counters.publishes_dropped == 1


async def test_a_broker_that_is_away_is_waited_for(broker):
    await broker.kill()
    source = broker.source()
    running = asyncio.create_task(source.run())
    await eventually(lambda: source.last_error is not None)
    assert not running.done()
    await broker.start()
    await eventually(lambda: source.connected)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("name", LINES)
def test_it_runs_on_uvloop(name):
    async def check():
        payloads = [bytes([number]) * 100_000 for number in range(30)]
        async with (
            open_line(name) as broker,
            gateway(broker) as home,
            broker.worker(max_pending_bytes=2**20) as worker,
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


async def acknowledge_all(worker, count, *, distinct=False):
    """Acknowledge whatever arrives until so many have, or so many different ones."""
    done = 0
    seen = set()
    while (len(seen) if distinct else done) < count:
        await worker.has(done + 1)
        fresh = worker.messages[done:]
        worker.acknowledge(fresh)
        done += len(fresh)
        seen.update(message.payload for message in fresh)


async def drained(worker):
    """Acknowledge what a broker repeats after all, until it is quiet."""
    known = -1
    while len(worker.messages) > known:
        known = len(worker.messages)
        worker.acknowledge(worker.messages)
        await asyncio.sleep(worker.quiet_s)
