"""What only the MQTT 3.1.1 source has to get right, on mosquitto."""

import asyncio

import pytest

from telemetry.config import BrokerConfig
from telemetry.embedded.broker import find_mosquitto
from telemetry.errors import SourceRefused
from telemetry.sources.choice import mqtt_source
from telemetry.sources.mqtt import MqttSource
from telemetry.sources.mqtt311 import Mqtt311Source
from tests.support.broker import (
    Receiver,
    WallClock,
    broker_config,
    eventually,
    gateway,
    numbered,
    publish,
    quiet,
    taken_in,
    temporary_broker,
)

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")


@pytest.fixture
async def broker():
    async with temporary_broker("mosquitto") as running:
        yield running


async def test_the_configuration_chooses():
    assert isinstance(mqtt_source(BrokerConfig(), WallClock()), MqttSource)
    assert isinstance(mqtt_source(BrokerConfig(protocol="3.1.1"), WallClock()), Mqtt311Source)


async def test_a_wrong_password_is_refused_for_good(broker):
    source = Mqtt311Source(broker_config(broker), WallClock(), password="wrong")
    with pytest.raises(SourceRefused) as caught:
        await asyncio.wait_for(source.run(), 20)
    assert "password" in caught.value.remedy
    assert "wrong" not in str(caught.value)


async def test_a_subscription_that_is_refused_is_said():
    from telemetry.sources.mqtt311 import _refused

    assert _refused([1, 1]) is None
    assert "refusal" in str(_refused([1, 128]))
    assert "QoS 0" in str(_refused([0]))


async def test_cancelling_the_consumer_loses_nothing(broker):
    """aiomqtt's own iterator loses the message that arrives while it is cancelled."""
    async with Receiver(broker, protocol="3.1.1") as worker, gateway(broker) as home:
        worker._consumer.cancel()
        await asyncio.gather(worker._consumer, return_exceptions=True)
        feed = asyncio.create_task(publish(home, numbered(0, 500)))
        seen = []
        while len(seen) < 500:
            taking = asyncio.create_task(anext(worker.source.batches()))
            await asyncio.sleep(0.001)
            taking.cancel()
            found = await asyncio.gather(taking, return_exceptions=True)
            seen += found[0] if isinstance(found[0], list) else []
        await feed
        assert [message.payload for message in seen] == numbered(0, 500)


async def test_a_slow_consumer_costs_neither_memory_nor_messages(broker):
    """Nothing bounds what a 3.1.1 broker may send but not reading it."""
    async with Receiver(broker, protocol="3.1.1", receive_maximum=50) as worker, gateway(broker) as home:
        await publish(home, numbered(0, 2000))
        await asyncio.sleep(0.3)
        assert worker.source.pending_messages <= 50
        done = 0
        while done < 2000:
            await worker.has(done + 1)
            fresh = worker.messages[done:]
            assert worker.source.pending_messages <= 50
            worker.acknowledge(fresh)
            done += len(fresh)
        assert worker.payloads == numbered(0, 2000)
        await taken_in(worker, home)
    async with Receiver(broker, protocol="3.1.1") as heir:
        await quiet(heir, 0)


async def test_nothing_is_acknowledged_by_receiving(broker):
    worker = await Receiver(broker, protocol="3.1.1").__aenter__()
    async with gateway(broker) as home:
        await publish(home, numbered(0, 30))
    await worker.has(30)
    await worker.stop()  # a clean goodbye
    async with Receiver(broker, protocol="3.1.1") as heir:
        await heir.has(30)
        assert heir.payloads == numbered(0, 30)
        heir.acknowledge(heir.messages)
        await eventually(lambda: heir.source.pending_messages == 0)
