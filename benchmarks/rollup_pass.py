"""How fast a pass of the rollup is: readings of one hour to windows of 15 minutes, and a pass that finds nothing new.

    python -m benchmarks.rollup_pass [--devices 1000] [--every 10] [--json FILE]

Hot partitions of two hours hold a reading of eight fields of each device every so many seconds. The first pass
computes all of their windows, the second one those that became due by an hour that brought nothing, the third one those
of one device with one new reading. Prints seconds, and those of this process's own CPU (on a shared machine the ones
that mean something; PostgreSQL's come on top).
"""

import argparse
import asyncio
import json
import time
from pathlib import Path

import asyncpg
import numpy as np
import polars as pl

from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.maintenance.rollup import Rollup
from telemetry.store.connection import connector
from telemetry.store.migrate import ROLES, migrate
from telemetry.store.partitions import hot_name
from telemetry.store.prepare import HOUR_US, binary_copy
from tests.support.postgres import temporary_postgres

PASSWORD = "benchmark"
FIELDS = (
    "ac_power_w",
    "ac_voltage_v",
    "ac_frequency_hz",
    "dc_power_w",
    "dc_voltage_v",
    "temperature_c",
    "energy_total_wh",
    "operating_state_code",
)


def hour_of_readings(hour_us: int, devices: int, every_s: int) -> pl.DataFrame:
    random = np.random.default_rng(hour_us)
    steps = 3600 // every_s
    rows = steps * devices
    counter = np.repeat(hour_us // 1_000_000 + np.arange(steps) * every_s, devices)
    values = {name: np.round(random.random(rows) * 1000, 1) for name in FIELDS[:-2]}
    return pl.DataFrame(
        {
            "ts": np.repeat(hour_us + np.arange(steps) * every_s * 1_000_000, devices),
            "device_key": np.tile(np.arange(1, devices + 1), steps),
            "plan_version": np.ones(rows, np.int64),
            **values,
            "energy_total_wh": counter.astype(float),
            "operating_state_code": random.integers(0, 8, rows),
        }
    )


async def measure(postgres: EmbeddedPostgres, devices: int, every_s: int) -> dict[str, float]:
    await migrate(lambda database: asyncpg.connect(postgres.dsn(database)), dict.fromkeys(ROLES, PASSWORD))
    admin = await asyncpg.connect(postgres.dsn("telemetry"))
    base = int(time.time()) // 3600 * HOUR_US - 30 * HOUR_US
    for hour in range(4):
        at = base + hour * HOUR_US
        await admin.execute("SELECT readings.make_partition('hot', to_timestamp($1::bigint))", at // 1_000_000)
        await admin.execute(f"ALTER TABLE readings.{hot_name(at // HOUR_US)} OWNER TO telemetry_owner")
        if hour < 2:
            rows = hour_of_readings(at, devices, every_s)

            async def source(rows: pl.DataFrame = rows):
                for chunk in binary_copy(rows):
                    yield chunk

            await admin.copy_to_table(
                hot_name(at // HOUR_US),
                schema_name="readings",
                columns=rows.columns,
                format="binary",
                source=source(),
            )
    connect = connector(postgres.dsn("telemetry"), user="telemetry_rollup", password=PASSWORD)
    found: dict[str, float] = {}
    for name, minutes in (("first", 126), ("nothing new", 186), ("one device", 201)):
        if name == "one device":
            await admin.execute(
                f"INSERT INTO readings.{hot_name(base // HOUR_US + 1)} (ts, device_key, plan_version, ac_power_w)"
                " VALUES (to_timestamp($1::bigint), 1, 1, 5)",
                (base + HOUR_US) // 1_000_000 + 61,
            )
        rollup = Rollup(connect, lambda minutes=minutes: base + minutes * 60_000_000, hot_hours=24)
        began, cpu = time.perf_counter(), time.process_time()
        passed = await rollup.run()
        found[f"{name}, s"] = round(time.perf_counter() - began, 2)
        found[f"{name}, CPU s"] = round(time.process_time() - cpu, 2)
        found[f"{name}, windows"] = passed.windows
    readings = 2 * devices * 3600 // every_s
    found["readings"] = readings
    found["CPU µs a reading"] = round(found["first, CPU s"] / readings * 1e6, 1)
    await admin.close()
    return found


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    async with temporary_postgres(fast=False) as postgres:
        text = json.dumps(await measure(postgres, options.devices, options.every), indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
