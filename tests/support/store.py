"""A migrated database for tests, one server for all of them; empty for each test."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import polars as pl
import pytest_asyncio

from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.model.batch import READING_SCHEMA, Write
from telemetry.model.fields import FIELD_SCHEMA
from telemetry.store.connection import Connect, connector
from telemetry.store.migrate import ROLES, migrate
from telemetry.store.readings import PostgresSink
from tests.support.postgres import temporary_postgres

HOUR_US = 3600 * 1_000_000
PASSWORD = "made-up"


@dataclass
class Store:
    postgres: EmbeddedPostgres
    sinks: list[PostgresSink] = field(default_factory=list)
    connections: list[Any] = field(default_factory=list)

    async def admin(self, database: str = "telemetry") -> Any:
        connection = await asyncpg.connect(self.postgres.dsn(database))
        self.connections.append(connection)
        return connection

    def role(self, name: str, database: str = "telemetry") -> Connect:
        return connector(self.postgres.dsn(database, f"telemetry_{name}", PASSWORD))

    async def connect(self, role: str) -> Any:
        connection = await self.role(role)()
        self.connections.append(connection)
        return connection

    def sink(self, connect: Connect | None = None, **options: Any) -> PostgresSink:
        sink = PostgresSink(connect or self.role("ingest"), **options)
        self.sinks.append(sink)
        return sink

    async def stored(self) -> list[dict[str, Any]]:
        """All hot and late rows without nulls and versions, ``ts`` in µs, in key order."""
        admin = await self.admin()
        rows = [
            *await admin.fetch("SELECT * FROM readings.hot"),
            *await admin.fetch("SELECT * FROM readings.late"),
        ]
        hidden = {"plan_version", "received_hour"}
        plain = [
            {k: v for k, v in row.items() if v is not None and k not in hidden}
            | {"ts": round(row["ts"].timestamp() * 1e6)}
            for row in rows
        ]
        return sorted(plain, key=lambda row: (row["ts"], row["device_key"]))

    async def close(self) -> None:
        for connection in self.connections:
            await connection.close()
        for sink in self.sinks:
            await sink.close()
        self.sinks.clear()
        self.connections.clear()


def this_hour_us() -> int:
    return int(datetime.now(UTC).timestamp()) // 3600 * HOUR_US


def frame(rows: list[dict[str, Any]], plan_version: int = 1) -> pl.DataFrame:
    """Readings from dictionaries: ts in µs, device_key, and fields; the columns are those that occur."""
    schema: dict[str, Any] = dict(READING_SCHEMA)
    for row in rows:
        schema |= {name: FIELD_SCHEMA[name] for name in row if name not in READING_SCHEMA}
    return pl.DataFrame([{"plan_version": plan_version} | row for row in rows], schema=schema)


def batch(*rows: dict[str, Any], plan_version: int = 1, **rest: Any) -> Write:
    return Write(rows=frame(list(rows), plan_version), plan_version=plan_version, **rest)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated() -> AsyncIterator[EmbeddedPostgres]:
    async with temporary_postgres() as postgres:
        await migrate(lambda database: asyncpg.connect(postgres.dsn(database)), dict.fromkeys(ROLES, PASSWORD))
        yield postgres


@pytest_asyncio.fixture
async def store(migrated: EmbeddedPostgres) -> AsyncIterator[Store]:
    store = Store(migrated)
    admin = await store.admin()
    await admin.execute(
        "TRUNCATE readings.hot, readings.late, readings.quarantine, readings.sequence, readings.rollup_state;"
        " UPDATE consent.state SET version = 1"
    )
    yield store
    await store.close()
