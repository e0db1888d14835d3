"""Single MQTT 5 packets: what we send, and what a PUBLISH means to us. Pure functions on the codec ``mqtt5``.

Section numbers are those of MQTT 5.0 (OASIS standard, 7 March 2019).
"""

from dataclasses import dataclass, field
from typing import Final

import mqtt5
from mqtt5 import ConnAckReasonCode, PublishPacket

from telemetry.errors import SourceError, SourceRefused, SourceUnavailable
from telemetry.model.batch import RawMessage

MAX_PACKET_OVERHEAD: Final = 128 * 1024  # bytes: a topic of up to 65,535, and as much for properties
MAX_STREAM_LENGTH: Final = 128
MAX_CONTENT_TYPE_LENGTH: Final = 128
MAX_SEQUENCE: Final = 2**63 - 1
SUBSCRIBE_ID: Final = 1  # the only packet id that this side ever uses: it publishes at QoS 0

_PUBLISH_QOS1: Final = (0x32, 0x3A, 0x33, 0x3B)  # first byte: type 3, QoS 1, with and without DUP and RETAIN
FINAL: Final = {  # by number: the codec's reason codes compare like integers and do not hash
    int(ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION): "use a broker that speaks MQTT 5",
    int(ConnAckReasonCode.CLIENT_ID_NOT_VALID): "change broker.client_id",
    int(ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD): "check broker.username and broker.password_file",
    int(ConnAckReasonCode.NOT_AUTHORIZED): "check broker.username, its password and the broker's access list",
    int(ConnAckReasonCode.BANNED): "ask the broker's operator to lift the ban",
    int(ConnAckReasonCode.BAD_AUTHENTICATION_METHOD): "use a broker that takes a user name and a password",
}


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What CONNECT and SUBSCRIBE ask for, and how much this side holds."""

    client_id: str
    topics: tuple[str, ...] = ("gw/#",)
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    keep_alive_s: int = 30
    session_expiry_s: int = 7 * 86400
    receive_maximum: int = 20_000
    max_pending_bytes: int = 64 * 2**20
    max_message_bytes: int = 256 * 1024
    connect_timeout_s: float = 10.0

    @property
    def max_packet_bytes(self) -> int:
        """The Maximum Packet Size we announce (3.1.2.11.4): a broker drops what is larger instead of sending."""
        return self.max_message_bytes + MAX_PACKET_OVERHEAD


@dataclass(slots=True)
class SessionCounters:
    """What happened since the start; whole numbers that only grow."""

    connections: int = 0
    sessions_lost: int = 0  # the broker had forgotten our session, and its queue with it
    messages: int = 0
    unreadable: int = 0  # PUBLISH packets that are no valid MQTT, handed over whole for quarantine
    watermarks_returned: int = 0  # ours or forged ones: acknowledged and dropped
    stale_dropped: int = 0  # not handed over when the connection ended; the broker sends them again
    publishes_dropped: int = 0


def connect_packet(settings: SessionSettings) -> bytes:
    """CONNECT (3.1): resume the session, no topic aliases, no reason strings (they could hold identifiers)."""
    return mqtt5.ConnectPacket(
        settings.client_id,
        username=settings.username,
        password=settings.password,
        clean_start=False,
        keep_alive=settings.keep_alive_s,
        session_expiry_interval=settings.session_expiry_s,
        request_problem_info=False,
        receive_max=settings.receive_maximum,
        topic_alias_max=0,
        max_packet_size=settings.max_packet_bytes,
    ).write()


def subscribe_packet(topics: tuple[str, ...]) -> bytes:
    """SUBSCRIBE (3.8): QoS 1, without our own messages, retained ones only when the subscription is new.

    No Local is a protocol error on a shared subscription (3.8.3.1). Retain As Published is off, so that the flag
    marks stored state and never a fresh reading that was published with it.
    """
    return mqtt5.SubscribePacket(
        SUBSCRIBE_ID,
        [
            mqtt5.TopicFilter(
                topic,
                max_qos=mqtt5.QoS.AT_LEAST_ONCE,
                no_local=not topic.startswith("$share/"),
                retain_as_published=False,
                retain_handling=mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS,
            )
            for topic in topics
        ],
    ).write()


def connack_error(packet: mqtt5.ConnAckPacket) -> SourceError | None:
    """What a CONNACK (3.2) means: nothing wrong, refused for good, or try again later."""
    code = packet.reason_code
    if code == ConnAckReasonCode.SUCCESS:
        if packet.max_qos == mqtt5.QoS.AT_MOST_ONCE:
            return SourceRefused("the broker does not offer QoS 1", remedy="use a broker that does")
        return None
    text = f"the broker answered CONNECT with {code.name.lower()} (0x{int(code):02x})"
    if (remedy := FINAL.get(int(code))) is not None:
        return SourceRefused(text, remedy=remedy)
    return SourceUnavailable(text)


def suback_error(packet: mqtt5.SubAckPacket) -> SourceError | None:
    """What a SUBACK (3.9) means: a subscription that was refused or got QoS 0 cannot be mended by trying again."""
    for index, code in enumerate(packet.reason_codes):
        if code != mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE:
            return SourceRefused(
                f"the broker answered subscription {index} with {code.name.lower()} (0x{int(code):02x})",
                remedy="check broker.topics and the read rights of broker.username",
            )
    return None


def raw_message(packet: PublishPacket, topic: str, token: int, now_us: int) -> RawMessage:
    """The message of a PUBLISH."""
    gateway, below = sender(topic)
    content_type = packet.content_type
    if content_type is not None:
        content_type = content_type[:MAX_CONTENT_TYPE_LENGTH]
    properties = packet.user_properties
    sequence, stream = _sequence(properties) if properties else (-1, "")
    return RawMessage(gateway, below, packet.payload, token, now_us, content_type, sequence, stream, packet.retain)


def sender(topic: str) -> tuple[str, str]:
    """Gateway and the rest of the topic; what is not under ``gw/<gateway>/`` has gateway "" and its whole topic."""
    prefix, _, rest = topic.partition("/")
    gateway, _, below = rest.partition("/")
    return (gateway, below) if prefix == "gw" and gateway and below else ("", topic)


def is_watermark(topic: str) -> bool:
    """Whether only this service publishes there: what comes from there is ours or forged."""
    return topic.endswith("/committed") and topic.startswith("gw/") and topic.count("/") == 2


def _sequence(properties: list[tuple[str, str]]) -> tuple[int, str]:
    """The properties ``seq`` (1 … 2^63-1) and ``stream``, or (-1, "") if either cannot be used."""
    sequence, stream = -1, ""
    for name, value in properties:
        if name == "seq":
            if not (0 < len(value) <= 19 and value.isascii() and value.isdigit()):
                return -1, ""
            sequence = int(value)
        elif name == "stream":
            stream = value
    if not 1 <= sequence <= MAX_SEQUENCE or len(stream) > MAX_STREAM_LENGTH:
        return -1, ""
    return sequence, stream


def packet_length(view: memoryview) -> int | None:
    """Bytes of the packet that begins here (2.1), None while its header is incomplete, -1 if that is malformed."""
    length, shift = 0, 0
    for index in range(1, 5):
        if index >= len(view):
            return None
        byte = view[index]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length + index + 1
        shift += 7
    return -1


def unreadable_publish(packet: bytes) -> int | None:
    """The packet id of a PUBLISH at QoS 1 that the codec refuses (3.3.2), None if it is not even that."""
    if packet[0] not in _PUBLISH_QOS1:
        return None
    at = next(index for index in range(1, 5) if packet[index] < 0x80) + 1
    at += 2 + int.from_bytes(packet[at : at + 2])
    packet_id = int.from_bytes(packet[at : at + 2]) if at + 2 <= len(packet) else 0
    return packet_id or None
