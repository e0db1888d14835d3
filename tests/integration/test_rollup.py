"""The rollup on a real database: hot windows, versions, late rows, partitions (SEMANTICS.md, rules 7 and 15 to 17)."""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from telemetry.model.sharing import Resolution
from telemetry.privacy.resolution import latest_effective
from telemetry.store.partitions import hot_name
from telemetry.store.series import read_hot, read_series
from tests.support.rollups import (
    FIELDS,
    HOT_HOURS,
    MINUTE_US,
    Reference,
    arrive,
    base_us,
    clear,
    keep,
    make_hour,
    run,
    stored,
    walk,
    when,
)
from tests.support.store import HOUR_US, Store, batch, this_hour_us

LATENESS_US = 5 * MINUTE_US
B = base_us()


@pytest_asyncio.fixture
async def world(store: Store) -> AsyncIterator[Store]:
    await clear(store)
    for hour in range(-1, 9):
        await make_hour(store, B + hour * HOUR_US)
    yield store
    await clear(store)


def power(*samples: tuple[float, float], device: int = 1) -> dict[int, Any]:
    return {device: {"ac_power_w": {round(B + minute * MINUTE_US): value for minute, value in samples}}}


def energy(*samples: tuple[float, float], device: int = 1) -> dict[int, Any]:
    return {device: {"energy_total_wh": {round(B + minute * MINUTE_US): value for minute, value in samples}}}


async def versions(store: Store) -> list[tuple[int, int, int, int]]:
    """(minute of the window, minute it takes effect, amount, covered ms) of every version."""
    admin = await store.admin()
    rows = await admin.fetch("SELECT * FROM readings.series ORDER BY window_start, effective_at")
    minute = lambda at: round((at - when(B)).total_seconds() / 60)
    return [(minute(r["window_start"]), minute(r["effective_at"]), r["amount"], r["covered_ms"]) for r in rows]


def at(minutes: float) -> int:
    return round(B + minutes * MINUTE_US)


async def test_rule_17_a_window_is_written_once_it_is_over_and_lateness_has_passed(world: Store) -> None:
    await arrive(world, power((1, 10), (14, 20)))
    assert (await run(world, at(19.9))).as_of_us == at(0)
    assert await versions(world) == []
    assert (await run(world, at(20))).as_of_us == at(15)
    assert await versions(world) == [(0, 15, 10 * 300_000 + 20 * 60_000, 360_000)]
    assert (await run(world, at(21))).as_of_us is None


async def test_rule_17_a_correction_takes_effect_at_the_next_boundary(world: Store) -> None:
    await arrive(world, power((1, 10)))
    await run(world, at(20))
    await arrive(world, power((6, 10)))
    await run(world, at(37))
    assert await versions(world) == [(0, 15, 3_000_000, 300_000), (0, 45, 6_000_000, 600_000)]
    series = await read_series(
        await world.connect("rollup"), devices=[1], fields=["ac_power_w"], from_us=B, to_us=B + HOUR_US
    )
    assert latest_effective(series, at(30))["amount"].to_list() == [3_000_000]
    assert latest_effective(series, at(45))["amount"].to_list() == [6_000_000]


async def test_rule_17_a_first_version_that_comes_late_is_a_correction_too(world: Store) -> None:
    await arrive(world, power((16, 10)))
    await run(world, at(35))
    await arrive(world, power((1, 10)))
    await run(world, at(50))
    assert [v[:2] for v in await versions(world)] == [(0, 60), (15, 30)]


async def test_a_correction_not_yet_effective_is_replaced_by_the_next(world: Store) -> None:
    await keep(world, 1, Resolution.PT1H)
    await arrive(world, power((1, 10)))
    await run(world, at(66))
    for late, now in ((6, 81), (11, 96)):
        await arrive(world, power((late, 10)))
        await run(world, at(now))
    assert await versions(world) == [(0, 60, 3_000_000, 300_000), (0, 120, 9_000_000, 900_000)]


async def test_a_window_that_is_no_longer_gets_an_empty_version(world: Store) -> None:
    await arrive(world, energy((14, 100), (16, 200)))
    await run(world, at(20))
    assert await versions(world) == [(0, 15, 50_000, 60_000)]
    await arrive(world, energy((15.2, 90)))  # a reset across the edge: nothing of the first window is known now
    await run(world, at(35))
    assert await versions(world) == [(0, 15, 50_000, 60_000), (0, 45, 0, 0), (15, 30, 110_000, 48_000)]
    series = await read_series(
        await world.connect("rollup"), devices=[1], fields=["energy_total_wh"], from_us=B, to_us=at(15)
    )
    assert latest_effective(series, at(30)).height == 1
    assert latest_effective(series, at(45)).is_empty()


async def test_what_is_kept_no_more_leaves_the_hot_hours_at_once(world: Store) -> None:
    await arrive(world, power((1, 10)) | power((1, 10), device=2))
    await run(world, at(80))
    await keep(world, 1, Resolution.PT1H)
    await arrive(world, power((2, 10)))
    await run(world, at(95))
    assert {(key[0], key[2], key[4]) for key in await stored(world)} == {(1, 4, at(0)), (2, 2, at(0))}


async def test_rule_15_the_value_depends_on_the_set_of_rows_only(world: Store) -> None:
    samples = walk(3, B, B + 2 * HOUR_US, [1, 2, -3], (20, 400))
    rows = [
        {device: {name: {at_us: value}}}
        for device, fields in samples.items()
        for name, values in fields.items()
        for at_us, value in values.items()
    ]
    random.Random(5).shuffle(rows)
    for step in range(8):
        merged: dict[int, Any] = {}
        for row in rows[step::8]:
            for device, fields in row.items():
                for name, values in fields.items():
                    merged.setdefault(device, {}).setdefault(name, {}).update(values)
        await arrive(world, merged)
        await run(world, at(20 + 15 * step))
    reference = Reference()
    reference.receive(samples)
    for hour in (0, 1):
        reference.hour(B + hour * HOUR_US, at(120))
    assert {k: v for k, v in (await stored(world)).items() if v} == reference.windows


async def test_only_devices_with_new_rows_are_looked_at_again(world: Store) -> None:
    await arrive(world, power((1, 10)) | power((1, 10), device=2))
    await run(world, at(20))
    await run(world, at(80))
    assert (await run(world, at(140))).devices == 2  # windows of the hour after are due, and may reach back
    await arrive(world, power((2, 10)))
    assert (await run(world, at(155))).devices == 2  # device 1, for its hour and for the one after
    assert (await run(world, at(170))).devices == 0


async def test_rule_7_hours_are_sealed_dropped_in_time_and_never_before_the_next_needs_them_no_more(
    world: Store,
) -> None:
    admin = await world.admin()
    await arrive(world, energy((59, 100), (61, 300), (125, 400)))

    async def names() -> list[str]:
        rows = await admin.fetch("SELECT relname FROM pg_class WHERE relname ~ '^(hot|sealed)_' AND relkind = 'r'")
        return sorted(row[0] for row in rows)

    stamp = hot_name(B // HOUR_US).removeprefix("hot_")
    assert (await run(world, at(179))).sealed == 1  # the hour before
    assert f"hot_{stamp}" in await names()
    passed = await run(world, at(186))
    assert passed.sealed == 1
    assert f"sealed_{stamp}" in await names()  # the hour of 1:00 still interpolates from it
    await run(world, at(246))
    assert f"sealed_{stamp}" not in await names()
    found = {key[4]: value.amount for key, value in (await stored(world)).items()}
    assert found[at(45)] == 100_000
    assert found[at(60)] == 100_000


async def test_rule_7_a_sealed_hour_sends_its_readings_to_the_late_table(world: Store) -> None:
    this = this_hour_us()
    sink = world.sink()
    old = {"ts": this - 3 * HOUR_US, "device_key": 1, "ac_power_w": 1.0}
    assert (await sink.write(batch(old))).late == 0
    await run(world, this + 10 * MINUTE_US)
    written = await sink.write(batch(old | {"ts": this - 3 * HOUR_US + 1}))
    assert (written.stored, written.late) == (1, 1)
    later = {"ts": this - 2 * HOUR_US, "device_key": 1, "ac_power_w": 1.0}
    assert (await sink.write(batch(later))).late == 0


async def test_an_hour_that_is_still_hot_cannot_be_sealed(world: Store) -> None:
    rollup = await world.connect("rollup")
    with pytest.raises(Exception, match="hot for longer"):
        await rollup.execute("SELECT readings.seal_hot($1, 2)", when(this_hour_us() - 2 * HOUR_US))


async def test_rule_15_late_rows_fill_uncovered_slots_and_the_same_backfill_twice_adds_nothing(world: Store) -> None:
    await arrive(world, power((1, 10)))
    await run(world, at(300))
    late = power((0, 50), (3, 50), (8, 70))
    await arrive(world, late, received_us=at(305))
    assert (await run(world, at(365))).late_hours > 0
    # 0:00 to 0:01 and 0:08 to 0:13 were free; 0:01 to 0:06 was covered by the hot sample.
    expected = 10 * 300_000 + 50 * 60_000 + 50 * 120_000 + 70 * 300_000
    assert (await stored(world))[1, "ac_power_w", 2, 0, B].amount == expected
    await arrive(world, late, received_us=at(365))
    await run(world, at(430))
    await run(world, at(490))
    found = (await stored(world))[1, "ac_power_w", 2, 0, B]
    assert (found.amount, found.covered_ms, found.lowest, found.highest) == (expected, 780_000, 10, 70)


async def test_the_series_is_what_the_plain_reference_says(world: Store) -> None:
    reference = Reference()
    hot = walk(11, B, B + 3 * HOUR_US, [1, 2, 3], (30, 500))
    await arrive(world, hot)
    reference.receive(hot)
    await run(world, at(250))
    late = walk(12, B - 5 * HOUR_US, B + HOUR_US, [2, 3, 4], (60, 900))
    await arrive(world, late, received_us=at(250))
    reference.receive(late, at(250))
    await run(world, at(311))
    for hour in range(4):
        reference.hour(B + hour * HOUR_US, at(300))
    frozen = at(180)  # at 5:06 the hours up to 2:00 are sealed
    reference.late_hour(at(240), frozen)
    found = await stored(world)
    assert found == reference.windows
    assert {key[1] for key in found} == set(FIELDS)


async def test_read_hot_sees_hot_and_late_rows_with_their_nulls(world: Store) -> None:
    await arrive(world, power((1, 10)) | {2: {"alert_bits": {at(2): 0}}})
    await arrive(world, power((3, -5), device=2), received_us=at(60))
    found = await read_hot(await world.connect("rollup"), [1, 2], ["ac_power_w", "alert_bits"], B, at(60))
    rows = sorted(found.select("ts", "device_key", "ac_power_w", "alert_bits").rows())
    assert rows == [(at(1), 1, 10.0, None), (at(2), 2, None, 0), (at(3), 2, -5.0, None)]
    assert HOT_HOURS == 2
