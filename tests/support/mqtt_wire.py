"""The broker's side of the conversation, byte by byte, for tests without sockets."""

import mqtt5

from telemetry.sources.mqtt_packets import SessionSettings
from telemetry.sources.mqtt_session import Session

NOW_US = 1_777_000_000_000_000


def connack(**fields):
    return mqtt5.ConnAckPacket(**fields).write()


def suback(*codes):
    return mqtt5.SubAckPacket(1, [mqtt5.SubAckReasonCode(code) for code in codes or (1,)]).write()


def publish(packet_id, topic="gw/home-0001/readings", payload=b"{}", **fields):
    qos = mqtt5.QoS.AT_LEAST_ONCE if packet_id else mqtt5.QoS.AT_MOST_ONCE
    return mqtt5.PublishPacket(topic, payload, qos=qos, packet_id=packet_id or None, **fields).write()


def puback(*packet_ids):
    return b"".join(b"\x40\x02" + packet_id.to_bytes(2) for packet_id in packet_ids)


def disconnect(code):
    return mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode(code)).write()


def feed(session, data, *, now=0.0, step=None):
    """Hand ``data`` to the session in pieces of ``step`` bytes (or as its buffer allows)."""
    view = memoryview(data)
    while view:
        buffer = session.get_buffer()
        count = min(len(view), len(buffer), step or len(view))
        buffer[:count] = view[:count]
        session.received(count, now, NOW_US)
        view = view[count:]


def packets(data):
    """Everything in ``data``, decoded."""
    found, view = [], memoryview(data)
    while view:
        packet, size = mqtt5.read(view)
        found.append(packet)
        view = view[size:]
    return found


def connected(now=0.0, *, session=None, session_present=False, **settings):
    """A session that has had CONNACK and SUBACK; what it wrote so far is taken."""
    session = session or Session(SessionSettings("worker", **settings))
    session.connect(now)
    feed(session, connack(session_present=session_present) + suback(), now=now)
    session.take_outgoing()
    return session
