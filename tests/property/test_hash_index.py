"""The index equals a dictionary, whatever is put in, taken out and looked up, crowded cells included."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from telemetry.privacy.hashindex import HashIndex

# Words of few distinct values, with the same upper bits: they meet in the same cells.
WORDS = st.tuples(st.integers(0, 40).map(lambda n: n | (n % 3) << 62), st.integers(0, 3))


def column(pairs: list[tuple[int, int]], which: int) -> "np.typing.NDArray[np.uint64]":
    return np.array([pair[which] for pair in pairs], np.uint64)


class IndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = HashIndex()
        self.model: dict[tuple[int, int], int] = {}
        self.next_slot = 1

    @rule(pairs=st.lists(WORDS, unique=True, max_size=60))
    def insert(self, pairs: list[tuple[int, int]]) -> None:
        new = [pair for pair in pairs if pair not in self.model and pair != (0, 0)]
        slots = list(range(self.next_slot, self.next_slot + len(new)))
        self.next_slot += len(new)
        self.index.insert(np.array(slots, np.int32), column(new, 0), column(new, 1))
        self.model |= dict(zip(new, slots, strict=True))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.model:
            pair = data.draw(st.sampled_from(sorted(self.model)))
            self.index.remove(self.model.pop(pair))

    @rule()
    def remove_what_is_not_there(self) -> None:
        self.index.remove(self.next_slot + 5000)

    @rule()
    def clear(self) -> None:
        self.index.clear()
        self.model = {}

    @rule(entries=st.integers(0, 2000))
    def resize(self, entries: int) -> None:
        self.index._resize(max(entries, len(self.model)))

    @invariant()
    def equals_the_dictionary(self) -> None:
        pairs = [(n | (n % 3) << 62, second) for n in range(41) for second in range(4)]
        found = self.index.lookup(column(pairs, 0), column(pairs, 1))
        assert found.tolist() == [self.model.get(pair, 0) for pair in pairs]


IndexMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestHashIndex = IndexMachine.TestCase


def test_a_full_round_trip_at_a_hundred_thousand() -> None:
    generator = np.random.default_rng(5)
    first, second = generator.integers(0, 2**64, (2, 100_000), dtype=np.uint64)
    index = HashIndex()
    slots = np.arange(1, 100_001, dtype=np.int32)
    for part in np.array_split(np.arange(100_000), 7):
        index.insert(slots[part], first[part], second[part])
    assert (index.lookup(first, second) == slots).all()
    assert not index.lookup(first, second + np.uint64(1)).any()
    assert not index.lookup(first + np.uint64(1), second).any()
