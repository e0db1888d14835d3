"""Stage ``reads``: what reading costs beside plain SQL for the same rows, on a thousand homes with a year of windows.

Homes, grants and windows are those of `benchmarks.reads_world`. Timed, each round on other homes: a view of one site's
day, a page of the fleet, a hundred sites' day, the last of each field, what changed since a position (one pass later),
and a name that is refused because it never existed, is another recipient's, or was withdrawn. How far the times of
those three can be told from each other is given as the area under the ROC curve: 0.5 is not at all. The same over HTTP,
from an API in a process of its own; from there the export of the fleet's year goes to Parquet, and memory is what that
process grew by. Units are window values. The ratio is that of the site's day.
"""

import os

os.environ["POLARS_MAX_THREADS"] = "1"  # as `telemetry` sets it, before polars is imported

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import numpy as np

from benchmarks.measure import CpuMeter, result
from benchmarks.reads_http import over_http
from benchmarks.reads_world import DAY, FIELDS, QUARTER_US, Size, add_people, add_windows, last_quarter_us, load
from benchmarks.stage_views import Keys
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.errors import NotVisible
from telemetry.memory import calm_garbage_collection, keep_freed_memory
from telemetry.model.sharing import SharingPurpose
from telemetry.store.connection import connector
from telemetry.store.migrate import ROLES, migrate
from telemetry.store.partitions import ensure
from telemetry.store.series import read_series
from telemetry.views.changes import changes
from telemetry.views.fleet import FleetQuery, fleet
from telemetry.views.latest import latest
from telemetry.views.naming import Names
from telemetry.views.pool import Pool
from telemetry.views.query import Query
from telemetry.views.sight import Viewer
from telemetry.views.view import Views

PASSWORD: Final = "benchmark"
VIEWER: Final = Viewer(1, SharingPurpose.MAINTENANCE)
PASSED: Final = """
UPDATE readings.rollup_pass
SET done_as_of = 'epoch'::timestamptz + $1::bigint * interval '1 microsecond',
    done_since = pg_snapshot_xmin(pg_current_snapshot())
"""
WITHDRAW: Final = """
INSERT INTO consent.grant_version (grant_key, version, owner_key, recipient_key, state, purpose, classes, fields,
        resolution, serial, place, extremes, data_from, start, epoch, policy)
    SELECT grant_key, 2, owner_key, recipient_key, 'withdrawn', purpose, classes, fields, resolution, serial, place,
        extremes, data_from, start, epoch, policy
    FROM consent.active_grant WHERE owner_key = ANY ($1::bigint[])
"""


def days(number: float, **more: Any) -> Query:
    """The last days, up to now; both fields."""
    now = datetime.now(UTC)
    fields = frozenset(FIELDS)
    return Query(SharingPurpose.MAINTENANCE, now - timedelta(days=number, minutes=30), now, fields=fields, **more)


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median and p99, in ms."""
    median, tail = np.percentile(1e3 * np.array(seconds), (50, 99))
    return {"median_ms": round(float(median), 2), "p99_ms": round(float(tail), 2)}


def told_apart(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Area under the ROC curve, with its standard error without a difference, and the Kolmogorov-Smirnov distance."""
    first, second = np.sort(one), np.sort(other)
    below = np.searchsorted(second, first, side="left") + np.searchsorted(second, first, side="right")
    error = np.sqrt((first.size + second.size + 1) / (12 * first.size * second.size))
    both = np.concatenate([first, second])
    steps = [np.searchsorted(each, both, side="right") / each.size for each in (first, second)]
    return {
        "auc": round(float(below.sum() / (2 * first.size * second.size)), 3),
        "auc_error": round(float(error), 3),
        "ks": round(float(np.abs(steps[0] - steps[1]).max()), 3),
        "ks_critical_5pct": round(float(1.358 * np.sqrt((first.size + second.size) / (first.size * second.size))), 3),
    }


class Bench:
    """One server with homes in it, and how their reads are timed."""

    def __init__(self, postgres: EmbeddedPostgres, admin: Any, size: Size) -> None:
        self.admin, self.size = admin, size
        self.pool = Pool(connector(postgres.dsn("telemetry", "telemetry_views", PASSWORD)), size=1)
        self.views = Views(self.pool, Names(Keys()))
        self.names: list[str] = []
        self.owners: dict[str, int] = {}

    async def begin(self) -> None:
        """Learn the names, as a recipient does."""
        _, named = await self.views.read(VIEWER, days(0.1))
        for device in named.devices:
            self.owners[named.sites[device.site_key]] = device.owner_key
        self.names = sorted(self.owners)

    def sites(self, number: int, count: int) -> frozenset[str]:
        """Other sites every time."""
        first = number * 37 % (len(self.names) - count + 1)
        return frozenset(self.names[first : first + count])

    async def plain(self, sites: frozenset[str], number: float) -> int:
        """The same rows as the rollup reads them."""
        devices = [10 * self.owners[name] + d for name in sites for d in (0, 1)]
        until = last_quarter_us()
        since = until - round(number * DAY) * QUARTER_US
        rows = await read_series(self.admin, devices=devices, fields=FIELDS, from_us=since, to_us=until)
        return rows.height

    async def reads(self, rounds: int) -> dict[str, list[float]]:
        """Seconds of each kind of read, round by round in turn."""
        actions: dict[str, tuple[int, Callable[[int], Awaitable[Any]]]] = {
            "site_day": (1, lambda n: self.views.read(VIEWER, days(1, sites=self.sites(n, 1)))),
            "site_day_plain": (1, lambda n: self.plain(self.sites(n, 1), 1)),
            "site_latest": (1, lambda n: latest(self.views, VIEWER, days(1, sites=self.sites(n, 1)))),
            "fleet_page": (2, lambda n: fleet(self.views, VIEWER, self._page(n))),
            "hundred_sites": (8, lambda n: self.views.read(VIEWER, days(1, sites=self.sites(n, 100)))),
            "hundred_sites_plain": (8, lambda n: self.plain(self.sites(n, 100), 1)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in actions}
        for number in range(-3, rounds):
            for name, (every, action) in actions.items():
                if number % every == 0 or number < 0:
                    started = time.perf_counter()
                    await action(number + 3)
                    if number >= 0:
                        seconds[name].append(time.perf_counter() - started)
        return seconds

    def _page(self, number: int) -> FleetQuery:
        return FleetQuery(SharingPurpose.MAINTENANCE, 100, self.names[number * 41 % (len(self.names) - 100)])

    async def follow(self) -> dict[str, Any]:
        """A poll of the whole fleet that finds nothing, and one after a pass."""
        query = replace(days(1), until=datetime.now(UTC) + timedelta(days=1))
        position = (await changes(self.views, VIEWER, query, None)).position
        idle, started = 0.0, time.perf_counter()
        position = (await changes(self.views, VIEWER, query, position)).position
        idle = time.perf_counter() - started
        until = last_quarter_us()
        await self.admin.execute(PASSED, until - QUARTER_US)
        position = (await changes(self.views, VIEWER, query, position)).position
        await add_windows(self.admin, self.size, until - QUARTER_US)
        started = time.perf_counter()
        told = (await changes(self.views, VIEWER, query, position)).view.rows.height
        return {
            "idle_ms": round(1e3 * idle, 1),
            "after_a_pass_ms": round(1e3 * (time.perf_counter() - started), 1),
            "rows": told,
        }

    async def refusals(self, number: int) -> dict[str, Any]:
        """Times of names that are not there for three reasons, in turn, each name asked for once."""
        gone = self.names[:: max(1, len(self.names) // number)][:number]
        other = Viewer(2, SharingPurpose.MAINTENANCE)
        _, named = await self.views.read(other, days(0.1))
        foreign = sorted(set(named.sites.values()))
        await self.admin.execute(WITHDRAW, [self.owners[name] for name in gone])
        random = np.random.default_rng(1)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz234567"))
        times: dict[str, list[float]] = {"missing": [], "foreign": [], "withdrawn": []}
        for index in range(-5, len(gone)):
            asked = {
                "missing": "site_" + "".join(random.choice(letters, 27)),
                "foreign": foreign[index % len(foreign)],
                "withdrawn": gone[index],
            }
            for kind in random.permutation(list(asked)):
                started = time.perf_counter()
                try:
                    await self.views.read(VIEWER, days(1, sites=frozenset({asked[kind]})))
                except NotVisible:
                    seconds = time.perf_counter() - started
                else:
                    raise AssertionError(f"a name that is {kind} was shown")
                if index >= 0:
                    times[kind].append(seconds)
        pairs = (("missing", "foreign"), ("missing", "withdrawn"), ("foreign", "withdrawn"))
        return {name: spread(values) for name, values in times.items()} | {
            f"{one}_or_{two}": told_apart(times[one], times[two]) for one, two in pairs
        }

    async def plain_years(self, sites: int) -> float:
        """Rows a second of homes' years, home by home, as the rollup reads them."""
        rows, started = 0, time.perf_counter()
        for name in sorted(self.sites(0, sites)):
            rows += await self.plain(frozenset({name}), self.size.days)
        return rows / (time.perf_counter() - started)


async def main(quick: bool) -> dict[str, Any]:
    size, rounds = (Size(200, 2), 16) if quick else (Size(1000, 365), 200)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        place.chmod(0o711)
        settings = {"wal_level": "minimal", "max_wal_senders": "0"}  # what is loaded is not written twice
        async with EmbeddedPostgres(place / "data", settings=settings) as postgres:
            await migrate(lambda database: asyncpg.connect(postgres.dsn(database)), dict.fromkeys(ROLES, PASSWORD))
            admin = await asyncpg.connect(postgres.dsn("telemetry"))
            await ensure(admin, 2, 1)
            await add_people(admin, size)
            loaded = await load(admin, size)
            await admin.execute("VACUUM ANALYZE")
            await admin.execute("CHECKPOINT")  # what was loaded is on disk before anything is timed
            await admin.execute(PASSED, last_quarter_us())
            bench = Bench(postgres, admin, size)
            await bench.begin()
            keep_freed_memory()  # both as `telemetry api` does
            calm_garbage_collection()
            with CpuMeter({"views": os.getpid()}) as meter:
                seconds = await bench.reads(rounds)
            follow = await bench.follow()
            http, exported = await over_http(postgres, size, rounds, place)
            exported["plain_rows_per_second"] = round(await bench.plain_years(2 if quick else 10))
            refused = await bench.refusals(20 if quick else 300)
            await bench.pool.close()
            await admin.close()
    seconds |= http
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = len(FIELDS) * DAY
    return result(
        readings_per_second=rows / median["site_day"],
        limit_per_second=rows / median["site_day_plain"],
        cpu_us_per_reading=meter.per_reading(rows * rounds),
        milliseconds={name: spread(values) for name, values in seconds.items()},
        hundred_sites_ratio=round(median["hundred_sites_plain"] / median["hundred_sites"], 3),
        changes=follow,
        export=exported,
        refused=refused,
        homes=size.homes,
        windows=loaded,
        fields_a_site=len(FIELDS),
    )


def run(quick: bool) -> dict[str, Any]:
    """The stage, for the harness."""
    return asyncio.run(main(quick))
