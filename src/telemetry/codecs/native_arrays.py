"""Native JSON, readings and arrays of readings, whole batches at once.

Takes what is flat and in good order; every message that is anything else, wrong or only unusual, is left to
``native_rows``, whose verdict is the one that counts. So there is no rejection here: only rows, what is unlisted
in them, and the messages left over. What every message of a sender may hold, explicit nulls, unlisted fields,
spaces after commas, stays here.

::

    payloads ─scan─▶ objects ─shapes─▶ groups with equal keys ─readings─▶ columns
        └─────── left over: escapes, nesting, wrong types, rare shapes, anything doubtful ───▶ native_rows
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from telemetry.codecs import scan
from telemetry.codecs.columns import Part, Read
from telemetry.codecs.groups import Groups, Shapes
from telemetry.codecs.limits import CodecLimits, Portions
from telemetry.codecs.words import I64, Bools


@dataclass(frozen=True, slots=True)
class _Chunk:
    positions: list[int] = field(default_factory=list)  # in payloads
    texts: list[bytes | memoryview] = field(default_factory=list)  # without an array's brackets
    most: list[int] = field(default_factory=list)  # readings that the message may hold

    def add(self, position: int, text: bytes | memoryview, most: int) -> int:
        self.positions.append(position)
        self.texts.append(text)
        self.most.append(most)
        return len(text)

    def without(self, bad: Bools) -> "_Chunk":
        keep = np.flatnonzero(~bad).tolist()
        return _Chunk([self.positions[i] for i in keep], [self.texts[i] for i in keep], [self.most[i] for i in keep])


def read_arrays(
    payloads: Sequence[bytes],
    positions: Iterable[int],
    messages: Sequence[int],
    limits: CodecLimits,
    portions: Portions,
) -> Read:
    """Read those of ``payloads`` at ``positions`` that are readings or arrays in the plain form.

    ``messages[i]`` is what the rows of ``payloads[i]`` get as message number.
    """
    read = Read()
    known: Shapes = defaultdict(list)
    for chunk in _chunks(payloads, positions, limits, portions, read.left):
        _read_chunk(chunk, messages, known, portions.rare, read)
    return read


def _chunks(
    payloads: Sequence[bytes], positions: Iterable[int], limits: CodecLimits, portions: Portions, left: list[int]
) -> Iterator[_Chunk]:
    """Payloads that look like it from outside, in portions; the positions of the others go to ``left``."""
    chunk, size = _Chunk(), 0
    for position in positions:
        payload = payloads[position]
        if len(payload) > limits.max_message_bytes:
            left.append(position)
        elif payload[:3] == b'[{"' and payload[-2:] == b"}]":
            size += chunk.add(position, memoryview(payload)[1:-1], limits.max_readings_per_message)
        elif payload[:2] == b'{"' and payload[-1:] == b"}":
            size += chunk.add(position, payload, 1)
        else:
            left.append(position)
        if size >= portions.chunk_bytes:
            yield chunk
            chunk, size = _Chunk(), 0
    if chunk.texts:
        yield chunk


def _read_chunk(chunk: _Chunk, messages: Sequence[int], known: Shapes, rare: int, read: Read) -> None:
    texts = scan.join(chunk.texts)
    quotes = scan.quotes_of(texts)
    bad = scan.unreadable(texts, quotes)
    if bad.any():
        read.left.extend(chunk.positions[i] for i in np.flatnonzero(bad).tolist())
        rest = chunk.without(bad)
        if rest.texts:
            _read_chunk(rest, messages, known, rare, read)
        return
    objects = scan.objects(texts, quotes)
    groups = Groups(texts, objects, known, rare)
    bad = np.bincount(objects.message, minlength=bad.size) > chunk.most
    bad[objects.message[~groups.understood]] = True
    read.left.extend(chunk.positions[i] for i in np.flatnonzero(bad).tolist())
    good = None if not bad.any() else ~bad[objects.message]
    numbers = np.array([messages[i] for i in chunk.positions], np.uint32)
    kept = []
    for whole in groups.found:
        group = whole if good is None else whole.take(np.flatnonzero(good[whole.rows]))
        kept.append((group.rows, group.part(numbers[objects.message[group.rows]])))
        read.unlisted.update(group.unlisted())
    read.parts.extend(_in_order(kept))


def _in_order(parts: Sequence[tuple[I64, Part]]) -> list[Part]:
    """The parts of one chunk as one, rows in the order of the text."""
    if len(parts) <= 1:
        return [part for _, part in parts]
    rows = np.concatenate([rows for rows, _ in parts])
    return [Part.join([part for _, part in parts]).take(np.argsort(rows, kind="stable"))]
