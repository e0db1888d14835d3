"""Views over the tables of tests/support/consents.py, with token keys and a vault made up for tests."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from telemetry.model.fields import CATALOGUE, FIELD_INDEX
from telemetry.model.series import SITE_GRID
from telemetry.model.sharing import Resolution, SharingPurpose
from telemetry.privacy.resolution import window_ends
from telemetry.privacy.rollup import ROLLUP_SCHEMA
from telemetry.store.series import write_series
from telemetry.views.naming import Names
from telemetry.views.pool import Pool
from telemetry.views.query import Query
from telemetry.views.view import View, Views
from tests.support.store import Store

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@dataclass
class MadeUpKey:
    version: int
    secret: bytes


class MadeUpKeys:
    """Keys that are told by what they are for."""

    async def recipient_secret(self, recipient_key: int) -> MadeUpKey:
        return MadeUpKey(1, hashlib.sha256(f"recipient {recipient_key}".encode()).digest())

    async def token_secrets(self, owner_keys: Sequence[int]) -> Mapping[int, bytes]:
        return {key: hashlib.sha256(f"owner {key}".encode()).digest() for key in owner_keys}


class MadeUpVault:
    """What is sealed in a world. Notes what it was asked for."""

    def __init__(self) -> None:
        self.serial_of: dict[int, str] = {}
        self.place_of: dict[int, tuple[float, float]] = {}
        self.asked: list[tuple[int, int]] = []

    async def serials(self, subjects: Sequence[tuple[int, int]]) -> Mapping[int, str]:
        self.asked += subjects
        return {key: self.serial_of[key] for _, key in subjects if key in self.serial_of}

    async def coordinates(self, subjects: Sequence[tuple[int, int]]) -> Mapping[int, tuple[float, float]]:
        self.asked += subjects
        return {key: self.place_of[key] for _, key in subjects if key in self.place_of}


class ViewWorld:
    """Views on a store, by a clock that tests may set."""

    def __init__(self, store: Store, admin: Any, now: datetime) -> None:
        self.store, self.admin = store, admin
        self.now = now
        self.vault = MadeUpVault()
        self.pool = Pool(store.role("views"))
        self.views = self.made(lambda: self.now)

    def made(self, clock: Callable[[], datetime] | None = None) -> Views:
        return Views(self.pool, Names(MadeUpKeys(), self.vault), clock=clock)

    async def series(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write windows given as dictionaries: device_key, field (by name), start (datetime), amount and what more."""
        await write_series(self.admin, series_frame(rows))


def us(instant: datetime) -> int:
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def series_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """ROLLUP_SCHEMA; resolution PT15M, all covered and a first version where nothing else is said."""
    full = []
    for row in rows:
        resolution = row.get("resolution", Resolution.PT15M)
        grid, zone = row.get("grid", 0), row.get("zone", "UTC")
        start = us(row["start"])
        end = window_ends(start, resolution, grid, zone if grid == SITE_GRID else "UTC")
        full.append(
            {
                "device_key": row["device_key"],
                "field": FIELD_INDEX[row.get("field", "ac_power_w")],
                "resolution": resolution.rank,
                "grid": grid,
                "window_start": start,
                "effective_at": us(row["effective_at"]) if "effective_at" in row else end,
                "amount": row["amount"],
                "covered_ms": row.get("covered_ms", (end - start) // 1000),
                "last_at": row.get("last_at"),
                "lowest": row.get("lowest"),
                "highest": row.get("highest"),
                "slots": row.get("slots", 2**60 - 1),
            }
        )
    return pl.DataFrame(full, schema=dict(ROLLUP_SCHEMA))


def mean_amount(watts: float, minutes: int = 15) -> int:
    """The integral of a power in step x ms."""
    return round(watts / CATALOGUE[0].step) * minutes * 60_000


def query(since: datetime, until: datetime, **more: Any) -> Query:
    return Query(**{"purpose": SharingPurpose.MAINTENANCE, "since": since, "until": until} | more)


def as_bytes(view: View) -> bytes:
    """Everything that a recipient receives."""
    return b"\0".join(
        repr((frame.schema, frame.rows())).encode() for frame in (view.rows, view.devices, view.shared, view.not_shared)
    )


def values(view: View, field: str = "ac_power_w") -> dict[datetime, float]:
    """Start → value of one field, where there is one device."""
    rows = view.rows.filter(pl.col("field") == field)
    return {start.astimezone(UTC): value for start, value in rows.select("start", "value").iter_rows()}
