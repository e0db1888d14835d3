"""However the network cuts the byte stream, the same messages and the same bytes come out; nothing crashes."""

import mqtt5
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.sources.mqtt_packets import SessionSettings
from telemetry.sources.mqtt_session import Session
from tests.support.mqtt_wire import connack, feed, packets, publish, suback

TOPICS = st.sampled_from(
    ["gw/home-0001/readings", "gw/home-0002/a/b", "gw/home-0001/committed", "stray", "gw/x", "N/1/system/0"]
)
SMALL = SessionSettings("worker", max_message_bytes=1024)


@st.composite
def streams(draw):
    """What a broker might send after CONNECT: messages of both QoS with and without properties, and pings."""
    wire = [connack(session_present=draw(st.booleans())), suback()]
    packet_id = 0
    for _ in range(draw(st.integers(0, 25))):
        if draw(st.integers(0, 9)) == 0:
            wire.append(mqtt5.PingRespPacket().write())
            continue
        qos_1 = draw(st.booleans())
        packet_id += qos_1
        properties = draw(st.none() | st.just([("seq", "7"), ("stream", "boot-1")]))
        payload = draw(st.binary(max_size=400))
        wire.append(publish(packet_id if qos_1 else 0, draw(TOPICS), payload, user_properties=properties))
    if draw(st.booleans()):
        wire.append(draw(st.sampled_from([b"\x00\x00", mqtt5.DisconnectPacket().write(), b"\x32\xff\xff\xff\x7f"])))
    return b"".join(wire)


def replay(wire, cuts):
    session = Session(SMALL)
    session.connect(0.0)
    at = 0
    for cut in sorted({min(cut, len(wire)) for cut in cuts} | {len(wire)}):
        feed(session, wire[at:cut])
        at = cut
    messages = session.take_messages()
    session.acknowledge([message.token for message in messages], 0.0)
    return messages, session.take_outgoing(), session.state, str(session.failure), session.counters


def assert_same(cut, whole, wire):
    """All equal, but that a PUBACK still due when the broker says goodbye in the same piece is not sent any more."""
    if wire.endswith(mqtt5.DisconnectPacket().write()):
        assert cut[1].startswith(whole[1])
        cut, whole = cut[:1] + cut[2:], whole[:1] + whole[2:]
    assert cut == whole


@settings(max_examples=60)
@given(streams(), st.lists(st.integers(0, 6000), max_size=40))
def test_cuts_make_no_difference(wire, cuts):
    assert_same(replay(wire, cuts), replay(wire, []), wire)


@settings(max_examples=20)
@given(streams())
def test_one_byte_at_a_time_makes_no_difference(wire):
    assert_same(replay(wire, range(len(wire))), replay(wire, []), wire)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.data())
def test_pubacks_leave_in_the_order_received_whatever_the_order_of_release(sizes, data):
    session = Session(SMALL)
    session.connect(0.0)
    feed(session, connack() + suback())
    session.take_outgoing()
    ids = data.draw(st.permutations(range(1, len(sizes) + 1)))
    feed(
        session,
        b"".join(publish(packet_id, payload=bytes(size)) for packet_id, size in zip(ids, sizes, strict=True)),
    )
    tokens = [message.token for message in session.take_messages()]
    released = data.draw(st.lists(st.sampled_from(tokens), max_size=80))
    sent = b""
    for token in released:
        session.acknowledge([token], 0.0)
        sent += session.take_outgoing()
    acknowledged = [packet.packet_id for packet in packets(sent)]
    done = {token & 0xFFFF for token in released}
    expected = []
    for packet_id in ids:
        if packet_id not in done:
            break
        expected.append(packet_id)
    assert acknowledged == expected
    left = [size for size, packet_id in zip(sizes, ids, strict=True) if packet_id not in done]
    assert (session.queue.pending_messages, session.queue.pending_bytes) == (len(left), sum(left))


# No UTF-8 in here can reach the codec's panics: these are tested by name in test_mqtt_session.py.
@given(st.binary(max_size=300).map(lambda data: bytes(byte & 0x7F for byte in data)))
def test_noise_never_raises_and_never_grows_memory(noise):
    session = Session(SMALL)
    session.connect(0.0)
    feed(session, connack() + suback())
    for _ in range(10):
        feed(session, noise)
    assert len(session.get_buffer()) > 0
    assert all(message.gateway == "" or message.topic for message in session.take_messages())
