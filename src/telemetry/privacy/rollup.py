"""Readings to windows: rules 11 to 15 of SEMANTICS.md, in integers.

A sample's instant is cut to the millisecond; of several in one millisecond the last counts. Its value is counted in
the field's steps: the 64-bit product value x (1 / step), rounded half to even. A counter's value at a window's edge
is interpolated exactly and rounded half to even as well.

Pure and vectorised: loops run over fields, never over rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from telemetry.model.batch import field_columns
from telemetry.model.fields import CATALOGUE, FIELD_BY_NAME, FIELD_INDEX, Field, FieldKind
from telemetry.model.series import (
    GAP_MAX_US,
    HOLD_MAX_US,
    SERIES_SCHEMA,
    UTC_GRID,
    Aggregate,
    aggregate_of,
    has_extremes,
)
from telemetry.model.sharing import Resolution
from telemetry.privacy.resolution import UTC_ZONE, WINDOW_KEY, Instants, Ticks, ticks

SLOTS: Final = 60
# SERIES_SCHEMA, and which of the window's 60 equal slots have been covered, as a set of bits (rule 15).
ROLLUP_SCHEMA: Final[Mapping[str, pl.DataType]] = {**SERIES_SCHEMA, "slots": pl.Int64()}
_MS: Final = 1000
_BY: Final = ("device_key", "window_start")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a state sample holds (rule 12) and how far apart counter samples may be (rule 13)."""

    hold_max_us: int = HOLD_MAX_US
    gap_max_us: int = GAP_MAX_US


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class _Samples:
    """The samples of one field, ordered by device and instant, one a millisecond."""

    device_key: Instants
    ms: Instants
    steps: Instants

    @property
    def has_next(self) -> npt.NDArray[np.bool_]:
        """Whether the next sample is of the same device."""
        return np.append(self.device_key[1:] == self.device_key[:-1], [False] * min(1, len(self.ms)))


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Spans of time, each inside one window (or slot, or millisecond), and what they add to it.

    ``cell``: number of the boundary that the span follows. ``start``, ``end``: ms. ``steps``: the value that held,
    of states and last values.
    """

    device_key: Instants
    cell: Instants
    start: Instants
    end: Instants
    amount: Instants
    steps: Instants


def rollup(
    readings: pl.DataFrame,
    resolution: Resolution,
    *,
    fields: Sequence[str] | None = None,
    grid: int = UTC_GRID,
    timezone: str = UTC_ZONE,
    limits: Limits = DEFAULT_LIMITS,
    stored: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The windows that ``readings`` shape: a frame of ROLLUP_SCHEMA, sorted by WINDOW_KEY.

    ``readings``: a reading frame in any order, unique by (device, instant). A window is right only if the readings
    reach back ``gap_max`` before its start and on to ``gap_max`` after its end. ``fields``: those wanted, all that
    occur without. ``effective_at`` is the window's end, as of a first version.

    ``stored`` (ROLLUP_SCHEMA): windows as they are. Then only what falls into slots that those have not covered
    counts, and the frame returned is what to *add* to them (``added`` does); their own content is not in it.

    Minimum and maximum are of the values that held for some part of the window: the sample carried in counts, a
    sample replaced within its millisecond does not.
    """
    names = field_columns(readings) if fields is None else [name for name in fields if name in readings.columns]
    ordered = readings.sort("device_key", "ts")
    done = [pl.DataFrame(schema=ROLLUP_SCHEMA)]
    for name in names:
        samples = _samples(ordered, FIELD_BY_NAME[name])
        if len(samples.ms):
            done.append(
                _field_windows(
                    samples,
                    FIELD_BY_NAME[name],
                    resolution=resolution,
                    grid=grid,
                    timezone=timezone,
                    limits=limits,
                    stored=stored,
                )
            )
    return pl.concat(done).sort(*WINDOW_KEY)


def _samples(ordered: pl.DataFrame, field: Field) -> _Samples:
    rows = (
        ordered.select("device_key", "ts", value=field.name)
        .drop_nulls("value")
        .with_columns(ms=pl.col("ts") // _MS)
        .unique(["device_key", "ms"], keep="last", maintain_order=True)
    )
    if field.kind is FieldKind.STATUS:
        steps = rows["value"].to_numpy()
    else:
        steps = np.rint(rows["value"].to_numpy() * round(1 / field.step)).astype(np.int64)
    return _Samples(rows["device_key"].to_numpy(), rows["ms"].to_numpy(), steps)


def _field_windows(
    samples: _Samples,
    field: Field,
    *,
    resolution: Resolution,
    grid: int,
    timezone: str,
    limits: Limits,
    stored: pl.DataFrame | None,
) -> pl.DataFrame:
    reach = max(limits.hold_max_us, limits.gap_max_us)
    first, last = int(samples.ms.min()) * _MS, int(samples.ms.max()) * _MS + reach
    windows = ticks(resolution, grid, timezone, first, last)
    cells = windows if stored is None else windows.split(SLOTS)
    aggregate = aggregate_of(field)
    if aggregate is Aggregate.LAST:
        pieces = _last_values(samples, cells)
    elif aggregate is Aggregate.INTEGRAL:
        pieces = _held(samples, cells, limits.hold_max_us // _MS)
    else:
        pieces = _grown(samples, cells, limits.gap_max_us // _MS)
    index = pieces.cell if stored is None else pieces.cell // SLOTS
    starts, ends = windows.at(index), windows.at(index + 1)
    rows = pl.DataFrame(
        {
            "device_key": pieces.device_key,
            "window_start": starts,
            "window_end": ends,
            "start": pieces.start,
            "end": pieces.end,
            "amount": pieces.amount,
            "steps": pieces.steps,
            "slots": _slot_bits(pieces, starts // _MS, ends // _MS),
        }
    )
    if stored is not None:
        rows = _uncovered(rows, stored, field, resolution, grid)
    return _aggregated(rows, field, resolution, grid)


def _spread(samples: _Samples, begin: Instants, end: Instants, chosen: npt.NDArray[np.bool_], cells: Ticks) -> _Pieces:
    """Cut the spans [begin, end) of the chosen samples at the cells' boundaries; ``amount`` is the sample's number."""
    number = np.flatnonzero(chosen & (end > begin))
    first, last = cells.index(begin[number] * _MS), cells.index(end[number] * _MS - 1)
    count = last - first + 1
    source = np.repeat(number, count)
    within = np.arange(len(source), dtype=np.int64) - np.repeat(np.cumsum(count) - count, count)
    cell = np.repeat(first, count) + within
    return _Pieces(
        device_key=samples.device_key[source],
        cell=cell,
        start=np.maximum(begin[source], cells.at(cell) // _MS),
        end=np.minimum(end[source], cells.at(cell + 1) // _MS),
        amount=source,
        steps=samples.steps[source],
    )


def _held(samples: _Samples, cells: Ticks, hold_ms: int) -> _Pieces:
    """Rule 12: a sample counts from its instant to the next one or for hold_max, whichever is first."""
    until = samples.ms + hold_ms
    following = np.append(samples.ms[1:], [0])
    until = np.where(samples.has_next, np.minimum(until, following), until)
    held = _spread(samples, samples.ms, until, np.ones(len(until), dtype=np.bool_), cells)
    amount = held.steps * (held.end - held.start)
    return _Pieces(held.device_key, held.cell, held.start, held.end, amount, held.steps)


def _grown(samples: _Samples, cells: Ticks, gap_ms: int) -> _Pieces:
    """Rule 13: linear between two samples at most gap_max apart; a decrease is a reset, and uncovered."""
    ms, steps = samples.ms, samples.steps
    next_ms, next_steps = np.append(ms[1:], [0]), np.append(steps[1:], [0])
    known = samples.has_next & (next_ms - ms <= gap_ms) & (next_steps >= steps)
    spans = _spread(samples, ms, next_ms, known, cells)
    at = spans.amount
    growth, length = next_steps[at] - steps[at], next_ms[at] - ms[at]
    low = _interpolated(steps[at], growth, spans.start - ms[at], length)
    high = _interpolated(steps[at], growth, spans.end - ms[at], length)
    return _Pieces(spans.device_key, spans.cell, spans.start, spans.end, high - low, spans.steps)


def _interpolated(base: Instants, growth: Instants, offset: Instants, length: Instants) -> Instants:
    """``base + growth x offset / length``, rounded half to even, without overflow.

    growth reaches 1e13 mWh and offset 3.6e6 ms, whose product does not fit: whole multiples of length go first.
    """
    quotient, rest = np.divmod(growth, length)
    whole, part = np.divmod(rest * offset, length)
    value = base + quotient * offset + whole
    up = (2 * part > length) | ((2 * part == length) & (value % 2 == 1))
    rounded: Instants = (value + up).astype(np.int64)
    return rounded


def _last_values(samples: _Samples, cells: Ticks) -> _Pieces:
    """Rule 14: the last value in the window. Each sample is a span of its own millisecond here."""
    cell = cells.index(samples.ms * _MS)
    return _Pieces(samples.device_key, cell, samples.ms, samples.ms + 1, samples.steps, samples.steps)


def _slot_bits(pieces: _Pieces, starts: Instants, ends: Instants) -> Instants:
    """The slots that each span touches; all instants in ms."""
    length = ends - starts
    first = (pieces.start - starts) * SLOTS // length
    last = (pieces.end - 1 - starts) * SLOTS // length
    one = np.int64(1)
    return (one << (last + 1)) - (one << first)


def _uncovered(
    rows: pl.DataFrame, stored: pl.DataFrame, field: Field, resolution: Resolution, grid: int
) -> pl.DataFrame:
    """Rule 15: what falls into slots that the stored window has not covered. Each span lies in one slot."""
    known = stored.filter(
        pl.col("field") == FIELD_INDEX[field.name],
        pl.col("resolution") == resolution.rank,
        pl.col("grid") == grid,
    ).select(*_BY, taken="slots")
    joined = rows.join(known, on=_BY, how="left").with_columns(pl.col("taken").fill_null(0))
    return joined.filter(pl.col("taken").and_(pl.col("slots")) == 0).drop("taken")


def _aggregated(rows: pl.DataFrame, field: Field, resolution: Resolution, grid: int) -> pl.DataFrame:
    last = aggregate_of(field) is Aggregate.LAST
    newest = pl.col("amount").sort_by("start").last()
    null = pl.lit(None, pl.Int64)
    extremes = has_extremes(field)
    whole = (pl.col("window_end").first() - pl.col("window_start").first()) // _MS
    found = rows.group_by(_BY).agg(
        pl.col("window_end").first().alias("effective_at"),
        (newest if last else pl.col("amount").sum()).alias("amount"),
        (whole if last else (pl.col("end") - pl.col("start")).sum()).alias("covered_ms"),
        (pl.col("start").max() * _MS if last else null).alias("last_at"),
        (pl.col("steps").min() if extremes else null).alias("lowest"),
        (pl.col("steps").max() if extremes else null).alias("highest"),
        pl.col("slots").bitwise_or(),
    )
    return found.select(
        pl.col("device_key"),
        pl.lit(FIELD_INDEX[field.name], pl.UInt8).alias("field"),
        pl.lit(resolution.rank, pl.UInt8).alias("resolution"),
        pl.lit(grid, pl.UInt8).alias("grid"),
        *(pl.col(name).cast(dtype) for name, dtype in list(ROLLUP_SCHEMA.items())[4:]),
    )


def added(stored: pl.DataFrame, more: pl.DataFrame) -> pl.DataFrame:
    """The windows of ``stored`` that ``more`` changes, and new ones, with ``more`` added (both ROLLUP_SCHEMA)."""
    touched = stored.join(more, on=WINDOW_KEY, how="semi")
    last = pl.col("field").is_in([i for i, f in enumerate(CATALOGUE) if aggregate_of(f) is Aggregate.LAST]).first()
    newest = pl.col("amount").sort_by("last_at").last()
    return (
        pl.concat([touched.select(*ROLLUP_SCHEMA), more.select(*ROLLUP_SCHEMA)])
        .group_by(WINDOW_KEY)
        .agg(
            pl.col("effective_at").max(),
            pl.when(last).then(newest).otherwise(pl.col("amount").sum()).alias("amount"),
            pl.when(last).then(pl.col("covered_ms").max()).otherwise(pl.col("covered_ms").sum()).alias("covered_ms"),
            pl.col("last_at").max(),
            pl.col("lowest").min(),
            pl.col("highest").max(),
            pl.col("slots").bitwise_or(),
        )
        .select(*ROLLUP_SCHEMA)
        .sort(*WINDOW_KEY)
    )
