"""Objects of the same shape: one is read by the reference, the others are compared with it.

An object is a fixed skeleton with values in it: ``{"serial":"…","kind":"…","ac_power_w":…},``. If the skeletons of
two objects are equal byte by byte, and the values are strings without escapes or JSON's own literals, both have
the same keys in the same order, and if one is JSON, so is the other. So only one object of each shape is parsed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from telemetry.codecs.scan import WIDEST, Objects, Texts
from telemetry.codecs.words import I64, U64, Bools

_QUOTE: Final = ord('"')
_WORD: Final = 8
_BLOCK: Final = 1024  # objects compared at once: their bytes fit into a core's cache
_LAST: Final = -1  # instead of a quote's number: the beginning of the next object


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the skeleton. It begins ``before`` bytes before quote number ``anchor`` of its object."""

    text: bytes
    anchor: int
    before: int


@dataclass(frozen=True, slots=True)
class Value:
    """One key, and where its value lies.

    ``is_text``: a string, between quotes number ``opening`` and the one after it. Otherwise a literal, ``gap`` bytes
    behind quote number ``opening`` and up to segment ``segment``.
    """

    key: str
    is_text: bool
    opening: int
    gap: int
    segment: int


@dataclass(frozen=True)
class Shape:
    """A skeleton and the values in it. ``quotes``: how many each object of this shape has."""

    segments: tuple[Segment, ...]
    values: tuple[Value, ...]
    quotes: int

    @cached_property
    def skeleton(self) -> "Skeleton":
        """The segments as arrays."""
        return Skeleton.of(self)


def shape_of(text: bytes) -> Shape | None:
    """The shape of ``text``: one flat JSON object, a comma and perhaps a space; None for everything else."""
    body, comma, rest = text.rpartition(b",")
    if not comma or rest.strip(b" "):
        return None
    try:
        found = json.loads(body, object_pairs_hook=_flat_pairs)
    except (ValueError, RecursionError):
        return None
    shape = _measured(text, found) if isinstance(found, list) else None
    return None if shape is None or max(len(one.text) for one in shape.segments) > WIDEST else shape


def _flat_pairs(pairs: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """Refuses duplicate keys and values with values in them."""
    if len({key for key, _ in pairs}) < len(pairs) or any(isinstance(value, list) for _, value in pairs):
        raise ValueError
    return pairs


def _measured(text: bytes, pairs: list[tuple[str, object]]) -> Shape | None:
    quotes = [i for i, byte in enumerate(text) if byte == _QUOTE]
    values, segments = [], []
    quote = begin = 0  # the next key's opening quote; where the present segment begins
    for key, value in pairs:
        closing = quote + 1
        if isinstance(value, str):
            opening = quote + 2
            segments.append(_segment(text, quotes, begin, quotes[opening] + 1))
            values.append(Value(key, True, opening, 1, len(segments)))
            begin, quote = quotes[opening + 1], quote + 4
        else:
            gap = len(text[quotes[closing] + 1 :]) - len(text[quotes[closing] + 1 :].lstrip(b": ")) + 1
            start = quotes[closing] + gap
            segments.append(_segment(text, quotes, begin, start))
            values.append(Value(key, False, closing, gap, len(segments)))
            end = quotes[quote + 2] if quote + 2 < len(quotes) else len(text)
            begin, quote = start + len(text[start:end].rstrip(b"{}, ")), quote + 2
    if quote != len(quotes):
        return None
    segments.append(_segment(text, quotes, begin, len(text)))
    return Shape(tuple(segments), tuple(values), len(quotes))


def _segment(text: bytes, quotes: list[int], begin: int, end: int) -> Segment:
    inside = [i for i, quote in enumerate(quotes) if begin <= quote < end]
    if not inside:
        return Segment(text[begin:end], _LAST, end - begin)
    return Segment(text[begin:end], inside[0], quotes[inside[0]] - begin)


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A shape's segments as arrays, for all objects at once.

    In a table of positions, an object's quotes and then where the next object begins, segment i begins ``before[i]``
    bytes before column ``anchor[i]``. ``expected`` are its words under ``mask``, shape (segments, words): all are as
    wide as the longest, since a load costs the same whatever it loads.
    """

    anchor: I64
    before: I64
    expected: U64
    mask: U64

    @staticmethod
    def of(shape: Shape) -> "Skeleton":
        """``shape`` as arrays."""
        width = -(-max(len(segment.text) for segment in shape.segments) // _WORD) * _WORD
        texts = b"".join(segment.text.ljust(width, b"\0") for segment in shape.segments)
        masks = b"".join((b"\xff" * len(segment.text)).ljust(width, b"\0") for segment in shape.segments)
        return Skeleton(
            np.array([shape.quotes if segment.anchor == _LAST else segment.anchor for segment in shape.segments]),
            np.array([segment.before for segment in shape.segments]),
            np.frombuffer(texts, "<u8").reshape(-1, width // _WORD),
            np.frombuffer(masks, "<u8").reshape(-1, width // _WORD),
        )


class Candidates:
    """Objects that may have one shape: where their quotes are, if they do."""

    def __init__(self, texts: Texts, objects: Objects, shape: Shape, rows: I64) -> None:
        self._texts = texts
        self._shape = shape
        self._table = np.empty((rows.size, shape.quotes + 1), np.int64)
        first = objects.first_quote[rows]
        if first.size and first[-1] - first[0] == (rows.size - 1) * shape.quotes:  # one after the other
            self._table[:, :-1] = objects.quotes[first[0] : first[-1] + shape.quotes].reshape(-1, shape.quotes)
        else:
            self._table[:, :-1] = objects.quotes[first[:, None] + np.arange(shape.quotes)]
        self._table[:, -1] = objects.start[rows + 1]

    def same(self) -> Bools:
        """Which objects do have the shape: every byte between the values is the same.

        That fixes the quotes inside segments too: those of the table are all there are.
        """
        same = np.empty(len(self._table), np.bool_)
        for begin in range(0, same.size, _BLOCK):
            same[begin : begin + _BLOCK] = self._same(self._table[begin : begin + _BLOCK])
        return same

    def _same(self, table: I64) -> Bools:
        skeleton = self._shape.skeleton
        positions = table.take(skeleton.anchor, axis=1)
        positions -= skeleton.before
        found = self._texts.wide(skeleton.expected.shape[1])[positions].view("<u8")
        found = found.reshape(-1, *skeleton.expected.shape)
        found &= skeleton.mask
        other = found != skeleton.expected
        tail = self._shape.segments[-1]
        moved = positions[:, -1] + len(tail.text) != table[:, -1]
        if not moved.any() and not other.any():
            return np.ones(len(table), np.bool_)
        same: Bools = ~(moved | other.any(axis=(1, 2)))
        return same

    def only(self, chosen: Bools) -> "Candidates":
        """Those of the objects."""
        rest = object.__new__(Candidates)
        rest._texts, rest._shape, rest._table = self._texts, self._shape, self._table[chosen]
        return rest

    def spans(self, values: Sequence[Value]) -> tuple[I64, I64]:
        """Where ``values`` begin and end in each object, shapes (objects, values)."""
        start = self._table.take([value.opening for value in values], axis=1)
        start += np.array([value.gap for value in values])
        ends = [self._end_of(value) for value in values]
        end = self._table.take([column for column, _ in ends], axis=1)
        end -= np.array([before for _, before in ends])
        return start, end

    def _end_of(self, value: Value) -> tuple[int, int]:
        """The column where ``value`` ends, and how many bytes before."""
        if value.is_text:
            return value.opening + 1, 0
        segment = self._shape.segments[value.segment]
        return (self._shape.quotes if segment.anchor == _LAST else segment.anchor), segment.before

    def span(self, value: Value) -> tuple[I64, I64]:
        """Where ``value`` begins and ends in each object."""
        start, end = self.spans([value])
        return start[:, 0], end[:, 0]
