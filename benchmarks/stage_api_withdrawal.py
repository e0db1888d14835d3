"""Stage ``api-withdrawal``: how soon a withdrawal is obeyed on everything that a recipient can have open over HTTP.

Homes of two devices with a day of 15-minute windows of four fields, all granted to one recipient; the API in a process
of its own, ingest beside it. In each trial all grants are withdrawn while the recipient asks for series back to back,
reads pages by cursor, has a live stream open, or an export running. Measured from the commit of the withdrawal to
the last byte of an answer that showed anything (requests, pages, export), or to the end of the stream. Units are
window values; the limit is the same view without HTTP.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from benchmarks.api_process import api_process, keys_of, token_of
from benchmarks.measure import CpuMeter, result
from benchmarks.stage_views import DEVICES, FIELDS, NEXT, PASSWORD, PEOPLE, RECIPIENT, Bench, Load, timed, windows
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.store.connection import connector
from telemetry.store.migrate import ROLES, migrate
from telemetry.store.partitions import ensure
from telemetry.store.series import write_series

PATIENCE_S = 30.0
AGAIN_S = 0.02


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, p99 and the worst, in ms."""
    ordered = sorted(seconds)
    at = min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))
    found = {"median_ms": statistics.median(ordered), "p99_ms": ordered[at], "worst_ms": ordered[-1]}
    return {name: round(1e3 * value, 1) for name, value in found.items()}


class Asker:
    """The recipient, with all homes granted before each trial."""

    def __init__(self, client: httpx.AsyncClient, admin: Any, homes: int) -> None:
        self.client, self.admin, self.homes = client, admin, homes
        now = datetime.now(UTC)
        self.day = {"from": (now - timedelta(days=1)).isoformat(), "to": now.isoformat(), "fields": ",".join(FIELDS)}
        self.hours = self.day | {"from": (now - timedelta(hours=2)).isoformat()}

    async def settle(self, state: str) -> float:
        """A new version of every grant; when it was committed."""
        await self.admin.fetch(NEXT, list(range(1, self.homes + 1)), state, list(FIELDS))
        return time.perf_counter()

    async def trial(self, way: Callable[[asyncio.Event], Awaitable[float]]) -> float:
        """Seconds from the commit to what ``way`` says was last; it sets the event when it is under way."""
        await self.settle("active")
        begun = asyncio.Event()
        running = asyncio.create_task(way(begun))
        async with asyncio.timeout(PATIENCE_S):
            await begun.wait()
            await asyncio.sleep(AGAIN_S)
            committed = await self.settle("withdrawn")
            return max(0.0, await running - committed)

    async def requests(self, begun: asyncio.Event) -> float:
        """Back to back, until nothing is there any more."""
        last = 0.0
        while (answer := await self.client.get("/api/v1/series", params=self.hours | {"limit": 4})).status_code == 200:
            if not answer.json()["series"]:
                return last
            last = time.perf_counter()
            begun.set()
        return last

    async def pages(self, begun: asyncio.Event) -> float:
        """The second page of one cursor, again and again."""
        asked = self.hours | {"limit": 2}
        first = (await self.client.get("/api/v1/series", params=asked)).json()
        last = 0.0
        while True:
            answer = await self.client.get("/api/v1/series", params=asked | {"cursor": first["next"]})
            if answer.status_code != 200 or not answer.json()["series"]:
                return last
            last = time.perf_counter()
            begun.set()

    async def stream(self, begun: asyncio.Event) -> float:
        """Until the stream ends."""
        async with self.client.stream("GET", "/api/v1/live", params={"fields": FIELDS[0]}) as answer:
            async for piece in answer.aiter_raw():
                if b"event: batch" in piece:
                    begun.set()
        return time.perf_counter()

    async def export(self, begun: asyncio.Event) -> float:
        """Until the connection is broken off; it must not come to its end."""
        last = 0.0
        try:
            async with self.client.stream("GET", "/api/v1/export", params=self.day | {"format": "csv"}) as answer:
                async for _ in answer.aiter_raw():
                    last = time.perf_counter()
                    begun.set()
        except httpx.RemoteProtocolError:
            return last
        raise AssertionError("the export was over before the withdrawal")


async def served(asker: Asker, bench: Bench, rounds: int) -> tuple[float, float]:
    """Seconds of a page of a hundred devices' day over HTTP, and by the view alone."""
    seconds: dict[str, list[float]] = {"http": [], "view": []}
    asked = asker.day | {"limit": 100, "format": "arrow"}
    for _ in range(rounds):
        seconds["http"].append(await timed(lambda: asker.client.get("/api/v1/series", params=asked)))
        seconds["view"].append(await timed(lambda: bench.plain(50)))
    return statistics.median(seconds["http"]), statistics.median(seconds["view"])


async def main(quick: bool) -> dict[str, Any]:
    homes, trials = (200, 10) if quick else (150, 200)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        async with EmbeddedPostgres(Path(directory)) as postgres:
            await migrate(lambda database: asyncpg.connect(postgres.dsn(database)), dict.fromkeys(ROLES, PASSWORD))
            admin = await asyncpg.connect(postgres.dsn("telemetry"))
            await ensure(admin, 2, 1)
            await admin.execute(PEOPLE.replace("$homes", str(homes)).replace("$fields", ",".join(FIELDS)))
            await write_series(admin, windows(homes))
            await admin.execute("ANALYZE")
            await keys_of(postgres, homes)
            headers = await token_of(postgres, RECIPIENT)
            bench = Bench(postgres, admin)
            with api_process(postgres) as (base, pid):
                async with httpx.AsyncClient(base_url=base, headers=headers, timeout=PATIENCE_S) as client:
                    asker = Asker(client, admin, homes)
                    with CpuMeter({"api": pid}) as meter:
                        http_s, view_s = await served(asker, bench, 3 if quick else 15)
                    with Load(connector(postgres.dsn("telemetry", "telemetry_ingest", PASSWORD))) as load:
                        began = time.perf_counter()
                        found: dict[str, list[float]] = {}
                        for n in range(1, trials + 1):
                            for name in ("requests", "pages", "stream", "export"):
                                found.setdefault(name, []).append(await asker.trial(getattr(asker, name)))
                            if n % 25 == 0:
                                told = {name: spread(seconds)["p99_ms"] for name, seconds in found.items()}
                                print(f"after {n} trials, p99 in ms: {told}", file=sys.stderr, flush=True)
                        ingest = load.readings / (time.perf_counter() - began)
            await bench.pool.close()
            await admin.close()
    rows = 50 * DEVICES * len(FIELDS) * 96
    return result(
        readings_per_second=rows / http_s,
        limit_per_second=rows / view_s,
        cpu_us_per_reading=meter.per_reading(rows * (3 if quick else 15)),
        homes=homes,
        trials=trials,
        obeyed={name: spread(seconds) for name, seconds in found.items()},
        within_a_second={name: all(one < 1.0 for one in seconds) for name, seconds in found.items()},
        ingest_readings_per_second=round(ingest),
    )


def run(quick: bool) -> dict[str, Any]:
    """The stage, for the harness."""
    return asyncio.run(main(quick))
