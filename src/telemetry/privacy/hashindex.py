"""An index from 128-bit words to small integers, looked up a whole column at a time.

Open addressing with linear probing, in numpy: a table of slot numbers, and for every slot the two 64-bit words it
stands for. A lookup gathers the slot at each word's position, compares both words, and goes on with only those
rows that met a stranger; after a few rounds none is left. Words must be uniformly distributed (a keyed hash, an
HMAC, random keys), because their upper bits are the position.

Memory: 4 bytes a cell, with three to six cells an entry, and 16 bytes a slot, side by side because what a lookup
pays for is cache lines. One thread at a time.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Slots = npt.NDArray[np.int32]

_EMPTY: Final = 0
_REMOVED: Final = -1  # a removed entry's cell: a search walks on over it
_SMALLEST: Final = 1024  # cells
_LOAD: Final = 3  # cells an entry, at least


class HashIndex:
    """Maps two uint64 words to a slot, an int32 from 1 up; 0 stands for "not there"."""

    __slots__ = ("_cells", "_shift", "_used", "_words")

    def __init__(self, slots: int = 0) -> None:
        self._words: Words = np.zeros((slots + 1, 2), np.uint64)
        self._used = 0  # cells that are not empty
        self._resize(slots)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self._cells.nbytes + self._words.nbytes

    def lookup(self, first: Words, second: Words) -> Slots:
        """The slot of every pair of words, 0 where there is none. Any length n, result int32[n]."""
        found, pending = self.probe(first, second)
        if pending.size:
            found[pending] = self.resume(first[pending], second[pending])
        return found

    def probe(self, first: Words, second: Words) -> tuple[Slots, npt.NDArray[np.int64]]:
        """The first round of a lookup: slots, and the indices of those that `resume` must settle (0 until then).

        Callers who go through a column in blocks that fit the cache resume once, for all blocks together.
        """
        found = self._cells.take(self._position(first))
        hit = self._matches(found, first, second)
        pending = np.flatnonzero(hit < (found != _EMPTY))
        found[pending] = _EMPTY
        return found, pending

    def resume(self, first: Words, second: Words) -> Slots:
        """The further rounds of a lookup, for words that met a stranger in the first."""
        found = np.zeros(first.size, np.int32)
        pending = np.arange(first.size)
        position = self._position(first)
        while pending.size:
            position = self._next(position)
            cell = self._cells.take(position)
            walk = self._matches(cell, first, second) < (cell != _EMPTY)
            found[pending] = np.where(walk, _EMPTY, cell)
            pending, position, first, second = pending[walk], position[walk], first[walk], second[walk]
        return found

    def insert(self, slots: Slots, first: Words, second: Words) -> None:
        """Add entries. No slot and no pair of words may be there already, nor twice among the arguments."""
        if not slots.size:
            return
        self._reserve_slots(int(slots.max()))
        if (self._used + slots.size) * _LOAD > self._cells.size:
            self._resize(self._live().size + slots.size)
        self._words[slots, 0], self._words[slots, 1] = first, second
        self._place(slots)

    def remove(self, slot: int) -> None:
        """Take one entry out; nothing happens where it is not in."""
        position = int(self._words[slot, 0] >> self._shift) if slot < len(self._words) else 0
        mask = self._cells.size - 1
        while (cell := int(self._cells[position])) != _EMPTY:
            if cell == slot:
                self._cells[position] = _REMOVED
                self._words[slot] = 0
                return
            position = (position + 1) & mask

    def clear(self) -> None:
        """Take all entries out."""
        self._cells[:] = _EMPTY
        self._used = 0

    def _matches(self, cell: Slots, first: Words, second: Words) -> npt.NDArray[np.bool_]:
        # clip turns _REMOVED into slot 0, whose words are never set
        words = self._words.take(cell, axis=0, mode="clip")
        hit: npt.NDArray[np.bool_] = words[:, 0] == first
        hit &= words[:, 1] == second
        hit &= cell > 0
        return hit

    def _position(self, first: Words) -> npt.NDArray[np.int64]:
        return (first >> self._shift).view(np.int64)

    def _next(self, position: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return (position + 1) & (self._cells.size - 1)

    def _live(self) -> Slots:
        return self._cells[self._cells > 0]

    def _reserve_slots(self, highest: int) -> None:
        if highest >= len(self._words):
            larger = np.zeros((max(highest + 1, 2 * len(self._words)), 2), np.uint64)
            larger[: len(self._words)] = self._words
            self._words = larger

    def _resize(self, entries: int) -> None:
        """Rebuild with three to six cells an entry; removed cells disappear."""
        live = self._live() if self._used else np.zeros(0, np.int32)
        bits = (max(_SMALLEST, entries * _LOAD) - 1).bit_length()
        self._cells: Slots = np.zeros(1 << bits, np.int32)
        self._shift = np.uint64(64 - bits)
        self._used = 0
        self._place(live)

    def _place(self, slots: Slots) -> None:
        """Put slots, whose words are set, into cells: each round, of those that meet in one cell one stays."""
        self._used += slots.size
        position = self._position(self._words[slots, 0])
        while slots.size:
            free = self._cells.take(position) <= _EMPTY
            self._cells[position[free]] = slots[free]
            walk = self._cells.take(position) != slots
            slots, position = slots[walk], self._next(position[walk])
