"""Windows of time: where they lie, how fine ones add up to coarse ones, and which version of one holds.

Windows below a day lie on the UTC grid. Days and months exist on the UTC grid and on a site's own, by the rules of
its IANA zone: 23 or 25 hours where clocks change, 23:30 on Lord Howe (SEMANTICS.md, rule 10). All instants are µs
since 1970 UTC. Pure and vectorised: loops run over days, zones and fields, never over rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final, overload
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl

from telemetry.model.series import AGGREGATES, SERIES_SCHEMA, SITE_GRID, UTC_GRID, Aggregate
from telemetry.model.sharing import RESOLUTIONS, Resolution

Instants = npt.NDArray[np.int64]

UTC_ZONE: Final = "UTC"
WINDOW_KEY: Final = ("device_key", "field", "resolution", "grid", "window_start")
_MINUTE_US: Final = 60 * 1_000_000
_DAY_US: Final = 24 * 60 * _MINUTE_US
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_FIELDS: Final = [index for index, kind in enumerate(AGGREGATES) if kind is Aggregate.LAST]


def first_instant(day: date, zone: ZoneInfo) -> int:
    """The first instant (µs) of a local date.

    A midnight that the clocks jump over is the instant of the jump, one that they pass twice the first of both
    (PEP 495, fold 0).
    """
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    return (midnight.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)


@lru_cache(maxsize=4096)
def _starts_of_year(timezone: str, year: int, resolution: Resolution) -> Instants:
    zone = ZoneInfo(timezone)
    if resolution is Resolution.P1M:
        days = [date(year, month, 1) for month in range(1, 13)]
    else:
        first = date(year, 1, 1)
        days = [first + timedelta(days=n) for n in range((date(year + 1, 1, 1) - first).days)]
    return np.array([first_instant(day, zone) for day in days], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Ticks:
    """Boundaries of one resolution, numbered: of fixed length, or listed in ``edges`` (ascending, in µs).

    ``split``: each window cut into so many equal slots, whose boundaries these are then.
    """

    length_us: int
    edges: Instants | None = None

    def index(self, ts_us: Instants) -> Instants:
        """The number of the last boundary at or before each instant."""
        if self.edges is None:
            return ts_us // self.length_us
        return np.searchsorted(self.edges, ts_us, side="right").astype(np.int64) - 1

    def at(self, index: Instants) -> Instants:
        """The instant of each boundary."""
        return index * self.length_us if self.edges is None else self.edges[index]

    def split(self, slots: int) -> "Ticks":
        """Boundaries of the slots: slot s of window w has number w * slots + s."""
        if self.edges is None:
            return Ticks(self.length_us // slots)
        parts = np.diff(self.edges)[:, None] // slots * np.arange(slots, dtype=np.int64)
        return Ticks(0, np.append((self.edges[:-1, None] + parts).ravel(), self.edges[-1]))


def ticks(resolution: Resolution, grid: int, timezone: str, first_us: int, last_us: int) -> Ticks:
    """The boundaries of ``resolution`` that windows touching [first, last] need.

    Raises:
        ValueError: raw has no windows, and windows below a day lie on the UTC grid only.

    """
    minutes = resolution.minutes
    if resolution is Resolution.RAW:
        raise ValueError("raw readings have no windows")
    if grid == SITE_GRID and resolution.rank < Resolution.P1D.rank:
        raise ValueError(f"{resolution} lies on the UTC grid only")
    if minutes is not None and grid == UTC_GRID:
        return Ticks(minutes * _MINUTE_US)
    zone = timezone if grid == SITE_GRID else UTC_ZONE
    years = range(_year(first_us) - 1, _year(last_us) + 2)
    edges = np.concatenate([_starts_of_year(zone, year, resolution) for year in years])
    # A date that a zone left out (Samoa, 30 December 2011) is no window.
    return Ticks(0, np.unique(edges))


def _year(instant_us: int) -> int:
    return (_EPOCH + timedelta(microseconds=instant_us)).year


@overload
def window_starts(ts_us: int, resolution: Resolution, grid: int = ..., timezone: str = ...) -> int: ...
@overload
def window_starts(ts_us: Instants, resolution: Resolution, grid: int = ..., timezone: str = ...) -> Instants: ...
def window_starts(
    ts_us: int | Instants, resolution: Resolution, grid: int = UTC_GRID, timezone: str = UTC_ZONE
) -> int | Instants:
    """The start of the window that holds each instant: the last boundary at or before it."""
    return _moved(ts_us, resolution, grid, timezone, 0)


@overload
def window_ends(ts_us: int, resolution: Resolution, grid: int = ..., timezone: str = ...) -> int: ...
@overload
def window_ends(ts_us: Instants, resolution: Resolution, grid: int = ..., timezone: str = ...) -> Instants: ...
def window_ends(
    ts_us: int | Instants, resolution: Resolution, grid: int = UTC_GRID, timezone: str = UTC_ZONE
) -> int | Instants:
    """The end of the window that holds each instant: the first boundary after it."""
    return _moved(ts_us, resolution, grid, timezone, 1)


def _moved(ts_us: int | Instants, resolution: Resolution, grid: int, timezone: str, by: int) -> int | Instants:
    instants = np.atleast_1d(np.asarray(ts_us, dtype=np.int64))
    if instants.size == 0:
        return instants
    lines = ticks(resolution, grid, timezone, int(instants.min()), int(instants.max()))
    found = lines.at(lines.index(instants) + by)
    return found if isinstance(ts_us, np.ndarray) else int(found[0])


def last_boundary(now_us: int, resolution: Resolution, grid: int = UTC_GRID, timezone: str = UTC_ZONE) -> int:
    """The last boundary at or before ``now_us``: with now − lateness, how far windows are shown (rule 17)."""
    return window_starts(now_us, resolution, grid, timezone)


def next_boundary(now_us: int, resolution: Resolution, grid: int = UTC_GRID, timezone: str = UTC_ZONE) -> int:
    """The first boundary after ``now_us``: when a correction computed then takes effect (rule 17)."""
    return window_ends(now_us, resolution, grid, timezone)


def latest_effective(series: pl.DataFrame, cutoff_us: int | pl.Expr) -> pl.DataFrame:
    """Of each window the newest version with ``effective_at`` ≤ cutoff; none where that version is empty.

    ``cutoff_us``: one instant, or an expression over the rows (for cut-offs by device or field). A version with
    nothing covered says that what was there before holds no more.
    """
    if series.is_empty():
        return series
    effective = series["effective_at"].to_numpy()
    cutoff = series.select(cutoff_us).to_series().to_numpy() if isinstance(cutoff_us, pl.Expr) else cutoff_us
    keys = [series[name].to_numpy() for name in WINDOW_KEY]
    # NumPy: a few hundred rows are what is mostly asked about, and each step on a frame costs a tenth of a millisecond.
    order = np.lexsort((effective, *reversed(keys)))
    order = order[(effective <= cutoff)[order]]
    newest = np.ones(order.size, dtype=bool)
    if order.size:
        newest[:-1] = np.logical_or.reduce([np.diff(key[order]) != 0 for key in keys])
    order = order[newest]
    return series[order[series["covered_ms"].to_numpy()[order] > 0]]


def coarsen(
    series: pl.DataFrame, to: Resolution, grid: int = UTC_GRID, timezones: Mapping[int, str] | None = None
) -> pl.DataFrame:
    """Add windows up to ``to``: sums of integers, so that any grouping on the way gives the same bytes (rule 11).

    ``series``: SERIES_SCHEMA, one version a window. What lies in a day or month of the grid that is there as well is
    not counted twice: the coarse one stands. Windows coarser than ``to`` are left out, and on a site's own grid
    (``timezones`` by device key, UTC where absent) windows of the UTC grid from a day on. A window that a boundary of
    the target cuts (an hour, by midnight in Kathmandu) cannot be divided: the windows on both sides of that boundary
    are left out. ``effective_at`` becomes the latest of the parts'.
    """
    below = pl.col("resolution") < Resolution.P1D.rank
    wanted = (pl.col("resolution") <= to.rank) & (below | (pl.col("grid") == grid))
    parts = series.filter(wanted).select(*SERIES_SCHEMA)
    zones = timezones or {}
    if grid == UTC_GRID or parts.is_empty():
        groups = [(UTC_ZONE, parts)]
    else:
        zone = pl.col("device_key").replace_strict(dict(zones), default=UTC_ZONE, return_dtype=pl.String)
        split = parts.with_columns(_zone=zone).partition_by("_zone", as_dict=True, include_key=False)
        groups = [(str(key[0]), rows) for key, rows in split.items()]
    done = [_coarsened(rows, to, grid, zone) for zone, rows in groups if rows.height]
    return pl.concat(done).sort(*WINDOW_KEY) if done else parts.clear()


def _once(parts: pl.DataFrame, grid: int, timezone: str) -> pl.DataFrame:
    """Without the windows that lie in a day or month which is there itself."""
    for whole in (Resolution.P1M, Resolution.P1D):
        key = ["device_key", "field", "window_start"]
        there = parts.filter(pl.col("resolution") == whole.rank).select(key)
        if there.height:
            starts = window_starts(parts["window_start"].to_numpy(), whole, grid, timezone)
            inside = parts.select("device_key", "field", window_start=pl.Series(starts))
            known = inside.join(there.with_columns(_in=True), on=key, how="left", maintain_order="left")["_in"]
            parts = parts.filter(known.is_null() | (parts["resolution"] >= whole.rank))
    return parts


def _coarsened(parts: pl.DataFrame, to: Resolution, grid: int, timezone: str) -> pl.DataFrame:
    parts = _once(parts, grid, timezone)
    starts = parts["window_start"].to_numpy()
    ends = _ends_of(parts, timezone)
    into, until = (window_starts(instants, to, grid, timezone) for instants in (starts, ends - 1))
    rows = parts.with_columns(window_start=pl.Series(into), _until=pl.Series(until), _part=pl.Series(starts))
    cut = rows.filter(pl.col("window_start") != pl.col("_until"))
    if cut.height:
        key = ["device_key", "field", "window_start"]
        both = pl.concat([cut.select(key), cut.select("device_key", "field", window_start="_until")]).unique()
        rows = rows.filter(pl.col("window_start") == pl.col("_until")).join(both, on=key, how="anti")
    last = pl.col("field").is_in(_LAST_FIELDS)
    newest = pl.col("amount").sort_by("last_at", "_part").last()
    summed = (
        rows.with_columns(resolution=pl.lit(to.rank, pl.UInt8), grid=pl.lit(grid, pl.UInt8))
        .group_by(WINDOW_KEY)
        .agg(
            pl.col("effective_at").max(),
            pl.when(last.first()).then(newest).otherwise(pl.col("amount").sum()).alias("amount"),
            pl.col("covered_ms").sum(),
            pl.col("last_at").max(),
            pl.col("lowest").min(),
            pl.col("highest").max(),
        )
    )
    whole = window_ends(summed["window_start"].to_numpy(), to, grid, timezone) - summed["window_start"].to_numpy()
    covered = pl.when(last).then(pl.Series(whole // 1000, dtype=pl.Int64)).otherwise(pl.col("covered_ms"))
    return summed.with_columns(covered_ms=covered).select(*SERIES_SCHEMA)


def _ends_of(rows: pl.DataFrame, timezone: str) -> Instants:
    """The end of every window; the rows may mix resolutions and grids."""
    starts = rows["window_start"].to_numpy()
    ranks, grids = rows["resolution"].to_numpy(), rows["grid"].to_numpy()
    ends = np.zeros_like(starts)
    for rank, grid in rows.select("resolution", "grid").unique().iter_rows():
        chosen = (ranks == rank) & (grids == grid)
        ends[chosen] = window_ends(starts[chosen], RESOLUTIONS[rank], grid, timezone)
    return ends
