"""aiomqtt's client with what a source needs and aiomqtt does not offer: acknowledging later, and not reading.

aiomqtt puts messages into a queue that either grows without bound or drops, acknowledges what it dropped, and loses a
message when waiting for one is cancelled. Here its hook for messages hands over each one as it arrives, paho (which
aiomqtt stands on) acknowledges when told (``manual_ack_set``, ``ack``), and the socket is not read while too much is
unacknowledged. Overridden: a few hooks of aiomqtt 2.5, which pyproject.toml holds to that version. Used of paho beside
its public methods: ``_ping_t``, see ``_misc_loop``. docs/decisions/0058-mqtt-3-1-1.md says why.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, Final, cast

import aiomqtt
from paho.mqtt.client import MQTT_ERR_SUCCESS, ConnectFlags, MQTTMessage
from paho.mqtt.client import Client as Paho

from telemetry.errors import SourceError

_SILENT: Final = logging.getLogger("telemetry.paho")
_SILENT.disabled = True  # paho logs topics
_TICK_S: Final = 0.25
_STUCK_S: Final = 1.0  # a broker that has taken nothing for so long does not keep up
_PACKETS_AT_ONCE: Final = 64


class Client(aiomqtt.Client):
    """One connection. ``on_message`` hears of every message, in the order received, on the event loop."""

    def __init__(self, host: str, port: int, *, on_message: Callable[[MQTTMessage], None], **arguments: Any) -> None:
        super().__init__(host, port, protocol=aiomqtt.ProtocolVersion.V311, logger=_SILENT, **arguments)
        self._client.manual_ack_set(True)
        self._deliver = on_message
        self._reading = True
        self._received = 0
        self._writing_since: float | None = None  # paho has had something to write ever since
        self.session_present = False
        self.failure: SourceError | None = None

    # ---- what a source does with it

    def acknowledge(self, packet_ids: list[int]) -> None:
        """Send PUBACKs in this order."""
        for packet_id in packet_ids:
            self._client.ack(packet_id, 1)

    def publish_now(self, topic: str, payload: bytes, *, retain: bool) -> bool:
        """Publish at QoS 0 without waiting; False while the broker does not keep up."""
        since = self._writing_since
        if (since is not None and time.monotonic() - since > _STUCK_S) or not self._client.is_connected():
            return False
        return self._client.publish(topic, payload, 0, retain).rc == MQTT_ERR_SUCCESS

    def fail(self, failure: SourceError) -> None:
        """Give the connection up, without a goodbye."""
        self.failure = self.failure or failure
        self.abort()

    def abort(self) -> None:
        """End the connection as a pulled cable would."""
        found = self._client.socket()
        if found is not None:
            cast("socket.socket", found).shutdown(socket.SHUT_RDWR)

    async def closed(self) -> None:
        """Return when the connection has ended, whatever ended it."""
        await asyncio.wait([self._disconnected])

    def raise_if_lost(self) -> None:
        """Raises MqttError where the connection ended and nobody here wanted it to."""
        if (error := self._disconnected.exception()) is not None:
            raise error

    def read(self, wanted: bool) -> None:
        """Read the network or leave it: what the broker has to say waits in the kernel then."""
        found = self._client.socket()
        if wanted == self._reading or found is None:
            return
        self._reading = wanted
        self._client._ping_t = 0  # noqa: SLF001 - what cannot be read was not refused
        if wanted:
            self._loop.add_reader(found.fileno(), self._on_readable)
            self._loop.call_soon(self._on_readable)  # TLS may hold bytes that the kernel no longer has
        else:
            self._loop.remove_reader(found.fileno())

    # ---- aiomqtt's hooks

    def _on_connect(
        self, client: Paho, userdata: Any, flags: ConnectFlags, reason_code: Any, properties: Any = None
    ) -> None:
        self.session_present = flags.session_present
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_message(self, client: Paho, userdata: Any, message: MQTTMessage) -> None:  # noqa: ARG002
        self._received += 1
        self._deliver(message)

    def _on_socket_open(self, client: Paho, userdata: Any, sock: Any) -> None:  # noqa: ARG002
        """Called in a thread. As aiomqtt's, with a reader that stops where it should."""
        self._loop.call_soon_threadsafe(self._loop.add_reader, sock.fileno(), self._on_readable)
        self._loop.call_soon_threadsafe(self._begin_ticking)

    def _on_socket_register_write(self, client: Paho, userdata: Any, sock: Any) -> None:
        if self._writing_since is None:
            self._writing_since = time.monotonic()
        super()._on_socket_register_write(client, userdata, sock)

    def _on_socket_unregister_write(self, client: Paho, userdata: Any, sock: Any) -> None:
        self._writing_since = None
        super()._on_socket_unregister_write(client, userdata, sock)

    def _begin_ticking(self) -> None:
        self._misc_task = self._loop.create_task(self._misc_loop())

    async def _misc_loop(self) -> None:
        """Keep the connection alive. While nothing is read PINGRESP cannot be seen, and is not missed: paho would
        give up at the second interval without one, so it is told that none is due. Its PINGREQs still go out.
        """
        while self._client.loop_misc() == MQTT_ERR_SUCCESS:
            if not self._reading:
                self._client._ping_t = 0  # noqa: SLF001
            await asyncio.sleep(_TICK_S)

    def _on_readable(self) -> None:
        """Read some packets: paho reads one a call. A call that brings no message has found the socket empty."""
        if not self._reading or self._client.socket() is None:
            return
        try:
            for _ in range(_PACKETS_AT_ONCE):
                before = self._received
                self._client.loop_read()
                found = self._client.socket()
                if not self._reading or found is None:
                    return
                if self._received == before and not getattr(found, "pending", lambda: 0)():
                    return
            self._loop.call_soon(self._on_readable)  # others have their turn; TLS may hold bytes the kernel has not
        except Exception as error:
            if not self._disconnected.done():
                self._disconnected.set_exception(error)
