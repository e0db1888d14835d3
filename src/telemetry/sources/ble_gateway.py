"""Bluetooth as a gateway: what the spool holds goes to the broker at QoS 1, and leaves it when it is acknowledged.

    BleSource (spool) ─▶ aiomqtt, MQTT 5, at most ``window`` under way ─▶ broker
             ▲                                                              │ PUBACK
             └──────────────────── acknowledge ◀────────────────────────────┘

Messages are numbered in a stream of this process (user properties ``seq`` and ``stream``), so that the service sees
gaps. A PUBACK that refuses (0x80 and above) is no acknowledgement: the message stays and is tried again.
"""

import asyncio
import logging
import secrets
from collections import deque
from typing import Any, Final

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from telemetry.config import BrokerConfig
from telemetry.errors import SourceError, SourceUnavailable
from telemetry.model.batch import RawMessage
from telemetry.sources.backoff import Backoff
from telemetry.sources.ble import BleSource
from telemetry.sources.mqtt_tls import broker_password, tls_context

_SILENT: Final = logging.getLogger("telemetry.paho")
_SILENT.disabled = True  # paho logs topics
_TIMEOUT_S: Final = 15.0
_CONTENT_TYPE: Final = "application/json"
_FAILURE: Final = 0x80


class _Client(aiomqtt.Client):
    """aiomqtt takes any PUBACK for a yes."""

    refused = False

    def settle(self) -> None:
        """Look at how the connection ended, or asyncio would complain that nobody did."""
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any) -> None:
        if reason_code.value >= _FAILURE:
            self.refused = True
            if not self._disconnected.done():
                self._disconnected.set_exception(aiomqtt.MqttError("a message was refused"))
            return
        super()._on_publish(client, userdata, mid, reason_code, properties)


class Publisher:
    """Publishes for one gateway, whose name is ``config.username``. One event loop."""

    def __init__(self, config: BrokerConfig, source: BleSource, *, window: int = 50) -> None:
        self._config, self._source, self._window = config, source, window
        self._tls = tls_context(config)
        self._password = broker_password(config, None)
        self._backoff = Backoff(config.reconnect_min_s, config.reconnect_max_s)
        self._stream = secrets.token_hex(8)
        self._sequence = 0
        self._left: deque[tuple[int, RawMessage]] = deque()  # numbered, and not acknowledged
        self.acknowledged = 0
        self.connected = False
        self.last_error: SourceError | None = None

    async def run(self) -> None:
        """Publish until cancelled; what is under way then stays in the spool."""
        while True:
            try:
                await self._connected()
            except* (aiomqtt.MqttError, OSError, TimeoutError) as errors:
                self.last_error = SourceUnavailable(
                    f"the broker does not take messages: {type(errors.exceptions[0]).__name__}",
                    remedy="check broker.host, broker.username, its password and its rights",
                )
            finally:
                self.connected = False
            await asyncio.sleep(self._backoff.next_s())

    async def _connected(self) -> None:
        config = self._config
        client = _Client(
            config.host,
            config.port,
            username=config.username,
            password=self._password,
            identifier=config.username or config.client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            keepalive=config.keep_alive_s,
            timeout=_TIMEOUT_S,
            tls_context=self._tls,
            logger=_SILENT,
        )
        client.pending_calls_threshold = self._window + 1
        try:
            async with client:
                self.connected = True
                while True:
                    if not self._source.permitted:
                        self._forget()
                    if not self._left:
                        await self._fill(client)
                    await self._publish_window(client)
                    self._backoff.reset()
        finally:
            client.settle()

    def _forget(self) -> None:
        """What was numbered and may not be sent any more would look like a gap: begin another stream."""
        if self._left:
            self._left.clear()
            self._stream, self._sequence = secrets.token_hex(8), 0

    async def _fill(self, client: aiomqtt.Client) -> None:
        """Number what comes next; a lost connection ends the wait."""
        # A new iterator each time: cancelling one ends it, and where it stands is the spool's business.
        following = asyncio.ensure_future(anext(self._source.batches()))
        lost = asyncio.ensure_future(asyncio.shield(client._disconnected))  # noqa: SLF001
        try:
            waiting: list[asyncio.Future[Any]] = [following, lost]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                for message in following.result():
                    self._sequence += 1
                    self._left.append((self._sequence, message))
            elif lost.done():
                lost.result()
                raise aiomqtt.MqttError("disconnected")
        finally:
            following.cancel()
            lost.cancel()
            await asyncio.gather(following, lost, return_exceptions=True)

    async def _publish_window(self, client: "_Client") -> None:
        window = [self._left[index] for index in range(min(self._window, len(self._left)))]
        async with asyncio.TaskGroup() as group:
            for number, message in window:
                group.create_task(self._publish(client, number, message))
        if client.refused:
            raise aiomqtt.MqttError("a message was refused")
        self._source.acknowledge([message.token for _, message in window])
        self.acknowledged += len(window)
        for _ in window:
            self._left.popleft()

    async def _publish(self, client: aiomqtt.Client, number: int, message: RawMessage) -> None:
        said = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        said.UserProperty = [("seq", str(number)), ("stream", self._stream)]
        said.ContentType = _CONTENT_TYPE
        await client.publish(f"gw/{message.gateway}/{message.topic}", message.payload, 1, properties=said)
