"""Positions in a buffer to polars columns, without a Python object per value."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from telemetry.codecs.scan import Texts
from telemetry.codecs.words import F64, I64, U64, word
from telemetry.model.batch import empty_decoded
from telemetry.model.fields import FIELD_NAMES, FIELD_SCHEMA, DeviceKind

_U = np.uint64
_INLINE: Final = 12  # bytes of a text that its view holds itself
_KINDS: Final = tuple((kind, kind.label.encode()) for kind in DeviceKind)


def _first(count: I64) -> U64:
    """Masks of the lowest ``count`` bytes of a word, 0 to 8."""
    return ~(_U(2**64 - 1) << (count.clip(0, 8) << 3).view(np.uint64))


def text_series(buffer: Texts, start: I64, end: I64) -> pl.Series:
    """The texts ``[start, end)`` as strings.

    Builds Arrow's string views: length, then up to twelve bytes of text, or four bytes and where the rest is.
    (Arrow columnar format, variable-size binary view layout.) The texts must be UTF-8.
    """
    length = end - start
    head = buffer.words[start] & _first(length)
    view = np.empty((start.size, 2), "<u8")
    view[:, 0] = length.view(np.uint64) | (head << _U(32))
    view[:, 1] = (head >> _U(32)) | ((buffer.words[start + 8] & _first(length - 8)) << _U(32))
    long = np.flatnonzero(length > _INLINE)
    view[long, 1] = start[long].view(np.uint64) << _U(32)  # buffer 0
    buffers = [None, pa.py_buffer(view), pa.py_buffer(buffer.buffer)]
    series = pl.from_arrow(pa.Array.from_buffers(pa.string_view(), start.size, buffers))
    assert isinstance(series, pl.Series)  # noqa: S101 - for the type checker
    return series


def kind_codes(words: U64, start: I64, end: I64) -> npt.NDArray[np.uint8]:
    """The DeviceKind of each text ``[start, end)``, 0 where it names none."""
    length = end - start
    head, tail = words[start] & _first(length), words[end - 4] & _U(2**32 - 1)
    codes = np.zeros(start.size, np.uint8)
    for kind, label in _KINDS:  # no label is longer than twelve bytes or shorter than four
        same = (length == len(label)) & (head == _U(word(label))) & (tail == _U(word(label[-4:])))
        codes[same] = kind
    return codes


@dataclass(frozen=True, slots=True)
class Identity:
    """What every row has: one entry per row."""

    message: npt.NDArray[np.uint32]
    serial: pl.Series
    kind: npt.NDArray[np.uint8]
    ts: I64


@dataclass(frozen=True, slots=True)
class Part:
    """Rows as arrays, before they become a frame. ``values``: by field, NaN where there is none."""

    identity: Identity
    values: Mapping[str, F64]

    def take(self, rows: I64) -> "Part":
        """Only these rows."""
        of = self.identity
        identity = Identity(of.message[rows], of.serial.gather(rows), of.kind[rows], of.ts[rows])
        return Part(identity, {name: values[rows] for name, values in self.values.items()})

    @staticmethod
    def join(parts: Sequence["Part"]) -> "Part":
        """Parts below each other; a field that one lacks is NaN there."""
        if len(parts) == 1:
            return parts[0]
        of = [part.identity for part in parts]
        identity = Identity(
            np.concatenate([one.message for one in of]),
            pl.concat([one.serial for one in of]),
            np.concatenate([one.kind for one in of]),
            np.concatenate([one.ts for one in of]),
        )
        values = {}
        for name in set[str]().union(*(part.values for part in parts)):
            columns = [part.values.get(name) for part in parts]
            values[name] = np.concatenate(
                [
                    np.full(one.ts.size, np.nan) if column is None else column
                    for one, column in zip(of, columns, strict=True)
                ]
            )
        return Part(identity, values)


@dataclass(slots=True)
class Read:
    """What a reader of whole batches makes of them.

    ``parts``: rows. ``unlisted``: values of unlisted names in those rows. ``left``: positions of the messages that it
    did not read at all.
    """

    parts: list[Part] = field(default_factory=list)
    unlisted: Counter[str] = field(default_factory=Counter)
    left: list[int] = field(default_factory=list)


def frame(parts: Sequence[Part]) -> pl.DataFrame:
    """Parts below each other, in the decoded schema."""
    if not parts:
        return empty_decoded()
    part = Part.join(parts)
    columns = [
        pl.Series("message", part.identity.message),
        part.identity.serial.alias("serial"),
        pl.Series("kind", part.identity.kind),
        pl.Series("ts", part.identity.ts),
    ]
    columns += [_field_series(name, part.values[name]) for name in FIELD_NAMES if name in part.values]
    return pl.DataFrame(columns)


def _field_series(name: str, numbers: F64) -> pl.Series:
    """A catalogue field from numbers, NaN where there is none."""
    series = pl.Series(name, numbers, nan_to_null=bool(np.isnan(numbers).any()))
    return series if FIELD_SCHEMA[name] == pl.Float64 else series.cast(FIELD_SCHEMA[name])
