"""The MQTT source: messages from a broker at QoS 1, acknowledged when told, in the order received.

::

    socket ─▶ Connection ─▶ Session ─▶ batches() ─▶ pipeline
                  ▲             │                       │
                  └── PUBACK ◀──┴── acknowledge() ◀─────┘

One event loop (plain asyncio or uvloop), one consumer of ``batches``. What is not acknowledged when a connection
ends comes again, so nothing has to be kept. See docs/decisions/0011-mqtt-source-on-mqtt5.md.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Final

from telemetry.config import BrokerConfig
from telemetry.errors import SourceError, SourceRefused, SourceUnavailable
from telemetry.model.batch import RawMessage
from telemetry.ports import Clock
from telemetry.sources.backoff import Backoff
from telemetry.sources.mqtt_connection import Connection
from telemetry.sources.mqtt_packets import SessionCounters, SessionSettings
from telemetry.sources.mqtt_session import Session, State
from telemetry.sources.mqtt_tls import broker_password, tls_context

CONNECT_TIMEOUT_S: Final = 10.0
TAKEN_OVER_LIMIT: Final = 5


class MqttSource:
    """``telemetry.ports.Source`` on an MQTT 5 broker.

    ``password`` wins over ``config.password_file``; both are read once, here.

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
        taken_over_limit: int = TAKEN_OVER_LIMIT,
    ) -> None:
        self._config = config
        self._clock = clock
        self._backoff = Backoff(config.reconnect_min_s, config.reconnect_max_s, rng)
        self._tls = tls_context(config)
        self._taken_over_limit = taken_over_limit
        self._taken_over = self._short_lived = 0  # in a row
        self._session = Session(_session_settings(config, password))
        self._connection: Connection | None = None
        self._arrived = asyncio.Event()
        self.last_error: SourceError | None = None

    # ---- the port

    async def run(self) -> None:
        """Stay connected until cancelled; then say goodbye to the broker, which keeps the session.

        Raises:
            SourceRefused: the broker said no in a way that trying again cannot mend, or another client keeps
                taking over the session.

        """
        while True:
            self.last_error = await self._connect_and_wait()
            if isinstance(self.last_error, SourceRefused):
                raise self.last_error
            await asyncio.sleep(self.next_delay())

    async def batches(self) -> AsyncIterator[list[RawMessage]]:
        """Whatever has arrived since the last list; ends only by cancellation, which loses nothing."""
        while True:
            if not self._session.has_messages:
                self._arrived.clear()
                await self._arrived.wait()
            messages = self._session.take_messages()
            if messages:
                yield messages

    def acknowledge(self, tokens: Sequence[int]) -> None:
        """Release tokens; the PUBACKs that this makes due leave in one write."""
        self._session.acknowledge(tokens, asyncio.get_running_loop().time())
        if self._connection is not None:
            self._connection.flush()

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Publish at QoS 0; False, and a count, while disconnected or while the broker does not keep up."""
        connection = self._connection
        if connection is None or not connection.writable:
            self._session.counters.publishes_dropped += 1
            return False
        sent = self._session.publish(topic, payload, asyncio.get_running_loop().time(), retain=retain)
        connection.flush()
        return sent

    # ---- what others may look at

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection and the subscriptions."""
        return self._session.state is State.CONNECTED and self._session.subscribed

    @property
    def counters(self) -> SessionCounters:
        """What happened since the start."""
        return self._session.counters

    @property
    def pending_messages(self) -> int:
        """Messages received whose token has not come back."""
        return self._session.queue.pending_messages

    @property
    def pending_bytes(self) -> int:
        """Their payload bytes."""
        return self._session.queue.pending_bytes

    def next_delay(self) -> float:
        """Seconds until the next attempt."""
        return self._backoff.next_s()

    # ---- connections

    async def _connect_and_wait(self) -> SourceError:
        """One connection from beginning to end; why it ended."""
        loop = asyncio.get_running_loop()
        try:
            connection = await self._open()
        except (OSError, TimeoutError, ValueError) as error:
            return self._cannot_open(error)
        self._connection = connection
        connected_at = loop.time()
        try:
            await asyncio.shield(connection.closed)
        finally:
            self._connection = None
            await connection.disconnect()
        if loop.time() - connected_at >= self._config.reconnect_max_s:
            self._backoff.reset()
            self._taken_over = self._short_lived = 0
        return self._why_ended(connection)

    async def _open(self) -> Connection:
        config = self._config
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self._session, self._clock, self._arrived.set),
                config.host,
                config.port,
                ssl=self._tls,
                server_hostname=config.host if self._tls else None,
            )
        return connection

    def _cannot_open(self, error: Exception) -> SourceError:
        if isinstance(error, ssl.SSLError):
            return self._tls_failed(error)
        reason = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        return SourceUnavailable(
            f"the broker cannot be reached: {reason}", remedy="check broker.host and broker.port, and the broker"
        )

    def _tls_failed(self, error: ssl.SSLError) -> SourceError:
        """Wrong files at the start are the operator's to mend; a certificate that expires later may be renewed."""
        text = f"TLS with the broker failed: {(error.reason or 'unknown reason').lower().replace('_', ' ')}"
        remedy = "check broker.ca_file, broker.cert_file, broker.key_file and the name in the broker's certificate"
        kind = SourceUnavailable if self._session.counters.connections else SourceRefused
        return kind(text, remedy=remedy)

    def _why_ended(self, connection: Connection) -> SourceError:
        session = self._session
        if session.taken_over:
            self._taken_over += 1
            if self._taken_over >= self._taken_over_limit:
                return SourceRefused(
                    f"another client took over the session {self._taken_over} times in a row",
                    remedy="give every worker a broker.client_id (or broker.username) of its own",
                )
        if isinstance(connection.reason, ssl.SSLError):
            return self._tls_failed(connection.reason)
        self._short_lived += 1
        if session.lost and self._short_lived >= self._taken_over_limit:
            # What a take-over looks like where the broker does not name it (mosquitto 2.0.11, rumqttd); also what
            # a bad network looks like, so it is no reason to give up.
            return SourceUnavailable(
                f"the broker closed {self._short_lived} connections in a row without a reason",
                remedy="see whether another worker uses the same broker.client_id or broker.username",
            )
        return session.failure or SourceUnavailable("the connection to the broker ended")


def _session_settings(config: BrokerConfig, password: str | None) -> SessionSettings:
    password = broker_password(config, password)
    return SessionSettings(
        client_id=config.client_id,
        topics=config.topics,
        username=config.username,
        password=None if password is None else password.encode(),
        keep_alive_s=config.keep_alive_s,
        session_expiry_s=config.session_expiry_s,
        receive_maximum=config.receive_maximum,
        max_pending_bytes=config.max_pending_bytes,
        max_message_bytes=config.max_message_bytes,
    )
