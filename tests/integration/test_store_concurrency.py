"""Writes side by side, plan changes between them, servers and connections that fail: once or not at all."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from telemetry.errors import PlanOutdated, StoreError, StoreUnavailable
from telemetry.model.batch import Sequences
from telemetry.store.connection import connector
from telemetry.store.listen import ChangeListener
from tests.support.proxy import POSTGRES_COMMIT, Proxy
from tests.support.store import HOUR_US, PASSWORD, Store, batch, this_hour_us


def rows(start: int, keys: range, **fields: float) -> list[dict[str, Any]]:
    return [{"ts": start + key % 50, "device_key": key, "ac_power_w": float(key), **fields} for key in keys]


@contextlib.asynccontextmanager
async def proxied(store: Store, directory: Path):
    """The store's server behind a proxy; yields (proxy, connect as telemetry_ingest)."""
    arguments = store.postgres.connect_kwargs()
    name = f".s.PGSQL.{arguments['port']}"
    async with Proxy(Path(str(arguments["host"])) / name, directory / name) as proxy:
        dsn = f"postgresql:///telemetry?host={directory}&port={arguments['port']}"
        yield proxy, connector(dsn, user="telemetry_ingest", password=PASSWORD)


@pytest.mark.parametrize("age", [0, 26 * HOUR_US], ids=["hot", "late"])
async def test_overlapping_writes_store_every_reading_once_and_count_each(store: Store, age: int) -> None:
    start = this_hour_us() - age
    sink = store.sink(connections=4)
    batches = [batch(*rows(start, range(first, first + 3000))) for first in (0, 1000, 500, 1500, 0, 2000)]
    written = await asyncio.gather(*(sink.write(b) for b in batches))
    assert sum(w.stored for w in written) == 5000
    assert sum(w.duplicate for w in written) == 6 * 3000 - 5000
    assert await store.stored() == sorted(rows(start, range(5000)), key=lambda r: (r["ts"], r["device_key"]))


async def test_overlapping_writes_that_merge_end_with_every_field(store: Store) -> None:
    start = this_hour_us()
    sink = store.sink(connections=4)
    fields = ["temperature_c", "dc_power_w", "dc_voltage_v", "ac_voltage_v"]
    written = await asyncio.gather(
        *(sink.write(batch(*rows(start, range(1000), **{name: 1.0}))) for name in fields for _ in range(2))
    )
    assert (sum(w.stored for w in written), sum(w.conflict for w in written)) == (1000, 0)
    assert sum(w.merged for w in written) == 3000
    expected = rows(start, range(1000), **dict.fromkeys(fields, 1.0))
    assert await store.stored() == sorted(expected, key=lambda r: (r["ts"], r["device_key"]))


async def test_a_deadlock_is_tried_again(store: Store) -> None:
    """Another transaction takes two locks in the opposite order; whichever the server ends, the write succeeds."""
    now = this_hour_us()
    sink = store.sink()
    await sink.write(batch({"ts": now, "device_key": 1, "ac_power_w": 1.0}, sequences=[Sequences(1, 1, ((1, 1),))]))
    other = await store.admin()
    await other.execute("SET deadlock_timeout = '10s'")  # so that the sink's transaction is the one that ends
    await other.execute("BEGIN")
    await other.execute("UPDATE readings.sequence SET highest = highest")
    write = asyncio.create_task(
        sink.write(
            batch({"ts": now, "device_key": 2, "ac_power_w": 1.0}, sequences=[Sequences(1, 1, ((2, 2),))]),
        )
    )
    await until_waiting(store, 1)
    insert = asyncio.create_task(
        other.execute(
            "INSERT INTO readings.hot (ts, device_key, plan_version)"
            " VALUES ('epoch'::timestamptz + $1::bigint * interval '1 microsecond', 2, 1) ON CONFLICT DO NOTHING",
            now,
        )
    )
    await insert
    await other.execute("ROLLBACK")
    written = await write
    assert (written.stored, written.duplicate) == (1, 0)


async def until_waiting(store: Store, waiting: int) -> None:
    admin = await store.admin()
    async with asyncio.timeout(20):
        while await admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < waiting:
            await asyncio.sleep(0.01)


class TestPlanVersion:
    async def test_a_batch_of_an_older_plan_is_refused_and_nothing_of_it_stays(self, store: Store) -> None:
        sink, now = store.sink(), this_hour_us()
        admin = await store.admin()
        assert await admin.fetchval("SELECT consent.bump_version()") == 2
        with pytest.raises(PlanOutdated) as refused:
            await sink.write(batch(*rows(now, range(3)), sequences=[Sequences(1, 1, ((1, 9),))]))
        assert refused.value.current == 2
        assert await store.stored() == []
        assert await admin.fetchval("SELECT count(*) FROM readings.sequence") == 0
        assert (await sink.write(batch(*rows(now, range(3)), plan_version=2))).stored == 3

    async def test_a_change_waits_for_the_writes_in_flight_and_holds_off_the_next(self, store: Store) -> None:
        sink, now = store.sink(connections=2), this_hour_us()
        await sink.write(batch(*rows(now, range(1)), sequences=[Sequences(1, 1, ((1, 1),))]))
        blocker, changer = await store.admin(), await store.admin()
        await blocker.execute("BEGIN; SELECT * FROM readings.sequence FOR UPDATE")
        first = asyncio.create_task(sink.write(batch(*rows(now, range(5, 9)), sequences=[Sequences(1, 1, ((2, 2),))])))
        await until_waiting(store, 1)
        change = asyncio.create_task(changer.fetchval("SELECT consent.bump_version()"))
        await until_waiting(store, 2)
        second = asyncio.create_task(sink.write(batch(*rows(now, range(20, 30)))))
        await until_waiting(store, 3)
        assert not change.done()
        await blocker.execute("ROLLBACK")
        assert (await first).stored == 4
        assert await change == 2
        with pytest.raises(PlanOutdated):
            await second
        assert len(await store.stored()) == 5


class TestFailures:
    async def test_a_lost_reply_to_commit_is_unknown_and_replaying_is_safe(self, store: Store, tmp: Path) -> None:
        now = this_hour_us()
        async with proxied(store, tmp) as (proxy, connect):
            sink = store.sink(connect)
            whole = batch(*rows(now, range(100)), sequences=[Sequences(5, 6, ((1, 7),))])
            lost = proxy.swallow_reply_to(POSTGRES_COMMIT)
            with pytest.raises(StoreUnavailable):
                await sink.write(whole)
            assert lost.is_set()
            assert len(await store.stored()) == 100
            again = await sink.write(whole)
            assert (again.stored, again.duplicate, again.conflict) == (0, 100, 0)
            assert [w.sequence for w in again.watermarks] == [7]
            await sink.close()

    async def test_a_connection_cut_during_copy_leaves_nothing_and_the_next_write_reconnects(
        self, store: Store, tmp: Path
    ) -> None:
        now = this_hour_us()
        async with proxied(store, tmp) as (proxy, connect):
            sink = store.sink(connect, connections=1)
            await sink.write(batch(*rows(now, range(1))))

            def cut(data: bytes) -> bool:
                if b"PGCOPY" in data:
                    proxy.cut()
                return False

            proxy.swallow_reply_to(cut)
            with pytest.raises(StoreUnavailable):
                await sink.write(batch(*rows(now, range(10, 20_000))))
            proxy.swallow_reply_to(b"nothing")
            assert len(await store.stored()) == 1
            assert (await sink.write(batch(*rows(now, range(10, 20_000))))).stored == 19_990
            await sink.close()

    async def test_no_server_is_unavailable_until_it_is_back(self, store: Store, tmp: Path) -> None:
        now = this_hour_us()
        async with proxied(store, tmp) as (proxy, connect):
            sink = store.sink(connect)
            proxy.refuse()
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await sink.write(batch(*rows(now, range(3))))
            proxy.refuse(False)
            assert (await sink.write(batch(*rows(now, range(3))))).stored == 3
            await sink.close()

    async def test_a_cancelled_write_gives_its_connection_up_and_not_its_place(self, store: Store) -> None:
        now = this_hour_us()
        sink = store.sink(connections=1)
        await sink.write(batch(*rows(now, range(1)), sequences=[Sequences(1, 1, ((1, 1),))]))
        blocker = await store.admin()
        await blocker.execute("BEGIN; SELECT * FROM readings.sequence FOR UPDATE")
        write = asyncio.create_task(sink.write(batch(*rows(now, range(5, 9)), sequences=[Sequences(1, 1, ((2, 2),))])))
        await until_waiting(store, 1)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        await blocker.execute("ROLLBACK")
        assert (await sink.write(batch(*rows(now, range(5, 9))))).stored == 4

    async def test_a_statement_that_waits_too_long_is_given_up(self, store: Store) -> None:
        now = this_hour_us()
        dsn = store.postgres.dsn("telemetry", "telemetry_ingest", PASSWORD)
        sink = store.sink(connector(dsn, statement_timeout_s=0.1), statement_timeout_s=0.1)
        await sink.write(batch(sequences=[Sequences(1, 1, ((1, 1),))]))
        blocker = await store.admin()
        await blocker.execute("BEGIN; SELECT * FROM readings.sequence FOR UPDATE")
        late = batch(*rows(now, range(5, 9)), sequences=[Sequences(1, 1, ((2, 2),))])
        with pytest.raises(StoreUnavailable):
            await sink.write(late)
        await blocker.execute("ROLLBACK")
        assert (await sink.write(late)).stored == 4

    async def test_a_wrong_password_is_no_outage(self, store: Store) -> None:
        sink = store.sink(connector(store.postgres.dsn("telemetry", "telemetry_ingest", "wrong")))
        with pytest.raises(StoreError, match="role or password") as refused:
            await sink.write(batch(*rows(this_hour_us(), range(3))))
        assert not isinstance(refused.value, StoreUnavailable)

    async def test_a_terminated_session_is_replaced(self, store: Store) -> None:
        now, sink = this_hour_us(), store.sink(connections=1)
        await sink.write(batch(*rows(now, range(3))))
        admin = await store.admin()
        await admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'telemetry_ingest'"
        )
        with contextlib.suppress(StoreUnavailable):
            await sink.write(batch(*rows(now, range(3, 6))))
        assert (await sink.write(batch(*rows(now, range(6, 9))))).stored == 3


class TestListener:
    async def test_it_tells_the_current_version_and_each_change(self, store: Store) -> None:
        versions: asyncio.Queue[int] = asyncio.Queue()
        listener = ChangeListener(store.role("ingest"), versions.put, poll_s=3600)
        task = asyncio.create_task(listener.run())
        admin = await store.admin()
        assert await versions.get() == 1
        await admin.execute("SELECT consent.bump_version()")
        assert await versions.get() == 2
        await end(task)

    async def test_it_hears_after_reconnecting_of_what_it_missed(self, store: Store, tmp: Path) -> None:
        versions: asyncio.Queue[int] = asyncio.Queue()
        admin = await store.admin()
        async with proxied(store, tmp) as (proxy, connect):
            task = asyncio.create_task(ChangeListener(connect, versions.put, poll_s=3600).run())
            assert await versions.get() == 1
            proxy.refuse()
            proxy.cut()
            await admin.execute("SELECT consent.bump_version()")
            proxy.refuse(False)
            assert await versions.get() == 2
            await end(task)

    async def test_polling_finds_what_no_notification_told(self, store: Store) -> None:
        versions: asyncio.Queue[int] = asyncio.Queue()
        task = asyncio.create_task(ChangeListener(store.role("ingest"), versions.put, poll_s=0.05).run())
        assert await versions.get() == 1
        admin = await store.admin()
        await admin.execute("UPDATE consent.state SET version = 5")
        assert await versions.get() == 5
        await end(task)


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_no_error_says_what_a_row_held(store: Store) -> None:
    """The server's own text quotes values; ours gives its code only."""
    admin = await store.admin()
    await admin.execute("ALTER TABLE readings.sequence ADD CONSTRAINT refuses CHECK (highest <> 4711)")
    try:
        with pytest.raises(StoreError) as refused:
            await store.sink().write(batch(sequences=[Sequences(99887766, 1, ((4711, 4711),))]))
    finally:
        await admin.execute("ALTER TABLE readings.sequence DROP CONSTRAINT refuses")
    text = f"{refused.value!r} {refused.value.__cause__!r}"
    assert "99887766" not in text
    assert "4711" not in text
    assert isinstance(refused.value.__context__, asyncpg.PostgresError)
    assert refused.value.__suppress_context__
