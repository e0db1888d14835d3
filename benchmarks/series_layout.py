"""How wide a row of the series is: one row a value, a window's columns per field, or a window's arrays.

    python -m benchmarks.series_layout [--devices 1000] [--json FILE]

Writes one day of 15-minute windows of ``devices`` homes' devices (eight fields each: five states, two of them with
minimum and maximum, two counters, one status) and one year of three devices into three tables that differ in layout
only, by the statement that a pass would use, then reads a site's day, a hundred sites' day and a device's year, each
in the long form of SERIES_SCHEMA by binary COPY. Prints bytes a value with index, values written a second, and
milliseconds a read; rounds alternate between layouts.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np

from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.model.fields import CATALOGUE
from telemetry.model.series import has_extremes
from tests.support.postgres import temporary_postgres

FIELDS = (0, 4, 8, 12, 15, 13, 14, 57)  # of the catalogue
WINDOW_US, DAY = 900_000_000, 96
START_US = 1_764_547_200_000_000
PARTS = ("amount", "covered", "slots", "lowest", "highest", "last_at")
PER_SITE = 5

_KEY = (
    "device_key bigint NOT NULL, window_start bigint NOT NULL, effective_at bigint NOT NULL,"
    " resolution smallint NOT NULL, grid smallint NOT NULL"
)
_ORDER = "device_key, window_start, resolution, grid"
_WIDE_COLUMNS = ", ".join(f"f{i}_{part} bigint" for i in range(len(CATALOGUE)) for part in PARTS)
_ARRAYS = ", ".join(f"{part} bigint[] NOT NULL" for part in PARTS)
DDL = {
    "narrow": f"CREATE TABLE narrow ({_KEY}, field smallint NOT NULL, amount bigint NOT NULL, covered bigint NOT NULL,"
    " slots bigint NOT NULL, lowest bigint, highest bigint, last_at bigint,"
    f" PRIMARY KEY ({_ORDER}, field, effective_at))",
    "wide": f"CREATE TABLE wide ({_KEY}, {_WIDE_COLUMNS}, PRIMARY KEY ({_ORDER}, effective_at))",
    "arrays": f"CREATE TABLE arrays ({_KEY}, fields smallint[] NOT NULL, {_ARRAYS},"
    f" PRIMARY KEY ({_ORDER}, effective_at))",
}
_USED = [f"f{i}_{part}" for i in FIELDS for part in PARTS]
_WHERE = "device_key = ANY ($1::bigint[]) AND window_start >= $2 AND window_start < $3"
READ = {
    "narrow": f"SELECT {_ORDER}, field, effective_at, amount, covered, lowest, highest, last_at"
    f" FROM narrow WHERE {_WHERE} AND field = ANY ('{{{','.join(map(str, FIELDS))}}}')",
    "wide": "SELECT device_key, window_start, resolution, grid, v.* FROM wide CROSS JOIN LATERAL (VALUES "
    + ", ".join(
        f"({i}::smallint, effective_at, f{i}_amount, f{i}_covered, f{i}_lowest, f{i}_highest, f{i}_last_at)"
        for i in FIELDS
    )
    + ") AS v (field, effective_at, amount, covered, lowest, highest, last_at)"
    f" WHERE {_WHERE} AND v.amount IS NOT NULL",
    "arrays": "SELECT device_key, window_start, resolution, grid, v.field, effective_at, v.amount, v.covered, v.lowest,"
    " v.highest, v.last_at FROM arrays CROSS JOIN LATERAL unnest(fields, amount, covered, lowest, highest, last_at)"
    f" AS v (field, amount, covered, lowest, highest, last_at) WHERE {_WHERE}",
}


def values(devices: np.ndarray, windows: int, seed: int) -> dict[str, np.ndarray]:
    """Columns of shape (windows, devices, fields), as a pass meets them: window after window."""
    random = np.random.default_rng(seed)
    shape = (windows, len(devices), len(FIELDS))
    fields = [CATALOGUE[i] for i in FIELDS]
    out = {part: random.integers(0, 900_000 * 3000, shape) for part in PARTS}
    out["covered"] = np.where(random.random(shape) < 0.9, 900_000, random.integers(1, 900_000, shape))
    out["slots"] = np.where(out["covered"] == 900_000, 2**60 - 1, out["slots"])
    for part in ("lowest", "highest"):
        out[part] = np.where([has_extremes(f) for f in fields], out[part] % 10_000, -1)
    out["last_at"] = np.where([f.name.endswith("code") for f in fields], START_US + out["last_at"], -1)
    return out


def _list(array: np.ndarray) -> list[Any]:
    return [None if value == -1 else value for value in array.ravel().tolist()]


async def write(connection: Any, layout: str, devices: np.ndarray, starts: np.ndarray, data: dict[str, Any]) -> float:
    """One statement for the windows given; seconds of server and driver."""
    per = len(FIELDS) if layout == "narrow" else 1
    rows = len(starts) * len(devices)
    keys = np.tile(devices, len(starts)).repeat(per).tolist()
    start = starts.repeat(len(devices) * per).tolist()
    head = "SELECT d, w, w + 900000000, 2, 0"
    if layout == "narrow":
        arguments = [keys, start, list(FIELDS) * rows, *(_list(data[part]) for part in PARTS)]
        names = ["d", "w", "field", *PARTS]
        target, chosen = (
            "device_key, window_start, effective_at, resolution, grid, field, " + ", ".join(PARTS),
            names[2:],
        )
    elif layout == "wide":
        arguments = [keys, start, *(_list(data[p][..., n]) for n in range(len(FIELDS)) for p in PARTS)]
        names = ["d", "w", *_USED]
        target, chosen = "device_key, window_start, effective_at, resolution, grid, " + ", ".join(_USED), _USED
    else:
        texts = [_texts(data[part].reshape(rows, -1)) for part in PARTS]
        arguments = [keys, start, *texts]
        names = ["d", "w", *PARTS]
        target = "device_key, window_start, effective_at, resolution, grid, fields, " + ", ".join(PARTS)
        chosen = [f"'{{{','.join(map(str, FIELDS))}}}'::smallint[]", *(f"{part}::bigint[]" for part in PARTS)]
    kind = "text[]" if layout == "arrays" else "bigint[]"
    kinds = ["bigint[]", "bigint[]", *[kind] * (len(names) - 2)]
    unnest = ", ".join(f"${n}::{kind}" for n, kind in enumerate(kinds, 1))
    text = (
        f"INSERT INTO {layout} ({target}) {head}, {', '.join(chosen)} FROM unnest({unnest}) AS v ({', '.join(names)})"
    )
    begun = time.perf_counter()
    await connection.execute(text, *arguments)
    return time.perf_counter() - begun


def _texts(rows: np.ndarray) -> list[str]:
    return ["{" + ",".join("NULL" if v == -1 else str(v) for v in row) + "}" for row in rows.tolist()]


async def read(connection: Any, layout: str, devices: Iterable[int], windows: int) -> float:
    async def drop(_: bytes) -> None:
        pass

    arguments = (list(devices), START_US, START_US + windows * WINDOW_US)
    begun = time.perf_counter()
    await connection.copy_from_query(READ[layout], *arguments, output=drop, format="binary")
    return time.perf_counter() - begun


async def measure(postgres: EmbeddedPostgres, count: int, rounds: int) -> dict[str, dict[str, float]]:
    connection = await asyncpg.connect(postgres.dsn("postgres"))
    random = np.random.default_rng(7)
    devices = random.integers(1, 2**62, count)
    seconds: dict[str, float] = dict.fromkeys(DDL, 0.0)
    for ddl in DDL.values():
        await connection.execute(ddl)
    day = values(devices, DAY, 1)
    for window in range(DAY):
        starts = np.array([START_US + window * WINDOW_US])
        part = {name: column[window : window + 1] for name, column in day.items()}
        for layout in DDL:
            seconds[layout] += await write(connection, layout, devices, starts, part)
    total = DAY * count * len(FIELDS)
    found = {layout: {"values_per_second": round(total / seconds[layout])} for layout in DDL}
    for layout in DDL:
        size = await connection.fetchval("SELECT pg_total_relation_size($1::text::regclass)", layout)
        found[layout]["bytes_per_value"] = round(size / total, 1)
    year = random.integers(1, 2**62, 3)
    for chunk in range(0, 365 * DAY, DAY * 5):
        starts = START_US + (chunk + np.arange(DAY * 5)) * WINDOW_US
        data = values(year, DAY * 5, chunk)
        for layout in DDL:
            await write(connection, layout, year, starts, data)
    await connection.execute("VACUUM ANALYZE")
    cases = {
        "site_day_ms": (devices[:PER_SITE].tolist(), DAY),
        "hundred_sites_day_ms": (devices[: 100 * PER_SITE].tolist(), DAY),
        "device_year_ms": ([int(year[0])], 365 * DAY),
    }
    for name, (keys, windows) in cases.items():
        times: dict[str, list[float]] = {layout: [] for layout in DDL}
        for _ in range(rounds):
            for layout in DDL:
                times[layout].append(await read(connection, layout, keys, windows))
        for layout in DDL:
            found[layout][name] = round(statistics.median(times[layout]) * 1000, 2)
    await connection.close()
    return found


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json")
    options = parser.parse_args()
    async with temporary_postgres(fast=False) as postgres:
        found = await measure(postgres, options.devices, options.rounds)
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        await asyncio.to_thread(_save, options.json, text)


def _save(path: str, text: str) -> None:
    Path(path).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
