"""Names on the wire: which the catalogue lists, found for all keys of a batch at once; and which may be printed.

Every listed name has an id: 0 to 2 for what identifies a reading, then the catalogue's order, then UNLISTED.
"""

import re
from typing import Final

import numpy as np

from telemetry.codecs.words import I64, U64, shifts, word, word_right
from telemetry.model.fields import CATALOGUE, FIELD_NAMES, FieldKind

IDENTITY: Final = ("serial", "kind", "ts")
LISTED: Final = IDENTITY + FIELD_NAMES
SERIAL_ID, KIND_ID, TS_ID = range(3)
UNLISTED_ID: Final = len(LISTED)
STATUS_IDS: Final = frozenset(i + 3 for i, field in enumerate(CATALOGUE) if field.kind is FieldKind.STATUS)

_PRINTABLE: Final = re.compile(r"(?!.*[0-9]{4})[a-z][a-z0-9_.]{0,40}")

_SLOTS_LOG2: Final = 12
_U = np.uint64
_SPREAD: Final = _U(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Knuth, TAOCP 3, 6.4
_SPREAD_LENGTH: Final = _U(0xD6E8FEB86659FD93)
_WORD: Final = 8


def safe_name(name: str) -> str:
    """``name`` where it looks like a field's name, else ``<name>``: senders put serials into names too."""
    return name if _PRINTABLE.fullmatch(name) else "<name>"


def _slot(first: U64, last: U64, length: I64, mix: int) -> U64:
    mixed = ((first * _U(mix)) ^ last) * _SPREAD + length.view(np.uint64) * _SPREAD_LENGTH
    return mixed >> _U(64 - _SLOTS_LOG2)


class _Table:
    """A perfect hash over the listed names, built once; every hit is compared in full."""

    def __init__(self, names: tuple[str, ...]) -> None:
        encoded = [name.encode() for name in names]
        self.first = np.array([*map(word, encoded), 0], np.uint64)
        self.last = np.array([*map(word_right, encoded), 0], np.uint64)
        self.length = np.array([*map(len, encoded), -1], np.int64)  # no key has length -1: never UNLISTED's own
        longest = max(map(len, encoded))
        # names over two words long: the words between the first and the last
        self.middle = {
            at: np.array([*(word(name[at:]) if len(name) > at + _WORD else 0 for name in encoded), 0], np.uint64)
            for at in range(_WORD, longest - _WORD, _WORD)
        }
        self.mix = self._collision_free()
        self.candidate = np.full(1 << _SLOTS_LOG2, len(names), np.int64)
        self.candidate[self._slots(self.mix)] = np.arange(len(names))

    def _slots(self, mix: int) -> U64:
        return _slot(self.first[:-1], self.last[:-1], self.length[:-1], mix)

    def _collision_free(self) -> int:
        mix = 3
        while np.unique(self._slots(mix)).size < self.length.size - 1:
            mix += 2
        return mix


_TABLE: Final = _Table(LISTED)


def name_ids(w: U64, start: I64, end: I64) -> I64:
    """The ids of the keys ``[start, end)``: exact, UNLISTED_ID for every other text."""
    length = end - start
    shift = shifts(np.minimum(length, _WORD))
    first = (w[start] << shift) >> shift
    last = (w[end - _WORD] >> shift) << shift
    ids: I64 = _TABLE.candidate[_slot(first, last, length, _TABLE.mix)]
    same = (_TABLE.first[ids] == first) & (_TABLE.last[ids] == last) & (_TABLE.length[ids] == length)
    ids[~same] = UNLISTED_ID
    long = np.flatnonzero(length > 2 * _WORD)
    for at, expected in _TABLE.middle.items():
        long = long[length[long] > at + _WORD]
        if not long.size:
            break
        there = ids[long]
        found = w[start[long] + at]
        room = (_TABLE.length[there] - at).clip(0, _WORD)
        shift = shifts(room)
        ids[long[(found << shift) >> shift != expected[there]]] = UNLISTED_ID
    return ids
