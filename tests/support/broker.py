"""A real broker, gateways on aiomqtt (paho, MQTT 5) as the independent client, and the source under test."""

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from telemetry.config import BrokerConfig
from telemetry.embedded.broker import EmbeddedBroker
from telemetry.embedded.broker_probe import mqtt_accepts
from telemetry.sources.mqtt import MqttSource
from telemetry.sources.mqtt311 import Mqtt311Source

PASSWORD = "only-for-tests"


class WallClock:
    def now_us(self):
        return time.time_ns() // 1000


@contextlib.contextmanager
def short_directory():
    """A private directory whose path is short."""
    directory = Path(tempfile.mkdtemp(prefix="tmq-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def temporary_broker(kind, **arguments) -> AsyncIterator[EmbeddedBroker]:
    with short_directory() as directory:
        async with EmbeddedBroker(directory, kind, **arguments) as broker:
            yield broker


async def admit(broker, *names):
    """Give gateways a password and wait until the broker has read it."""
    for name in names:
        broker.set_user(name, PASSWORD)
    await eventually(lambda: all(mqtt_accepts(broker.host, broker.port, name, PASSWORD) for name in names))


@contextlib.asynccontextmanager
async def gateway(broker, name="home-0001", **arguments):
    if broker.kind == "mosquitto" and not mqtt_accepts(broker.host, broker.port, name, PASSWORD):
        await admit(broker, name)
    arguments = {"username": name, "password": PASSWORD, "identifier": name, "timeout": 20} | arguments
    version = aiomqtt.ProtocolVersion.V311 if broker.kind == "nats" else aiomqtt.ProtocolVersion.V5
    async with aiomqtt.Client(broker.host, broker.port, protocol=version, **arguments) as client:
        client.pending_calls_threshold = 10_000
        yield client


def properties(sequence, stream="boot-1"):
    """User properties of a PUBLISH."""
    found = Properties(PacketTypes.PUBLISH)
    found.UserProperty = [("seq", str(sequence)), ("stream", stream)]
    return found


async def publish(client, payloads, topic="gw/home-0001/readings", qos=1):
    """Publish in order; returns when all are acknowledged. At most 500 are under way at once."""
    for first in range(0, len(payloads), 500):
        async with asyncio.TaskGroup() as group:
            for payload in payloads[first : first + 500]:
                group.create_task(client.publish(topic, payload, qos))


def numbered(first, last):
    return [b"%d" % number for number in range(first, last)]


def broker_config(broker, **overrides):
    """How the worker connects; ``overrides`` may go beyond what a configuration file may say."""
    config = BrokerConfig(
        host=broker.host,
        port=broker.port,
        client_id=broker.username,
        username=broker.username,
        password_file=broker.password_file,
        reconnect_min_s=0.05,
        reconnect_max_s=0.5,
    )
    return config.model_copy(update=overrides)


def source_for(broker, *, protocol="5", **overrides):
    """The source that speaks this version of MQTT to this broker."""
    kind = Mqtt311Source if protocol == "3.1.1" else MqttSource
    return kind(broker_config(broker, protocol=protocol, **overrides), WallClock())


def cut(source):
    """End the connection as a pulled cable would: no DISCONNECT."""
    if isinstance(source, Mqtt311Source):
        source._client.abort()
    else:
        source._connection._transport.abort()


class Receiver:
    """A source with a consumer that keeps everything and acknowledges nothing by itself."""

    def __init__(self, broker, *, source=None, **overrides):
        self.source = source or source_for(broker, **overrides)
        self.messages = []
        self.lists = 0
        self.quiet_s = 0.3  # after which nothing more is expected

    async def __aenter__(self):
        self.running = asyncio.create_task(self.source.run())
        self._consumer = asyncio.create_task(self._consume())
        await eventually(lambda: self.source.connected or self.running.done())
        if self.running.done():
            await self.running
        return self

    async def __aexit__(self, *_):
        await self.stop()

    async def stop(self):
        for task in (self._consumer, self.running):
            task.cancel()
        await asyncio.gather(self._consumer, self.running, return_exceptions=True)

    async def _consume(self):
        async for messages in self.source.batches():
            self.messages += messages
            self.lists += 1

    @property
    def payloads(self):
        return [message.payload for message in self.messages]

    def cut(self):
        """End the connection as a pulled cable would: no DISCONNECT."""
        cut(self.source)

    async def kill(self):
        """End the client as SIGKILL would."""
        self.cut()
        await self.stop()

    async def has(self, count):
        await eventually(lambda: len(self.messages) >= count)

    def acknowledge(self, messages):
        self.source.acknowledge([message.token for message in messages])


async def eventually(condition, *, timeout_s=20.0):
    """Wait for a condition; the limit only keeps a broken test from hanging."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.01)


async def taken_in(receiver, home):
    """The broker has read what the receiver has sent so far: what was published behind it has arrived at ``home``."""
    await home.subscribe("gw/home-0001/committed", 1)
    assert await receiver.source.publish("gw/home-0001/committed", b"behind")
    async with asyncio.timeout(20):
        while (await anext(home.messages)).payload != b"behind":
            pass
    await asyncio.sleep(0.1)  # nats-server hands acknowledgements on


async def quiet(receiver, count):
    """Nothing beyond ``count`` messages arrives for a while."""
    await receiver.has(count)
    await asyncio.sleep(receiver.quiet_s)
    assert receiver.payloads[count:] == []
