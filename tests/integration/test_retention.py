"""What is kept becomes coarser and goes (SEMANTICS.md, rules 8 and 9)."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
import pytest_asyncio

from telemetry.maintenance.retention import Retained, Retention
from telemetry.model.fields import DataClass
from telemetry.model.sharing import RESOLUTIONS, Resolution
from telemetry.privacy.resolution import coarsen, latest_effective, window_ends
from telemetry.store.series import FOREVER_US, read_series
from tests.support import scalar_rollup as scalar
from tests.support.rollups import (
    MINUTE_US,
    Samples,
    administrator,
    arrive,
    clear,
    keep,
    make_hour,
    options,
    run,
    stored,
    walk,
    when,
)
from tests.support.store import HOUR_US, Store, this_hour_us

DAY_US = 24 * HOUR_US
# A midnight of UTC some days ago, so that days and hours of the test are all over.
B = this_hour_us() // DAY_US * DAY_US - 5 * DAY_US
VIENNA = "Europe/Vienna"


@pytest_asyncio.fixture
async def world(store: Store) -> AsyncIterator[Store]:
    await clear(store)
    yield store
    await clear(store)


async def day_of(store: Store, samples: Samples, hours: int = 50) -> int:
    """Rolls ``samples`` up until all of their hours are sealed; the hour then."""
    for hour in range(hours):
        await make_hour(store, B + hour * HOUR_US)
    await arrive(store, samples)
    now_us = B + (hours + 4) * HOUR_US + 6 * MINUTE_US
    await run(store, now_us)
    return now_us


async def retain(store: Store, now_us: int, **more: Any) -> Retained:
    return await Retention(store.role("rollup"), lambda: now_us, **more).run()


def expected(
    samples: Samples, resolution: Resolution, grid: int, zone: str, until_us: int
) -> dict[Any, tuple[int, int]]:
    found = {}
    for device, fields in samples.items():
        for name, values in fields.items():
            windows = scalar.rollup_field(values, resolution.value, zone=zone, **options(name))
            for start, value in windows.items():
                if window_ends(start, resolution, grid, zone) <= until_us:
                    found[device, name, resolution.rank, grid, start] = (value.amount, value.covered_ms)
    return found


def amounts(found: dict[Any, scalar.Value], rank: int, grid: int) -> dict[Any, tuple[int, int]]:
    return {k: (v.amount, v.covered_ms) for k, v in found.items() if k[2] == rank and k[3] == grid}


@pytest.mark.parametrize("to", [Resolution.PT30M, Resolution.PT1H])
async def test_rule_9_what_is_stored_is_coarsened_to_what_is_kept(world: Store, to: Resolution) -> None:
    samples = walk(21, B, B + 5 * HOUR_US, [1, 2], (30, 600))
    now_us = await day_of(world, samples, hours=8)
    await keep(world, 1, to)
    before = await stored(world)
    done = await retain(world, now_us)
    assert done.ran
    found = await stored(world)
    assert amounts({k: v for k, v in found.items() if k[0] == 1}, to.rank, 0) == expected(
        {1: samples[1]}, to, 0, "UTC", now_us
    )
    assert {key[2] for key in found if key[0] == 1} == {to.rank}
    assert {k: v for k, v in found.items() if k[0] == 2} == {k: v for k, v in before.items() if k[0] == 2}
    again = await retain(world, now_us)
    assert (again.coarsened, again.written, again.superseded) == (0, 0, 0)
    assert await stored(world) == found


async def test_coarsening_leaves_every_coarser_sum_as_it_was(world: Store) -> None:
    samples = walk(22, B, B + 5 * HOUR_US, [1], (30, 600))
    now_us = await day_of(world, samples, hours=8)
    rollup = await world.connect("rollup")

    async def days() -> pl.DataFrame:
        span = {"from_us": B - 40 * DAY_US, "to_us": B + 40 * DAY_US}
        series = await read_series(rollup, devices=[1], fields=[*samples[1]], **span)
        return coarsen(latest_effective(series, FOREVER_US), Resolution.P1D)

    before = await days()
    for resolution in (Resolution.PT30M, Resolution.PT1H):
        await keep(world, 1, resolution)
        assert (await retain(world, now_us)).coarsened > 0
        assert (await days()).equals(before)


async def test_days_are_gathered_from_quarters_on_both_grids(world: Store) -> None:
    """Rule 10: P1D and P1M are kept on the UTC grid and on the site's own."""
    await keep(world, 1, Resolution.P1D, VIENNA)
    samples = walk(23, B, B + 49 * HOUR_US, [1], (60, 900))
    now_us = await day_of(world, samples)
    assert {key[2] for key in await stored(world)} == {Resolution.PT15M.rank}
    await retain(world, now_us)
    found = await stored(world)
    frozen = B + 50 * HOUR_US
    assert amounts(found, 5, 0) == expected(samples, Resolution.P1D, 0, "UTC", frozen)
    assert amounts(found, 5, 1) == expected(samples, Resolution.P1D, 1, VIENNA, frozen)
    # Quarters stay for as long as a day of either grid is still open.
    last_utc, last_local = (max(k[4] for k in found if k[2:4] == (5, grid)) for grid in (0, 1))
    closed = min(window_ends(last_utc, Resolution.P1D), window_ends(last_local, Resolution.P1D, 1, VIENNA))
    assert min(key[4] for key in found if key[2] == 2) == closed
    # Running again, later, neither doubles nor loses a day.
    await retain(world, now_us + HOUR_US)
    assert await stored(world) == found
    rollup = await world.connect("rollup")
    series = await read_series(
        rollup, devices=[1], fields=[*samples[1]], from_us=B - 40 * DAY_US, to_us=B + 40 * DAY_US
    )
    total = {
        (row["device_key"], row["field"]): row["amount"]
        for row in coarsen(latest_effective(series, FOREVER_US), Resolution.P1D)
        .group_by("device_key", "field")
        .agg(pl.col("amount").sum())
        .iter_rows(named=True)
        if row["field"] in {0, 13}
    }
    for name, field in (("ac_power_w", 0), ("energy_total_wh", 13)):
        windows = scalar.rollup_field(samples[1][name], "PT15M", **options(name))
        assert total[1, field] == sum(value.amount for value in windows.values())


async def test_late_rows_reach_days_that_were_coarsened(world: Store) -> None:
    await keep(world, 1, Resolution.P1D, VIENNA)
    at = B + 12 * HOUR_US
    now_us = await day_of(world, {1: {"ac_power_w": {at: 100.0}}})
    await retain(world, now_us)
    late = {1: {"ac_power_w": {at + 2 * HOUR_US: 50.0, at + 30_000_000: 900.0}}}
    hour = now_us // HOUR_US * HOUR_US
    await make_hour(world, hour)
    await make_hour(world, hour + HOUR_US)
    await arrive(world, late, received_us=hour)
    await run(world, hour + HOUR_US + 20 * MINUTE_US)
    # Two hours on is another slot of the day; half a minute on is covered.
    found = {key: value for key, value in (await stored(world)).items() if key[2] == 5}
    assert {key[3]: value.amount for key, value in found.items()} == dict.fromkeys((0, 1), 150 * 300_000)
    assert {key[2] for key in await stored(world)} == {5}
    await arrive(world, late, received_us=hour + HOUR_US)
    await run(world, hour + 2 * HOUR_US + 20 * MINUTE_US)
    assert {k: v for k, v in (await stored(world)).items() if k[2] == 5} == found


async def test_a_correction_that_is_not_effective_yet_is_not_swallowed(world: Store) -> None:
    samples = walk(24, B, B + 2 * HOUR_US, [1], (30, 300))
    now_us = await day_of(world, samples, hours=6)
    admin = await administrator(world)
    await admin.execute(
        "INSERT INTO readings.series SELECT device_key, window_start, $1, amount + 1, covered_ms, slots, last_at,"
        " lowest, highest, resolution, grid, field FROM readings.series WHERE window_start = $2 AND field = 0",
        when(now_us + HOUR_US),
        when(B),
    )
    await keep(world, 1, Resolution.PT1H)
    await retain(world, now_us)
    hours = {key[4] for key in await stored(world) if key[1] == "ac_power_w" and key[2] == 4}
    assert B not in hours
    assert B + HOUR_US in hours
    await retain(world, now_us + 2 * HOUR_US)
    assert {key[2] for key in await stored(world)} == {4}


async def test_rule_9_each_class_expires_by_the_owner_and_by_the_operator(world: Store) -> None:
    samples = {
        device: {"ac_power_w": {B: 1.0, B + 2 * DAY_US: 1.0}, "alert_bits": {B: 1.0, B + 2 * DAY_US: 1.0}}
        for device in (1, 2)
    }
    now_us = await day_of(world, samples, hours=52)
    await keep(world, 1, Resolution.PT15M, days=2)
    assert (await retain(world, now_us)).expired == 4 - 2
    # `now` is 2 days and some hours after B; the operator keeps alerts of anybody for one day.
    assert {(k[0], k[1], (k[4] - B) // DAY_US) for k in await stored(world)} == {
        (1, "ac_power_w", 2),
        (1, "alert_bits", 2),
        (2, "ac_power_w", 0),
        (2, "ac_power_w", 2),
        (2, "alert_bits", 0),
        (2, "alert_bits", 2),
    }
    await retain(world, now_us, operator_days={DataClass.ALERT: 1})
    assert (2, "alert_bits", 0) not in {(k[0], k[1], (k[4] - B) // DAY_US) for k in await stored(world)}
    assert (2, "alert_bits", 2) in {(k[0], k[1], (k[4] - B) // DAY_US) for k in await stored(world)}


async def test_a_field_that_is_not_kept_any_more_goes(world: Store) -> None:
    samples = walk(25, B, B + HOUR_US, [1, 2], (30, 300))
    now_us = await day_of(world, samples, hours=5)
    await keep(world, 1, Resolution.PT15M)
    admin = await administrator(world)
    await admin.execute(
        "WITH made AS (INSERT INTO consent.plan_class SELECT max(plan_class) + 1, sha256('x'), decode(repeat('00', 71),"
        " 'hex'), decode(repeat('ff', 71), 'hex'), array_fill(1098::smallint, ARRAY[9]) FROM consent.plan_class"
        " RETURNING plan_class) UPDATE consent.device SET plan_class = made.plan_class FROM made"
    )
    await retain(world, now_us)
    assert {key[0] for key in await stored(world)} == {2}


async def test_superseded_versions_go_once_the_newer_one_held_for_a_month(world: Store) -> None:
    admin = await administrator(world)
    month = lambda number: datetime(2026, number, 1, tzinfo=UTC)
    await admin.execute("SELECT readings.ensure_series(ARRAY[$1::timestamptz])", month(3))
    insert = (
        "INSERT INTO readings.series (device_key, window_start, effective_at, amount, covered_ms, resolution, grid,"
        " field) VALUES (1, $1, $2, $3, 1, 2, 0, 0)"
    )
    for effective, amount in ((month(3), 1), (month(4), 2), (month(5), 3)):
        await admin.execute(insert, month(3), effective, amount)

    async def left() -> list[int]:
        return [row[0] for row in await admin.fetch("SELECT amount FROM readings.series ORDER BY amount")]

    us = lambda at: round(at.timestamp()) * 1_000_000
    await retain(world, us(month(5)) - DAY_US)
    assert await left() == [1, 2, 3]
    # On 3 May a view of April's month still reads what was effective on 1 May.
    await retain(world, us(month(5)) + 2 * DAY_US)
    assert await left() == [2, 3]
    await retain(world, us(month(6)) + 2 * DAY_US)
    assert await left() == [3]


async def test_months_are_dropped_when_nothing_can_be_left(world: Store) -> None:
    admin = await administrator(world)
    old, now_us = datetime(2019, 5, 1, tzinfo=UTC), this_hour_us()
    await admin.execute("SELECT readings.ensure_series(ARRAY[$1::timestamptz, $2::timestamptz])", old, when(now_us))
    assert (await retain(world, now_us)).dropped == ["series_201905"]
    assert (await retain(world, now_us)).dropped == []
    with pytest.raises(Exception, match="not over"):
        await admin.execute("SELECT readings.drop_series(now() + interval '1 day')")


async def test_a_run_and_a_pass_exclude_each_other(world: Store) -> None:
    other = await world.connect("rollup")
    await other.fetchval("SELECT pg_advisory_lock(7310, 7)")
    assert not (await retain(world, this_hour_us())).ran
    assert (await run(world, this_hour_us())).as_of_us is None
    assert RESOLUTIONS[2] is Resolution.PT15M
