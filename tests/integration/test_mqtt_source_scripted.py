"""The source against brokers that misbehave in ways no real one would on demand: a scripted TCP peer."""

import asyncio
import contextlib
import random

import mqtt5
import pytest

from telemetry.config import BrokerConfig
from telemetry.errors import SourceRefused
from telemetry.sources.mqtt import MqttSource
from tests.support.broker import WallClock, eventually
from tests.support.mqtt_wire import connack, disconnect, packets, publish, suback


@contextlib.asynccontextmanager
async def scripted(*answers, **overrides):
    """A source and a peer: connection n gets ``answers[n]`` (the last one for all that follow) after CONNECT.

    ``heard`` collects, per connection, everything that the source wrote.
    """
    heard = []
    writers = []

    async def serve(reader, writer):
        index = len(heard)
        heard.append(b"")
        writers.append(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if not heard[index]:
                    writer.write(answers[min(index, len(answers) - 1)])
                heard[index] += data
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = BrokerConfig(port=port, reconnect_min_s=0.01, reconnect_max_s=5.0).model_copy(update=overrides)
    source = MqttSource(config, WallClock(), rng=random.Random(1), taken_over_limit=3)
    running = asyncio.create_task(source.run())
    try:
        yield source, running, heard
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        server.close()


ACCEPT = connack(session_present=True) + suback()


async def test_taken_over_again_and_again_is_refused():
    async with scripted(ACCEPT + disconnect(0x8E)) as (_, running, heard):
        await asyncio.wait({running}, timeout=20)
        error = running.exception()
        assert isinstance(error, SourceRefused)
        assert "client_id" in error.remedy
        assert len(heard) == 3


@pytest.mark.parametrize("code", [0x86, 0x87, 0x85])
async def test_refusals_end_the_source(code):
    async with scripted(connack(reason_code=mqtt5.ConnAckReasonCode(code))) as (_, running, heard):
        await asyncio.wait({running}, timeout=20)
        assert isinstance(running.exception(), SourceRefused)
        assert len(heard) == 1


async def test_a_busy_broker_is_tried_again():
    busy = connack(reason_code=mqtt5.ConnAckReasonCode.SERVER_BUSY)
    async with scripted(busy, busy, ACCEPT) as (source, _, heard):
        await eventually(lambda: source.connected)
        assert len(heard) == 3


async def test_a_breach_is_answered_and_the_next_connection_works():
    async with scripted(ACCEPT + b"\x32\xff\xff\xff\x7f", ACCEPT) as (source, _, heard):
        await eventually(lambda: source.counters.connections == 2)
        *_, last = packets(heard[0])
        assert int(last.reason_code) == 0x95


async def test_acknowledgements_of_one_batch_leave_together_and_goodbye_comes_last():
    stream = ACCEPT + b"".join(publish(packet_id) for packet_id in range(1, 6))
    async with scripted(stream) as (source, running, heard):
        messages = []
        async for arrived in source.batches():
            messages += arrived
            if len(messages) == 5:
                break
        source.acknowledge([message.token for message in reversed(messages)])
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        *_, five, goodbye = packets(heard[0])
        acknowledged = [packet.packet_id for packet in packets(heard[0]) if isinstance(packet, mqtt5.PubAckPacket)]
        assert acknowledged == [1, 2, 3, 4, 5]
        assert five.packet_id == 5
        assert isinstance(goodbye, mqtt5.DisconnectPacket)


async def test_a_consumer_that_gives_up_waiting_loses_nothing():
    async with scripted(ACCEPT) as (source, _, _heard):
        waiting = asyncio.create_task(anext(source.batches()))
        await eventually(lambda: source.connected)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        source._session._messages.append("kept")
        assert await anext(source.batches()) == ["kept"]


def test_the_back_off_is_jittered_between_its_bounds_and_grows():
    async def delays():
        config = BrokerConfig(reconnect_min_s=0.5, reconnect_max_s=8.0)
        source = MqttSource(config, WallClock(), rng=random.Random(3))
        return [source.next_delay() for _ in range(200)]

    found = asyncio.run(delays())
    assert all(0.5 <= delay <= 8.0 for delay in found)
    assert found[0] <= 1.0
    assert found[1] <= 2.0
    assert max(found) > 7.0
    assert min(found[20:]) < 1.5
    assert len(set(found)) == 200
