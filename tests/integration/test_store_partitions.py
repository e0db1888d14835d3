"""Partitions: made ahead of time, never for an hour that was late once, dropped only when rolled up."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from telemetry.errors import StoreError
from telemetry.store.partitions import AHEAD_HOURS, drop_expired, ensure, hot_name, hour_of
from tests.support.store import HOUR_US, Store, batch, this_hour_us


def reading(hours_ago: int) -> dict[str, Any]:
    return {"ts": this_hour_us() - hours_ago * HOUR_US, "device_key": 1, "ac_power_w": 1.0}


async def partitions(store: Store, parent: str = "hot") -> list[str]:
    admin = await store.admin()
    rows = await admin.fetch(
        f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'readings.{parent}'::regclass"
    )
    return sorted(row[0].removeprefix("readings.") for row in rows)


async def drop_all(store: Store) -> None:
    admin = await store.admin()
    for parent in ("hot", "late"):
        for name in await partitions(store, parent):
            await admin.execute(f"DROP TABLE readings.{name}")


async def age_partition(store: Store, kind: str, hours: int) -> str:
    """Make a partition of an hour long ago, as an older run would have left it, with one row in it."""
    admin = await store.admin()
    hour = datetime.fromtimestamp(this_hour_us() / 1e6, UTC) - timedelta(hours=hours)
    await admin.execute("SELECT readings.make_partition($1, $2)", kind, hour)
    await admin.execute(f"GRANT SELECT, INSERT, UPDATE ON readings.{kind}_{hour:%Y%m%d%H} TO telemetry_ingest")
    return f"{kind}_{hour:%Y%m%d%H}"


def test_names_are_hours_of_utc() -> None:
    hour = int(datetime(2026, 11, 22, 5, tzinfo=UTC).timestamp()) // 3600
    assert hot_name(hour) == "hot_2026112205"
    assert hour_of("hot_2026112205") == hour
    with pytest.raises(StoreError):
        hour_of("hot_default")


async def test_hot_partitions_cover_the_bounded_time_and_some_hours_ahead(store: Store) -> None:
    await drop_all(store)
    ingest = await store.connect("ingest")
    this_hour = this_hour_us() // HOUR_US
    made = await ensure(ingest, hot_hours=2)
    assert await partitions(store) == [hot_name(hour) for hour in range(this_hour - 3, this_hour + AHEAD_HOURS + 1)]
    late = [hot_name(hour).replace("hot", "late") for hour in range(this_hour, this_hour + AHEAD_HOURS + 1)]
    assert await partitions(store, "late") == late
    assert made == len(late) + len(await partitions(store))
    assert await ensure(ingest, hot_hours=2) == 0


async def test_every_partition_refuses_a_repeated_key(store: Store) -> None:
    await ensure(await store.connect("ingest"), 2)
    admin = await store.admin()
    keys = await admin.fetch(
        "SELECT c.relname, array_agg(a.attname::text ORDER BY k.n) AS columns FROM pg_inherits i"
        " JOIN pg_class c ON c.oid = i.inhrelid LEFT JOIN pg_index x ON x.indrelid = c.oid AND x.indisprimary"
        " LEFT JOIN unnest(x.indkey) WITH ORDINALITY AS k (attnum, n) ON true"
        " LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum"
        " WHERE i.inhparent = 'readings.hot'::regclass GROUP BY c.relname"
    )
    assert keys
    assert all(row["columns"] == ["ts", "device_key"] for row in keys)


async def test_the_sink_makes_what_it_needs(store: Store) -> None:
    await drop_all(store)
    written = await store.sink().write(batch(reading(0), reading(3), reading(4)))
    assert (written.stored, written.late) == (3, 1)
    assert await partitions(store)


async def test_a_longer_bounded_time_keeps_more_hours_hot(store: Store) -> None:
    written = await store.sink(hot_hours=6).write(batch(*(reading(hours) for hours in (6, 7, 8))))
    assert (written.stored, written.late) == (3, 1)
    await drop_all(store)


async def test_an_hour_that_was_late_once_stays_late(store: Store) -> None:
    await drop_all(store)
    assert (await store.sink(hot_hours=1).write(batch(reading(4)))).late == 1
    # Another worker with a longer bounded time: it makes partitions, but none for that hour.
    again = await store.sink(hot_hours=6).write(batch(reading(4), reading(5)))
    assert (again.stored, again.duplicate, again.late) == (1, 1, 0)
    assert hot_name(this_hour_us() // HOUR_US - 4) not in await partitions(store)
    await drop_all(store)


async def test_an_hour_that_was_rolled_up_gets_no_partition_again(store: Store) -> None:
    await drop_all(store)
    rollup = await store.connect("rollup")
    await rollup.execute("INSERT INTO readings.rollup_state (kind, hour) VALUES ('hot', date_trunc('hour', now()))")
    await ensure(rollup, 2)
    assert hot_name(this_hour_us() // HOUR_US) not in await partitions(store)
    assert (await store.sink().write(batch(reading(0)))).late == 1


async def test_a_partition_that_was_dropped_meanwhile_makes_its_rows_late(store: Store) -> None:
    await drop_all(store)
    old = await age_partition(store, "hot", 9)
    sink = store.sink()
    assert (await sink.write(batch(reading(9)))).late == 0
    await (await store.admin()).execute(f"DROP TABLE readings.{old}")
    assert (await sink.write(batch(reading(9)))).late == 1


async def test_late_partitions_that_are_missing_are_made_on_demand(store: Store) -> None:
    sink = store.sink()
    await sink.write(batch(reading(0), reading(50)))
    admin = await store.admin()
    for name in await partitions(store, "late"):
        await admin.execute(f"DROP TABLE readings.{name}")
    assert (await sink.write(batch(reading(51)))).late == 1


async def test_days_ahead_is_refused(store: Store) -> None:
    assert (await store.sink().write(batch(reading(-12)))).stored == 1
    with pytest.raises(StoreError, match="ahead"):
        await store.sink().write(batch(reading(-60)))
    await drop_all(store)


async def test_only_what_is_expired_and_rolled_up_is_dropped(store: Store) -> None:
    await drop_all(store)
    await ensure(await store.connect("ingest"), 2)
    before = await partitions(store)
    done_hot, open_hot = await age_partition(store, "hot", 9), await age_partition(store, "hot", 10)
    done_late, open_late = await age_partition(store, "late", 9), await age_partition(store, "late", 10)
    rollup = await store.connect("rollup")
    assert await drop_expired(rollup, 2) == []
    await rollup.execute(
        "INSERT INTO readings.rollup_state (kind, hour)"
        " SELECT kind, date_trunc('hour', now()) - hours * interval '1 hour'"
        " FROM (VALUES ('hot', 9), ('late', 9), ('hot', 1)) AS done (kind, hours)"
    )
    assert sorted(await drop_expired(rollup, 2)) == [done_hot, done_late]
    assert await partitions(store) == sorted([*before, open_hot])
    assert open_late in await partitions(store, "late")
    assert await drop_expired(rollup, 2) == []
    await drop_all(store)


async def test_a_partition_in_use_is_left_for_the_next_time(store: Store) -> None:
    old = await age_partition(store, "hot", 9)
    rollup = await store.connect("rollup")
    await rollup.execute(
        "INSERT INTO readings.rollup_state VALUES ('hot', date_trunc('hour', now()) - interval '9 hours')"
    )
    reader = await store.admin()
    await reader.execute(f"BEGIN; SELECT * FROM readings.{old}")
    assert await drop_expired(rollup, 2) == []
    await reader.execute("ROLLBACK")
    assert await drop_expired(rollup, 2) == [old]


@pytest.mark.parametrize(("hot", "ahead"), [(0, 3), (49, 3), (2, -1), (2, 49)])
async def test_limits_of_ensure(store: Store, hot: int, ahead: int) -> None:
    with pytest.raises(asyncpg.RaiseError):
        await ensure(await store.connect("ingest"), hot, ahead)
