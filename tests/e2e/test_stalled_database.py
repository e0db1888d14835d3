"""The database stands still under load: the worker's memory stays bounded, and it catches up afterwards."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import psutil
import pytest

from telemetry.embedded.postgres_leftovers import servers_in
from tests.support.system import Kind, System, system

_MIB = 2**20


@dataclass
class Peak:
    rss_bytes: int = 0
    in_flight_bytes: float = 0.0


@contextlib.asynccontextmanager
async def watched(found: System) -> AsyncIterator[Peak]:
    """The highest figures of the worker, sampled for as long as the context lasts."""
    peak = Peak()

    async def sample() -> None:
        while True:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak.rss_bytes = max(peak.rss_bytes, found.worker.rss_bytes)
            in_flight = await found.worker.metric("telemetry_in_flight_bytes")
            peak.in_flight_bytes = max(peak.in_flight_bytes, in_flight)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(sample())
    try:
        yield peak
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stall(found: System, seconds: float) -> None:
    """SIGSTOP every process of the server: connections stay open and nobody answers."""
    processes = servers_in(found.postgres.place.cluster)
    for process in processes:
        process.suspend()
    try:
        await asyncio.sleep(seconds)
    finally:
        for process in processes:
            process.resume()


async def test_memory_is_bounded_by_configuration_and_nothing_is_lost(seed: int) -> None:
    limit = _MIB
    async with system(seed=seed, config={"broker": {"max_pending_bytes": limit}}) as found:
        feed = found.fleet(await found.enrol(4), messages_per_second=150, readings_per_message=50)
        await found.worker.until_committing(150)
        before = found.worker.rss_bytes
        async with watched(found) as peak:
            await stall(found, 4.0)
            await feed.finish()
            await found.drain()
        await found.worker.stop()
        report = await found.check(feed)
        print(f"worker before {before / _MIB:.0f} MiB, at most {peak.rss_bytes / _MIB:.0f} MiB")
        assert report.exact, report
        # reading stops at the limit; what one read of the network brings may lie above it
        assert limit <= peak.in_flight_bytes <= limit + _MIB
        assert peak.rss_bytes - before < 100 * _MIB


@pytest.mark.long
@pytest.mark.parametrize("kind", ["mosquitto", "rumqttd"])
async def test_worker_stays_under_400_mb_while_the_database_stalls_for_a_minute(kind: Kind, seed: int) -> None:
    async with system(kind=kind, seed=seed) as found:
        feed = found.fleet(await found.enrol(10), messages_per_second=200, readings_per_message=50)
        await found.worker.until_committing(400)
        before = found.worker.rss_bytes
        async with watched(found) as peak:
            await stall(found, 60.0)
            await feed.finish()
            await found.drain()
        await found.worker.stop()
        report = await found.check(feed)
        print(f"worker before {before / _MIB:.0f} MiB, at most {peak.rss_bytes / _MIB:.0f} MiB; {report}")
        assert report.exact, report
        assert peak.rss_bytes < 400 * 10**6
