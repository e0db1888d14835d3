"""JSON's unquoted values of a whole batch: numbers, null, true and false."""

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from telemetry.codecs.columns import text_series
from telemetry.codecs.scan import Texts
from telemetry.codecs.words import F64, I64, U8, Bools, word

Types = npt.NDArray[np.uint8]
NUMBER, NULL, BOOLEAN, WRONG = np.arange(4, dtype=np.uint8)
_U = np.uint64
_NULL: Final = _U(word(b"null"))
_TRUE: Final = _U(word(b"true"))
_FALSE: Final = _U(word(b"false"))
_FOUR: Final = _U(2**32 - 1)
_FIVE: Final = _U(2**40 - 1)
_MINUS, _ZERO = b"-0"
_JSON_NUMBER: Final = r"\A-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?\z"  # RFC 8259, section 6


def read_literals(buffer: Texts, start: I64, end: I64) -> tuple[F64, Types]:
    """Values and types of the literals ``[start, end)``, which ascend and do not overlap.

    Not finite, or no literal at all, is WRONG. Numbers are rounded correctly, negative zero is zero.
    """
    numeric = _begins_and_ends_as_number(buffer.at, start, end)
    types = np.where(numeric, NUMBER, WRONG)
    value = _cast(buffer, start, end, numeric)
    if value is None:
        value = _cast_one_by_one(buffer, start, end, numeric)
    value = value + 0.0
    if not np.isfinite(value).all():
        types[~np.isfinite(value)] = WRONG
    rest = np.flatnonzero(~numeric)
    if rest.size:
        types[rest] = _words_of(buffer.words[start[rest]], (end - start)[rest])
    return value, types


def _begins_and_ends_as_number(at: U8, start: I64, end: I64) -> Bools:
    """What a parser of numbers may be lax about: a digit at both ends, no leading zero, no plus, no name."""
    first = at[start]
    lead = first - _ZERO
    if (negative := first == _MINUS).any():
        start = start + negative
        lead = at[start] - _ZERO
    numeric: Bools = (lead <= 9) & (at[end - 1] - _ZERO <= 9) & (end > start)
    zero = np.flatnonzero(lead == 0)
    numeric[zero[at[start[zero] + 1] - _ZERO <= 9]] = False
    return numeric


def _words_of(found: npt.NDArray[np.uint64], length: I64) -> Types:
    types = np.full(length.size, WRONG)
    types[((found & _FOUR) == _NULL) & (length == 4)] = NULL
    types[((found & _FOUR) == _TRUE) & (length == 4)] = BOOLEAN
    types[((found & _FIVE) == _FALSE) & (length == 5)] = BOOLEAN
    return types


def _cast(buffer: Texts, start: I64, end: I64, numeric: Bools) -> F64 | None:
    """All numbers at once, or None where one of them is none.

    Arrow's strings lie end to end, so what stands between two literals becomes a string too, and null: every
    second one is ours.
    """
    if buffer.has_point_before_exponent:  # Arrow takes 1.e5 for a number
        return None
    offsets = np.empty(2 * start.size + 1, np.int32)
    offsets[:-1:2] = start
    offsets[1::2] = end
    offsets[-1] = offsets[-2]
    ours = np.zeros((start.size, 2), np.bool_)
    ours[:, 0] = numeric
    valid = np.packbits(ours.reshape(-1), bitorder="little")
    buffers = [pa.py_buffer(valid), pa.py_buffer(offsets), pa.py_buffer(buffer.buffer)]
    try:
        numbers = pa.Array.from_buffers(pa.string(), 2 * start.size, buffers).cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    return np.frombuffer(numbers.buffers()[1], np.float64, 2 * start.size)[::2]


def _cast_one_by_one(buffer: Texts, start: I64, end: I64, numeric: Bools) -> F64:
    """NaN where there is no number."""
    literals = text_series(buffer, start, np.where(numeric, end, start))
    return (
        pl.select(
            pl.when(literals.str.contains(_JSON_NUMBER)).then(literals).cast(pl.Float64, strict=False).fill_null(np.nan)
        )
        .to_series()
        .to_numpy()
    )
