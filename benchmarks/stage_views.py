"""Stage ``views``: what a consented view costs, and how soon a withdrawal is obeyed while readings come in.

A thousand homes of two devices with a day of 15-minute windows of four fields, all granted to one recipient. A view
of one site's day and of a hundred sites' day are timed against reading the same windows as the rollup does, without
row-level security, names and rules; rounds alternate. Then, while a worker writes batches of readings from a thread
of its own, how soon a change is obeyed, from its commit on. Withdrawing and narrowing: to the last view (asked back to
back) and the last chunk of a running export that still show what is gone, and to the next batch of an open stream,
which must not. Granting: to the first view and batch that show what is new. A fourth home goes on all the time, so that
streams and exports have more to tell. Units are window values.
"""

import asyncio
import hashlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import asyncpg
import numpy as np
import polars as pl

from benchmarks.measure import CpuMeter, result
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.model.batch import Write
from telemetry.model.fields import FIELD_INDEX
from telemetry.model.sharing import SharingPurpose
from telemetry.privacy.rollup import ROLLUP_SCHEMA
from telemetry.store.connection import connector
from telemetry.store.migrate import ROLES, migrate
from telemetry.store.partitions import ensure
from telemetry.store.prepare import HOUR_US
from telemetry.store.readings import PostgresSink
from telemetry.store.series import read_series, write_series
from telemetry.views.export import export
from telemetry.views.naming import Names
from telemetry.views.pool import Pool
from telemetry.views.query import Query
from telemetry.views.stream import stream
from telemetry.views.view import View, Views

PASSWORD, RECIPIENT, HOMES, DEVICES = "benchmark", 1, 1000, 2
FIELDS = ("ac_power_w", "ac_voltage_v", "energy_total_wh", "operating_state_code")
QUARTER_US, DAY = 900_000_000, 96
PEOPLE = """
INSERT INTO consent.recipient (recipient_key, handle, kind) VALUES (1, 'benchmark', 'installer');
INSERT INTO consent.owner (owner_key, region, public_key)
    SELECT n, 'default', decode(repeat('00', 1216), 'hex') FROM generate_series(1, $homes) AS n;
INSERT INTO consent.site (site_key, owner_key) SELECT n, n FROM generate_series(1, $homes) AS n;
INSERT INTO consent.gateway (gateway_key, site_key, name_blind, backfill_us)
    SELECT n, n, decode(lpad(to_hex(n), 32, '0'), 'hex'), 0 FROM generate_series(1, $homes) AS n;
INSERT INTO consent.device (device_key, site_key, gateway_key, kind, serial_blind)
    SELECT 10 * n + d, n, n, 1, decode(lpad(to_hex(10 * n + d), 32, '0'), 'hex')
    FROM generate_series(1, $homes) AS n, generate_series(0, 1) AS d;
INSERT INTO consent.relation (owner_key, recipient_key) SELECT n, 1 FROM generate_series(1, $homes) AS n;
INSERT INTO consent.grant_version (grant_key, version, owner_key, recipient_key, state, purpose, classes, fields,
        resolution, serial, place, extremes, data_from, start, epoch, policy)
    SELECT n, 1, n, 1, 'active', 'maintenance', '{}', '{$fields}', 2, 'pseudonym', 'withheld', false,
        '2020-01-01', '2020-01-01', 1, '2026-11'
    FROM generate_series(1, $homes) AS n;
"""
NEXT = """
WITH row AS (
    INSERT INTO consent.grant_version (grant_key, version, owner_key, recipient_key, state, purpose, classes, fields,
            resolution, serial, place, extremes, data_from, start, epoch, policy)
        SELECT grant_key, max(version) + 1, owner_key, 1, $2, 'maintenance', '{}', $3, 2, 'pseudonym',
            'withheld', false, '2020-01-01', '2020-01-01', 1, '2026-11'
        FROM consent.grant_version WHERE grant_key = ANY ($1::bigint[]) GROUP BY grant_key, owner_key
)
SELECT pg_notify('telemetry_consent', owner::text) FROM unnest($1::bigint[]) AS owner
"""


@dataclass
class Key:
    version: int
    secret: bytes


class Keys:
    """Token keys without a database of keys."""

    async def recipient_secret(self, recipient_key: int) -> Key:
        return Key(1, hashlib.sha256(str(recipient_key).encode()).digest())

    async def token_secrets(self, owner_keys: Sequence[int]) -> Mapping[int, bytes]:
        return {key: hashlib.sha256(f"o{key}".encode()).digest() for key in owner_keys}


def last_quarter_us() -> int:
    return int(time.time() * 1e6 - 300_000_000) // QUARTER_US * QUARTER_US


def windows(homes: int) -> pl.DataFrame:
    """A day of windows that is over, of every device and field."""
    devices = np.array([10 * n + d for n in range(1, homes + 1) for d in range(DEVICES)])
    starts = last_quarter_us() - QUARTER_US * np.arange(1, DAY + 1)
    fields = np.array([FIELD_INDEX[name] for name in FIELDS])
    device, start, field = (a.ravel() for a in np.meshgrid(devices, starts, fields, indexing="ij"))
    columns = {"device_key": device, "field": field, "window_start": start, "effective_at": start + QUARTER_US}
    amount = np.random.default_rng(1).integers(0, 10**9, device.size)
    return pl.DataFrame(columns | {"amount": amount}).select(
        *(
            {"resolution": pl.lit(2), "grid": pl.lit(0), "covered_ms": pl.lit(900_000), "slots": pl.lit(2**60 - 1)}.get(
                name, pl.col(name) if name in {*columns, "amount"} else pl.lit(None)
            )
            .cast(dtype)
            .alias(name)
            for name, dtype in ROLLUP_SCHEMA.items()
        )
    )


def query() -> Query:
    now = datetime.now(UTC)
    return Query(SharingPurpose.MAINTENANCE, now - timedelta(days=1, minutes=30), now)


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median and p99, in ms."""
    ordered = sorted(seconds)
    at = min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))
    return {"median_ms": round(1e3 * statistics.median(ordered), 1), "p99_ms": round(1e3 * ordered[at], 1)}


async def timed(action: Callable[[], Awaitable[Any]]) -> float:
    started = time.perf_counter()
    await action()
    return time.perf_counter() - started


class Load:
    """Ingest: batches of 20,000 readings one after another, from a thread of its own."""

    def __init__(self, connect: Any) -> None:
        self._connect, self._over = connect, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._write()))
        self.readings = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def _write(self) -> None:
        sink, start = PostgresSink(self._connect), int(time.time()) // 3600 * HOUR_US
        devices = np.arange(1_000_000, 1_020_000)
        while not self._over.is_set():
            ts = np.full(devices.size, start + self.readings)
            columns = {"ts": ts, "device_key": devices, "plan_version": np.ones(devices.size, np.int64)}
            rows = pl.DataFrame(columns | {name: np.ones(devices.size) for name in FIELDS[:3]})
            await sink.write(Write(rows=rows, plan_version=1))
            self.readings += devices.size
        await sink.close()


class Bench:
    """One server with people and windows in it."""

    def __init__(self, postgres: EmbeddedPostgres, admin: Any) -> None:
        self.postgres, self.admin = postgres, admin
        self.connect = connector(postgres.dsn("telemetry", "telemetry_views", PASSWORD))
        self.pool = Pool(self.connect)
        self.views = Views(self.pool, Names(Keys()))
        self.corrections = 0
        self.fourth = ""

    async def sites(self, count: int) -> frozenset[str]:
        whole = await self.views.view(RECIPIENT, replace(query(), fields=frozenset({"battery_soc_pct"})))
        return frozenset(whole.devices["site"].unique(maintain_order=True).to_list()[:count])

    async def plain(self, homes: int) -> None:
        devices = [10 * n + d for n in range(1, homes + 1) for d in range(DEVICES)]
        since = last_quarter_us() - (DAY + 1) * QUARTER_US
        await read_series(self.admin, devices=devices, fields=FIELDS, from_us=since, to_us=since + 10**12)

    async def costs(self, rounds: int) -> dict[str, Any]:
        one, hundred = replace(query(), sites=await self.sites(1)), replace(query(), sites=await self.sites(100))
        actions: dict[str, Callable[[], Awaitable[Any]]] = {
            "site_day": lambda: self.views.view(RECIPIENT, one),
            "site_day_plain": lambda: self.plain(1),
            "hundred_sites": lambda: self.views.view(RECIPIENT, hundred),
            "hundred_sites_plain": lambda: self.plain(100),
        }
        assert (await self.views.view(RECIPIENT, hundred)).rows.height == 100 * DEVICES * len(FIELDS) * DAY
        seconds: dict[str, list[float]] = {name: [] for name in actions}
        for _ in range(rounds):
            for name, action in actions.items():
                seconds[name].append(await timed(action))
        return {name: statistics.median(values) for name, values in seconds.items()}

    async def settle(self, state: str, fields: Sequence[str] = FIELDS) -> float:
        """A new version of the three grants; when it was committed."""
        await self.admin.fetch(NEXT, [1, 2, 3], state, list(fields))
        return time.perf_counter()

    async def changes(self, trials: int) -> dict[str, dict[str, float]]:
        """How soon each change is obeyed on each way, over ``trials``."""
        asked = replace(query(), since=datetime.now(UTC) - timedelta(hours=2))
        await self.admin.execute("DELETE FROM consent.active_grant WHERE grant_key > 4")  # the fourth goes on
        await self.settle("withdrawn")
        (self.fourth,) = (await self.views.view(RECIPIENT, asked)).devices["site"].unique()
        found: dict[str, list[float]] = {}
        for _ in range(trials):
            for name, way in (("view", self._views), ("stream", self._stream), ("export", self._export)):
                for change, run in (
                    ("withdraw", lambda: self.settle("withdrawn")),
                    ("grant", lambda: self.settle("active")),
                    ("narrow", lambda: self.settle("active", FIELDS[:1])),
                ):
                    if (change, name) == ("grant", "export"):  # begun without, it need not come to what is new
                        continue
                    await self.settle("withdrawn" if change == "grant" else "active")
                    seconds = await way(asked, run, granting=change == "grant")
                    found.setdefault(f"{change}_{name}", []).append(seconds)
        return {name: spread(values) for name, values in found.items()}

    async def _views(self, asked: Query, change: Callable[[], Awaitable[float]], *, granting: bool) -> float:
        """Views asked back to back by another task."""
        last_old = first_new = 0.0
        over = asyncio.Event()

        async def ask() -> None:
            nonlocal last_old, first_new
            while not over.is_set():
                view = await self.views.view(RECIPIENT, asked)
                now = time.perf_counter()
                if self.shows(view) != granting:
                    last_old = now
                elif not first_new:
                    first_new = now
                    over.set()

        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        assert not over.is_set()
        committed = await change()
        await asking
        return first_new - committed if granting else max(0.0, last_old - committed)

    async def _stream(self, asked: Query, change: Callable[[], Awaitable[float]], *, granting: bool) -> float:
        """An open stream; what it tells last of what is gone, or first of what is new, and that it looked at all."""
        batches = stream(self.views, self.connect, RECIPIENT, asked, poll_s=60)
        assert self.shows(await anext(batches)) != granting
        committed = await change()
        if granting:
            assert self.shows(await anext(batches))
            seconds = time.perf_counter() - committed
        else:
            # Fresh windows of the fourth home, which goes on, bring the next batch: what is gone must not be in it.
            await self.correct(4)
            assert not self.shows(await anext(batches))
            seconds = time.perf_counter() - committed
        await batches.aclose()
        return seconds

    async def _export(self, asked: Query, change: Callable[[], Awaitable[float]], *, granting: bool) -> float:
        """A running export, which goes on when the change is made after its first chunk."""
        assert not granting
        whole = replace(asked, since=asked.since - timedelta(hours=22), fields=frozenset(FIELDS))
        chunks = export(self.views, RECIPIENT, whole, rows=400)
        last_old, after = 0.0, 0
        changing: asyncio.Task[float] | None = None
        async for chunk in chunks:
            changing = changing or asyncio.create_task(_awaited(change))
            after += changing.done()
            if self.shows(chunk.view):
                last_old = time.perf_counter()
        assert changing is not None
        committed = await changing
        assert after, "the export was over before the change"
        return max(0.0, last_old - committed)

    def shows(self, view: View) -> bool:
        """Whether it holds what the three grants alone allow: a field that narrowing takes away, not of the fourth."""
        return view.rows.filter(pl.col("field") == FIELDS[1], pl.col("site") != self.fourth).height > 0

    async def correct(self, home: int) -> None:
        """A newer version of one window of a home, so that its stream has something to tell."""
        self.corrections += 1
        await self.admin.execute(
            "UPDATE readings.series SET amount = $2 WHERE device_key = $1 AND window_start = ("
            " SELECT max(window_start) FROM readings.series WHERE device_key = $1)",
            10 * home,
            self.corrections,
        )
        await self.admin.execute("SELECT pg_notify('telemetry_consent', '4')")


async def _awaited(change: Callable[[], Awaitable[float]]) -> float:
    return await change()


async def main(quick: bool) -> dict[str, Any]:
    homes, trials = (200, 10) if quick else (HOMES, 200)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        async with EmbeddedPostgres(Path(directory)) as postgres:
            await migrate(lambda database: asyncpg.connect(postgres.dsn(database)), dict.fromkeys(ROLES, PASSWORD))
            admin = await asyncpg.connect(postgres.dsn("telemetry"))
            await ensure(admin, 2, 1)
            await admin.execute(PEOPLE.replace("$homes", str(homes)).replace("$fields", ",".join(FIELDS)))
            await write_series(admin, windows(homes))
            await admin.execute("ANALYZE")
            bench = Bench(postgres, admin)
            with CpuMeter({"views": os.getpid()}) as meter:
                costs = await bench.costs(3 if quick else 15)
            with Load(connector(postgres.dsn("telemetry", "telemetry_ingest", PASSWORD))) as load:
                began = time.perf_counter()
                obeyed = await bench.changes(trials)
                ingest = load.readings / (time.perf_counter() - began)
            await bench.pool.close()
            await admin.close()
    rows = 100 * DEVICES * len(FIELDS) * DAY
    return result(
        readings_per_second=rows / costs["hundred_sites"],
        limit_per_second=rows / costs["hundred_sites_plain"],
        cpu_us_per_reading=meter.per_reading(rows * (3 if quick else 15)),
        milliseconds={name: round(1e3 * seconds, 1) for name, seconds in costs.items()},
        homes=homes,
        trials=trials,
        obeyed=obeyed,
        ingest_readings_per_second=round(ingest),
    )


def run(quick: bool) -> dict[str, Any]:
    """The stage, for the harness."""
    return asyncio.run(main(quick))
