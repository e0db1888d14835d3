"""Codec ``native-arrow``: an Arrow IPC stream with the native columns, on ``gw/<gateway>/readings``.

Columns ``serial`` and ``kind`` are texts, plain or dictionary-encoded; ``ts`` is a timestamp of any unit and zone (a
naive one is UTC) or whole milliseconds; fields are numbers of any width. What is null, unlisted, implausible or
rejected is so by the rules of native JSON.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from telemetry.codecs.arrow_stream import REFUSALS, read_stream
from telemetry.codecs.columns import Identity, Part, frame
from telemetry.codecs.json_text import Refused
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.names import IDENTITY
from telemetry.codecs.native_rows import is_serial
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.words import F64, I64, U8, Bools
from telemetry.model.batch import Decoded, RawMessage, Reason, Withheld
from telemetry.model.fields import FIELD_BY_NAME, KIND_BY_LABEL, FieldKind
from telemetry.model.identity import MAX_SERIAL_LENGTH

_Batch = tuple[int, pa.RecordBatch]  # with the number of its message

CONTENT_TYPE: Final = "application/vnd.apache.arrow.stream"
_CONTINUATION: Final = b"\xff\xff\xff\xff"  # how every message of a stream begins; no JSON does
_PER_UNIT: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}
_NS_PER_US: Final = 1_000
_MAX_INT64: Final = 2**63 - 1
_EXACT: Final = 2.0**53


def looks_like_arrow(payload: bytes) -> bool:
    """Whether a message without content type is an Arrow stream."""
    return payload.startswith(_CONTINUATION)


@dataclass(frozen=True, slots=True)
class NativeArrow:
    """See the module. Pure; safe to call from any thread."""

    limits: CodecLimits
    name: ClassVar[str] = "native-arrow"

    def decode(self, messages: Sequence[RawMessage], indices: Sequence[int]) -> Decoded:
        """Rows, rejections and counts of ``messages``; message ``i`` is called ``indices[i]``."""
        outcome = Outcome(codec_of_message=dict.fromkeys(indices, self.name))
        alike: defaultdict[object, list[_Batch]] = defaultdict(list)
        for message, index in zip(messages, indices, strict=True):
            batches = read_stream(message.payload, self.limits)
            if isinstance(batches, Refused):
                outcome.reject(index, batches.reason, 1, batches.detail)
                continue
            for batch in batches:
                if batch.num_rows:
                    alike[tuple(batch.schema.names), tuple(batch.schema.types)].append((index, batch))
        parts = [part for group in alike.values() for part in _decode_group(group, outcome)]
        outcome.frames.append(frame(parts))
        return outcome.decoded()


def _decode_group(group: Sequence[_Batch], outcome: Outcome) -> list[Part]:
    """Batches with the same columns as one; where that cannot be, each on its own."""
    of_group = Outcome()
    try:
        part = _decode_columns(group, of_group)
    except (*REFUSALS, pl.exceptions.PolarsError):
        if len(group) > 1:
            return [part for one in group for part in _decode_group([one], outcome)]
        outcome.reject(group[0][0], Reason.MALFORMED, 1, "a column of a type that cannot be read")
        return []
    outcome.merge(of_group)
    return [part]


def _decode_columns(group: Sequence[_Batch], outcome: Outcome) -> Part:
    table = pa.Table.from_batches([batch for _, batch in group]).unify_dictionaries().combine_chunks()
    columns = {name: _one(column) for name, column in zip(table.schema.names, table.columns, strict=True)}
    messages = np.repeat([index for index, _ in group], [batch.num_rows for _, batch in group])
    absent = pa.nulls(table.num_rows)
    serial, serial_ok = _serials(columns.get("serial", absent))
    kind = _kinds(columns.get("kind", absent))
    ts, ts_ok = _times(columns.get("ts", absent))
    good = np.ones(table.num_rows, np.bool_)
    for reason, ok in ((Reason.BAD_SERIAL, serial_ok), (Reason.BAD_KIND, kind > 0), (Reason.BAD_TIME, ts_ok)):
        _reject(outcome, messages[good & ~ok], reason)
        good &= ok
    has_value, has_unlisted, has_implausible = (np.zeros(table.num_rows, np.bool_) for _ in range(3))
    values: dict[str, F64] = {}
    for name, column in columns.items():
        if name in IDENTITY:
            continue
        given = good & column.is_valid().to_numpy(zero_copy_only=False)
        if name not in FIELD_BY_NAME:
            if given.any():
                outcome.unlisted[name] += _count(given)
                has_unlisted |= given
            continue
        numbers = _numbers(name, column)
        present = given & np.isfinite(numbers)
        if wrong := _count(given & ~present):
            outcome.implausible[name] += wrong
            has_implausible |= given & ~present
        if present.any():
            values[name] = np.where(present, numbers, np.nan)
            has_value |= present
    withheld = good & ~has_value & has_unlisted & ~has_implausible
    outcome.withhold(Withheld.UNLISTED, _count(withheld))
    _reject(outcome, messages[good & ~has_value & ~withheld], Reason.EMPTY)
    part = Part(Identity(messages.astype(np.uint32), serial, kind, ts), values)
    return part if (good & has_value).all() else part.take(np.flatnonzero(good & has_value))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _reject(outcome: Outcome, messages: npt.NDArray[np.int64], reason: Reason) -> None:
    """One reading of each of ``messages``, which repeat."""
    for message, count in zip(*np.unique(messages, return_counts=True), strict=True):
        outcome.reject(int(message), reason, int(count))


def _count(mask: Bools) -> int:
    return int(np.count_nonzero(mask))


def _texts(column: pa.Array) -> pl.Series | None:
    """A column of texts, cut after one character more than a serial may have: dictionaries could make it huge."""
    if pa.types.is_dictionary(column.type):
        values = _texts(column.dictionary)
        if values is None:
            return None
        return values.gather(pl.Series(column.indices.cast(pa.int64()).to_numpy(zero_copy_only=False)).cast(pl.Int64))
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    cut = pc.utf8_slice_codeunits(column, 0, MAX_SERIAL_LENGTH + 1)
    return pl.Series(pl.from_arrow(cut)).cast(pl.String)


def _serials(column: pa.Array) -> tuple[pl.Series, Bools]:
    texts = _texts(column)
    if texts is None:
        return pl.Series([""] * len(column)), np.zeros(len(column), np.bool_)
    good = [serial for serial in texts.unique().to_list() if is_serial(serial)]
    return texts, texts.is_in(good).fill_null(value=False).to_numpy()


def _kinds(column: pa.Array) -> U8:
    texts = _texts(column)
    if texts is None:
        return np.zeros(len(column), np.uint8)
    codes = {label: int(kind) for label, kind in KIND_BY_LABEL.items()}
    return texts.replace_strict(codes, default=0, return_dtype=pl.UInt8).fill_null(0).to_numpy()


def _times(column: pa.Array) -> tuple[I64, Bools]:
    """µs since 1970 UTC, and where there is such a time."""
    valid: Bools = column.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_timestamp(column.type):
        times = _integers(column.cast(pa.timestamp(column.type.unit)).cast(pa.int64()))
        if column.type.unit == "ns":
            return times // _NS_PER_US, valid
        factor = _PER_UNIT[column.type.unit]
    elif pa.types.is_integer(column.type) and column.type != pa.uint64():
        times, factor = _integers(column.cast(pa.int64())), _PER_UNIT["ms"]
    else:
        return np.zeros(len(column), np.int64), np.zeros(len(column), np.bool_)
    fits = np.abs(times) <= _MAX_INT64 // factor
    return np.where(fits, times, 0) * factor, valid & fits & (times != np.iinfo(np.int64).min)


def _integers(column: pa.Array) -> I64:
    integers: I64 = column.fill_null(0).to_numpy(zero_copy_only=False)
    return integers


def _numbers(name: str, column: pa.Array) -> F64:
    """A field's values; NaN where there is none, or one of the wrong type or inexact."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return np.full(len(column), np.nan)
    floats = column.cast(pa.float64(), safe=False).fill_null(np.nan)
    numbers: npt.NDArray[np.float64] = floats.to_numpy(zero_copy_only=False) + 0.0
    if FIELD_BY_NAME[name].kind is FieldKind.STATUS:
        whole = (np.abs(numbers) < _EXACT) & (numbers == np.floor(numbers))
        numbers = np.where(whole, numbers, np.nan)
    return numbers
