"""Stage ``ingest``: from PUBLISH to PUBACK after COMMIT, against one connection's COPY of ready bytes.

The generator publishes at QoS 1 through a real broker; the service receives, decodes, protects, commits and then
acknowledges; all of it, generator and database included, on this machine. The clock runs from the generator's
first message until the last reading is committed. The limit is measured before and after every round: COPY of
ready bytes of the same columns, over one connection, into the same partitioned table.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import polars as pl
import uvloop

from benchmarks.measure import CpuMeter
from benchmarks.system import System, empty, system
from telemetry.embedded.broker import Kind, find_mosquitto
from telemetry.store.partitions import ensure, hot_name
from telemetry.store.prepare import HOUR_US, binary_copy

GATEWAYS = 8
DEVICES = 250
LIMIT_READINGS = 300_000
LIMIT_BATCH = 100_000
FIELDS = (
    "ac_power_w",
    "ac_voltage_v",
    "ac_current_a",
    "ac_frequency_hz",
    "dc_power_w",
    "energy_total_wh",
    "temperature_c",
)


async def copy_limit(running: System) -> float:
    """Readings a second of one connection's COPY of ready bytes, 100,000 a transaction, sorted like the sink's."""
    await empty(running.postgres)
    random = np.random.default_rng(1)
    start = int(time.time()) // 3600 * HOUR_US
    devices = random.integers(-(2**62), 2**62, 2_000)
    ready = []
    for number in range(LIMIT_READINGS // LIMIT_BATCH):
        steps = LIMIT_BATCH // devices.size
        ts = start + (number * steps + np.repeat(np.arange(steps), devices.size)) * 1_000_000
        rows = pl.DataFrame(
            {
                "ts": ts,
                "device_key": np.tile(devices, steps),
                "plan_version": np.ones(LIMIT_BATCH, np.int64),
                **{name: np.round(random.random(LIMIT_BATCH) * 1000, 1) for name in FIELDS},
            }
        ).sort("ts", "device_key")
        ready.append((rows.columns, b"".join(binary_copy(rows))))
    connection = await asyncpg.connect(**running.postgres.connect_kwargs("telemetry"))
    try:
        await ensure(connection, 2)
        partition = hot_name(start // HOUR_US)
        began = time.perf_counter()
        for columns, data in ready:
            async with connection.transaction():
                await connection.copy_to_table(
                    partition, schema_name="readings", columns=columns, format="binary", source=memoryview(data)
                )
        return LIMIT_READINGS / (time.perf_counter() - began)
    finally:
        await connection.close()


async def ingest(running: System, messages: int, readings_per_message: int, seed: int) -> dict[str, Any]:
    """One round: publish, wait for the last commit; rates and CPU by process."""
    await empty(running.postgres)
    before = await _counted(running)
    generator = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.generator",
        *("--port", str(running.broker.port), "--credentials", str(running.credentials)),
        *("--messages", str(messages), "--readings-per-message", str(readings_per_message)),
        *("--devices", str(DEVICES), "--window", "4000", "--seed", str(seed)),
        stdout=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.PIPE,
    )
    assert running.worker is not None
    assert running.postgres.pid is not None
    assert running.broker.pid is not None
    pids = {
        "worker": running.worker.pid,
        "postgres": running.postgres.pid,
        "broker": running.broker.pid,
        "generator": generator.pid,
    }
    expected = messages * readings_per_message
    with CpuMeter(pids) as meter:
        out = await generator.communicate()  # asking the service meanwhile would cost it time
        while (await _counted(running)) - before < expected:
            await asyncio.sleep(0.03)
        ended = time.monotonic()
    told = json.loads(out[0])
    stored = await _stored(running)
    if stored != expected:
        raise RuntimeError(f"{expected} readings were published and {stored} stored")
    seconds = ended - told["began_s"]
    return {
        "readings_per_second": expected / seconds,
        "messages_per_second": messages / seconds,
        "cpu_us_per_reading": meter.per_reading(expected),
    }


async def _counted(running: System) -> int:
    metrics = await running.metrics()
    return int(metrics["telemetry_readings_stored_total"] + metrics["telemetry_readings_duplicate_total"])


async def _stored(running: System) -> int:
    connection = await asyncpg.connect(**running.postgres.connect_kwargs("telemetry"))
    try:
        return int(await connection.fetchval("SELECT count(*) FROM readings.hot"))
    finally:
        await connection.close()


async def measure(kind: Kind, rounds: int, messages: int, singles: int) -> dict[str, Any]:
    """Rounds of 50-reading and of one-reading messages through one broker, with the limit around each."""
    with tempfile.TemporaryDirectory(prefix="ti-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        async with system(directory, kind, GATEWAYS) as running:
            await running.start_worker()
            await ingest(running, messages // 4, 50, seed=999)  # warms caches and enrols the devices
            limits, many, single = [], [], []
            for number in range(rounds):
                before = await copy_limit(running)
                found = await ingest(running, messages, 50, seed=number)
                limit = (before + await copy_limit(running)) / 2
                limits.append(limit)
                many.append(found | {"ratio": found["readings_per_second"] / limit})
                single.append(await ingest(running, singles, 1, seed=number + 100))
            await running.stop_worker()
    return {
        "readings_per_second": round(statistics.median(one["readings_per_second"] for one in many)),
        "limit_per_second": round(statistics.median(limits)),
        "ratio": round(statistics.median(one["ratio"] for one in many), 3),
        "cpu_us_per_reading": _median_cpu(many),
        "single_messages_per_second": round(statistics.median(one["messages_per_second"] for one in single)),
        "single_cpu_us_per_message": _median_cpu(single),
        "rounds": rounds,
    }


def _median_cpu(rounds: list[dict[str, Any]]) -> dict[str, float]:
    names = rounds[0]["cpu_us_per_reading"]
    return {name: round(statistics.median(one["cpu_us_per_reading"][name] for one in rounds), 3) for name in names}


def run(quick: bool) -> dict[str, Any]:
    """Measure through mosquitto where it is installed, and through rumqttd beside it."""
    rounds, messages, singles = (2, 10_000, 40_000) if quick else (5, 30_000, 150_000)
    rumqttd = uvloop.run(measure("rumqttd", 1 if quick else 3, messages // 4, singles // 10))
    if find_mosquitto() is None:
        return rumqttd | {"broker": "rumqttd", "note": "mosquitto is not installed"}
    return uvloop.run(measure("mosquitto", rounds, messages, singles)) | {
        "broker": "mosquitto",
        "rumqttd": rumqttd,
    }
