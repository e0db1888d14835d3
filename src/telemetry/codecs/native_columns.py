"""Native JSON, columns, whole batches at once.

A message is cut at its brackets into a skeleton (``{"serial":[],"kind":[],…}``) and the contents of its arrays. Of
each skeleton one is parsed; the contents of one column of all messages with that skeleton are read together. As in
``native_arrays`` nothing is rejected here: what is not plainly columns of texts or numbers is left over.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from telemetry.codecs import scan
from telemetry.codecs.columns import Read
from telemetry.codecs.limits import CodecLimits, Portions
from telemetry.codecs.literals import read_literals
from telemetry.codecs.readings import Builder
from telemetry.codecs.words import I64, Bools

_TYPICAL: Final = 32  # readings of a message of columns
_HEAD: Final = 96  # bytes in which the first key of columns ends
_STARTS: Final = (b'":[', b'": [')
_COMMA, _SPACE = b", "


def looks_like_columns(payload: bytes) -> bool:
    """Whether ``payload`` is an object that begins with an array."""
    return payload[:1] == b"{" and any(start in payload[:_HEAD] for start in _STARTS)


@dataclass(frozen=True, slots=True)
class _Alike:
    """Messages with one skeleton. ``contents``: of each message, of each of its arrays."""

    positions: list[int] = field(default_factory=list)
    contents: list[list[bytes]] = field(default_factory=list)


def read_columns(
    payloads: Sequence[bytes],
    positions: Iterable[int],
    messages: Sequence[int],
    limits: CodecLimits,
    portions: Portions,
) -> Read:
    """Read those of ``payloads`` at ``positions`` that are columns in the plain form."""
    read = Read()
    groups: defaultdict[bytes, _Alike] = defaultdict(_Alike)
    for position in positions:
        payload = payloads[position]
        # Each bracket that opens must stand behind a colon. Then pieces alternate: between arrays, in an array; what
        # is out of turn would leave a colon in an array, where no entry has one.
        arrays = payload.count(b"[")
        pieces = payload.replace(b"[", b"]").split(b"]")
        if (
            len(payload) > limits.max_message_bytes
            or len(pieces) != 2 * arrays + 1
            or (payload.count(b":[") != arrays and payload.count(b": [") != arrays)
        ):
            read.left.append(position)
            continue
        alike = groups[b"[]".join(pieces[0::2])]
        alike.positions.append(position)
        alike.contents.append(pieces[1::2])
    for skeleton, alike in groups.items():
        names = _names(skeleton) if len(alike.positions) * _TYPICAL >= portions.rare else None
        if names is None or len(names) != len(alike.contents[0]):
            read.left += alike.positions
        else:
            _read_alike(names, alike, messages, limits, read)
    return read


def _names(skeleton: bytes) -> list[str] | None:
    """The names of the columns, or None where the skeleton is not one of columns."""
    try:
        pairs = json.loads(skeleton, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, list) or any(value != [] for _, value in pairs):
        return None
    names = [name for name, _ in pairs]
    return names if len(set(names)) == len(names) else None


def _read_alike(names: list[str], alike: _Alike, messages: Sequence[int], limits: CodecLimits, read: Read) -> None:
    columns = [_column([contents[i] for contents in alike.contents]) for i in range(len(names))]
    counts = columns[0].counts
    bad = (counts < 1) | (counts > limits.max_readings_per_message)
    for column in columns:
        bad |= column.bad | (column.counts != counts)
    if bad.all():
        read.left += alike.positions
        return
    of = np.repeat(np.flatnonzero(~bad), counts[~bad])
    builder = Builder(of.size)
    for name, column in zip(names, columns, strict=True):
        column.put(name, builder, ~bad)
    group = builder.group(of)
    if group is None:
        read.left += alike.positions
        return
    bad[of[~group.ok]] = True
    read.left += [alike.positions[i] for i in np.flatnonzero(bad).tolist()]
    if (still_bad := bad[of]).any():
        group = group.take(np.flatnonzero(~still_bad))
    numbers = np.array([messages[position] for position in alike.positions], np.uint32)
    read.parts.append(group.part(numbers[group.rows]))
    read.unlisted.update(group.unlisted())


@dataclass(frozen=True, slots=True)
class _Column:
    """The entries of one column of many messages. ``counts``: per message; ``bad``: messages to leave over."""

    texts: scan.Texts
    is_text: bool
    start: I64
    end: I64
    counts: I64
    bad: Bools

    def put(self, name: str, builder: Builder, good: Bools) -> None:
        """Hand over the entries of the messages that are ``good``."""
        start, end = self.start, self.end
        if not good.all():
            chosen = np.repeat(good, self.counts)
            start, end = start[chosen], end[chosen]
        if self.is_text:
            builder.text(name, self.texts, start, end)
        else:
            numbers, types = read_literals(self.texts, start, end)
            builder.literal(name, np.ascontiguousarray(numbers), types if types.any() else None)


def _column(contents: Sequence[bytes]) -> _Column:
    texts = scan.join(contents)
    if contents[0][:1] == b'"':
        quotes = scan.quotes_of(texts)
        bad = scan.unreadable(texts, quotes)
        first = np.searchsorted(quotes, texts.starts)
        return _text_column(texts, quotes[: first[-1]], first, bad)
    bad = np.zeros(len(contents), np.bool_) if texts.ascii_only else scan.unreadable(texts, scan.quotes_of(texts))
    commas = np.flatnonzero(texts.at[: texts.starts[-1]] == _COMMA)
    counts = np.diff(np.searchsorted(commas, texts.starts))
    start = commas[:-1] + 1  # the first comma is the padding's
    start += texts.at[start] == _SPACE
    return _Column(texts, False, start, np.maximum(commas[1:], start), counts, bad)


def _text_column(texts: scan.Texts, quotes: I64, first: I64, bad: Bools) -> _Column:
    """Strings with a comma, and perhaps a space, between each two."""
    if bad.any():  # their quotes would pair up with their neighbours'
        mine = np.repeat(bad, np.diff(first))
        quotes = quotes[~mine]
        first = np.concatenate(([0], np.cumsum(np.where(bad, 0, np.diff(first)))))
    opens, closes = quotes[0::2], quotes[1::2]
    counts = np.diff(first) >> 1
    before = np.empty_like(opens)  # where the entry before ends: its comma
    before[1:] = closes[:-1] + 1
    begins = first[:-1][counts > 0] >> 1
    before[begins] = texts.starts[:-1][counts > 0] - 1
    gap = opens - before
    wrong = (texts.at[before] != _COMMA) | ((gap != 1) & ((gap != 2) | (texts.at[before + 1] != _SPACE)))
    bad[np.repeat(np.arange(counts.size), counts)[wrong]] = True
    ends = (first[1:][counts > 0] >> 1) - 1
    bad[np.flatnonzero(counts > 0)[closes[ends] + 1 != texts.starts[1:][counts > 0] - 1]] = True
    return _Column(texts, True, opens + 1, closes, counts, bad)
