"""What becomes of stored windows: versions, late samples, and coarsening to what is kept (rules 8, 9, 15, 17).

Frames: ``kept`` is KEPT_SCHEMA; windows are ROLLUP_SCHEMA, one row a window (its newest version). A window is *closed*
once no hot row can change it: its end lies at or before ``frozen_us``. Days and months are gathered from quarters of an
hour until they are closed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from telemetry.model.fields import FIELD_NAMES
from telemetry.model.series import SERIES_SCHEMA, SITE_GRID, UTC_GRID
from telemetry.model.sharing import RESOLUTIONS, Resolution
from telemetry.privacy.resolution import UTC_ZONE, WINDOW_KEY, coarsen, window_ends, window_starts
from telemetry.privacy.rollup import DEFAULT_LIMITS, ROLLUP_SCHEMA, SLOTS, Limits, added, rollup

# What is kept of a field of a device: Resolution.rank, and the IANA zone of its site's own days.
KEPT_SCHEMA: Final[Mapping[str, pl.DataType]] = {
    "device_key": pl.Int64(),
    "field": pl.UInt8(),
    "rank": pl.UInt8(),
    "timezone": pl.String(),
}
_DAY, _MONTH, _QUARTER = Resolution.P1D.rank, Resolution.P1M.rank, Resolution.PT15M.rank
_PLACE: Final = ("device_key", "field")
FOREVER_US: Final = 2**62
_HOUR_US: Final = 3_600_000_000
_LENGTHS_US: Final = {one.rank: (one.minutes or 0) * 60_000_000 for one in RESOLUTIONS}
_VALUES: Final = ("amount", "covered_ms", "last_at", "lowest", "highest", "slots")


def gathered() -> pl.Expr:
    """The rank in which windows are written while they are open: what is kept, but at most a quarter of days."""
    return pl.when(pl.col("rank") >= _DAY).then(pl.lit(_QUARTER, pl.UInt8)).otherwise(pl.col("rank"))


def revised(computed: pl.DataFrame, newest: pl.DataFrame, *, due_after_us: int, as_of_us: int) -> pl.DataFrame:
    """The versions to write so that ``computed`` holds: of windows that are new or differ from the ``newest`` stored.

    A window that ends after ``due_after_us`` is met by this pass for the first time: its version is effective at its
    end. Any other version takes effect at the next boundary of the window's own grid after ``as_of_us``, so that
    nobody sees by a change when a late row arrived (rule 17). A window that no longer is gets an empty version.
    """
    old = newest.select(*WINDOW_KEY, *(pl.col(name).alias(f"_{name}") for name in _VALUES))
    both = computed.select(*WINDOW_KEY, *_VALUES).join(old, on=WINDOW_KEY, how="full", coalesce=True)
    differs = pl.any_horizontal(*(pl.col(name).ne_missing(pl.col(f"_{name}")) for name in _VALUES))
    gone = pl.col("amount").is_null()
    changed = both.filter(differs & ~(gone & (pl.col("_covered_ms") == 0)))
    empty = [pl.col(name).fill_null(0) for name in ("amount", "covered_ms", "slots")]
    return _effective(changed.with_columns(empty), UTC_ZONE, due_after_us, as_of_us)


def _effective(rows: pl.DataFrame, timezone: str, due_after_us: int, as_of_us: int) -> pl.DataFrame:
    """Put in ``effective_at``; the rows may mix resolutions and grids."""
    done = [pl.DataFrame(schema=ROLLUP_SCHEMA)]
    for (rank, grid), part in rows.partition_by("resolution", "grid", as_dict=True).items():
        resolution = RESOLUTIONS[rank]
        ends = pl.Series(window_ends(part["window_start"].to_numpy(), resolution, grid, timezone))
        following = window_ends(as_of_us, resolution, grid, timezone)
        effective = pl.when(ends > due_after_us).then(ends).otherwise(pl.max_horizontal(ends, pl.lit(following)))
        done.append(part.with_columns(effective_at=effective).select(*ROLLUP_SCHEMA))
    return pl.concat(done)


@dataclass(frozen=True, slots=True)
class _Level:
    """One resolution on one grid, for devices of one zone."""

    resolution: Resolution
    grid: int
    timezone: str

    @property
    def rank(self) -> int:
        return self.resolution.rank

    def within(self, windows: pl.DataFrame) -> pl.DataFrame:
        """(device, field, window_start) of this level's windows that hold the given ones, row by row."""
        starts = window_starts(windows["window_start"].to_numpy(), self.resolution, self.grid, self.timezone)
        return windows.select(*_PLACE, window_start=pl.Series(starts, dtype=pl.Int64))

    def closed(self, windows: pl.DataFrame, frozen_us: int) -> pl.Series:
        """Whether no hot row can change these windows of this level."""
        ends = window_ends(windows["window_start"].to_numpy(), self.resolution, self.grid, self.timezone)
        return pl.Series(ends, dtype=pl.Int64) <= frozen_us

    def of(self, windows: pl.DataFrame) -> pl.DataFrame:
        """Those of this level."""
        return windows.filter(pl.col("resolution") == self.rank, pl.col("grid") == self.grid)

    def finer(self, windows: pl.DataFrame) -> pl.DataFrame:
        """Those that add up to this level's."""
        same = (pl.col("resolution") < _DAY) | (pl.col("grid") == self.grid)
        return windows.filter(pl.col("resolution") < self.rank, same)

    def wanted(self, kept: pl.DataFrame) -> pl.DataFrame:
        """The (device, field) whose closed windows are to be of this level, unless a month holds them."""
        if self.rank == _DAY:
            return kept.filter(pl.col("rank") >= _DAY).select(_PLACE)
        return kept.filter((pl.col("rank") if self.rank == _MONTH else gathered()) == self.rank).select(_PLACE)


def _levels(timezone: str) -> Iterator[_Level]:
    """From coarsest to finest."""
    for resolution in reversed(RESOLUTIONS[1:]):
        yield _Level(resolution, UTC_GRID, UTC_ZONE)
        if resolution.rank >= _DAY:
            yield _Level(resolution, SITE_GRID, timezone)


def _among(rows: pl.DataFrame, others: pl.DataFrame, on: Sequence[str]) -> pl.Series:
    """Whether each row's key is among the others'."""
    known = others.select(on).unique().with_columns(_known=True)
    return rows.join(known, on=on, how="left", maintain_order="left")["_known"].fill_null(value=False)


@dataclass(frozen=True, slots=True)
class Late:
    """Where late samples of the devices of one zone go (rule 15): into the resolution in which their time is stored.

    That is a day or month which is stored, or closed with nothing finer left of it; below a day what the same hour
    has already, else what is kept. What lies at ``frozen_us`` or later is recomputed from hot rows instead.
    """

    kept: pl.DataFrame
    stored: pl.DataFrame
    timezone: str
    frozen_us: int
    limits: Limits

    def additions(self, readings: pl.DataFrame) -> Iterator[tuple[_Level, pl.DataFrame]]:
        """By level: what to add to its windows."""
        fields = [FIELD_NAMES[index] for index in self.kept["field"].unique().sort()]
        above: list[_Level] = []
        for level in _levels(self.timezone):
            have = level.of(self.stored)
            if have.is_empty() and level.wanted(self.kept).is_empty():
                continue
            more = rollup(
                readings,
                level.resolution,
                fields=fields,
                grid=level.grid,
                timezone=level.timezone,
                limits=self.limits,
                stored=have,
            ).join(self.kept, on=_PLACE, how="semi", maintain_order="left")
            yield level, more.filter(self._holds(level, more) & ~self._held_above(level, more, above))
            above.append(level)

    def _holds(self, level: _Level, windows: pl.DataFrame) -> pl.Series:
        """Whether the level is the one that holds these (finer or equal) windows, coarser ones aside."""
        at = level.within(windows)
        wanted = _among(at, level.wanted(self.kept), _PLACE) & level.closed(at, self.frozen_us)
        key = (*_PLACE, "window_start")
        if level.rank >= _DAY:
            finer = _among(at, level.within(level.finer(self.stored)), key)
            return _among(at, level.of(self.stored), key) | (wanted & ~finer)
        hour = _Level(Resolution.PT1H, UTC_GRID, UTC_ZONE)
        below = self.stored.filter(pl.col("resolution") < _DAY)
        here = hour.within(windows)
        own = _among(here, hour.within(level.of(below)), key) & level.closed(at, self.frozen_us)
        return own | (wanted & ~_among(here, hour.within(below), key))

    def _held_above(self, level: _Level, windows: pl.DataFrame, above: Sequence[_Level]) -> pl.Series:
        """Whether days or months hold these windows: of the own grid, or below a day of both grids."""
        none = pl.Series([False]).new_from_index(0, windows.height)
        held = {UTC_GRID: none, SITE_GRID: none}
        for one in above:
            if one.rank >= _DAY:
                held[one.grid] |= self._holds(one, windows)
        return held[level.grid] if level.rank >= _DAY else held[UTC_GRID] & held[SITE_GRID]


def late_windows(
    readings: pl.DataFrame,
    kept: pl.DataFrame,
    stored: pl.DataFrame,
    *,
    frozen_us: int,
    as_of_us: int,
    limits: Limits = DEFAULT_LIMITS,
) -> pl.DataFrame:
    """The versions to write so that the windows ``stored`` hold the late ``readings`` as well (rule 15)."""
    done = [pl.DataFrame(schema=ROLLUP_SCHEMA)]
    for (timezone,), part in kept.partition_by("timezone", as_dict=True).items():
        rows = readings.join(part.select("device_key").unique(), on="device_key", how="semi")
        own = stored.join(part, on=_PLACE, how="semi")
        late = Late(part, own, str(timezone), frozen_us, limits)
        for level, more in late.additions(rows):
            done.append(_effective(added(level.of(own), more), level.timezone, FOREVER_US, as_of_us))
    return pl.concat(done)


@dataclass(frozen=True, slots=True)
class Coarsening:
    """What to write and what to delete, in one transaction; deleting is by window, in all versions."""

    write: pl.DataFrame
    delete: pl.DataFrame


def coarsened(kept: pl.DataFrame, stored: pl.DataFrame, *, frozen_us: int, as_of_us: int) -> Coarsening:
    """Coarsen closed windows that are finer than what is kept (rule 9), and gathered quarters to their days.

    A coarse window that exists already stands: its parts are deleted. Windows with a version that is not effective
    at ``as_of_us`` wait, so that a correction still comes on its own grid; so do the windows beside them. Parts that
    no coarse window can hold (hours that midnight cuts, where days are kept) are deleted with their days.
    """
    write, delete = [pl.DataFrame(schema=ROLLUP_SCHEMA)], [pl.DataFrame(schema=ROLLUP_SCHEMA)]
    for (timezone,), part in kept.partition_by("timezone", as_dict=True).items():
        own = stored.join(part, on=_PLACE, how="semi")
        for to in RESOLUTIONS[_QUARTER:]:
            done = _coarsened_to(to, part, own, timezone=str(timezone), frozen_us=frozen_us, as_of_us=as_of_us)
            write.append(done.write)
            delete.append(done.delete)
            own = pl.concat([own.join(done.delete, on=WINDOW_KEY, how="anti"), done.write])
    return Coarsening(pl.concat(write), pl.concat(delete).select(WINDOW_KEY))


def _coarsened_to(
    to: Resolution, kept: pl.DataFrame, stored: pl.DataFrame, *, timezone: str, frozen_us: int, as_of_us: int
) -> Coarsening:
    grids = (UTC_GRID, SITE_GRID) if to.rank >= _DAY else (UTC_GRID,)
    write = [pl.DataFrame(schema=ROLLUP_SCHEMA)]
    parts = stored.join(_Level(to, UTC_GRID, UTC_ZONE).wanted(kept), on=_PLACE, how="semi").filter(
        pl.col("resolution") < to.rank
    )
    over = pl.Series([True]).new_from_index(0, parts.height)
    for grid in grids:
        level = _Level(to, grid, timezone if grid == SITE_GRID else UTC_ZONE)
        finer = level.finer(parts)
        at = level.within(finer)
        pending = level.within(finer.filter(pl.col("effective_at") > as_of_us))
        key = (*_PLACE, "window_start")
        ready = level.closed(at, frozen_us) & ~_among(at, pending, key)
        fresh = finer.filter(ready & ~_among(at, level.of(stored), key))
        write.append(_summed(fresh, level))
        of_grid = (parts["resolution"] < _DAY) | (parts["grid"] == grid)
        at = level.within(parts)
        over &= ~of_grid | (level.closed(at, frozen_us) & ~_among(at, pending, key))
    return Coarsening(pl.concat(write), parts.filter(over))


def _summed(parts: pl.DataFrame, level: _Level) -> pl.DataFrame:
    """Windows of the level, with their slots: covered is every slot that a part with anything in it touches."""
    parts = parts.filter(pl.col("covered_ms") > 0)
    if parts.is_empty():
        return parts.select(*ROLLUP_SCHEMA)
    zones = dict.fromkeys(parts["device_key"].unique().to_list(), level.timezone)
    sums = coarsen(parts.select(*SERIES_SCHEMA), level.resolution, level.grid, zones)
    into = level.within(parts)["window_start"]
    until = pl.Series(window_ends(into.to_numpy(), level.resolution, level.grid, level.timezone))
    # A site's day may have 25 hours; a month is part of nothing.
    lengths = (
        parts["resolution"].replace_strict(_LENGTHS_US, return_dtype=pl.Int64) + parts["grid"].cast(pl.Int64) * _HOUR_US
    )
    end = pl.Series(parts["window_start"] + lengths).rename("end")
    ends = pl.DataFrame({"end": end, "until": until}).min_horizontal()
    slot_us = (until - into) // SLOTS
    low = (parts["window_start"] - into) // slot_us
    high = (ends - 1 - into) // slot_us
    bits = np.left_shift(np.int64(1), high.to_numpy() + 1) - np.left_shift(np.int64(1), low.to_numpy())
    slots = (
        parts.select(*_PLACE, window_start=into)
        .with_columns(slots=pl.Series(bits))
        .group_by(*_PLACE, "window_start")
        .agg(pl.col("slots").bitwise_or())
    )
    return sums.join(slots, on=[*_PLACE, "window_start"], how="left").select(*ROLLUP_SCHEMA)
