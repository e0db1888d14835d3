"""What a codec remembers: a value that goes in and comes out, bounded, and as bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.registry import REQUEST_TOPICS, decode_batch, decode_remembering, is_request
from telemetry.codecs.state import EMPTY, Draft, Memory, Request, pack, unpack
from telemetry.codecs.topics import matches
from telemetry.model.batch import RawMessage, Reason, Withheld
from tests.support.remembering import LIMITS, NAME, announce, registered, value

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def draft(memory: Memory = EMPTY, max_bytes: int = 10_000) -> Draft:
    return Draft("g", memory, max_bytes)


def test_a_memory_that_went_in_stays_as_it_is():
    first = Memory.of({"a": 1, "b": [2]})
    changing = draft(first)
    changing.put("a", 5)
    changing.drop("b")
    assert (first.entries, changing.close().entries) == ({"a": 1, "b": [2]}, {"a": 5})


def test_what_is_the_same_as_before_changes_nothing():
    changing = draft(Memory.of({"a": {"x": 1}}))
    assert changing.put("a", {"x": 1}) == {}
    changing.drop("never there")
    assert changing.close() is None


def test_the_entries_changed_longest_ago_are_forgotten_first():
    changing = draft(max_bytes=100)
    for key in "abc":
        assert changing.put(key, "x" * 20) == {}
    changing.put("a", "y" * 20)
    assert changing.put("d", "x" * 20) == {"b": "x" * 20}
    assert list(changing) == ["c", "a", "d"]
    assert changing.evicted == 1


def test_what_is_larger_than_all_room_is_not_remembered_and_pushes_nothing_out():
    changing = draft(Memory.of({"a": 1}), max_bytes=100)
    assert changing.put("b", "x" * 200) == {"b": "x" * 200}
    assert list(changing) == ["a"]
    assert changing.put("a", "x" * 200) == {"a": "x" * 200}  # and what it replaces is wrong from now on
    assert (list(changing), changing.evicted) == ([], 2)


@pytest.mark.parametrize("given", ["\ud800", 2**64, [["x", -(2**70)]]])
def test_what_cannot_be_stored_is_not_remembered(given: object):
    changing = draft()
    assert changing.put("a", given) == {"a": given}
    assert changing.put("\ud800", 1) == {"\ud800": 1}
    assert changing.close() is None or changing.close().entries == {}


@given(
    changes=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.none() | VALUES), max_size=30),
    max_bytes=st.integers(20, 400),
)
@settings(max_examples=300)
def test_it_stays_within_its_bound_and_survives_storage(changes: list, max_bytes: int):
    changing = draft(max_bytes=max_bytes)
    for key, given_value in changes:
        if given_value is None:
            changing.drop(key)
        else:
            changing.put(key, given_value)
    memory = changing.close() or EMPTY
    assert memory.size_bytes == Memory.of(memory.entries).size_bytes <= max_bytes
    packed = pack(memory, "some gateway", 7)
    assert len(packed) <= max_bytes + len("some gateway") + 20
    name, again = unpack(packed, 7)
    assert (name, list(again.entries.items())) == ("some gateway", list(memory.entries.items()))
    assert unpack(packed, 8) is None


@given(st.binary(max_size=60))
def test_bytes_of_others_are_no_memory(packed: bytes):
    assert unpack(packed, 999_999_937) is None


class TestInABatch:
    @pytest.fixture(autouse=True)
    def _registered(self):
        with registered():
            yield

    def test_what_is_announced_is_remembered_within_and_beyond_a_batch(self):
        batch = decode_remembering([announce("1", "INV1"), value("1", 5), value("1", 6)], LIMITS, lambda *_: EMPTY)
        assert batch.decoded.rows.select("message", "serial", "ac_power_w").rows() == [(1, "INV1", 5), (2, "INV1", 6)]
        memory = batch.memories["g", NAME]
        later = decode_remembering([value("1", 7)], LIMITS, lambda *_: memory)
        assert later.decoded.rows["serial"].to_list() == ["INV1"]
        assert later.memories == {}

    def test_gateways_know_nothing_of_each_other(self):
        messages = [announce("1", "INV1", "g"), value("1", 5, "other"), announce("1", "INV2", "other")]
        batch = decode_remembering(messages, LIMITS, lambda *_: EMPTY)
        assert [(one.message, one.reason) for one in batch.decoded.rejections] == [(1, Reason.MALFORMED)]
        assert {key: dict(memory.entries) for key, memory in batch.memories.items()} == {
            ("g", NAME): {"1": "INV1"},
            ("other", NAME): {"1": "INV2"},
        }
        assert batch.requests == [Request("other", "R/toy/keepalive", b"who")]

    def test_retained_values_are_state_and_only_what_configures_is_looked_at(self):
        given = value("1", 5)._replace(retained=True)
        batch = decode_remembering([announce("1", "INV1"), given], LIMITS, lambda *_: EMPTY)
        assert batch.decoded.withheld_rows == {Withheld.RETAINED: 1}
        assert batch.decoded.rows.height == 0
        assert ("g", NAME) in batch.memories

    def test_without_memories_it_decodes_what_it_can(self):
        assert decode_batch([announce("1", "INV1"), value("1", 5)], LIMITS).rows.height == 1

    def test_the_limit_is_that_of_the_configuration(self):
        small = CodecLimits(max_state_bytes=50)
        messages = [announce(str(number), f"INV{number:08}") for number in range(5)]
        batch = decode_remembering(messages, small, lambda *_: EMPTY)
        assert batch.evicted == 3
        assert list(batch.memories["g", NAME].entries) == ["3", "4"]

    def test_our_own_requests_come_back_and_count_as_nothing(self):
        asked = [RawMessage("g", "R/abc/keepalive", b"", 0, 0)]
        decoded = decode_batch(asked, LIMITS)
        assert (decoded.rows.height, decoded.rejections, decoded.withheld_rows) == (0, [], {})


def test_requests_go_only_where_the_registry_says():
    assert is_request("R/abc/keepalive")
    assert not is_request("R/abc/system/0/Serial")
    assert not any(pattern.endswith("#") for pattern in REQUEST_TOPICS)


@pytest.mark.parametrize(
    ("pattern", "topic", "fits"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a//c", True),
        ("a/+/c", "a/b/d", False),
        ("a/+/c", "a/b", False),
        ("+/+/0/#", "solar/1164/0/power", True),
        ("+/+/0/#", "solar/1164/1/power", False),
        ("+/+/0/#", "solar", False),
        ("#", "", True),
        ("#", "a/b", True),
        ("+", "", True),
    ],
)
def test_topic_patterns(pattern: str, topic: str, fits: bool):
    assert matches(pattern, topic) is fits
