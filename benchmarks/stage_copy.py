"""Stage ``copy``: PostgresSink.write against COPY of ready bytes into the same partitioned table.

Both write batches of 100,000 readings of ten field columns into the partition of the live hour, with its primary
key, each in a transaction that waits for the disk. Rounds alternate, so that both see the same machine. The limit
has one connection and does nothing but send; the sink sorts, looks for repetitions, encodes, checks the plan's
version and records sequences, with as many writes in flight as it has connections; the full run also measures it
with one in flight.
"""

import asyncio
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import polars as pl
import psutil
import uvloop

from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.model.batch import Sequences, Write
from telemetry.store.connection import connector
from telemetry.store.migrate import ROLES, migrate
from telemetry.store.partitions import ensure, hot_name
from telemetry.store.prepare import HOUR_US, binary_copy
from telemetry.store.readings import PostgresSink

READINGS = 100_000
DEVICES = 20_000
FIELDS = (
    "ac_power_w",
    "ac_reactive_power_var",
    "ac_voltage_v",
    "ac_current_a",
    "ac_frequency_hz",
    "energy_total_wh",
    "energy_day_wh",
    "dc_power_w",
    "dc_voltage_v",
    "temperature_c",
)
PASSWORD = "benchmark"


def make_batches(count: int, seed: int) -> list[Write]:
    """Batches as they arrive: 20,000 devices, five readings of each, one second apart, in no order."""
    random = np.random.default_rng(seed)
    devices = random.integers(-(2**62), 2**62, DEVICES)
    start = int(time.time()) // 3600 * HOUR_US
    batches = []
    for number in range(count):
        order = random.permutation(READINGS)
        step = READINGS // DEVICES
        ts = start + (seed * count + number) * 5_000_000 % HOUR_US + (np.arange(READINGS) % step) * 1_000_000
        rows = pl.DataFrame(
            {
                "ts": ts[order],
                "device_key": np.repeat(devices, step)[order],
                "plan_version": np.ones(READINGS, np.int64),
                **{name: np.round(random.random(READINGS) * 1000, 1) for name in FIELDS},
            }
        )
        sequences = [Sequences(int(key), 1, ((number + 1, number + 1),)) for key in devices[:500]]
        batches.append(Write(rows=rows, plan_version=1, sequences=sequences))
    return batches


@dataclass(frozen=True)
class Round:
    """One measured round: readings a second, and CPU seconds by process."""

    rate: float
    worker_s: float
    postgres_s: float


def worker_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def postgres_cpu_s(server: int) -> float:
    """CPU seconds of the server: backends live through a round, so what ended before cancels out."""
    processes = [psutil.Process(server), *psutil.Process(server).children(recursive=True)]
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


async def measured(server: int, readings: int, work: Any) -> Round:
    worker, postgres, started = worker_cpu_s(), postgres_cpu_s(server), time.perf_counter()
    await work
    seconds = time.perf_counter() - started
    return Round(readings / seconds, worker_cpu_s() - worker, postgres_cpu_s(server) - postgres)


async def write_all(sink: PostgresSink, batches: list[Write], in_flight: int) -> None:
    gate = asyncio.Semaphore(in_flight)

    async def one(batch: Write) -> None:
        async with gate:
            written = await sink.write(batch)
            assert written.stored == READINGS, written

    await asyncio.gather(*(one(batch) for batch in batches))


async def copy_ready(connection: Any, ready: list[tuple[str, list[str], bytes]]) -> None:
    for partition, columns, data in ready:
        async with connection.transaction():
            await connection.copy_to_table(
                partition,
                schema_name="readings",
                columns=columns,
                format="binary",
                source=memoryview(data),  # bytes would be taken for a path
            )


def ready_bytes(batches: list[Write]) -> list[tuple[str, list[str], bytes]]:
    ready = []
    for batch in batches:
        rows = batch.rows.sort("ts", "device_key")
        ready.append((hot_name(rows["ts"][0] // HOUR_US), rows.columns, b"".join(binary_copy(rows))))
    return ready


async def measure(
    server: EmbeddedPostgres, rounds: int, batches_each: int, contenders: tuple[str, ...]
) -> dict[str, list[Round]]:
    connect = connector(server.dsn("telemetry", "telemetry_ingest", PASSWORD))
    sink, copier, admin = (
        PostgresSink(connect, connections=2),
        await connect(),
        await asyncpg.connect(server.dsn("telemetry")),
    )
    await ensure(copier, 2)
    results: dict[str, list[Round]] = {name: [] for name in contenders}
    assert server.pid is not None
    for number in range(rounds + 1):
        batches = make_batches(batches_each, number)
        works = {
            "limit": lambda b=batches: copy_ready(copier, ready_bytes(b)),
            "sink": lambda b=batches: write_all(sink, b, 2),
            "sink_one": lambda b=batches: write_all(sink, b, 1),
        }
        first = number % len(contenders)
        for name in contenders[first:] + contenders[:first]:
            await admin.execute("TRUNCATE readings.hot; CHECKPOINT")
            work = works[name]()
            result = await measured(server.pid, READINGS * batches_each, work)
            if number:  # the first round warms connections and caches
                results[name].append(result)
    await sink.close()
    await copier.close()
    await admin.close()
    return results


def summary(results: dict[str, list[Round]], readings: int) -> dict[str, Any]:
    def median(name: str, value: Any) -> float:
        return statistics.median(value(r) for r in results[name])

    limit = median("limit", lambda r: r.rate)
    ratio = {
        name: statistics.median(
            mine.rate / other.rate for mine, other in zip(results[name], results["limit"], strict=True)
        )
        for name in results
    }
    return {
        "readings_per_second": round(median("sink", lambda r: r.rate)),
        "limit_per_second": round(limit),
        "ratio": round(ratio["sink"], 3),
        **({"ratio_one_in_flight": round(ratio["sink_one"], 3)} if "sink_one" in ratio else {}),
        "cpu_us_per_reading": {
            "worker": round(median("sink", lambda r: r.worker_s) / readings * 1e6, 3),
            "postgres": round(median("sink", lambda r: r.postgres_s) / readings * 1e6, 3),
            "postgres_limit": round(median("limit", lambda r: r.postgres_s) / readings * 1e6, 3),
        },
        "readings_per_batch": READINGS,
        "columns": len(FIELDS),
        "rounds": len(results["sink"]),
    }


async def _run(quick: bool) -> dict[str, Any]:
    rounds, batches_each = (3, 3) if quick else (9, 5)
    contenders = ("limit", "sink") if quick else ("limit", "sink", "sink_one")
    with tempfile.TemporaryDirectory(prefix="tb-") as directory:
        Path(directory).chmod(0o711)
        async with EmbeddedPostgres(Path(directory)) as server:
            await migrate(lambda name: asyncpg.connect(server.dsn(name)), dict.fromkeys(ROLES, PASSWORD))
            return summary(await measure(server, rounds, batches_each, contenders), READINGS * batches_each)


def run(quick: bool) -> dict[str, Any]:
    """Measure; see the module. Rates in readings a second, CPU in µs a reading."""
    return uvloop.run(_run(quick))
