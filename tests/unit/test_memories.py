"""Memories between batches: decoded again as the first time, the newest version last, sealed, and loaded again."""

import pytest

from telemetry.errors import KeystoreError, UnsealError
from telemetry.model.batch import CodecState
from telemetry.pipeline.memories import Memories, Turn
from telemetry.privacy.states import STATE_OVERHEAD_BYTES, StateSealer
from tests.support.remembering import LIMITS, NAME, announce, registered, value

SEALER = StateSealer(bytes(range(32)))


@pytest.fixture(autouse=True)
def _registered():
    with registered():
        yield


def turn_of(memories: Memories, messages: list, again: Turn | None = None, key: int = 7):
    return memories.decode(messages, [key] * len(messages), LIMITS, again)


def entries(turn: Turn) -> dict:
    return dict(turn.left[7, NAME].memory.entries)


def test_each_batch_starts_where_the_one_before_ended():
    memories = Memories(SEALER)
    _, first = turn_of(memories, [announce("1", "INV1")])
    batch, second = turn_of(memories, [value("1", 5), announce("2", "INV2")])
    assert batch.decoded.rows["serial"].to_list() == ["INV1"]
    assert entries(second) == {"1": "INV1", "2": "INV2"}
    assert second.left[7, NAME].version > first.left[7, NAME].version


def test_decoded_again_it_is_as_the_first_time_though_others_came_in_between():
    memories = Memories(SEALER)
    turn_of(memories, [announce("1", "INV1")])
    messages = [value("1", 5), announce("1", "INV2"), value("1", 6)]
    batch, turn = turn_of(memories, messages)
    _, later = turn_of(memories, [announce("1", "INV3")])
    again, turn_again = turn_of(memories, messages, turn)
    assert again.decoded.rows.equals(batch.decoded.rows)
    assert again.decoded.rows["serial"].to_list() == ["INV1", "INV2"]
    assert turn_again.left == turn.left
    assert turn.left[7, NAME].version < later.left[7, NAME].version
    newest, _ = turn_of(memories, [value("1", 7)])
    assert newest.decoded.rows["serial"].to_list() == ["INV3"]


def test_parts_of_a_batch_end_where_the_whole_did():
    memories = Memories(SEALER)
    messages = [announce("1", "INV1"), value("1", 5), announce("2", "INV2"), value("1", 6), announce("1", "INV3")]
    whole, turn = turn_of(memories, messages)
    turn_of(memories, [announce("1", "INV4")])
    serials, current = [], turn
    for part in (messages[:2], messages[2:4], messages[4:]):
        batch, of_part = turn_of(memories, part, current)
        serials += batch.decoded.rows["serial"].to_list()
        current = current.after(of_part)
    assert serials == whole.decoded.rows["serial"].to_list()
    assert of_part.left == turn.left


def test_what_stands_follows_the_newest_memory_whichever_batch_is_decoded_again():
    memories = Memories(SEALER)
    first = [announce("1", "INV1")]
    _, turn = turn_of(memories, first)
    turn_of(memories, [announce("1", "")])  # gone
    _, again = turn_of(memories, first, turn)
    assert memories.standing(again) == {("g", NAME): ()}


def test_a_gateway_that_becomes_known_between_two_preparations_is_remembered():
    memories = Memories(SEALER)
    _, turn = turn_of(memories, [announce("1", "INV1")], key=0)
    assert memories.standing(turn) == {}
    _, again = turn_of(memories, [announce("1", "INV1")], turn)
    assert entries(again) == {"1": "INV1"}
    assert len(memories.standing(again)["g", NAME]) == 1


def test_versions_follow_the_time_of_receipt_and_always_grow():
    memories = Memories(SEALER)
    versions = [
        turn_of(memories, [announce("1", serial, at=at)])[1].left[7, NAME].version
        for serial, at in (("A", 1_000), ("B", 5_000), ("C", 2_000), ("D", 2_001))
    ]
    assert versions == [1_000, 5_000, 5_001, 5_002]


def test_nothing_is_remembered_of_gateways_that_do_not_speak():
    memories = Memories(SEALER)
    _, turn = turn_of(memories, [announce("1", "INV1")], key=0)
    assert turn.left == {}
    batch, _ = turn_of(memories, [value("1", 5)], key=0)
    assert batch.decoded.rows.height == 0


def test_a_gateway_revoked_between_two_preparations_leaves_nothing():
    memories = Memories(SEALER)
    _, turn = turn_of(memories, [announce("1", "INV1")])
    assert len(memories.seal(turn, [7])) == 1
    assert memories.seal(turn, [0]) == []


def test_forgotten_is_forgotten():
    memories = Memories(SEALER)
    turn_of(memories, [announce("1", "INV1")])
    assert memories.forget([7, 8]) == [("g", NAME)]
    batch, _ = turn_of(memories, [value("1", 5)])
    assert batch.decoded.rows.height == 0


def test_a_restarted_worker_knows_what_the_one_before_stored():
    memories = Memories(SEALER)
    _, turn = turn_of(memories, [announce("1", "INV1")])
    (state,) = memories.seal(turn, [7])
    started = Memories(SEALER)
    assert started.load([state]) == 0
    batch, _ = turn_of(started, [value("1", 5)])
    assert batch.decoded.rows["serial"].to_list() == ["INV1"]
    assert started.standing() == memories.standing()
    assert [one.topic for one in started.standing()["g", NAME]] == ["R/toy/keepalive"]


def test_what_is_stored_holds_no_identifier_in_clear():
    memories = Memories(SEALER)
    _, turn = turn_of(memories, [announce("alias-canary", "INV-canary", gateway="gateway-canary")])
    (state,) = memories.seal(turn, [7])
    assert b"canary" not in state.sealed
    assert "canary" not in repr(turn) + repr(turn.left) + repr(memories) + repr(SEALER)


@pytest.mark.parametrize(
    "change",
    [
        {"gateway_key": 8},
        {"version": 2},
        {"codec": "unheard-of"},
        {"codec": "native-json"},
        {"sealed": b""},
        {"sealed": b"\x01" + bytes(60)},
    ],
)
def test_states_that_do_not_belong_are_of_no_use(change: dict):
    memories = Memories(SEALER)
    _, turn = turn_of(memories, [announce("1", "INV1")])
    (state,) = memories.seal(turn, [7])
    given = {"gateway_key": 7, "codec": NAME, "version": state.version, "sealed": state.sealed} | change
    assert Memories(SEALER).load([CodecState(**given)]) == 1
    assert Memories(StateSealer(bytes(32))).load([state]) == 1


def test_a_retry_reads_and_learns_nothing():
    memories = Memories(SEALER)
    _, turn = turn_of(memories, [announce("1", "INV1")])
    retry = Memories(SEALER, learns=False)
    retry.load(memories.seal(turn, [7]))
    batch, turn = turn_of(retry, [value("1", 5), announce("1", "INV2")])
    assert batch.decoded.rows["serial"].to_list() == ["INV1"]
    assert turn.left == {}
    batch, _ = turn_of(retry, [value("1", 5)])
    assert batch.decoded.rows["serial"].to_list() == ["INV1"]


class TestSealing:
    def test_every_flipped_bit_is_noticed(self):
        sealed = SEALER.seal(b"a state", gateway_key=-5, codec="x", version=9)
        assert len(sealed) == len(b"a state") + STATE_OVERHEAD_BYTES
        assert SEALER.open(sealed, gateway_key=-5, codec="x", version=9) == b"a state"
        for position in range(len(sealed) * 8):
            changed = bytearray(sealed)
            changed[position // 8] ^= 1 << position % 8
            with pytest.raises(UnsealError):
                SEALER.open(bytes(changed), gateway_key=-5, codec="x", version=9)

    @pytest.mark.parametrize("other", [{"gateway_key": 5}, {"codec": "y"}, {"version": 10}])
    def test_a_state_opens_in_its_own_place_only(self, other: dict):
        place = {"gateway_key": -5, "codec": "x", "version": 9}
        sealed = SEALER.seal(b"a state", **place)
        with pytest.raises(UnsealError):
            SEALER.open(sealed, **(place | other))

    def test_a_key_of_another_length_is_refused(self):
        with pytest.raises(KeystoreError):
            StateSealer(bytes(31))


def test_what_came_before_the_gateway_was_known_is_not_forgotten():
    """The first three batches of a new gateway come before its key; they are decoded again amid later ones."""
    memories = Memories(SEALER)
    one, two, three = [announce("1", "INV1", at=1)], [announce("2", "INV2", at=2)], [announce("3", "INV3", at=3)]
    turns = [memories.decode(batch, [None], LIMITS)[1] for batch in (one, two, three)]
    assert [turn.left for turn in turns] == [{}, {}, {}]
    _, first = turn_of(memories, one, turns[0])
    assert entries(first) == {"1": "INV1"}
    batch, fourth = turn_of(memories, [value("3", 5, at=4), announce("4", "INV4", at=4)])
    assert batch.decoded.rows["serial"].to_list() == ["INV3"]
    assert entries(fourth) == {"1": "INV1", "2": "INV2", "3": "INV3", "4": "INV4"}
    _, second = turn_of(memories, two, turns[1])
    _, third = turn_of(memories, three, turns[2])
    assert entries(third) == {"1": "INV1", "2": "INV2", "3": "INV3"}
    versions = [turn.left[7, NAME].version for turn in (first, second, third, fourth)]
    assert versions == sorted(set(versions))
    batch, _ = turn_of(memories, [value("4", 6, at=5)])
    assert batch.decoded.rows["serial"].to_list() == ["INV4"]


def test_without_a_key_memory_is_short_and_bounded():
    memories = Memories(SEALER)
    memories.decode([announce("1", "INV1", at=1)], [None], LIMITS)
    batch, _ = memories.decode([value("1", 5, at=61_000_002)], [None], LIMITS)
    assert batch.decoded.rows.is_empty()
    for number in range(200):
        memories.decode([announce("1", "INV1", gateway=f"g{number}", at=1)], [None], LIMITS)
    assert len(memories._nameless) == 64
    assert memories.seal(memories.decode([announce("1", "INV2")], [None], LIMITS)[1], [0]) == []
