"""Stage ``views``: what a consented view costs, and how soon a withdrawal is obeyed while readings come in.

A thousand homes of two devices with a day of 15-minute windows of four fields, all granted to one recipient. A view
of one site's day and of a hundred sites' day are timed against reading the same windows as the rollup does, without
row-level security, names and rules; rounds alternate. Then, while a worker writes batches of readings from a thread
of its own: from the commit of a withdrawal to the last answer that holds the owner's data, of views asked back to
back; to the end of an open stream; to the last chunk of a running export. Units are window values.
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
from telemetry.errors import NoLongerAvailable
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
from telemetry.views.view import Views

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
        SELECT grant_key, max(version) + 1, owner_key, 1, $2, 'maintenance', '{}', max(fields), 2, 'pseudonym',
            'withheld', false, '2020-01-01', '2020-01-01', 1, '2026-11'
        FROM consent.grant_version WHERE grant_key = $1 GROUP BY grant_key, owner_key
)
SELECT pg_notify('telemetry_consent', $1::text)
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

    async def withdrawals(self, trials: int) -> dict[str, Any]:
        scoped = replace(query(), sites=None, since=datetime.now(UTC) - timedelta(hours=2))
        ways = {"view": self._view, "stream": self._stream, "export": self._export}
        await self.admin.execute("DELETE FROM consent.active_grant WHERE grant_key > 3")
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(trials):
            for name, way in ways.items():
                for grant in (1, 2, 3):
                    await self.admin.fetchval(NEXT, grant, "active")
                found[name].append(await way(scoped))
        return {name: spread(values) for name, values in found.items()}

    async def _withdraw(self) -> float:
        await self.admin.fetchval(NEXT.replace("= $1 GROUP", "IN (1, 2, $1) GROUP"), 3, "withdrawn")
        return time.perf_counter()

    async def _view(self, asked: Query) -> float:
        """To the last answer that holds data, asked for back to back."""
        last, over = 0.0, asyncio.Event()

        async def ask() -> None:
            nonlocal last
            while not (await self.views.view(RECIPIENT, asked)).is_gone:
                last = time.perf_counter()
            over.set()

        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        withdrawn = await self._withdraw()
        await over.wait()
        await asking
        return max(0.0, last - withdrawn)

    async def _stream(self, asked: Query) -> float:
        batches = stream(self.views, self.connect, RECIPIENT, asked, poll_s=60)
        await anext(batches)
        withdrawn = await self._withdraw()
        try:
            while True:
                await anext(batches)
        except NoLongerAvailable:
            return time.perf_counter() - withdrawn

    async def _export(self, asked: Query) -> float:
        """To the last chunk; the export has many left."""
        chunks = export(self.views, RECIPIENT, replace(asked, since=asked.since - timedelta(days=20)), rows=200)
        await anext(chunks)
        withdrawing = asyncio.create_task(self._withdraw())
        last = time.perf_counter()
        try:
            async for _ in chunks:
                last = time.perf_counter()
        except NoLongerAvailable:
            pass
        return max(0.0, last - await withdrawing)


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
                withdrawal = await bench.withdrawals(trials)
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
        withdrawal=withdrawal,
        ingest_readings_per_second=round(ingest),
    )


def run(quick: bool) -> dict[str, Any]:
    """The stage, for the harness."""
    return asyncio.run(main(quick))
