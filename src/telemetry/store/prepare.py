"""One batch of rows made ready for COPY: sorted by key, one row per key, cut at the hours. Pure functions."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pgpq
import polars as pl

from telemetry.model.batch import READING_SCHEMA, check_schema, field_columns

HOUR_US: Final = 3600 * 1_000_000
_KEY: Final = ("ts", "device_key")
_POSTGRES_EPOCH_US: Final = 946_684_800 * 1_000_000  # 2000-01-01 UTC, where timestamptz counts from
_CHUNK_ROWS: Final = 8192  # about 1 MB of COPY data; measured as fast as any larger chunk


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of one hour (hours since 1970), sorted by (ts, device_key)."""

    hour: int
    rows: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch with one row per key. ``duplicate`` counts rows merged into others of the same batch.

    ``merged`` and ``conflict`` are parts of it, as in ``telemetry.model.batch.Written``.
    """

    rows: pl.DataFrame
    slices: tuple[Slice, ...]
    duplicate: int = 0
    merged: int = 0
    conflict: int = 0


def prepare(rows: pl.DataFrame, plan_version: int) -> Prepared:
    """Sort, merge repetitions of a key, and cut at the hours.

    Raises:
        AssertionError: ``rows`` breaks its schema or carries another plan's version: a fault of the caller.

    """
    check_schema(rows, READING_SCHEMA)
    if rows.is_empty():
        return Prepared(rows, ())
    assert (rows["plan_version"] == plan_version).all(), "rows of another plan"  # noqa: S101
    fields = field_columns(rows)
    # The catalogue's order, so that equal sets of columns give equal statements; stable, so that the first row
    # of a key is the first received.
    rows = rows.select(*READING_SCHEMA, *fields).sort(*_KEY, maintain_order=True)
    keys = [rows[name].to_numpy() for name in _KEY]
    repeats = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    merged = conflict = 0
    if repeats.any():
        rows, merged, conflict = _merge(rows, repeats, fields)
    return Prepared(rows, _slices(rows), int(repeats.sum()), merged, conflict)


def _merge(
    rows: pl.DataFrame, repeats: np.ndarray[tuple[int], np.dtype[np.bool_]], fields: list[str]
) -> tuple[pl.DataFrame, int, int]:
    """Fold the rows of each key, field by field the first value that is not null; count what the others did.

    A row that is not its key's first *contradicts* where its value differs from the key's first value, and
    *adds* where its value is that first value itself.
    """
    later = np.append(False, repeats)
    involved = later | np.append(repeats, False)
    groups = rows.filter(involved).with_columns(later=pl.Series(later[involved]))
    first = {name: pl.col(name).drop_nulls().first().over(_KEY) for name in fields}
    contradicts = pl.any_horizontal(
        pl.lit(value=False), *((pl.col(f) != first[f]).fill_null(value=False) for f in fields)
    )
    adds = pl.any_horizontal(
        pl.lit(value=False),
        *(pl.col(f).is_not_null() & (pl.col(f).is_not_null().cum_sum().over(_KEY) == 1) for f in fields),
    )
    outcome = groups.select("later", contradicts=contradicts, adds=adds).filter(pl.col("later"))
    conflict = int(outcome["contradicts"].sum())
    merged = int((outcome["adds"] & ~outcome["contradicts"]).sum())
    folded = groups.with_columns(**first).filter(~pl.col("later")).drop("later")
    single = rows.filter(~involved)
    return pl.concat([single, folded]).sort(*_KEY), merged, conflict


def _slices(rows: pl.DataFrame) -> tuple[Slice, ...]:
    hours = rows["ts"].to_numpy() // HOUR_US
    starts = np.concatenate(([0], np.flatnonzero(np.diff(hours)) + 1, [len(hours)]))
    return tuple(
        Slice(int(hours[start]), rows.slice(start, stop - start))
        for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    )


def occurring_columns(rows: pl.DataFrame) -> list[str]:
    """The key, the plan's version and the fields that hold a value in some row."""
    height = rows.height
    nulls = rows.null_count().row(0)
    return [name for name, count in zip(rows.columns, nulls, strict=True) if name in READING_SCHEMA or count < height]


def binary_copy(rows: pl.DataFrame) -> Iterator[bytes]:
    """Encode ``rows`` for COPY … (FORMAT binary), in chunks; columns in the frame's order.

    Timestamps go as the 8-byte integers that timestamptz is on the wire (PostgreSQL documentation, COPY, binary
    format).
    """
    table = rows.with_columns(pl.col("ts") - _POSTGRES_EPOCH_US).to_arrow()
    encoder = pgpq.ArrowToPostgresBinaryEncoder(table.schema)
    yield encoder.write_header()
    for batch in table.to_batches(max_chunksize=_CHUNK_ROWS):
        yield encoder.write_batch(batch)
    yield encoder.finish()


async def copy_stream(rows: pl.DataFrame) -> AsyncIterator[bytes]:
    """``binary_copy`` as the driver wants it: each chunk is made when the socket takes it."""
    for chunk in binary_copy(rows):
        yield chunk
