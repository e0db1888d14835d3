"""The MQTT 5 state machine, without a socket. Sections are those of MQTT 5.0 (OASIS, 7 March 2019)."""

import mqtt5
import pytest

from telemetry.errors import SourceRefused, SourceUnavailable
from telemetry.sources.mqtt_packets import SessionSettings
from telemetry.sources.mqtt_session import Session, State
from tests.support.mqtt_wire import (
    NOW_US,
    connack,
    connected,
    disconnect,
    feed,
    packets,
    puback,
    publish,
    suback,
)


def tokens(session):
    return [message.token for message in session.take_messages()]


def only_packet(data):
    (packet,) = packets(data)
    return packet


class TestConnecting:
    def test_connect_asks_for_the_session_and_states_our_limits(self):
        """3.1.2.4 Clean Start, 3.1.2.11.2 expiry, .3 Receive Maximum, .4 Maximum Packet Size, .5 aliases."""
        session = Session(
            SessionSettings(
                "worker", username="u", password=b"p", receive_maximum=77, max_message_bytes=1000, keep_alive_s=30
            )
        )
        session.connect(0.0)
        packet = only_packet(session.take_outgoing())
        assert (packet.client_id, packet.username, packet.password) == ("worker", "u", b"p")
        assert packet.clean_start is False
        assert packet.session_expiry_interval == 7 * 86400
        assert packet.receive_max == 77
        assert packet.max_packet_size == 1000 + 128 * 1024
        assert packet.topic_alias_max == 0
        assert packet.keep_alive == 30
        assert packet.request_problem_info is False

    def test_the_password_is_in_no_representation(self):
        assert "hunter2" not in repr(SessionSettings("worker", password=b"hunter2"))

    def test_connack_is_followed_by_subscribe(self):
        """3.8.3.1: QoS 1, No Local, retained messages only for a new subscription and only then marked."""
        session = Session(SessionSettings("worker", topics=("gw/#", "$share/g/other/#")))
        session.connect(0.0)
        session.take_outgoing()
        feed(session, connack())
        ours, shared = only_packet(session.take_outgoing()).topic_filters
        assert (ours.pattern, ours.max_qos == 1, ours.no_local) == ("gw/#", True, True)
        assert ours.retain_as_published is False
        assert ours.retain_handling == mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS
        assert shared.no_local is False  # a protocol error on a shared subscription

    @pytest.mark.parametrize("code", [0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C])
    def test_a_connack_that_trying_again_cannot_mend_is_refused(self, code):
        session = Session(SessionSettings("worker"))
        session.connect(0.0)
        feed(session, connack(reason_code=mqtt5.ConnAckReasonCode(code)))
        assert isinstance(session.failure, SourceRefused)
        assert session.failure.remedy
        assert f"0x{code:02x}" in str(session.failure)

    @pytest.mark.parametrize("code", [0x80, 0x88, 0x89, 0x97, 0x9F])
    def test_any_other_refusal_is_tried_again(self, code):
        session = Session(SessionSettings("worker"))
        session.connect(0.0)
        feed(session, connack(reason_code=mqtt5.ConnAckReasonCode(code)))
        assert isinstance(session.failure, SourceUnavailable)

    @pytest.mark.parametrize("code", [0x00, 0x80, 0x87, 0x9E])
    def test_a_subscription_that_is_not_granted_at_qos_1_is_refused(self, code):
        session = Session(SessionSettings("worker"))
        session.connect(0.0)
        feed(session, connack() + suback(code))
        assert isinstance(session.failure, SourceRefused)

    def test_a_broker_without_qos_1_is_refused(self):
        """3.2.2.3.4 Maximum QoS."""
        session = Session(SessionSettings("worker"))
        session.connect(0.0)
        feed(session, connack(max_qos=mqtt5.QoS.AT_MOST_ONCE))
        assert isinstance(session.failure, SourceRefused)

    def test_a_message_before_connack_ends_the_connection(self):
        """3.2: CONNACK is the first packet from the server."""
        session = Session(SessionSettings("worker"))
        session.connect(0.0)
        feed(session, publish(1))
        assert isinstance(session.failure, SourceUnavailable)
        assert not session.take_messages()

    def test_no_connack_in_time(self):
        session = Session(SessionSettings("worker", connect_timeout_s=10.0))
        session.connect(100.0)
        session.tick(109.9)
        assert session.failure is None
        session.tick(110.0)
        assert isinstance(session.failure, SourceUnavailable)


class TestReceiving:
    def test_a_message(self):
        session = connected()
        properties = [("seq", "41"), ("stream", "boot-7"), ("other", "x")]
        wire = publish(9, "gw/home-0001/a/b", b"[1]", content_type="application/json", user_properties=properties)
        feed(session, wire)
        (message,) = session.take_messages()
        assert (message.gateway, message.topic, message.payload) == ("home-0001", "a/b", b"[1]")
        assert (message.content_type, message.sequence, message.stream) == ("application/json", 41, "boot-7")
        assert message.received_us == NOW_US
        assert message.retained is False
        assert message.token & 0xFFFF == 9
        assert not session.take_messages()

    def test_retained_state_is_marked(self):
        session = connected()
        feed(session, publish(1, retain=True))
        assert session.take_messages()[0].retained is True

    @pytest.mark.parametrize("topic", ["other/home-0001/readings", "gw", "gw/home-0001", "gw//readings", "gw/h/", "x"])
    def test_what_is_not_under_a_gateway_still_arrives(self, topic):
        """It is quarantined and acknowledged; dropped silently it would be lost, unacknowledged it would stall."""
        session = connected()
        feed(session, publish(1, topic))
        (message,) = session.take_messages()
        assert (message.gateway, message.topic) == ("", topic)

    @pytest.mark.parametrize(
        ("properties", "expected"),
        [
            ([("seq", "1")], (1, "")),
            ([("stream", "s")], (-1, "")),
            ([("seq", "0"), ("stream", "s")], (-1, "")),
            ([("seq", "-1"), ("stream", "s")], (-1, "")),
            ([("seq", "1.5")], (-1, "")),
            ([("seq", "")], (-1, "")),
            ([("seq", "٣")], (-1, "")),
            ([("seq", str(2**63 - 1))], (2**63 - 1, "")),
            ([("seq", str(2**63))], (-1, "")),
            ([("seq", "9" * 4000)], (-1, "")),
            ([("seq", "1"), ("stream", "s" * 129)], (-1, "")),
        ],
    )
    def test_sequence_numbers_are_bounded(self, properties, expected):
        session = connected()
        feed(session, publish(1, user_properties=properties))
        (message,) = session.take_messages()
        assert (message.sequence, message.stream) == expected

    def test_our_own_watermark_is_dropped_and_acknowledged_at_its_turn(self):
        session = connected()
        feed(session, publish(1) + publish(2, "gw/home-0001/committed") + publish(3))
        first, third = tokens(session)
        assert session.counters.watermarks_returned == 1
        session.acknowledge([third], 0.0)
        assert session.take_outgoing() == b""
        session.acknowledge([first], 0.0)
        assert session.take_outgoing() == puback(1, 2, 3)

    def test_a_lone_watermark_is_acknowledged_at_once(self):
        session = connected()
        feed(session, publish(5, "gw/home-0001/committed"))
        assert session.take_outgoing() == puback(5)

    def test_qos_0_is_accepted_and_never_acknowledged(self):
        session = connected()
        feed(session, publish(0, payload=b"12345") + publish(0, payload=b"1"))
        received = tokens(session)
        assert session.queue.pending_bytes == 6
        session.acknowledge(received, 0.0)
        assert session.take_outgoing() == b""
        assert session.queue.pending_bytes == session.queue.pending_messages == 0


class TestBreaches:
    """4.13: what the broker may not send ends the connection with a reason, and is tried again."""

    @pytest.mark.parametrize(
        ("wire", "code"),
        [
            (mqtt5.PublishPacket("gw/a/b", b"", qos=mqtt5.QoS.EXACTLY_ONCE, packet_id=1).write(), 0x9B),
            (publish(1, topic_alias=1), 0x94),
            (b"\x32\x0a\x00\x03a/b\x00\x00\x00xx", 0x82),  # packet id 0 at QoS 1 (2.2.1)
            (publish(1) + publish(1), 0x82),  # a packet id in use
            (b"\xf0\xff\xff\xff\xff", 0x81),  # a length of five bytes (1.5.5)
            (b"\x20\x03\x00\x33\x00", 0x81),  # no such reason code
            (b"\x00\x00", 0x81),  # packet type 0 (2.1.2)
            (mqtt5.ConnectPacket("x").write(), 0x82),
            (connack(), 0x82),  # a second CONNACK
            (b"\x32" + b"\xff\xff\xff\x7f", 0x95),  # above our Maximum Packet Size (3.1.2.11.4)
        ],
    )
    def test_disconnect_names_the_breach(self, wire, code):
        session = connected()
        feed(session, wire)
        assert isinstance(session.failure, SourceUnavailable)
        assert session.state is State.CLOSED
        *_, packet = packets(session.take_outgoing())
        assert int(packet.reason_code) == code

    def test_nothing_is_read_after_a_breach(self):
        session = connected()
        feed(session, b"\x00\x00" + publish(1))
        feed(session, publish(2))
        assert not session.take_messages()
        assert len(session.get_buffer()) > 0

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the codec panics
    @pytest.mark.parametrize(
        "broken",
        [
            b"\x32\x0c\x00\x03\xff/b\x00\x07\x00abcd",  # a topic that is no UTF-8 (1.5.4)
            b"\x32\x0e\x00\x03a/b\x00\x07\x05\x03\x00\x02\xff\xff\x61",  # nor a content type
            b"\x32\x08\x00\x03a/b\x00\x07\x40",  # properties beyond the packet's end
        ],
    )
    def test_a_poison_publish_costs_only_itself(self, broken):
        """Ending the connection would bring it back at every reconnection, and nothing behind it ever."""
        session = connected()
        feed(session, publish(6) + broken + publish(8))
        before, poison, after = session.take_messages()
        assert (poison.gateway, poison.topic, poison.payload) == ("", "", broken)
        assert session.counters.unreadable == 1
        session.acknowledge([before.token, poison.token, after.token], 0.0)
        assert session.take_outgoing() == puback(6, 7, 8)


class TestAcknowledging:
    def test_in_the_order_received_however_released(self):
        """4.6: PUBACKs in the order in which the PUBLISHes came."""
        session = connected()
        feed(session, b"".join(publish(packet_id) for packet_id in (3, 1, 2, 9)))
        three, one, two, nine = tokens(session)
        session.acknowledge([nine, one], 0.0)
        assert session.take_outgoing() == b""
        session.acknowledge([three], 0.0)
        assert session.take_outgoing() == puback(3, 1)
        session.acknowledge([two], 0.0)
        assert session.take_outgoing() == puback(2, 9)

    def test_a_token_counts_once(self):
        session = connected()
        feed(session, publish(1) + publish(2))
        one, two = tokens(session)
        session.acknowledge([one, one], 0.0)
        session.acknowledge([one, two, 999_999_999], 0.0)
        assert session.take_outgoing() == puback(1, 2)
        assert session.queue.pending_bytes == 0

    def test_a_packet_id_may_come_again_after_its_puback(self):
        session = connected()
        for _ in range(3):
            feed(session, publish(1))
            session.acknowledge(tokens(session), 0.0)
            assert session.take_outgoing() == puback(1)

    def test_an_earlier_connection_s_token_acknowledges_nothing(self):
        """2.2.1: packet ids belong to a session's connection; after its loss they name strangers."""
        session = connected()
        feed(session, publish(1) + publish(2))
        old_one, old_two = tokens(session)
        session.connection_lost()
        connected(session=session, session_present=True)
        feed(session, publish(1, payload=b"another"))
        (new_one,) = tokens(session)
        session.acknowledge([old_one, old_two], 0.0)
        assert session.take_outgoing() == b""
        assert session.queue.pending_bytes == len(b"another")
        session.acknowledge([new_one], 0.0)
        assert session.take_outgoing() == puback(1)

    def test_nothing_is_written_while_disconnected(self):
        session = connected()
        feed(session, publish(1))
        received = tokens(session)
        session.connection_lost()
        session.acknowledge(received, 0.0)
        assert session.take_outgoing() == b""


class TestReconnecting:
    def test_copies_that_come_again_are_dropped(self):
        session = connected()
        feed(session, publish(1) + publish(0) + publish(2))
        session.connection_lost()
        connected(session=session, session_present=True)
        feed(session, publish(1, duplicate=True) + publish(2, duplicate=True))
        assert [token & 0xFFFF for token in tokens(session)] == [0, 1, 2]
        assert session.counters.stale_dropped == 2
        assert session.queue.pending_messages == 3

    def test_with_the_session_lost_nothing_comes_again_so_nothing_is_dropped(self):
        """3.2.2.1.1 Session Present 0."""
        session = connected()
        feed(session, publish(1) + publish(2))
        session.connection_lost()
        connected(session=session, session_present=False)
        received = tokens(session)
        assert [token & 0xFFFF for token in received] == [1, 2]
        assert session.counters.sessions_lost == 1
        session.acknowledge(received, 0.0)
        assert session.take_outgoing() == b""
        assert session.queue.pending_messages == 0

    def test_half_a_packet_of_the_old_connection_is_forgotten(self):
        session = connected()
        feed(session, publish(1)[:5])
        session.connection_lost()
        connected(session=session)
        feed(session, publish(2))
        assert [token & 0xFFFF for token in tokens(session)] == [2]

    def test_the_first_connection_loses_no_session(self):
        assert connected(session_present=False).counters.sessions_lost == 0

    def test_taken_over(self):
        session = connected()
        feed(session, disconnect(0x8E))
        assert session.taken_over
        assert isinstance(session.failure, SourceUnavailable)

    def test_the_broker_shuts_down(self):
        session = connected()
        feed(session, disconnect(0x8B))
        assert not session.taken_over
        assert "server_shutting_down" in str(session.failure)

    def test_goodbye_keeps_the_session(self):
        session = connected()
        session.disconnect()
        packet = only_packet(session.take_outgoing())
        assert int(packet.reason_code) == 0
        assert packet.session_expiry_interval is None


class TestBackPressure:
    def test_by_bytes_until_below_three_quarters(self):
        session = connected(max_pending_bytes=1000)
        feed(session, b"".join(publish(packet_id, payload=bytes(250)) for packet_id in range(1, 5)))
        received = tokens(session)
        assert session.wants_data(0.0)
        feed(session, publish(5, payload=b"x"))
        received += tokens(session)
        assert not session.wants_data(0.0)
        session.acknowledge(received[:1], 0.0)
        assert not session.wants_data(0.0)  # 751 bytes
        session.acknowledge(received[4:], 0.0)
        assert session.wants_data(0.0)

    def test_by_messages_where_receive_maximum_does_not_bind(self):
        """QoS 0 is not under Receive Maximum (4.9)."""
        session = connected(receive_maximum=4)
        feed(session, publish(0) * 5)
        received = tokens(session)
        assert not session.wants_data(0.0)
        session.acknowledge(received[:2], 0.0)
        assert session.wants_data(0.0)

    def test_a_new_connection_is_read_until_connack_though_the_old_one_filled_memory(self):
        session = connected(max_pending_bytes=1000)
        feed(session, publish(1, payload=bytes(1001)))
        received = tokens(session)
        assert not session.wants_data(0.0)
        session.connection_lost()
        session.connect(0.0)
        assert session.wants_data(0.0)
        feed(session, connack(session_present=True))
        assert not session.wants_data(0.0)
        session.acknowledge(received, 0.0)
        assert session.wants_data(0.0)


class TestKeepAlive:
    """3.1.2.10, 3.12."""

    def test_a_quiet_connection_is_pinged_and_given_up(self):
        session = connected(keep_alive_s=40)
        session.tick(29.9)
        assert session.take_outgoing() == b""
        session.tick(30.0)
        assert session.take_outgoing() == b"\xc0\x00"
        session.tick(49.9)
        assert session.failure is None
        session.tick(50.0)
        assert isinstance(session.failure, SourceUnavailable)
        assert int(only_packet(session.take_outgoing()).reason_code) == 0x8D

    @pytest.mark.parametrize("answer", [b"\xd0\x00", publish(1)])
    def test_whatever_the_broker_sends_is_an_answer(self, answer):
        session = connected(keep_alive_s=40)
        session.tick(30.0)
        feed(session, answer, now=49.0)
        session.tick(50.0)
        assert session.failure is None

    def test_acknowledgements_do_not_hide_a_silent_broker(self):
        session = connected(keep_alive_s=40)
        feed(session, b"".join(publish(packet_id) for packet_id in range(1, 9)))
        for second, token in zip(range(10, 90, 10), tokens(session), strict=True):
            session.acknowledge([token], float(second))
            session.tick(float(second))
        assert session.failure is not None

    def test_while_reading_is_paused_pings_go_out_and_no_answer_is_missed(self):
        session = connected(keep_alive_s=40, max_pending_bytes=10)
        feed(session, publish(1, payload=bytes(11)))
        received = tokens(session)
        assert not session.wants_data(0.0)
        pings = 0
        for second in range(1, 400):
            session.tick(float(second))
            pings += session.take_outgoing().count(b"\xc0\x00")
        assert session.failure is None
        assert pings >= 10
        session.acknowledge(received, 400.0)
        assert session.wants_data(400.0)
        session.tick(401.0)
        assert session.failure is None

    def test_the_broker_s_interval_wins(self):
        """3.2.2.3.14 Server Keep Alive."""
        session = Session(SessionSettings("worker", keep_alive_s=40))
        session.connect(0.0)
        feed(session, connack(server_keep_alive=8) + suback())
        session.take_outgoing()
        session.tick(6.0)
        assert session.take_outgoing() == b"\xc0\x00"


class TestPublishing:
    def test_qos_0(self):
        session = connected()
        assert session.publish("gw/home-0001/committed", b"{}", 0.0, retain=True)
        packet = only_packet(session.take_outgoing())
        assert (packet.topic, packet.payload, packet.qos == 0, packet.retain) == (
            "gw/home-0001/committed",
            b"{}",
            True,
            True,
        )

    def test_dropped_and_counted_while_disconnected_or_above_the_broker_s_limit(self):
        """3.2.2.3.6 Maximum Packet Size."""
        session = Session(SessionSettings("worker"))
        assert not session.publish("a", b"", 0.0)
        session.connect(0.0)
        feed(session, connack(max_packet_size=64) + suback())
        session.take_outgoing()
        assert session.publish("a", bytes(32), 0.0)
        assert not session.publish("a", bytes(100), 0.0)
        assert session.counters.publishes_dropped == 2


def test_errors_never_hold_what_the_broker_said():
    session = Session(SessionSettings("worker"))
    session.connect(0.0)
    feed(
        session,
        connack(reason_code=mqtt5.ConnAckReasonCode.NOT_AUTHORIZED, reason_str="client home-0001 is not known"),
    )
    assert "home-0001" not in str(session.failure)
