"""The reads of stage ``reads`` over HTTP: the API in a process of its own, one asker, one connection."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pyarrow.parquet as pq

from benchmarks.api_process import api_process, keys_of, token_of
from benchmarks.reads_world import FIELDS, Size
from telemetry.embedded.postgres import EmbeddedPostgres

_PATIENCE_S: Final = 120.0
_WARM: Final = 5
_PAGE: Final = 100
_EVERY_S: Final = 60


def memory_mb(pid: int, name: str) -> float:
    """A figure of Linux's about a process: ``VmRSS``, or ``VmHWM`` for the most that there ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise KeyError(name)


def asked_of(number: float) -> dict[str, str]:
    """The last days, up to now; both fields."""
    now = datetime.now(UTC)
    since = now - timedelta(days=number, minutes=30)
    return {"from": since.isoformat(), "to": now.isoformat(), "fields": ",".join(FIELDS)}


async def over_http(
    postgres: EmbeddedPostgres, size: Size, rounds: int, directory: Path
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each kind of read, and what the export of the whole fleet and range took."""
    await keys_of(postgres, size.homes)
    headers = await token_of(postgres, 1)
    with api_process(postgres) as (base, pid):
        async with httpx.AsyncClient(base_url=f"{base}/api/v1", headers=headers, timeout=_PATIENCE_S) as client:
            sites, cursors = await _walked(client)
            seconds = await _timed(client, sites, cursors, rounds)
            exported = await _exported(client, size, pid, directory / "export.parquet")
    return seconds, exported


async def _get(client: httpx.AsyncClient, path: str, **asked: Any) -> httpx.Response:
    answer = await client.get(path, params=asked)
    answer.raise_for_status()
    return answer


async def _walked(client: httpx.AsyncClient) -> tuple[list[str], list[dict[str, str]]]:
    """All sites by name, and what asks for each page."""
    sites: list[str] = []
    pages: list[dict[str, str]] = [{}]
    while True:
        told = (await _get(client, "/fleet", limit=_PAGE, **pages[-1])).json()
        sites += [site["site"] for site in told["sites"]]
        if told["next"] is None:
            return sites, pages
        pages.append({"cursor": told["next"]})


async def _timed(
    client: httpx.AsyncClient, sites: list[str], pages: list[dict[str, str]], rounds: int
) -> dict[str, list[float]]:
    def site(number: int) -> str:
        return sites[number * 37 % len(sites)]

    kinds: dict[str, tuple[int, Callable[[int], Awaitable[httpx.Response]]]] = {
        "http_site_day": (1, lambda n: _get(client, "/series", sites=site(n), **asked_of(1))),
        "http_site_latest": (1, lambda n: _get(client, "/latest", sites=site(n), fields=",".join(FIELDS))),
        "http_fleet_page": (2, lambda n: _get(client, "/fleet", limit=_PAGE, **pages[n // 2 % len(pages)])),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(-_WARM, rounds):
        for name, (every, ask) in kinds.items():
            if number % every == 0 or number < 0:
                started = time.perf_counter()
                await ask(number + _WARM)
                if number >= 0:
                    seconds[name].append(time.perf_counter() - started)
    return seconds


async def _exported(client: httpx.AsyncClient, size: Size, pid: int, path: Path) -> dict[str, Any]:
    """Everything that is shared, to a file. ``resident_mb``: of the API's process, minute by minute; ``grew_by_mb``: at
    most.
    """
    before, started, much = memory_mb(pid, "VmRSS"), time.perf_counter(), 0
    resident = [before]
    with path.open("wb") as file:
        async with client.stream("GET", "/export", params=asked_of(size.days) | {"format": "parquet"}) as answer:
            answer.raise_for_status()
            async for piece in answer.aiter_raw():
                much += file.write(piece)
                if time.perf_counter() - started > _EVERY_S * len(resident):
                    resident.append(memory_mb(pid, "VmRSS"))
    took, peak = time.perf_counter() - started, memory_mb(pid, "VmHWM")
    rows = pq.read_metadata(path).num_rows
    return {
        "rows": rows,
        "seconds": round(took, 1),
        "rows_per_second": round(rows / took),
        "megabytes": round(much / 1e6, 1),
        "grew_by_mb": round(peak - before, 1),
        "peak_mb": peak,
        "resident_mb": resident,
    }
