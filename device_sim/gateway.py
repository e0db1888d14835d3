"""A gateway: publishes what its home's devices report, keeps it while offline, and forgets nothing too early."""

import asyncio
import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import aiomqtt
import orjson

from device_sim.figures import Figures
from device_sim.ledger import Ledger
from device_sim.link import Broker, Credential, Link, message_properties
from device_sim.message import Message
from device_sim.outbox import Outbox, Watermark

_BURST = 32  # messages published before the event loop gets a turn


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a gateway treats its messages. Seconds are wall time.

    ``window``: unacknowledged messages at once. ``buffer_messages``: kept at most; sampling waits beyond it.
    ``outages``: (start, length) from the run's start on, during which the gateway cuts its connection.
    """

    wait_watermark: bool = False
    window: int = 100
    buffer_messages: int = 2_000
    resend_s: float = 15.0
    missing_resend_s: float = 3.0
    reconnect_min_s: float = 0.2
    reconnect_max_s: float = 10.0
    outages: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Shared:
    """What all gateways of a run have in common."""

    broker: Broker
    figures: Figures
    ledger: Ledger | None
    started_s: float  # the event loop's clock at the run's start


@dataclass(slots=True)
class Gateway:
    """One gateway under the broker user ``name``. ``run`` may be called once."""

    name: str
    stream: str
    credential: Credential | None
    messages: Iterator[Message]
    delivery: Delivery
    shared: Shared
    jitter: random.Random
    outbox: Outbox = field(init=False)
    _wake: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _room: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.outbox = Outbox(
            wait_watermark=self.delivery.wait_watermark,
            capacity=self.delivery.buffer_messages,
            resend_s=self.delivery.resend_s,
            missing_resend_s=self.delivery.missing_resend_s,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Produce until the messages end or ``stop`` is set, publish all, and return when nothing is left.

        Cancelled, it closes its connection and leaves the rest in ``outbox``.
        """
        producer = asyncio.create_task(self._produce(stop))
        try:
            await self._stay_connected()
        finally:
            producer.cancel()
            await asyncio.gather(producer, return_exceptions=True)

    async def _produce(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.create_task(stop.wait())
        try:
            for message in self.messages:
                delay = self.shared.started_s + message.due_s - loop.time()
                if delay > 0:
                    await asyncio.wait((stopped,), timeout=delay)
                while self.outbox.full and not stop.is_set():
                    self._room.clear()
                    room = asyncio.create_task(self._room.wait())
                    await asyncio.wait((stopped, room), return_when=asyncio.FIRST_COMPLETED)
                    room.cancel()
                if stop.is_set():
                    break
                self.outbox.add(message)
                self.shared.figures.buffered_messages += 1
                self._wake.set()
        finally:
            stopped.cancel()
            self.outbox.close()
            self._wake.set()

    async def _stay_connected(self) -> None:
        delivery, figures = self.delivery, self.shared.figures
        delay = delivery.reconnect_min_s
        while not self.outbox.finished:
            await self._sit_out(delivery.outages)
            link = self._link()
            try:
                async with link:
                    delay = delivery.reconnect_min_s
                    figures.connections += 1
                    figures.gateways_online += 1
                    try:
                        await self._session(link)
                    finally:
                        figures.gateways_online -= 1
                        self.outbox.lost()
            except (aiomqtt.MqttError, OSError) as error:
                link.cut()
                figures.connection_errors[_name(error)] += 1
                await asyncio.sleep(self.jitter.uniform(delay / 2, delay))
                delay = min(delivery.reconnect_max_s, delay * 2)

    def _link(self) -> Link:
        will = aiomqtt.Will(self._topic("status"), self._status("offline"), qos=1, retain=True)
        return Link(
            self.shared.broker,
            self.credential,
            identifier=self.name,
            will=will,
            window=self.delivery.window,
        )

    async def _sit_out(self, outages: Sequence[tuple[float, float]]) -> None:
        for start, length in outages:
            elapsed = asyncio.get_running_loop().time() - self.shared.started_s
            if start <= elapsed < start + length:
                await asyncio.sleep(start + length - elapsed)

    def _next_outage_s(self) -> float:
        elapsed = asyncio.get_running_loop().time() - self.shared.started_s
        return min((start - elapsed for start, _ in self.delivery.outages if start > elapsed), default=1e9)

    async def _session(self, link: Link) -> None:
        """Publish over one connection until all is done, the connection is gone, or an outage begins."""
        link.when_gone(self._wake.set)
        watcher: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        cut = loop.call_later(self._next_outage_s(), link.cut)
        try:
            link.announce(self._topic("status"), self._status("online"))
            if self.delivery.wait_watermark:
                await link.unless_gone(link.subscribe(self._topic("committed"), qos=1))
                watcher = asyncio.create_task(self._watch(link))
            await self._publish_all(link)
            link.announce(self._topic("status"), self._status("offline"))
        finally:
            cut.cancel()
            if watcher is not None:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)

    async def _publish_all(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        while not self.outbox.finished:
            if link.gone:
                raise aiomqtt.MqttError("connection lost")
            self._wake.clear()
            self.outbox.overdue(loop.time())
            sent = 0
            while sent < _BURST and self.outbox.in_flight < link.window and self._publish_next(link):
                sent += 1
            if sent == _BURST:
                await asyncio.sleep(0)
                continue
            with contextlib.suppress(TimeoutError):  # to look for what is overdue
                await asyncio.wait_for(self._wake.wait(), timeout=0.5)

    def _publish_next(self, link: Link) -> bool:
        message = self.outbox.take()
        if message is None:
            return False
        figures = self.shared.figures
        if message.sends == 1:
            figures.messages += 1
            figures.published += message.readings
            figures.buffered_messages -= 1
            figures.poison += bool(message.poison)
            figures.duplicates += message.readings if message.duplicate_of else 0
            if self.shared.ledger is not None:
                self.shared.ledger.publishing(self.name, self.stream, message)
        else:
            figures.resent_messages += 1
        link.send(
            self._topic(message.topic),
            message.payload,
            message_properties(message.sequence, self.stream, message.content_type),
            lambda accepted, sequence=message.sequence: self._verdict(sequence, accepted=accepted),  # type: ignore[misc]
            retain=message.retain,
        )
        return True

    def _verdict(self, sequence: int, *, accepted: bool) -> None:
        now_s = asyncio.get_running_loop().time()
        if not accepted:
            self.shared.figures.refused_messages += self.outbox.refused(sequence, now_s) is not None
        elif (message := self.outbox.acknowledged(sequence, now_s)) is not None:
            self.shared.figures.acknowledged += message.readings
            if self.shared.ledger is not None:
                self.shared.ledger.acknowledged(self.name, sequence)
        self._wake.set()
        self._room.set()

    async def _watch(self, link: Link) -> None:
        with contextlib.suppress(aiomqtt.MqttError):
            async for received in link.messages:
                mark = Watermark.parse(bytes(received.payload))
                if mark is None or mark.stream != self.stream:
                    continue  # of an earlier run of this gateway
                for message in self.outbox.watermark(mark):
                    self.shared.figures.committed += message.readings
                    if self.shared.ledger is not None:
                        self.shared.ledger.committed(self.name, message.sequence)
                self._wake.set()
                self._room.set()

    def _topic(self, rest: str) -> str:
        return f"gw/{self.name}/{rest}"

    def _status(self, state: str) -> bytes:
        return orjson.dumps({"state": state, "stream": self.stream})


def _name(error: Exception) -> str:
    """A short name for a connection error, without addresses or names in it."""
    if isinstance(error, aiomqtt.MqttCodeError):
        return f"{type(error).__name__}: {error.rc}"
    return type(error).__name__
