"""The source for brokers that speak only MQTT 3.1.1: NATS, RabbitMQ, old mosquitto.

The same promise as sources/mqtt.py: at QoS 1, acknowledged when told, in the order received. What the older version
cannot say: no user properties (a message has no sequence number, so gaps are not seen), no content type, no Receive
Maximum (the broker's own limit, and not reading the socket, bound what is unacknowledged), no reason for an end.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import aiomqtt
from paho.mqtt.client import MQTTMessage

from telemetry.config import BrokerConfig
from telemetry.errors import SourceError, SourceRefused, SourceUnavailable
from telemetry.model.batch import RawMessage
from telemetry.ports import Clock
from telemetry.sources.backoff import Backoff
from telemetry.sources.mqtt311_client import Client
from telemetry.sources.mqtt_packets import FINAL, SessionCounters, is_watermark, sender
from telemetry.sources.mqtt_release import PACKET_ID_BITS, PACKET_ID_MASK, ReleaseQueue
from telemetry.sources.mqtt_tls import broker_password, tls_context

CONNECT_TIMEOUT_S: Final = 10.0
_REMEMBERED: Final = 256  # own publications that may still come back
_RESUME_BELOW: Final = 0.75
_REFUSED_SUBSCRIPTION: Final = 0x80
_UNSUPPORTED_VERSION, _KEEP_ALIVE_TIMEOUT = 0x84, 0x8D  # paho names the older reasons by the newer numbers


class Mqtt311Source:
    """``telemetry.ports.Source`` on an MQTT 3.1.1 broker. One event loop (asyncio's or uvloop's), one consumer.

    Raises:
        ConfigurationError: a file that the configuration names cannot be used.

    """

    def __init__(
        self,
        config: BrokerConfig,
        clock: Clock,
        *,
        password: str | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._tls = tls_context(config)
        self._password = broker_password(config, password)
        self._backoff = Backoff(config.reconnect_min_s, config.reconnect_max_s, rng)
        self._queue = ReleaseQueue()
        self._messages: list[RawMessage] = []
        self._arrived = asyncio.Event()
        self._client: Client | None = None
        self._reading = True
        self._published: deque[tuple[str, bytes]] = deque(maxlen=_REMEMBERED)
        self.connected = False
        self.counters = SessionCounters()
        self.last_error: SourceError | None = None

    # ---- the port

    async def run(self) -> None:
        """Stay connected until cancelled; then say goodbye to the broker, which keeps the session.

        Raises:
            SourceRefused: the broker said no in a way that trying again cannot mend.

        """
        while True:
            self.last_error = await self._connect_and_wait()
            if isinstance(self.last_error, SourceRefused):
                raise self.last_error
            await asyncio.sleep(self._backoff.next_s())

    async def batches(self) -> AsyncIterator[list[RawMessage]]:
        """Whatever has arrived since the last list; ends only by cancellation, which loses nothing."""
        while True:
            if not self._messages:
                self._arrived.clear()
                await self._arrived.wait()
            messages, self._messages = self._messages, []
            if messages:
                yield messages

    def acknowledge(self, tokens: Sequence[int]) -> None:
        """Release tokens; the PUBACKs that this makes due leave in the order received."""
        self._queue.free(tokens)
        if self._client is not None and self.connected:
            self._client.acknowledge(self._queue.due_ids())
            self._read_or_not(self._client)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Publish at QoS 0; False, and a count, while disconnected or while the broker does not keep up."""
        client = self._client
        if client is not None and self.connected and client.publish_now(topic, payload, retain=retain):
            self._published.append((topic, payload))
            return True
        self.counters.publishes_dropped += 1
        return False

    # ---- what others may look at

    @property
    def pending_messages(self) -> int:
        """Messages received whose token has not come back."""
        return self._queue.pending_messages

    @property
    def pending_bytes(self) -> int:
        """Their payload bytes."""
        return self._queue.pending_bytes

    # ---- connections

    async def _connect_and_wait(self) -> SourceError:
        """One connection from beginning to end; why it ended."""
        config, loop = self._config, asyncio.get_running_loop()
        client = Client(
            config.host,
            config.port,
            on_message=self._on_message,
            identifier=config.client_id,
            username=config.username,
            password=self._password,
            clean_session=False,
            keepalive=config.keep_alive_s,
            timeout=CONNECT_TIMEOUT_S,
            tls_context=self._tls,
        )
        self._begin(client)
        connected_at = loop.time()
        try:
            async with client:
                self._on_connected(client)
                granted: Any = await client.subscribe([(topic, 1) for topic in config.topics])
                if (refused := _refused(granted)) is not None:
                    return refused
                self.connected = True
                self._acknowledge_due(client)
                await client.closed()
                client.raise_if_lost()
        except (aiomqtt.MqttError, OSError, TimeoutError, ValueError) as error:
            return client.failure or _why(error)
        finally:
            self.connected, self._client = False, None
        if loop.time() - connected_at >= config.reconnect_max_s:
            self._backoff.reset()
        return client.failure or SourceUnavailable("the connection to the broker ended")

    def _begin(self, client: Client) -> None:
        """A new epoch: nothing received so far can be acknowledged any more."""
        self._queue.begin_epoch()
        self._reading = True
        self._client = client

    def _on_connected(self, client: Client) -> None:
        """CONNACK. The first messages of a kept session may have come with it, so they are not stale."""
        if not client.session_present and self.counters.connections:
            self.counters.sessions_lost += 1
        self.counters.connections += 1
        if client.session_present:
            self._drop_stale()

    def _drop_stale(self) -> None:
        """The broker sends again what it has no PUBACK for: drop the copies of ended connections nobody has taken.

        Where it lost the session it does not, so they stay, to be handed over with tokens of an ended epoch.
        """
        first = self._queue.epoch << PACKET_ID_BITS
        kept: list[RawMessage] = []
        for message in self._messages:
            if message.token & PACKET_ID_MASK and message.token < first:
                self._queue.forget(message.token)
                self.counters.stale_dropped += 1
            else:
                kept.append(message)
        self._messages = kept

    def _acknowledge_due(self, client: Client) -> None:
        client.acknowledge(self._queue.due_ids())
        self._read_or_not(client)

    def _read_or_not(self, client: Client) -> None:
        """Read up to the configured messages and bytes, after that again below three quarters."""
        part = 1.0 if self._reading else _RESUME_BELOW
        config, queue = self._config, self._queue
        self._reading = (
            queue.pending_messages < config.receive_maximum * part
            and queue.pending_bytes <= config.max_pending_bytes * part
        )
        client.read(self._reading)

    # ---- messages

    def _is_ours(self, topic: str, payload: bytes) -> bool:
        """Whether this came back because it was published from here: 3.1.1 knows no "No Local"."""
        try:
            self._published.remove((topic, payload))
        except ValueError:
            return False
        return True

    def _on_message(self, message: MQTTMessage) -> None:
        """One PUBLISH, before anything else is read."""
        client = self._client
        if client is None:
            return
        packet_id = message.mid if message.qos else 0
        if packet_id and self._queue.holds(packet_id):
            # NATS sends again on the same connection what is not acknowledged in time: we still have it.
            if not message.dup:
                client.fail(SourceUnavailable("the broker sent a packet id that is in use"))
            return
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""  # to quarantine; unacknowledged it would come again for ever
            self.counters.unreadable += 1
        if is_watermark(topic) or (not packet_id and self._is_ours(topic, bytes(message.payload))):
            self.counters.watermarks_returned += 1
            self._queue.discard(packet_id)
            if self.connected:
                self._acknowledge_due(client)
            return
        payload = bytes(message.payload)
        token = self._queue.receive(packet_id, len(payload))
        gateway, below = sender(topic)
        self.counters.messages += 1
        self._messages.append(
            RawMessage(gateway, below, payload, token, self._clock.now_us(), retained=bool(message.retain))
        )
        self._arrived.set()
        self._read_or_not(client)


def _refused(granted: Sequence[Any]) -> SourceError | None:
    """What the answer to SUBSCRIBE means: one that was refused or got QoS 0 cannot be mended by trying again."""
    for index, code in enumerate(granted):
        value = int(getattr(code, "value", code))
        if value != 1:
            told = "a refusal" if value >= _REFUSED_SUBSCRIPTION else f"QoS {value}"
            return SourceRefused(
                f"the broker answered subscription {index} with {told}",
                remedy="check broker.topics and the read rights of broker.username",
            )
    return None


def _why(error: Exception) -> SourceError:
    """Why no connection came about, or ended. Library texts stay out: they may quote topics."""
    code = getattr(getattr(error, "rc", None), "value", None)
    if isinstance(error, aiomqtt.exceptions.MqttConnectError) and code in FINAL:
        remedy = "check broker.protocol" if code == _UNSUPPORTED_VERSION else FINAL[code]
        return SourceRefused(f"the broker answered CONNECT with a refusal (0x{code:02x})", remedy=remedy)
    if code == _KEEP_ALIVE_TIMEOUT:
        return SourceUnavailable("the broker stopped answering")
    if isinstance(error, aiomqtt.MqttCodeError):
        return SourceUnavailable("the connection to the broker was lost")
    return SourceUnavailable(
        "the broker cannot be reached or stopped answering",
        remedy="check broker.host, broker.port, broker.tls and its files, and the broker",
    )
