"""The MQTT 5 client as a state machine without I/O: bytes and time in, messages and bytes out.

::

    connect() ──CONNECT──▶ CONNECTING ──CONNACK──▶ CONNECTED ──failure──▶ CLOSED ──connect()──▶ …

The caller fills ``get_buffer()`` and says so with ``received``, writes what ``take_outgoing`` gives, calls
``tick`` several times per keep-alive interval, reads the network only while ``wants_data``, and closes the
connection once ``failure`` is set. Section numbers are those of MQTT 5.0 (OASIS standard, 7 March 2019).
"""

import enum
from collections.abc import Iterable
from typing import Final

import mqtt5
from mqtt5 import DisconnectReasonCode, PublishPacket, QoS

from telemetry.errors import SourceError, SourceUnavailable
from telemetry.model.batch import RawMessage
from telemetry.sources.mqtt_keepalive import Due, KeepAlive
from telemetry.sources.mqtt_packets import (
    SessionCounters,
    SessionSettings,
    connack_error,
    connect_packet,
    is_watermark,
    packet_length,
    raw_message,
    suback_error,
    subscribe_packet,
    unreadable_publish,
)
from telemetry.sources.mqtt_release import PACKET_ID_MASK, ReleaseQueue

_MIN_READ: Final = 128 * 1024  # bytes; the least that one read of the network may bring
_RESUME_BELOW: Final = 0.75  # of the limits

_PINGREQ: Final = mqtt5.PingReqPacket().write()


class State(enum.Enum):
    """Where the connection stands."""

    CONNECTING = enum.auto()
    CONNECTED = enum.auto()
    CLOSED = enum.auto()


class Session:
    """One client identity over any number of connections. Times are seconds of any monotonic clock."""

    def __init__(self, settings: SessionSettings) -> None:
        self.settings = settings
        self.counters = SessionCounters()
        self.queue = ReleaseQueue()
        self.state = State.CLOSED
        self.subscribed = False
        self.taken_over = False
        self.lost = False  # the connection ended, and nobody said why
        self.failure: SourceError | None = None
        self.keep_alive = KeepAlive(settings.keep_alive_s, 0.0)
        self._messages: list[RawMessage] = []
        self._out: list[bytes] = []
        self._buffer = memoryview(bytearray(settings.max_packet_bytes + _MIN_READ))
        self._filled = 0
        self._reading = True
        self._max_outgoing: int | None = None
        self._connect_at = 0.0

    # ---- the connection

    def connect(self, now: float) -> None:
        """Begin a connection: a new epoch, and CONNECT to be sent (3.1)."""
        self.queue.begin_epoch()
        self.state, self.failure = State.CONNECTING, None
        self.taken_over = self.subscribed = self.lost = False
        self.keep_alive = KeepAlive(self.settings.keep_alive_s, now)
        self._out.clear()
        self._filled = 0
        self._reading = True
        self._connect_at = now
        self._send(connect_packet(self.settings), now)

    def disconnect(self) -> None:
        """Say goodbye (3.14); the broker keeps the session until it expires."""
        if self.state is State.CONNECTED:
            self._out += [self.queue.due(), mqtt5.DisconnectPacket().write()]
        self.state = State.CLOSED

    def connection_lost(self) -> None:
        """The transport is gone."""
        self.lost = self.state is State.CONNECTED
        self._fail("the connection to the broker was lost")

    # ---- bytes and time in

    def get_buffer(self) -> memoryview:
        """Where the next bytes from the network go; never empty."""
        return self._buffer[self._filled :]

    def received(self, count: int, now: float, now_us: int) -> None:
        """``count`` bytes were put at the start of ``get_buffer()``; ``now_us`` becomes ``received_us``."""
        self.keep_alive.heard(now)
        end = self._filled + count
        at = self._parse(end, now, now_us)
        self._filled = end - at if self.state is not State.CLOSED else 0
        if at and self._filled:
            self._buffer[: self._filled] = self._buffer[at:end]
        if self.state is State.CONNECTED:
            self._send(self.queue.due(), now)

    def tick(self, now: float) -> None:
        """Send PINGREQ (3.12) and find out that the broker is gone; reading or not, several times an interval."""
        if self.state is State.CONNECTING and now - self._connect_at >= self.settings.connect_timeout_s:
            self._fail("the broker did not answer CONNECT")
        if self.state is not State.CONNECTED:
            return
        match self.keep_alive.due(now, reading=self._reading):
            case Due.PING:
                self._send(_PINGREQ, now)
            case Due.GIVE_UP:
                self._fail("the broker stopped answering", DisconnectReasonCode.KEEP_ALIVE_TIMEOUT)
            case Due.NOTHING:
                pass

    def wants_data(self, now: float) -> bool:
        """Whether to read the network: up to the configured messages and bytes, after that again below 3/4.

        CONNACK is always read, whatever is still pending from the connection before.
        """
        settings, queue = self.settings, self.queue
        part = 1.0 if self._reading else _RESUME_BELOW
        reading = self.state is not State.CONNECTED or (
            queue.pending_messages <= settings.receive_maximum * part
            and queue.pending_bytes <= settings.max_pending_bytes * part
        )
        if reading and not self._reading:
            self.keep_alive.resumed(now)
        self._reading = reading
        return reading

    # ---- what comes out

    @property
    def has_messages(self) -> bool:
        """Whether ``take_messages`` would give any."""
        return bool(self._messages)

    def take_messages(self) -> list[RawMessage]:
        """Everything that arrived since the last call, in the order received."""
        messages, self._messages = self._messages, []
        return messages

    def take_outgoing(self) -> bytes:
        """Bytes to write, once."""
        out, self._out = self._out, []
        return b"".join(out)

    # ---- what goes in

    def acknowledge(self, tokens: Iterable[int], now: float) -> None:
        """Release messages; PUBACKs (3.4) go out in the order received (4.6), always with success.

        A reason code of 0x80 or more would make the broker treat the message as done with (4.4).
        """
        acknowledgements = self.queue.release(tokens)
        if self.state is State.CONNECTED:
            self._send(acknowledgements, now)

    def publish(self, topic: str, payload: bytes, now: float, *, retain: bool = False) -> bool:
        """Publish at QoS 0 (3.3); False, and a count, when it cannot be sent now."""
        packet = mqtt5.PublishPacket(topic, payload, retain=retain).write()
        if self.state is State.CONNECTED and (self._max_outgoing is None or len(packet) <= self._max_outgoing):
            self._send(packet, now)
            return True
        self.counters.publishes_dropped += 1
        return False

    # ---- packets

    def _parse(self, end: int, now: float, now_us: int) -> int:
        """Handle every whole packet before ``end``; returns where the first incomplete one begins."""
        at, buffer, read = 0, self._buffer, mqtt5.read
        while at < end and self.state is not State.CLOSED:
            try:
                packet, size = read(buffer[at:end])
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # the codec's panics are no Exceptions
                size = self._on_unread(at, end, now_us)
                if not size:
                    return at
            else:
                if type(packet) is PublishPacket:
                    self._on_publish(packet, now_us)
                else:
                    self._on_other(packet, now)
            at += size
        return at

    def _on_publish(self, packet: PublishPacket, now_us: int) -> None:
        packet_id = packet.packet_id or 0
        qos = packet.qos
        if self.state is not State.CONNECTED:
            self._broken("a message before CONNACK", DisconnectReasonCode.PROTOCOL_ERROR)
        elif qos == QoS.EXACTLY_ONCE:
            self._broken("a message at QoS 2", DisconnectReasonCode.QOS_NOT_SUPPORTED)
        elif packet.topic_alias is not None:
            self._broken("a topic alias", DisconnectReasonCode.TOPIC_ALIAS_INVALID)
        elif qos == QoS.AT_LEAST_ONCE and not self._is_new(packet_id):
            self._broken("a packet id that is zero or in use", DisconnectReasonCode.PROTOCOL_ERROR)
        else:
            topic = packet.topic
            if is_watermark(topic):
                self.counters.watermarks_returned += 1
                self.queue.discard(packet_id)
                return
            token = self.queue.receive(packet_id, len(packet.payload))
            self.counters.messages += 1
            self._messages.append(raw_message(packet, topic, token, now_us))

    def _is_new(self, packet_id: int) -> bool:
        """A packet id in use may not come again (2.2.1): its PUBACK would acknowledge two messages."""
        return bool(packet_id) and not self.queue.holds(packet_id)

    def _on_unread(self, at: int, end: int, now_us: int) -> int:
        """Bytes the codec did not take; returns how many to skip, 0 to wait for more or because of a failure.

        A PUBLISH that is no valid MQTT would come again at every reconnection and stop everything behind it, so
        it is handed over whole, for quarantine. Any other broken packet ends the connection (4.13).
        """
        view = self._buffer[at:end]
        length = packet_length(view)
        if length is not None and length > self.settings.max_packet_bytes:
            self._fail(
                "the broker sent a packet above the Maximum Packet Size",
                DisconnectReasonCode.PACKET_TOO_LARGE,
                remedy="lower the broker's message size limit or raise broker.max_message_bytes",
            )
        elif length is not None and 0 < length <= len(view):
            packet = bytes(view[:length])
            packet_id = unreadable_publish(packet)
            if packet_id and self.state is State.CONNECTED and self._is_new(packet_id):
                token = self.queue.receive(packet_id, length)
                self.counters.unreadable += 1
                self._messages.append(RawMessage("", "", packet, token, now_us))
                return length
            self._broken("a malformed packet", DisconnectReasonCode.MALFORMED_PACKET)
        elif length == -1:
            self._broken("a malformed packet", DisconnectReasonCode.MALFORMED_PACKET)
        return 0

    def _on_other(self, packet: mqtt5.Packet, now: float) -> None:
        if isinstance(packet, mqtt5.ConnAckPacket) and self.state is State.CONNECTING:
            self._on_connack(packet, now)
        elif self.state is State.CONNECTING:
            self._broken("a packet before CONNACK", DisconnectReasonCode.PROTOCOL_ERROR)
        elif isinstance(packet, mqtt5.PingRespPacket):
            self.keep_alive.answered()
        elif isinstance(packet, mqtt5.SubAckPacket):
            self.failure = self.failure or suback_error(packet)
            self.subscribed = self.failure is None
            if self.failure is not None:
                self.disconnect()
        elif isinstance(packet, mqtt5.DisconnectPacket):
            code = packet.reason_code
            self.taken_over = code == DisconnectReasonCode.SESSION_TAKEN_OVER
            self._fail(f"the broker disconnected: {code.name.lower()} (0x{int(code):02x})")
        else:
            self._broken("a packet that a broker may not send", DisconnectReasonCode.PROTOCOL_ERROR)

    def _on_connack(self, packet: mqtt5.ConnAckPacket, now: float) -> None:
        self.failure = connack_error(packet)
        if self.failure is not None:
            self.state = State.CLOSED
            return
        self.state = State.CONNECTED
        if packet.server_keep_alive is not None:
            self.keep_alive.interval_s = packet.server_keep_alive
        self._max_outgoing = packet.max_packet_size
        if packet.session_present:
            self._drop_stale()
        elif self.counters.connections:
            self.counters.sessions_lost += 1
        self.counters.connections += 1
        self._send(subscribe_packet(self.settings.topics), now)

    def _drop_stale(self) -> None:
        """The broker sends again what it has no PUBACK for (4.4): drop the copies nobody has taken yet.

        Where it lost the session it does not, so they stay, to be handed over with tokens of an ended epoch.
        """
        stale = [message for message in self._messages if message.token & PACKET_ID_MASK]
        for message in stale:
            self.queue.forget(message.token)
        self._messages = [message for message in self._messages if not message.token & PACKET_ID_MASK]
        self.counters.stale_dropped += len(stale)

    # ---- ends

    def _broken(self, what: str, code: DisconnectReasonCode) -> None:
        self._fail(f"the broker sent {what}", code, remedy="report it to the maker of the broker")

    def _fail(self, text: str, code: DisconnectReasonCode | None = None, *, remedy: str = "") -> None:
        if self.state is State.CLOSED:
            return
        if code is not None and self.state is State.CONNECTED:
            self._out += [self.queue.due(), mqtt5.DisconnectPacket(reason_code=code).write()]
        self.state = State.CLOSED
        self.failure = SourceUnavailable(text, remedy=remedy)

    def _send(self, data: bytes, now: float) -> None:
        if data:
            self._out.append(data)
            self.keep_alive.sent(now)
