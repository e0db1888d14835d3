"""Objects of many JSON messages as positions in one buffer: where each begins, and where its quotes are.

Texts like ``{"a":1,"b":"x"},{"a":null}`` (one message each, an array's brackets taken off) are joined with commas.
Nothing is checked here but that each message's strings end where they seem to: no escape, no control character, an
even number of quotes. So whatever else is wrong with a message stays within it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from telemetry.codecs.words import I64, PAD, U8, U64, Bools, words

_QUOTE, _COLON, _SPACE, _OPEN, _BACKSLASH = b'": {\\'
WIDEST: Final = 64  # bytes of a piece of text that are looked at in one go
_POINT_EXPONENT: Final = tuple(np.uint16(int.from_bytes(pair, "little")) for pair in (b".e", b".E"))
_FIRST_PRINTABLE, _LAST_PRINTABLE = 0x20, 0x7E
_BEFORE: Final = b" " * (PAD - 1)  # and a comma
_AFTER: Final = b'{""'.ljust(PAD + WIDEST)  # an object where the last one ends


@dataclass(frozen=True)
class Texts:
    """Messages in one buffer, a comma after each. ``starts``: where each begins, and one past the last comma."""

    buffer: bytes
    at: U8
    words: U64
    starts: I64
    ascii_only: bool

    @cached_property
    def has_point_before_exponent(self) -> bool:
        """Whether ``.e`` stands anywhere. Compares two characters at a time."""
        at = self.at
        pairs = (at[: at.size & ~1].view("<u2"), at[1 : 1 + ((at.size - 1) & ~1)].view("<u2"))
        return any(bool((pair == mark).any()) for pair in pairs for mark in _POINT_EXPONENT)

    def wide(self, width: int) -> npt.NDArray[np.void]:
        """All runs of ``width`` words in the buffer, one per byte position where there is room; a view."""
        return np.ndarray((len(self.buffer) - 8 * width + 1,), f"V{8 * width}", self.buffer, strides=(1,))


@dataclass(frozen=True, slots=True)
class Objects:
    """What looks like objects: places where a quote follows a brace.

    ``quotes``: positions of all quotes. ``first_quote``: for each object the index of its first one in ``quotes``, and
    one entry more. ``start``: where its brace is, and one entry more. ``message``: which message it belongs to.
    """

    at: U8
    quotes: I64
    first_quote: I64
    start: I64
    message: I64

    def signature(self) -> I64:
        """A number for each object: equal for those with equal keys in equal order, and for few others.

        Made of the lengths of what stands before colons: their number, sum and first moment.
        """
        opens, closes = self.quotes[0::2], self.quotes[1::2]
        first = self.first_quote >> 1
        key_length = (closes - opens) * (self.at[closes + 1] == _COLON)
        lengths = _sums(key_length, first)
        moments = _sums(key_length * np.arange(opens.size), first) - lengths * first[:-1]
        signature: I64 = np.diff(first) + (lengths << 12) + (moments << 28)
        return signature


def _sums(values: I64, first: I64) -> I64:
    """The sums of ``values`` between each two entries of ``first``."""
    running = np.cumsum(values)
    return np.diff(running[first] - values[first])


def join(messages: Sequence[bytes | memoryview]) -> Texts:
    """Messages in one buffer, between paddings."""
    buffer = b",".join((_BEFORE, *messages, _AFTER))
    starts = np.full(len(messages) + 1, PAD, np.int64)
    starts[1:] += np.cumsum(np.fromiter(map(len, messages), np.int64, len(messages)) + 1)
    return Texts(buffer, np.frombuffer(buffer, np.uint8), words(buffer), starts, buffer.isascii())


def quotes_of(texts: Texts) -> I64:
    """Positions of all quotes, the padding's two last."""
    return np.flatnonzero(texts.at == _QUOTE)


def unreadable(texts: Texts, quotes: I64) -> Bools:
    """Which messages have strings that do not end, or may end elsewhere than they seem to, or are not UTF-8."""
    count = np.diff(np.searchsorted(quotes, texts.starts))
    bad: Bools = (count & 1) == 1
    odd = texts.at - np.uint8(_FIRST_PRINTABLE) > _LAST_PRINTABLE - _FIRST_PRINTABLE
    odd |= texts.at == _BACKSLASH
    if odd.any():
        positions = np.flatnonzero(odd)
        beyond_ascii = texts.at[positions] > _LAST_PRINTABLE + 1
        message = np.searchsorted(texts.starts, positions, side="right") - 1
        bad[message[~beyond_ascii]] = True
        for i in np.unique(message[beyond_ascii]).tolist():
            bad[i] |= not _is_utf8(texts.buffer[texts.starts[i] : texts.starts[i + 1]])
    return bad


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def objects(texts: Texts, quotes: I64) -> Objects:
    """Find what looks like objects. No message may be ``unreadable``; each begins with a brace and a quote."""
    before = quotes[0::2] - 1
    mark = texts.at[before]
    if (spaced := mark == _SPACE).any():
        before -= spaced
        mark = texts.at[before]
    first = np.flatnonzero(mark == _OPEN)
    start = before[first]
    message = np.repeat(np.arange(texts.starts.size - 1), np.diff(np.searchsorted(start, texts.starts)))
    return Objects(texts.at, quotes, 2 * first, start, message)
