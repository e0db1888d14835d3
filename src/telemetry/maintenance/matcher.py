"""Finds many thousands of byte strings in a stream at once.

Each pattern is known by the last eight bytes of its lower-case form (fewer where a pattern is shorter). Two hash
tables tell for every position of a block, as eight interleaved arrays, whether a pattern may end there; the few
positions left are looked up exactly. The time per byte hardly depends on the number of patterns, where an
alternation of 60,000 strings in `re` would try each of them at every byte.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from telemetry.maintenance.canaries import Form, Pattern, check_canaries, fold, patterns

_WINDOW: Final = 8
_TABLE_BITS: Final = 21
_SHIFT: Final = np.uint64(64 - _TABLE_BITS)
# Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4) under two odd multipliers.
_FIRST: Final = np.uint64(0x9E3779B97F4A7C15)
_SECOND: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_BLOCK: Final = 256 * 1024
PIECE: Final = 4 * 2**20  # bytes that callers should feed at a time
_ZEROS: Final = bytes(PIECE)


def _slots(keys: npt.NDArray[np.uint64], multiplier: np.uint64) -> npt.NDArray[np.int64]:
    """Each key's place in a table of 2^_TABLE_BITS, as signed integers: numpy indexes with those at once."""
    return ((keys * multiplier) >> _SHIFT).view(np.int64)


@dataclass(frozen=True, slots=True)
class Hit:
    """Canary ``canary`` (its number, from 1) occurs in the form ``form``."""

    canary: int
    form: Form


class Matcher:
    """Looks for every form of every canary. Immutable after construction; safe to share between threads."""

    def __init__(self, canaries: Sequence[str], *, digests: bool = True) -> None:
        check_canaries(canaries)
        self._known: dict[bytes, list[tuple[Hit, Pattern]]] = defaultdict(list)
        for number, canary in enumerate(canaries, 1):
            if canary:
                for pattern in patterns(canary, digests=digests):
                    self._known[fold(pattern.content)].append((Hit(number, pattern.form), pattern))
        lengths = {len(content) for content in self._known}
        self.longest = max(lengths)
        self._width = min(_WINDOW, *lengths)
        self._mask = np.uint64((1 << (8 * self._width)) - 1)
        suffixes: dict[int, set[int]] = defaultdict(set)
        for content in self._known:
            suffixes[int.from_bytes(content[-self._width :], "little")].add(len(content))
        self._lengths = {key: sorted(found) for key, found in suffixes.items()}
        self._keys = np.array(sorted(suffixes), dtype=np.uint64)
        self._first = np.zeros(1 << _TABLE_BITS, dtype=np.bool_)
        self._second = self._first.copy()
        self._first[_slots(self._keys, _FIRST)] = True
        self._second[_slots(self._keys, _SECOND)] = True

    @property
    def size(self) -> int:
        """How many different byte strings are looked for."""
        return len(self._known)

    def _candidates(self, folded: bytes) -> Iterator[tuple[int, int]]:
        """Where a pattern may end: (end, suffix key), for windows within ``folded`` padded by eight bytes."""
        positions: list[npt.NDArray[np.int64]] = []
        found: list[npt.NDArray[np.uint64]] = []
        for offset in range(_WINDOW):
            windows = np.frombuffer(folded, dtype="<u8", offset=offset, count=(len(folded) - offset) // _WINDOW)
            if self._width < _WINDOW:
                windows = windows & self._mask
            maybe = np.flatnonzero(np.take(self._first, _slots(windows, _FIRST), mode="wrap"))
            keys = windows[maybe]
            again = self._second[_slots(keys, _SECOND)]
            maybe, keys = maybe[again], keys[again]
            if not maybe.size:
                continue
            nearest = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            sure = self._keys[nearest] == keys
            positions.append(maybe[sure] * _WINDOW + offset + self._width)
            found.append(keys[sure])
        for ends, keys in zip(positions, found, strict=True):
            yield from zip(ends.tolist(), keys.tolist(), strict=True)

    def search(self, content: bytes, *, seen: int = 0) -> Iterator[Hit]:
        """Every occurrence in ``content`` that ends after its first ``seen`` bytes."""
        limit = len(content)
        for start in range(max(0, seen - self._width + 1), max(1, limit - self._width + 1), _BLOCK):
            folded = fold(content[max(0, start - self.longest) : start + _BLOCK + self._width - 1])
            base = max(0, start - self.longest)
            tail = folded[start - base :] + bytes(_WINDOW)
            for end, key in self._candidates(tail):
                stop = start + end
                if not seen < stop <= limit or end - self._width >= _BLOCK:
                    continue
                for length in self._lengths[key]:
                    if length <= stop - base:
                        yield from self._confirm(content, folded[stop - base - length : stop - base], stop)

    def _confirm(self, content: bytes, folded: bytes, stop: int) -> Iterator[Hit]:
        for hit, pattern in self._known.get(folded, ()):
            if not pattern.exact or content[stop - len(folded) : stop] == pattern.content:
                yield hit


class Stream:
    """Feeds a matcher piece by piece, so that what spans two pieces is found, once."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._rest = b""
        self.hits: Counter[Hit] = Counter()
        self.size = 0

    def feed(self, piece: bytes) -> None:
        """Search the next piece together with the end of the one before."""
        self.size += len(piece)
        keep = self._matcher.longest
        if len(piece) > 2 * keep and piece == _ZEROS[: len(piece)]:
            piece = piece[: 2 * keep]  # nothing is found within zeros, and write-ahead logs are full of them
        content = self._rest + piece
        self.hits.update(self._matcher.search(content, seen=len(self._rest)))
        self._rest = content[1 - keep :]
