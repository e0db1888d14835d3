"""What becomes of stored windows, over generated arrivals: versions, late samples, coarsening (rules 9, 15, 17)."""

import itertools
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.model.fields import FIELD_INDEX
from telemetry.model.series import SERIES_SCHEMA, SITE_GRID, UTC_GRID
from telemetry.model.sharing import Resolution
from telemetry.privacy.resolution import WINDOW_KEY, coarsen, window_ends, window_starts
from telemetry.privacy.revisions import KEPT_SCHEMA, coarsened, late_windows, revised
from telemetry.privacy.rollup import ROLLUP_SCHEMA, rollup
from tests.support import scalar_rollup as scalar
from tests.support.rollups import options
from tests.support.store import frame

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
# 23 October 2026, midnight UTC: Vienna's 25-hour day is the third one from here.
B = 1_792_713_600_000_000
FROZEN = B + 4 * DAY_US
ZONES = ("UTC", "Europe/Vienna", "Australia/Lord_Howe", "Asia/Kathmandu")
FIELDS = ("ac_power_w", "energy_total_wh", "alert_bits")


def kept_of(rank: int, zone: str) -> pl.DataFrame:
    rows = [(1, FIELD_INDEX[name], rank, zone) for name in FIELDS]
    return pl.DataFrame(rows, schema=KEPT_SCHEMA, orient="row")


@st.composite
def days(draw: Any) -> dict[str, dict[int, float]]:
    """Samples of some stretches of the four days, dense enough that windows meet."""
    found: dict[str, dict[int, float]] = {}
    for name in draw(st.lists(st.sampled_from(FIELDS), min_size=1, unique=True)):
        samples: dict[int, float] = {}
        for _ in range(draw(st.integers(1, 3))):
            at = B + draw(st.integers(0, 4 * DAY_US // 60_000_000 - 600)) * 60_000_000
            for gap in draw(st.lists(st.sampled_from([60, 240, 300, 900, 2700, 3600]), max_size=12)):
                samples[at] = float(draw(st.integers(0, 9)))
                at += gap * 1_000_000
        found[name] = samples
    return found


def readings(samples: dict[str, dict[int, float]]) -> pl.DataFrame:
    rows: dict[int, dict[str, Any]] = {}
    for name, values in samples.items():
        for at, value in values.items():
            rows.setdefault(at, {"ts": at, "device_key": 1})[name] = int(value) if name == "alert_bits" else value
    return frame(list(rows.values()))


def quarters(samples: dict[str, dict[int, float]]) -> pl.DataFrame:
    return rollup(readings(samples), Resolution.PT15M)


def applied(stored: pl.DataFrame, write: pl.DataFrame, delete: pl.DataFrame | None = None) -> pl.DataFrame:
    """What the table holds afterwards, one version a window."""
    gone = write if delete is None else pl.concat([write.select(WINDOW_KEY), delete.select(WINDOW_KEY)])
    return pl.concat([stored.join(gone, on=WINDOW_KEY, how="anti"), write]).sort(*WINDOW_KEY)


@settings(max_examples=15, deadline=None)
@given(days(), st.sampled_from([3, 4, 5, 6]), st.sampled_from(ZONES))
def test_rule_9_coarsening_keeps_every_sum_and_is_done_once(
    samples: dict[str, dict[int, float]], rank: int, zone: str
) -> None:
    kept, stored = kept_of(rank, zone), quarters(samples)
    change = coarsened(kept, stored, frozen_us=FROZEN, as_of_us=FROZEN + DAY_US)
    after = applied(stored, change.write, change.delete)
    again = coarsened(kept, after, frozen_us=FROZEN, as_of_us=FROZEN + DAY_US)
    assert (again.write.height, again.delete.height) == (0, 0)
    for to, grid in ((Resolution.P1D, UTC_GRID), (Resolution.P1D, SITE_GRID), (Resolution.P1M, UTC_GRID)):
        if grid == SITE_GRID and rank in {3, 4} and zone == "Asia/Kathmandu":
            continue  # midnight cuts what is kept
        wanted, found = (
            coarsen(one.select(*SERIES_SCHEMA), to, grid, {1: zone}).drop("effective_at") for one in (stored, after)
        )
        assert found.equals(wanted)


@settings(max_examples=15, deadline=None)
@given(days(), st.sampled_from([5, 6]), st.sampled_from(ZONES), st.integers(0, 4 * 24))
def test_days_gathered_in_two_runs_equal_days_gathered_in_one(
    samples: dict[str, dict[int, float]], rank: int, zone: str, hours: int
) -> None:
    kept, once = kept_of(rank, zone), quarters(samples)
    first = B + hours * HOUR_US
    twice = once
    for frozen in (first, FROZEN):
        change = coarsened(kept, twice, frozen_us=frozen, as_of_us=FROZEN + DAY_US)
        twice = applied(twice, change.write, change.delete)
    change = coarsened(kept, once, frozen_us=FROZEN, as_of_us=FROZEN + DAY_US)
    assert twice.equals(applied(once, change.write, change.delete))


@settings(max_examples=15, deadline=None)
@given(days(), days(), st.sampled_from([1, 2, 3, 4, 5, 6]), st.sampled_from(ZONES), st.booleans())
def test_rule_15_late_samples_go_where_their_time_is_stored(
    hot: dict[str, dict[int, float]], late: dict[str, dict[int, float]], rank: int, zone: str, gathered: bool
) -> None:
    kept, stored = kept_of(rank, zone), quarters(hot)
    if gathered:
        change = coarsened(kept, stored, frozen_us=FROZEN, as_of_us=FROZEN + DAY_US)
        stored = applied(stored, change.write, change.delete)
    options_of = {"frozen_us": FROZEN, "as_of_us": FROZEN + HOUR_US}
    after = applied(stored, late_windows(readings(late), kept, stored, **options_of))
    # The same backfill twice adds nothing.
    assert late_windows(readings(late), kept, after, **options_of).is_empty()
    # No instant is in two windows of a grid.
    for grid in (UTC_GRID, SITE_GRID):
        spans = []
        for row in after.filter((pl.col("resolution") < 5) | (pl.col("grid") == grid)).iter_rows(named=True):
            local = zone if row["grid"] == SITE_GRID else "UTC"
            resolution = list(Resolution)[row["resolution"]]
            end = window_ends(row["window_start"], resolution, row["grid"], local)
            spans.append((row["field"], row["window_start"], end, row["resolution"]))
        days_there = [span for span in spans if span[3] >= 5]
        fine = sorted(span for span in spans if span[3] < 5)
        for one, other in itertools.pairwise(fine):
            assert one[0] != other[0] or one[2] <= other[1]
        if not gathered:
            assert not [day for day in days_there if _finer_in(day, stored)]
    # What was there only grows, and what is there never exceeds what both say together.
    joined = stored.join(after, on=WINDOW_KEY, suffix="_after")
    assert joined.height == stored.height
    assert (joined["covered_ms_after"] >= joined["covered_ms"]).all()


def _finer_in(day: tuple[int, int, int, int], stored: pl.DataFrame) -> bool:
    field, start, end, _ = day
    inside = stored.filter(pl.col("field") == field, pl.col("window_start") >= start, pl.col("window_start") < end)
    return inside.height > 0


@settings(max_examples=15, deadline=None)
@given(days(), days(), st.sampled_from([2, 3, 4]))
def test_late_samples_below_a_day_equal_the_reference(
    hot: dict[str, dict[int, float]], late: dict[str, dict[int, float]], rank: int
) -> None:
    resolution = list(Resolution)[rank]
    stored = rollup(readings(hot), resolution)
    frozen = B + 2 * DAY_US
    found = late_windows(readings(late), kept_of(rank, "UTC"), stored, frozen_us=frozen, as_of_us=FROZEN)
    after = applied(stored, found)
    expected = {}
    for name in FIELDS:
        own = scalar.rollup_field(hot.get(name, {}), resolution.value, **options(name))
        scalar.fill(own, late.get(name, {}), resolution.value, until_us=frozen, **options(name))
        expected |= {(name, start): (v.amount, v.covered_ms, v.slots) for start, v in own.items()}
    names = {index: name for name, index in FIELD_INDEX.items()}
    assert {
        (names[row["field"]], row["window_start"]): (row["amount"], row["covered_ms"], row["slots"])
        for row in after.iter_rows(named=True)
    } == expected


@settings(max_examples=15, deadline=None)
@given(days(), days(), st.sampled_from([2, 3, 4]), st.integers(0, 96), st.integers(0, 96))
def test_rule_17_versions_take_effect_on_their_own_grid(
    before: dict[str, dict[int, float]], more: dict[str, dict[int, float]], rank: int, due: int, quarter: int
) -> None:
    resolution = list(Resolution)[rank]
    as_of, due_after = B + quarter * HOUR_US, B + due * HOUR_US
    newest = rollup(readings(before), resolution)
    both = {name: before.get(name, {}) | more.get(name, {}) for name in FIELDS}
    computed = rollup(readings(both), resolution)
    found = revised(computed, newest, due_after_us=due_after, as_of_us=as_of)
    assert dict(found.schema) == dict(ROLLUP_SCHEMA)
    values = ["amount", "covered_ms", "last_at", "lowest", "highest", "slots"]
    same = newest.join(computed, on=[*WINDOW_KEY, *values], how="semi", nulls_equal=True)
    # Exactly what differs is written, once.
    touched = pl.concat([newest, computed]).select(WINDOW_KEY).unique().height
    assert found.height == touched - same.height
    assert (
        applied(newest, found)
        .filter(pl.col("covered_ms") > 0)
        .drop("effective_at")
        .equals(computed.drop("effective_at"))
    )
    for row in found.iter_rows(named=True):
        end = window_ends(row["window_start"], resolution)
        if end > due_after:
            assert row["effective_at"] == end
        else:
            assert row["effective_at"] > as_of or row["effective_at"] == end > as_of
            assert window_starts(row["effective_at"], resolution) == row["effective_at"]
