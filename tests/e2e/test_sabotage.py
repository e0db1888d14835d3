"""The suite can fail: a system that loses or doubles readings is found out, and so is each kind of difference."""

from tests.support.moments import Moment, kill_worker
from tests.support.proxy import POSTGRES_COMMIT
from tests.support.system import Feed, System, system


async def test_a_worker_that_acknowledges_on_receipt_is_found_out(seed: int) -> None:
    async with system(seed=seed, worker="tests.support.sabotaged_worker") as found:
        found.worker.prepare()
        feed = found.fleet(await found.enrol(2), messages_per_second=100)
        await found.worker.until_committing()
        await kill_worker(found, Moment.BEFORE_COMMIT)
        found.worker.start()
        await feed.finish()
        await found.settle()
        report = await found.check(feed)
        assert report.missing > 0, report
        assert not report.exact


async def test_a_table_without_its_unique_key_is_found_out(seed: int) -> None:
    async with system(seed=seed) as found:
        await found.execute("ALTER TABLE readings.hot DROP CONSTRAINT hot_pkey")
        feed = found.fleet(await found.enrol(2), messages_per_second=100)
        await found.worker.until_committing()
        lost = found.database_link.swallow_reply_to(POSTGRES_COMMIT)
        await found.reached(lost)
        await feed.finish()
        await found.settle()
        report = await found.check(feed)
        assert report.duplicates > 0, report
        assert not report.exact


async def some(found: System) -> Feed:
    feed = found.fleet(await found.enrol(2), speed=float("inf"), messages=40)
    await feed.finish(stop=False)
    await found.settle()
    return feed


async def test_the_checker_reports_every_kind_of_difference(seed: int) -> None:
    first = "(SELECT ts, device_key FROM readings.hot WHERE ac_power_w IS NOT NULL ORDER BY 1, 2 LIMIT 1)"
    async with system(seed=seed) as found:
        feed = await some(found)
        assert (await found.check(feed)).exact

        await found.execute(f"UPDATE readings.hot SET ac_power_w = ac_power_w + 0.5 WHERE (ts, device_key) IN {first}")
        assert (await found.check(feed)).different == 1
        await found.execute(f"UPDATE readings.hot SET ac_power_w = NULL WHERE (ts, device_key) IN {first}")
        assert (await found.check(feed)).different == 1

        await found.execute(
            "INSERT INTO readings.late SELECT h.*, date_trunc('hour', now(), 'UTC')"
            f" FROM readings.hot AS h WHERE (ts, device_key) IN {first}"
        )
        assert (await found.check(feed)).duplicates == 1

        await found.execute(f"UPDATE readings.late SET ts = ts - interval '1 second' WHERE (ts, device_key) IN {first}")
        report = await found.check(feed)
        assert (report.unexpected, report.duplicates) == (1, 0)

        await found.execute(f"DELETE FROM readings.hot WHERE (ts, device_key) IN {first}")
        report = await found.check(feed)
        assert (report.missing, report.lost_messages, report.uncounted_messages) == (1, 1, 1)

        await found.execute("UPDATE readings.sequence SET received = received - int8multirange(int8range(2, 5))")
        assert (await found.check(feed)).gap_messages == 6
