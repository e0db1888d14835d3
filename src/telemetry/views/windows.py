"""Which windows are shown, and as what: rules 11, 16 to 21 over whole frames. No I/O.

``tests/support/scalar_view.py`` says the same in plain loops.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from telemetry.model.fields import CATALOGUE, FIELD_INDEX, FIELD_NAMES
from telemetry.model.series import AGGREGATES, SERIES_SCHEMA, SITE_GRID, UTC_GRID, Aggregate
from telemetry.model.sharing import RESOLUTIONS, Resolution
from telemetry.privacy.combine import KindView, Level, Span, levels, newest_visible_us
from telemetry.privacy.resolution import UTC_ZONE, coarsen, last_boundary, latest_effective, ticks, window_ends
from telemetry.privacy.rollup import rollup
from telemetry.views.judging import Subject, guarded_by, judged, judged_simply

# Of a window, before names take the place of keys.
SHOWN_SCHEMA: Final[Mapping[str, pl.DataType]] = {
    "device_key": pl.Int64(),
    "field": pl.UInt8(),
    "resolution": pl.UInt8(),
    "grid": pl.UInt8(),
    "start": pl.Int64(),
    "end": pl.Int64(),
    "value": pl.Float64(),
    "coverage": pl.String(),
    "lowest": pl.Float64(),
    "highest": pl.Float64(),
}
SHOWN_TYPES: Final = pl.Schema(SHOWN_SCHEMA)
_INVERSE: Final = np.array([round(1 / field.step) for field in CATALOGUE], dtype=np.float64)
_IS_INTEGRAL: Final = np.array([kind is Aggregate.INTEGRAL for kind in AGGREGATES])
_COVERAGE: Final = pl.Series(["none", "partial", "full"])
_NEVER: Final = 2**62
_RAW: Final = Resolution.RAW.rank
_DAY: Final = Resolution.P1D.rank
_ALL: Final = frozenset(FIELD_NAMES)
# From 2000 to 2040: a zone's alignment must not depend on what is asked.
_ERA_US: Final = (946_684_800_000_000, 2_208_988_800_000_000)


@dataclass(frozen=True, slots=True)
class Asked:
    """What part of the answer is wanted: windows that lie in ``range_us`` and start in ``slice_us``, as of ``now``."""

    resolution: Resolution
    range_us: tuple[int, int]
    slice_us: tuple[int, int]
    now_us: int


@lru_cache(maxsize=1024)
def alignment(zone: str) -> int:
    """The greatest number of minutes, 60 at most, that divides the beginning of every day of the zone."""
    edges = ticks(Resolution.P1D, SITE_GRID, zone, *_ERA_US).edges
    if edges is None or (edges % 60_000_000).any():
        return 1
    return gcd(60, *(edges // 60_000_000 % 60).tolist())


def levels_of(
    view: KindView, fields: AbstractSet[str], asked: Resolution, *, grid: int | None, day_grid: int, align_min: int
) -> dict[str, tuple[Level, ...]]:
    """The levels of each of the fields that has any, at every resolution that windows may be kept at."""
    found: dict[str, tuple[Level, ...]] = {}
    known: dict[int, tuple[Level, ...]] = {}  # what one grant names has the same spans, and they are one object
    for name, spans in view.fields.items():
        if name in fields and spans:
            some = known.get(id(spans))
            if some is None:
                some = known[id(spans)] = _levels(spans, asked, grid, day_grid, align_min)
            if some:
                found[name] = some
    return found


def _distinct(subject: Subject) -> Iterable[tuple[Level, ...]]:
    """The levels of its fields, those that are one object once."""
    return {id(some): some for some in subject.levels.values()}.values()


@lru_cache(maxsize=8192)
def _levels(
    spans: tuple[Span, ...], asked: Resolution, grid: int | None, day_grid: int, align_min: int
) -> tuple[Level, ...]:
    """By content: most fields of a device, and many devices, are granted alike."""
    kept = range(Resolution.PT1M.rank, len(RESOLUTIONS))
    return levels(spans, asked, grid=grid, day_grid=day_grid, align_min=align_min, kept=kept)


def shown_windows(subjects: Sequence[Subject], asked: Asked, series: pl.DataFrame, hot: pl.DataFrame) -> pl.DataFrame:
    """SHOWN_SCHEMA: windows of ``series`` (SERIES_SCHEMA, all versions), and of ``hot`` readings where it has none.

    ``hot``: readings of (device, field) that are not kept as fine as they are granted, or not rolled up yet; read
    from ``gap_max`` before the range on.
    """
    done = [pl.DataFrame(schema=dict(SHOWN_SCHEMA))]
    stored = set(series["resolution"].unique())
    for (rank, grid, zone), group in groups_of(subjects, stored).items():
        windows = _windows(group, (rank, grid, zone), asked, series, hot)
        done.append(valued(visible(windows, group, (rank, grid), asked.now_us)))
    return pl.concat(done)


def groups_of(subjects: Iterable[Subject], stored: AbstractSet[int]) -> dict[tuple[int, int, str], list[Subject]]:
    """Who is served at a rank, on a grid of a zone; without ranks of which nothing new could come."""
    groups: dict[tuple[int, int, str], list[Subject]] = {}
    for subject in subjects:
        served = {
            (level.rank, level.grid)
            for found in _distinct(subject)
            for level in found
            if level.rank and (level.rank in stored or level.finer != level.allowed)
        }
        for rank, grid in sorted(served):
            zone = subject.zone if grid == SITE_GRID else UTC_ZONE
            groups.setdefault((rank, grid, zone), []).append(subject)
    return groups


def _rules(subjects: Sequence[Subject], rank: int, grid: int, among: AbstractSet[str] = _ALL) -> pl.DataFrame:
    """One row an interval: device_key, field, what ('allowed', 'finer' or 'extremes'), from, to; sorted by from.

    ``among``: the fields that matter.
    """
    rows: list[tuple[int, int, str, int, int]] = []
    indexes = {name: FIELD_INDEX[name] for name in among}
    for subject in subjects:
        device, served = subject.device_key, subject.levels
        for name in served if len(served) < len(indexes) else indexes:
            index, found = indexes.get(name), served.get(name, ())
            if index is None:
                continue
            for level in found:
                if level.rank == rank and level.grid == grid:
                    rows += [(device, index, "allowed", start, end) for start, end in level.allowed]
                    rows += [(device, index, "finer", start, end) for start, end in level.finer]
                    rows += [(device, index, "extremes", start, end) for start, end in level.extremes]
    schema = {"device_key": pl.Int64, "field": pl.UInt8, "what": pl.String, "from": pl.Int64, "to": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row").sort("from")


def _windows(
    subjects: Sequence[Subject], where: tuple[int, int, str], asked: Asked, series: pl.DataFrame, hot: pl.DataFrame
) -> pl.DataFrame:
    """Windows at one (rank, grid, zone) that are over: SERIES_SCHEMA, ``window_end``, ``kept`` (not made of finer)."""
    rank, grid, zone = where
    resolution, key = RESOLUTIONS[rank], ["device_key", "field", "window_start"]
    devices = [subject.device_key for subject in subjects]
    cutoff = last_boundary(newest_visible_us(asked.now_us), resolution, grid, zone)
    rows = latest_effective(_of(series, devices), cutoff)
    here = (rows["resolution"].to_numpy() == rank) & (rows["grid"].to_numpy() == grid)
    # What is kept as it is served has nothing to be added up.
    whole = rows if here.all() else coarsen(rows, resolution, grid, dict.fromkeys(devices, zone))
    if hot.height and rank < Resolution.P1D.rank:
        fresh = rollup(_of(hot, devices), resolution).select(*SERIES_SCHEMA)
        whole = pl.concat([whole, fresh.filter(pl.col("covered_ms") > 0).join(whole, on=key, how="anti")])
    starts = whole["window_start"].to_numpy()
    ends = window_ends(starts, resolution, grid, zone)
    since, until = max(asked.range_us[0], asked.slice_us[0]), min(asked.range_us[1], cutoff)
    inside = np.flatnonzero((starts >= since) & (starts < asked.slice_us[1]) & (ends <= until))
    found = whole[inside].hstack([pl.Series("window_end", ends[inside], dtype=pl.Int64)])
    if whole is rows:
        return found.hstack([pl.Series("kept", np.ones(found.height, dtype=bool))])
    kept = rows[np.flatnonzero(here)].select(key).with_columns(kept=pl.lit(value=True))
    return found.join(kept, on=key, how="left").with_columns(pl.col("kept").fill_null(value=False))


def _of(rows: pl.DataFrame, devices: Sequence[int]) -> pl.DataFrame:
    """The rows of these devices."""
    mine = np.isin(rows["device_key"].to_numpy(), devices)
    return rows if mine.all() else rows[np.flatnonzero(mine)]


def visible(windows: pl.DataFrame, subjects: Sequence[Subject], where: tuple[int, int], now_us: int) -> pl.DataFrame:
    """Those at one (rank, grid) whose guards are covered, with ``extremes``: whether minimum and maximum are."""
    if windows.is_empty():
        return windows.with_columns(extremes=pl.lit(value=False))
    start, end = guarded_by(windows, subjects, now_us)
    guarded = windows.hstack([pl.Series("_start", start), pl.Series("_end", end)])
    rules = _rules(subjects, *where, among={FIELD_NAMES[index] for index in windows["field"].unique()})
    key = list(zip(*(rules[name].to_list() for name in ("device_key", "field", "what")), strict=True))
    judge = judged_simply if len(set(key)) == len(key) else judged
    allowed, finer, extremes = judge(guarded, rules)
    shown = np.flatnonzero((start < end) & allowed & (~finer | windows["kept"].to_numpy()))
    return windows[shown].hstack([pl.Series("extremes", extremes[shown])])


def valued(windows: pl.DataFrame) -> pl.DataFrame:
    """SHOWN_SCHEMA: integers in catalogue units (rule 11). The instant of a last value is not shown: its window is
    (rule 21).
    """
    field, covered_ms = windows["field"].to_numpy(), windows["covered_ms"].to_numpy()
    inverse, amount = _INVERSE[field], windows["amount"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):  # windows that are no more cover nothing
        value = np.where(_IS_INTEGRAL[field], amount / (covered_ms * inverse), amount / inverse)
    length = windows["window_end"].to_numpy() - windows["window_start"].to_numpy()
    coverage = np.where(covered_ms * 1000 >= length, 2, np.where(covered_ms > 0, 1, 0))
    columns = {
        "device_key": windows["device_key"],
        "field": windows["field"],
        "resolution": windows["resolution"],
        "grid": windows["grid"],
        "start": windows["window_start"],
        "end": windows["window_end"],
        "value": pl.Series(value),
        "coverage": _COVERAGE.gather(coverage),
        "lowest": _extreme(windows, "lowest", inverse),
        "highest": _extreme(windows, "highest", inverse),
    }
    return pl.DataFrame(columns, schema=SHOWN_TYPES)


def _extreme(windows: pl.DataFrame, name: str, inverse: npt.NDArray[np.float64]) -> pl.Series:
    """In catalogue units where it is granted, null elsewhere."""
    granted = windows["extremes"].to_numpy()
    if not granted.any():
        return pl.Series([None], dtype=pl.Float64).new_from_index(0, windows.height)
    found = windows[name] / pl.Series(inverse)
    return found if granted.all() else found.scatter(np.flatnonzero(~granted), None)


def shown_readings(subjects: Sequence[Subject], asked: Asked, readings: pl.DataFrame) -> pl.DataFrame:
    """SHOWN_SCHEMA: readings as they are, of fields granted raw; ``end`` is the reading's instant as well."""
    names = [name for name in FIELD_NAMES if name in readings.columns]
    if readings.is_empty() or not names:
        return pl.DataFrame(schema=dict(SHOWN_SCHEMA))
    rules = _rules(subjects, Resolution.RAW.rank, UTC_GRID).filter(pl.col("what") == "allowed")
    since, until = max(asked.range_us[0], asked.slice_us[0]), min(asked.range_us[1], asked.slice_us[1])
    long = (
        readings.filter((pl.col("ts") >= since) & (pl.col("ts") < until))
        .select("device_key", "ts", *(pl.col(name).cast(pl.Float64) for name in names))
        .unpivot(names, index=["device_key", "ts"], variable_name="field")
        .filter(pl.col("value").is_not_null())
        .with_columns(pl.col("field").replace_strict(dict(FIELD_INDEX), return_dtype=pl.UInt8))
        .sort("ts")
    )
    visible = long.join_asof(
        rules.select("device_key", "field", "from", "to"),
        left_on="ts",
        right_on="from",
        by=["device_key", "field"],
        strategy="backward",
        check_sortedness=False,
    ).filter(pl.col("ts") < pl.col("to"))
    edges = {subject.device_key: (subject.tenure_from, subject.tenure_until) for subject in subjects}
    early, late = (
        pl.col("device_key").replace_strict({k: v[i] for k, v in edges.items()}, return_dtype=pl.Int64) for i in (0, 1)
    )
    nothing = [
        pl.lit(None, pl.String).alias("coverage"),
        *(pl.lit(None, pl.Float64).alias(n) for n in ("lowest", "highest")),
    ]
    return (
        visible.filter((pl.col("ts") >= early) & (pl.col("ts") < late))
        .with_columns(
            pl.lit(0, pl.UInt8).alias("resolution"),
            pl.lit(UTC_GRID, pl.UInt8).alias("grid"),
            *nothing,
            start="ts",
            end="ts",
        )
        .select(*SHOWN_SCHEMA)
        .cast(SHOWN_TYPES)
    )


def longest_us(subjects: Iterable[Subject]) -> int:
    """At least the length of the longest window that is put together from finer ones."""
    ranks = {
        level.rank
        for subject in subjects
        for found in _distinct(subject)
        for level in found
        if level.finer != level.allowed
    }
    longest = RESOLUTIONS[max(ranks, default=0)]
    return {Resolution.P1M: 32 * 24, Resolution.P1D: 26}.get(longest, 1) * 3_600_000_000


def lacking(subjects: Sequence[Subject], series: pl.DataFrame, since_us: int) -> dict[int, set[str]]:
    """Fields by device that are granted finer than a day and of which no window that fine is kept since then."""
    recent = np.flatnonzero(series["window_start"].to_numpy() >= since_us)
    kept: dict[int, dict[int, int]] = {}
    columns = (series[name].to_numpy()[recent].tolist() for name in ("device_key", "field", "resolution"))
    for device, field, rank in zip(*columns, strict=True):
        ranks = kept.setdefault(device, {})
        ranks[field] = min(rank, ranks.get(field, rank))
    found: dict[int, set[str]] = {}
    for subject in subjects:
        ranks = kept.get(subject.device_key, {})
        missing = {
            name
            for name, some in subject.levels.items()
            if some[0].rank == _RAW or (some[0].rank < _DAY and ranks.get(FIELD_INDEX[name], _NEVER) > some[0].rank)
        }
        if missing:
            found[subject.device_key] = missing
    return found


def unkept(
    subjects: Sequence[Subject], missing: Mapping[int, set[str]], kept: Mapping[int, bytes]
) -> dict[int, set[str]]:
    """Of what is lacking that which the rollup does not keep so fine: the rest has not been reported.

    ``kept``: rank by field, of devices whose windows up to now are all in the series.
    """
    found: dict[int, set[str]] = {}
    for subject in subjects:
        ranks = kept.get(subject.device_key)
        for name in missing.get(subject.device_key, ()):
            rank = subject.levels[name][0].rank
            if ranks is None or rank == Resolution.RAW.rank or ranks[FIELD_INDEX[name]] > rank:
                found.setdefault(subject.device_key, set()).add(name)
    return found
