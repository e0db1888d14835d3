"""Stage ``api-timing``: whether time tells a foreign object from a missing one.

Homes of which half are granted to one recipient and half to another; the API in a process of its own. The first asks
for names that the second has, and for names that nobody has, in a random order, and a site that was its own until
it was withdrawn. For each kind: the area under the ROC curve of the two lists of times (0.5: not to be told apart), and
the Kolmogorov-Smirnov distance with its p-value. Controls: what is missing against itself, and what is granted against
what is missing, which time must tell. Units are requests.
"""

import asyncio
import math
import random
import secrets
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import numpy as np

from benchmarks.api_process import api_process, keys_of, token_of
from benchmarks.measure import CpuMeter, result
from benchmarks.stage_views import FIELDS, NEXT, PASSWORD, PEOPLE, windows
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.store.migrate import ROLES, migrate
from telemetry.store.partitions import ensure
from telemetry.store.series import write_series

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
PATIENCE_S = 30.0
KINDS = ("foreign", "missing", "withdrawn", "granted")
OTHERS = """
INSERT INTO consent.recipient (recipient_key, handle, kind) VALUES (2, 'benchmark-2', 'installer');
INSERT INTO consent.relation (owner_key, recipient_key) SELECT n, 2 FROM generate_series(1, $homes) AS n;
INSERT INTO consent.grant_version (grant_key, version, owner_key, recipient_key, state, purpose, classes, fields,
        resolution, serial, place, extremes, data_from, start, epoch, policy)
    SELECT $homes + n, 1, n, 2, 'active', 'maintenance', '{}', '{ac_power_w}', 2, 'pseudonym', 'withheld', false,
        '2020-01-01', '2020-01-01', 1, '2026-11'
    FROM generate_series($homes / 2 + 1, $homes) AS n;
DELETE FROM consent.active_grant WHERE recipient_key = 1 AND grant_key > $homes / 2;
"""


def auc(one: Sequence[float], other: Sequence[float]) -> float:
    """The chance that one of ``one`` is larger than one of ``other`` (Mann and Whitney's U, divided)."""
    ranks = np.argsort(np.argsort(np.concatenate([one, other]))) + 1
    u = ranks[: len(one)].sum() - len(one) * (len(one) + 1) / 2
    return float(u / (len(one) * len(other)))


def ks(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """The Kolmogorov-Smirnov distance of two samples, and its asymptotic p-value."""
    both = np.sort(np.concatenate([one, other]))
    below = [np.searchsorted(np.sort(each), both, side="right") / len(each) for each in (one, other)]
    distance = float(np.abs(below[0] - below[1]).max())
    scaled = distance * math.sqrt(len(one) * len(other) / (len(one) + len(other)))
    p = 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)) if scaled > 0.2 else 1.0
    return distance, min(1.0, max(0.0, p))


def nobody(name: str) -> str:
    """A name of the same form that nobody has. Its check letter is not right, as a guesser's would not be."""
    kind, _, letters = name.partition("_")
    return f"{kind}_{''.join(secrets.choice(ALPHABET) for _ in letters)}"


async def names_of(client: httpx.AsyncClient) -> dict[str, list[str]]:
    """All sites and devices that an asker is shown."""
    found: dict[str, list[str]] = {"site": [], "device": []}
    cursor: dict[str, str] = {}
    now = datetime.now(UTC)
    asked = {"from": (now - timedelta(hours=1)).isoformat(), "to": now.isoformat(), "fields": FIELDS[0], "limit": "200"}
    while True:
        told = (await client.get("/api/v1/series", params=asked | cursor)).json()
        for row in told["devices"]:
            found["site"].append(row["site"])
            found["device"].append(row["device"])
        if not told["next"]:
            return {name: sorted(set(values)) for name, values in found.items()}
        cursor = {"cursor": told["next"]}


def requests(now: datetime) -> dict[str, tuple[str, str, dict[str, str]]]:
    """By kind of request: the kind of name, the path, and the query; ``{}`` is the name."""
    spans = {"from": (now - timedelta(hours=3)).isoformat(), "to": now.isoformat(), "fields": FIELDS[0]}
    return {
        "site": ("site", "/sites/{}", {}),
        "device": ("device", "/devices/{}", {}),
        "series of a device": ("device", "/series", spans | {"devices": "{}"}),
        "latest of a site": ("site", "/latest", {"sites": "{}"}),
        "alerts of a site": ("site", "/alerts", {name: spans[name] for name in ("from", "to")} | {"sites": "{}"}),
    }


async def timed(client: httpx.AsyncClient, path: str, query: dict[str, str], name: str, status: int = 404) -> float:
    """Seconds of one request."""
    asked = {key: value.replace("{}", name) for key, value in query.items()}
    started = time.perf_counter()
    answer = await client.get(f"/api/v1{path.replace('{}', name)}", params=asked)
    seconds = time.perf_counter() - started
    if answer.status_code != status:
        raise AssertionError(answer.status_code)
    return seconds


async def main(quick: bool) -> dict[str, Any]:
    homes, each = (100, 60) if quick else (1000, 400)
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        async with EmbeddedPostgres(Path(directory)) as postgres:
            await migrate(lambda database: asyncpg.connect(postgres.dsn(database)), dict.fromkeys(ROLES, PASSWORD))
            admin = await asyncpg.connect(postgres.dsn("telemetry"))
            await ensure(admin, 2, 1)
            await admin.execute(PEOPLE.replace("$homes", str(homes)).replace("$fields", ",".join(FIELDS)))
            await admin.execute(OTHERS.replace("$homes", str(homes)))
            await write_series(admin, windows(homes))
            await admin.execute("ANALYZE")
            await keys_of(postgres, homes)
            mine, theirs = await token_of(postgres, 1), await token_of(postgres, 2)
            with api_process(postgres) as (base, pid), CpuMeter({"api": pid}) as meter:
                started = time.perf_counter()
                found = await measured(base, mine, theirs, admin, homes, each)
                seconds = time.perf_counter() - started
            await admin.close()
    count = sum(len(values) for kinds in found.values() for values in kinds.values())
    return result(
        readings_per_second=count / seconds,
        limit_per_second=count / seconds,
        cpu_us_per_reading=meter.per_reading(count),
        homes=homes,
        requests_each=each,
        told_apart={name: verdict(kinds) for name, kinds in found.items()},
    )


async def measured(
    base: str, mine: dict[str, str], theirs: dict[str, str], admin: Any, homes: int, each: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds by kind of request and kind of name, all in one random order."""
    async with httpx.AsyncClient(base_url=base, timeout=PATIENCE_S) as client:
        client.headers.update(theirs)
        foreign = await names_of(client)
        client.headers.update(mine)
        own = await names_of(client)
        ended = list(range(1, homes // 4 + 1))
        await admin.fetch(NEXT, ended, "withdrawn", list(FIELDS))
        left = await names_of(client)
        withdrawn = {kind: sorted(set(own[kind]) - set(left[kind])) for kind in own}
        asked = requests(datetime.now(UTC))
        order = [(name, kind) for name in asked for kind in KINDS for _ in range(each)]
        random.Random(1).shuffle(order)
        for name in asked:  # warm
            await timed(client, *asked[name][1:], nobody(foreign[asked[name][0]][0]))
        found: dict[str, dict[str, list[float]]] = {name: {} for name in asked}
        for name, kind in order:
            of, path, query = asked[name]
            which = secrets.choice({"withdrawn": withdrawn, "granted": left}.get(kind, foreign)[of])
            status = 200 if kind == "granted" else 404
            seconds = await timed(client, path, query, nobody(which) if kind == "missing" else which, status)
            found[name].setdefault(kind, []).append(seconds)
    return found


def verdict(kinds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """AUC, KS and p of what exists against what does not; and of what does not against itself, the control."""
    missing = kinds["missing"]
    pairs = {
        "foreign": (kinds["foreign"], missing),
        "withdrawn": (kinds["withdrawn"], missing),
        "granted": (kinds["granted"], missing),
        "itself": (missing[::2], missing[1::2]),
    }
    told = {}
    for name, (one, other) in pairs.items():
        distance, p = ks(one, other)
        told[name] = {"auc": round(auc(one, other), 3), "ks": round(distance, 3), "p": round(p, 4)}
    return told


def run(quick: bool) -> dict[str, Any]:
    """The stage, for the harness."""
    return asyncio.run(main(quick))
