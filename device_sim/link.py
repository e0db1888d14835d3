"""One connection of a gateway to the broker: aiomqtt 2.5, MQTT 5, with what a careful publisher needs besides.

aiomqtt's own publish() hides the PUBACK's reason code, waits ten seconds after a connection is gone, and knows
neither the broker's Receive Maximum. The three overridden hooks are internal to aiomqtt, which is why its version
is bounded in pyproject.toml; tests hold what this class relies on.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

_NO_LIMIT: Final = 65_535
# a lost connection is what gateways are for: counted in Figures.connection_errors, not logged as an error
_SILENT: Final = logging.getLogger("device_sim.mqtt")
_SILENT.setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and how to trust it. ``ca_file`` alone turns TLS on; ``tls`` with the system's CAs."""

    host: str = "127.0.0.1"
    port: int = 1883
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    keep_alive_s: int = 30
    connect_timeout_s: float = 10.0

    def context(self) -> ssl.SSLContext | None:
        """The TLS context, or None for plain TCP."""
        if not (self.tls or self.ca_file or self.cert_file):
            return None
        context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


@dataclass(frozen=True, slots=True)
class Credential:
    """A gateway's user name and password. Not shown by repr."""

    username: str
    password: str | None = None

    def __repr__(self) -> str:
        return "Credential(…)"


class Link(aiomqtt.Client):
    """A connection that reports each PUBACK with its verdict. Use as ``async with``; one event loop."""

    def __init__(
        self, broker: Broker, credential: Credential | None, *, identifier: str, will: aiomqtt.Will, window: int
    ) -> None:
        super().__init__(
            broker.host,
            broker.port,
            identifier=identifier,
            username=credential.username if credential else None,
            password=credential.password if credential else None,
            protocol=aiomqtt.ProtocolVersion.V5,
            will=will,
            keepalive=broker.keep_alive_s,
            timeout=broker.connect_timeout_s,
            tls_context=broker.context(),
            logger=_SILENT,
            max_inflight_messages=window,
        )
        self._window = window
        self._receive_maximum = _NO_LIMIT
        self._verdicts: dict[int, Callable[[bool], None]] = {}

    @property
    def window(self) -> int:
        """How many messages may be unacknowledged: our own bound or the broker's Receive Maximum."""
        return min(self._window, self._receive_maximum)

    @property
    def gone(self) -> bool:
        """Whether the connection is lost or closed."""
        return self._disconnected.done()

    def when_gone(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` once when the connection is lost."""

        def told(future: asyncio.Future[None]) -> None:
            if not future.cancelled():
                future.exception()  # retrieved here, or asyncio reports it when the client is collected
            wake()

        self._disconnected.add_done_callback(told)

    async def unless_gone(self, action: Coroutine[Any, Any, Any]) -> None:
        """Await ``action``; a connection that is lost meanwhile ends the wait at once.

        Raises:
            MqttError: the action failed, or the connection is gone.

        """
        task = asyncio.ensure_future(action)
        try:
            await asyncio.wait((task, self._disconnected), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise aiomqtt.MqttError("connection lost")
            task.result()
        finally:
            task.cancel()

    def announce(self, topic: str, payload: bytes) -> None:
        """Publish retained at QoS 1 without asking for the outcome: state, not data."""
        self._client.publish(topic, payload, 1, retain=True)

    def send(
        self,
        topic: str,
        payload: bytes,
        properties: Properties,
        verdict: Callable[[bool], None],
        *,
        retain: bool = False,
    ) -> None:
        """Publish at QoS 1 without waiting; ``verdict(accepted)`` follows with the PUBACK, or never.

        Raises:
            MqttError: the connection is gone.

        """
        info = self._client.publish(topic, payload, 1, retain=retain, properties=properties)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttCodeError(info.rc, "could not publish")
        self._verdicts[info.mid] = verdict

    def cut(self) -> None:
        """Break the connection as a power cut would: no DISCONNECT, so that the broker publishes the will."""
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _on_connect(
        self,
        client: PahoClient,
        userdata: Any,
        flags: ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self._receive_maximum = getattr(properties, "ReceiveMaximum", _NO_LIMIT)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_publish(
        self, client: PahoClient, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        verdict = self._verdicts.pop(mid, None)
        if verdict is None:
            super()._on_publish(client, userdata, mid, reason_code, properties)
        else:
            verdict(not reason_code.is_failure)


def message_properties(sequence: int, stream: str, content_type: str | None) -> Properties:
    """MQTT 5 properties of a reading message: user properties ``seq`` and ``stream``, and the content type."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.UserProperty = [("seq", str(sequence)), ("stream", stream)]
    if content_type is not None:
        properties.ContentType = content_type
    return properties
