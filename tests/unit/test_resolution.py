"""Windows: where they lie, worked examples, and what a window holds (SEMANTICS.md, rules 10 to 14)."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from telemetry.model.fields import FIELD_INDEX
from telemetry.model.series import SERIES_SCHEMA, SITE_GRID
from telemetry.model.sharing import Resolution
from telemetry.privacy.resolution import coarsen, last_boundary, latest_effective, next_boundary, window_ends
from telemetry.privacy.resolution import window_starts as starts
from telemetry.privacy.rollup import rollup
from tests.support.store import frame

HOUR_MS = 3_600_000
POWER, ENERGY = FIELD_INDEX["ac_power_w"], FIELD_INDEX["energy_total_wh"]


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def at(clock: str) -> int:
    return us(f"2026-11-25T{clock}")


def window(found: pl.DataFrame, start: int, field: int = POWER) -> dict[str, Any]:
    rows = found.filter(pl.col("window_start") == start, pl.col("field") == field).to_dicts()
    assert len(rows) == 1
    return rows[0]


def of(field: str, *samples: tuple[str, float | None]) -> pl.DataFrame:
    return frame([{"ts": at(clock), "device_key": 7, field: value} for clock, value in samples])


class TestRule10Windows:
    def test_below_a_day_they_lie_on_the_utc_grid(self) -> None:
        assert starts(at("12:14:59"), Resolution.PT15M) == at("12:00:00")
        assert starts(at("12:15:00"), Resolution.PT15M) == at("12:15:00")
        assert window_ends(at("12:15:00"), Resolution.PT15M) == at("12:30:00")
        assert last_boundary(at("12:34:56"), Resolution.PT1H) == at("12:00:00")
        assert next_boundary(at("12:00:00"), Resolution.PT1H) == at("13:00:00")
        with pytest.raises(ValueError, match="UTC grid only"):
            starts(at("12:00:00"), Resolution.PT1H, SITE_GRID, "Europe/Vienna")
        with pytest.raises(ValueError, match="no windows"):
            starts(at("12:00:00"), Resolution.RAW)

    @pytest.mark.parametrize(
        ("zone", "instant", "start", "hours"),
        [
            ("Europe/Vienna", "2026-03-29T12:00", "2026-03-28T23:00", 23),
            ("Europe/Vienna", "2026-10-25T12:00", "2026-10-24T22:00", 25),
            ("Australia/Lord_Howe", "2026-04-04T20:00", "2026-04-04T13:00", 24.5),
            ("Australia/Lord_Howe", "2026-10-03T20:00", "2026-10-03T13:30", 23.5),
            ("America/Havana", "2026-11-01T12:00", "2026-11-01T04:00", 25),  # midnight passes twice
            ("America/Havana", "2026-03-08T12:00", "2026-03-08T05:00", 23),  # and is jumped over
            ("Asia/Kathmandu", "2026-11-25T12:00", "2026-11-24T18:15", 24),
            ("Pacific/Apia", "2011-12-30T12:00", "2011-12-30T10:00", 24),  # 30 December was left out
        ],
    )
    def test_days_of_a_site_follow_its_clocks(self, zone: str, instant: str, start: str, hours: float) -> None:
        begin = starts(us(instant), Resolution.P1D, SITE_GRID, zone)
        assert begin == us(start)
        assert window_ends(us(instant), Resolution.P1D, SITE_GRID, zone) - begin == hours * 3_600_000_000

    def test_months_of_both_grids(self) -> None:
        found = starts(np.array([us("2026-10-31T23:30"), us("2026-11-01T00:30")]), Resolution.P1M)
        assert found.tolist() == [us("2026-10-01T00:00"), us("2026-11-01T00:00")]
        local = starts(us("2026-10-31T23:30"), Resolution.P1M, SITE_GRID, "Europe/Vienna")
        assert local == us("2026-10-31T23:00")
        assert window_ends(us("2024-02-10T00:00"), Resolution.P1M) == us("2024-03-01T00:00")

    def test_no_instants_have_no_windows(self) -> None:
        assert starts(np.array([], dtype=np.int64), Resolution.P1M).tolist() == []


class TestWorkedExamples:
    def test_worked_example_power(self) -> None:
        rows = of("ac_power_w", ("11:58:00", 600), ("12:01:00", 900), ("12:02:00", 1200), ("12:12:00", 300))
        found = window(rollup(rows, Resolution.PT15M), at("12:00:00"))
        assert (found["amount"], found["covered_ms"]) == ((36_000 + 54_000 + 360_000 + 54_000) * 1000, 600_000)
        assert found["amount"] / found["covered_ms"] == 840
        assert (found["lowest"], found["highest"]) == (300, 1200)
        assert found["effective_at"] == at("12:15:00")

    def test_worked_example_counter(self) -> None:
        rows = of("energy_total_wh", ("11:50:00", 1000), ("12:10:00", 1200), ("12:20:00", 1300))
        found = window(rollup(rows, Resolution.PT15M), at("12:00:00"), ENERGY)
        assert (found["amount"], found["covered_ms"]) == (150_000, 900_000)
        assert found["lowest"] is None

    def test_worked_example_counter_with_a_reset(self) -> None:
        rows = of("energy_total_wh", ("11:50:00", 1000), ("12:10:00", 1200), ("12:20:00", 50))
        found = window(rollup(rows, Resolution.PT15M), at("12:00:00"), ENERGY)
        assert (found["amount"], found["covered_ms"]) == (100_000, 600_000)


class TestRule12States:
    def test_a_sample_holds_for_five_minutes_and_no_longer(self) -> None:
        found = rollup(of("ac_power_w", ("12:02:00", 10)), Resolution.PT15M)
        assert found["covered_ms"].to_list() == [300_000]

    def test_a_sample_ends_at_the_next_one(self) -> None:
        found = rollup(of("ac_power_w", ("12:02:00", 10), ("12:03:00", 0)), Resolution.PT15M)
        assert found["amount"].to_list() == [10 * 60_000]

    def test_a_reading_without_the_field_does_not_end_a_sample(self) -> None:
        rows = of("ac_power_w", ("12:02:00", 10), ("12:03:00", None))
        assert rollup(rows, Resolution.PT15M)["amount"].to_list() == [10 * 300_000]

    def test_halves_round_to_even(self) -> None:
        rows = of("ac_power_w", ("12:00:00", 2.5), ("12:01:00", 3.5), ("12:02:00", -2.5))
        found = rollup(rows, Resolution.PT1M)
        assert [amount // 60_000 for amount in found["amount"].to_list()[:3]] == [2, 4, -2]

    def test_of_one_millisecond_the_last_sample_counts(self) -> None:
        moments = [(at("12:00:00") + micro, value) for micro, value in ((0, 9.0), (999, 1.0))]
        rows = frame([{"ts": ts, "device_key": 7, "ac_power_w": value} for ts, value in moments])
        found = window(rollup(rows, Resolution.PT15M), at("12:00:00"))
        assert (found["amount"], found["highest"]) == (300_000, 1)


class TestRule13Counters:
    def test_beyond_an_hour_nothing_is_known(self) -> None:
        near = rollup(of("energy_total_wh", ("11:00:00", 0), ("12:00:00", 4)), Resolution.PT1H)
        assert near["amount"].to_list() == [4000]
        assert rollup(of("energy_total_wh", ("11:00:00", 0), ("12:00:01", 4)), Resolution.PT1H).is_empty()

    def test_nothing_is_carried_beyond_the_last_sample(self) -> None:
        rows = of("energy_total_wh", ("12:00:00", 5), ("12:10:00", 6))
        assert rollup(rows, Resolution.PT15M)["covered_ms"].to_list() == [600_000]

    def test_standing_still_is_no_reset(self) -> None:
        rows = of("energy_total_wh", ("12:00:00", 5), ("12:15:00", 5))
        found = rollup(rows, Resolution.PT15M)
        assert (found["amount"].to_list(), found["covered_ms"].to_list()) == ([0], [900_000])

    def test_a_value_at_an_edge_rounds_half_to_even(self) -> None:
        # One step in half an hour: 0.5, then 1.5 at the quarter between.
        rows = of("energy_total_wh", ("12:00:00", 0), ("12:30:00", 0.001), ("13:00:00", 0.002))
        assert rollup(rows, Resolution.PT15M)["amount"].to_list() == [0, 1, 1, 0]

    def test_the_whole_range_fits(self) -> None:
        rows = of("energy_total_wh", ("11:00:01", 0), ("12:00:00", 1e10))
        assert rollup(rows, Resolution.PT1M)["amount"].sum() == 10**13


class TestRule14LastValues:
    def test_the_last_value_and_its_instant(self) -> None:
        rows = of("battery_soc_pct", ("12:01:00", 50.0), ("12:14:00", 52.5), ("12:16:00", 60.0))
        found = rollup(rows, Resolution.PT15M)
        assert found["amount"].to_list() == [525, 600]
        assert found["last_at"].to_list() == [at("12:14:00"), at("12:16:00")]
        assert found["covered_ms"].to_list() == [900_000, 900_000]

    def test_minimum_and_maximum_are_of_values_that_held_in_the_window(self) -> None:
        rows = of("ac_power_w", ("11:58:00", 7), ("12:00:00", 9), ("12:14:00", 1), ("12:15:00", 0))
        found = window(rollup(rows, Resolution.PT15M), at("12:00:00"))
        assert (found["lowest"], found["highest"]) == (1, 9)
        assert rollup(of("ac_voltage_v", ("12:00:00", 230.0)), Resolution.PT15M)["lowest"].to_list() == [None]


class TestCoarsening:
    def test_a_window_that_midnight_cuts_leaves_both_days_out(self) -> None:
        hours = [(f"{hour:02}:00:00", 1.0) for hour in range(14, 22)]
        series = rollup(of("ac_power_w", *hours), Resolution.PT1H).select(*SERIES_SCHEMA)
        assert series.height == 8
        # Kathmandu's midnight is 18:15 UTC: the hour of 18:00 cannot be divided.
        assert coarsen(series, Resolution.P1D, SITE_GRID, {7: "Asia/Kathmandu"}).is_empty()
        quarters = rollup(of("ac_power_w", *hours), Resolution.PT15M).select(*SERIES_SCHEMA)
        found = coarsen(quarters, Resolution.P1D, SITE_GRID, {7: "Asia/Kathmandu"})
        assert found["covered_ms"].to_list() == [5 * 300_000, 3 * 300_000]

    def test_days_of_one_grid_do_not_count_in_the_other(self) -> None:
        quarters = rollup(of("ac_power_w", ("12:00:00", 1.0)), Resolution.PT15M).select(*SERIES_SCHEMA)
        zones = {7: "Europe/Vienna"}
        days = [coarsen(quarters, Resolution.P1D, grid, zones) for grid in (0, SITE_GRID)]
        months = [coarsen(pl.concat(days), Resolution.P1M, grid, zones) for grid in (0, SITE_GRID)]
        assert [month["amount"].to_list() for month in months] == [[300_000], [300_000]]
        assert months[1]["window_start"].to_list() == [us("2026-10-31T23:00")]

    def test_windows_coarser_than_wanted_are_left_out(self) -> None:
        rows = of("ac_power_w", ("12:00:00", 1.0), ("13:00:00", 1.0))
        both = [rollup(rows, one).select(*SERIES_SCHEMA) for one in (Resolution.PT15M, Resolution.PT1H)]
        found = coarsen(pl.concat(both), Resolution.PT30M)
        assert found["window_start"].to_list() == [at("12:00:00"), at("13:00:00")]

    def test_a_last_value_covers_the_whole_coarse_window(self) -> None:
        rows = of("alert_bits", ("12:01:00", 5), ("13:30:00", 0))
        day = coarsen(rollup(rows, Resolution.PT15M).select(*SERIES_SCHEMA), Resolution.P1D)
        assert (day["amount"].to_list(), day["covered_ms"].to_list()) == ([0], [24 * HOUR_MS])
        assert day["last_at"].to_list() == [at("13:30:00")]


def test_an_empty_version_hides_the_one_before() -> None:
    series = rollup(of("ac_power_w", ("12:00:00", 1.0)), Resolution.PT15M).select(*SERIES_SCHEMA)
    empty = series.with_columns(effective_at=pl.col("effective_at") + 1, covered_ms=pl.lit(0, pl.Int64))
    both = pl.concat([series, empty])
    assert latest_effective(both, at("12:15:00")).equals(series)
    assert latest_effective(both, at("12:15:00") + 1).is_empty()
    assert latest_effective(both, pl.col("window_start")).is_empty()
