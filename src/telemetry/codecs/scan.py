"""Flat JSON objects of many messages as arrays of positions: the vectorised half of a parser.

``scan`` joins texts like ``{"a":1,"b":"x"},{"a":null}`` (one message each, array brackets taken off) with commas
and finds every key and value by the positions of quotes alone. It then checks the bytes *between* the quotes, so
that what it accepts is exactly::

    text   = object *( "," [space] object )
    object = "{" [space] pair *( "," [space] pair ) "}"
    pair   = string ":" [space] ( string / literal )

with strings free of escapes and control characters. Literals are not looked into here. Whatever else a message
holds, nested values, line breaks, escapes, errors, puts it in ``bad``, and its tokens then mean nothing; every
check is local to one message, so a bad one cannot touch its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from telemetry.codecs.words import I64, PAD, U8, U64, Bools, words

_QUOTE, _COLON, _COMMA, _SPACE, _OPEN, _CLOSE, _BACKSLASH = b'":, {}\\'
_FIRST_PRINTABLE, _LAST_PRINTABLE = 0x20, 0x7E
_BEFORE: Final = b"},".rjust(PAD)  # what stands before an object inside an array
_AFTER: Final = b',{""'.ljust(PAD + 8)  # and after one; the empty string is the last token


@dataclass(frozen=True, slots=True)
class Texts:
    """Messages in one buffer. ``starts``: where each begins, and one past the last."""

    buffer: bytes
    bytes_: U8
    words: U64
    starts: I64
    ascii_only: bool

    def message_of(self, positions: I64) -> I64:
        """The message that each position lies in."""
        return np.searchsorted(self.starts, positions, side="right") - 1


@dataclass(frozen=True, slots=True)
class Tokens:
    """Keys and their values, in the order of the text.

    ``key_start``, ``key_end``: keys, without quotes. ``value_start``, ``value_end``: values, strings without
    quotes. ``is_text``: which values are strings. ``first``: the first character of a value. ``row``: the object
    of each key. ``row_message``: the message of each object. ``bad``: message -> it is not what scan accepts.
    """

    key_start: I64
    key_end: I64
    value_start: I64
    value_end: I64
    is_text: Bools
    first: U8
    row: I64
    row_message: I64
    bad: Bools


def join(texts: Sequence[bytes]) -> Texts:
    """Messages in one buffer, between paddings."""
    body = b",".join(texts)
    buffer = b"".join((_BEFORE, body, _AFTER))
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    starts = np.empty(len(texts) + 1, np.int64)
    starts[0] = PAD
    np.cumsum(lengths + 1, out=starts[1:])
    starts[1:] += PAD
    return Texts(buffer, np.frombuffer(buffer, np.uint8), words(buffer), starts, body.isascii())


def unreadable(texts: Texts, quotes: I64) -> Bools:
    """Messages that would confuse the others: their strings do not end, or end elsewhere than they seem to."""
    count = np.diff(np.searchsorted(quotes, texts.starts))
    bad: Bools = (count & 1) == 1
    shifted = texts.bytes_ - np.uint8(_FIRST_PRINTABLE)
    odd = (shifted > _LAST_PRINTABLE - _FIRST_PRINTABLE) | (texts.bytes_ == _BACKSLASH)
    if odd.any():
        positions = np.flatnonzero(odd)
        found = texts.bytes_[positions]
        plain = found > _LAST_PRINTABLE + 1  # a part of a character beyond ASCII: fine if UTF-8
        bad[texts.message_of(positions[~plain])] = True
        for message in np.unique(texts.message_of(positions[plain])).tolist():
            bad[message] |= not _is_utf8(texts.buffer[texts.starts[message] : texts.starts[message + 1]])
    return bad


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def quotes_of(texts: Texts) -> I64:
    """Positions of all quotes, the two of the padding last."""
    return np.flatnonzero(texts.bytes_ == _QUOTE)


def scan(texts: Texts, quotes: I64) -> Tokens:
    """Find keys and values. No message may be ``unreadable``."""
    at = texts.bytes_
    opens, closes = np.ascontiguousarray(quotes[0::2]), np.ascontiguousarray(quotes[1::2])
    is_key = at[closes + 1] == _COLON
    value = closes + 2
    first = at[value]
    if (spaced := first == _SPACE).any():
        value += spaced
        first = at[value]
    before = opens - 1
    mark = at[before]
    if (spaced := mark == _SPACE).any():
        before -= spaced
        mark = at[before]
    is_text = np.zeros(opens.size, np.bool_)  # is this string the value of the key before it?
    np.logical_and(is_key[:-1], value[:-1] == opens[1:], out=is_text[1:])
    starts_row = mark == _OPEN
    ends, rows_wrong = _ends(at, before, starts_row)
    wrong = is_text == is_key  # a string is a key or the value of one
    wrong |= ~is_text & (mark != _COMMA) & ~starts_row
    wrong[rows_wrong] = True
    after_text = np.flatnonzero(is_text[:-1])  # after a string value the pair or the object ends at once
    wrong[after_text] |= closes[after_text] + 1 != ends[after_text + 1]
    wrong[-1] = False  # the padding's
    keys = np.flatnonzero(is_key[:-1])
    following = keys + 1
    text_value = is_text[following]
    rows = np.flatnonzero(starts_row[:-1])
    bad = np.zeros(texts.starts.size - 1, np.bool_)
    bad[texts.message_of(opens[np.flatnonzero(wrong)])] = True
    return Tokens(
        key_start=opens[keys] + 1,
        key_end=closes[keys],
        value_start=value[keys] + text_value,
        value_end=np.where(text_value, closes[following], ends[following]),
        is_text=text_value,
        first=first[keys],
        row=np.cumsum(starts_row)[keys] - 1,
        row_message=texts.message_of(opens[rows]),
        bad=bad,
    )


def _ends(at: U8, before: I64, starts_row: Bools) -> tuple[I64, I64]:
    """For each string where the pair before it ends, and which strings begin an object wrongly.

    Between objects stands ``},{`` with at most one space after the comma.
    """
    ends = before.copy()
    rows = np.flatnonzero(starts_row)
    comma = before[rows] - 1
    comma -= at[comma] == _SPACE
    close = comma - 1
    ends[rows] = close
    return ends, rows[(at[comma] != _COMMA) | (at[close] != _CLOSE)]
