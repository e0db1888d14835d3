"""The servers that a worker needs: embedded ones under our supervision, or configured ones that run elsewhere."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg

from telemetry.config import BrokerConfig, Config
from telemetry.embedded.broker import EmbeddedBroker
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.observe import Observer, events
from telemetry.store.keystore import FileKeystore, role_password
from telemetry.store.migrate import ROLES, migrate

INGEST = "telemetry_ingest"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a worker finds its servers. ``dsn`` names no role; passwords come from the keystore."""

    dsn: str
    broker: BrokerConfig
    largest_batch: int | None = None  # messages that the broker sends ahead of acknowledgements


@dataclass(frozen=True, slots=True)
class Running:
    """What ``servers`` started, None where it is not embedded, and how a worker reaches it."""

    endpoints: Endpoints
    postgres: EmbeddedPostgres | None = None
    broker: EmbeddedBroker | None = None

    async def failed(self) -> None:
        """Run until an embedded server ends though nobody asked it to. Raises SupervisorError."""
        async with asyncio.TaskGroup() as group:
            if self.postgres is not None:
                group.create_task(self.postgres.failed())
            if self.broker is not None:
                group.create_task(self.broker.failed())


@contextlib.asynccontextmanager
async def servers(config: Config, observer: Observer) -> AsyncIterator[Running]:
    """Start what is embedded, make keys the first time, migrate; stop all of it at the end.

    Without ``config.embedded`` nothing is started: the endpoints are the configured ones.
    """
    if not config.embedded:
        yield Running(Endpoints(config.database.dsn, config.broker))
        return
    async with contextlib.AsyncExitStack() as stack:
        postgres = EmbeddedPostgres(config.data_dir / "postgres")
        started = time.perf_counter()
        await stack.enter_async_context(postgres)
        observer.server_started(events.ServerStarted(events.Server.POSTGRES, time.perf_counter() - started))
        await prepare_database(postgres, FileKeystore(config.data_dir / "keys"))
        port = config.broker.port if "port" in config.broker.model_fields_set else 0
        broker = EmbeddedBroker(
            config.data_dir, config.broker_kind, port, max_message_bytes=config.broker.max_message_bytes
        )
        started = time.perf_counter()
        await stack.enter_async_context(broker)
        observer.server_started(events.ServerStarted(events.Server(broker.kind), time.perf_counter() - started))
        found = Endpoints(postgres.dsn("telemetry", INGEST), broker_config(config, broker), broker.max_in_flight)
        yield Running(found, postgres, broker)


def broker_config(config: Config, broker: EmbeddedBroker) -> BrokerConfig:
    """The configuration that connects to ``broker``."""
    found = {
        "host": broker.host,
        "port": broker.port,
        "username": broker.username,
        "client_id": broker.username,
        "password_file": broker.password_file,
    }
    return config.broker.model_copy(update=found)


async def prepare_database(postgres: EmbeddedPostgres, keystore: FileKeystore) -> None:
    """Make keys where there are none, and bring both databases to this version's schema."""
    if keystore.exists():
        keystore.add_passwords()
    else:
        keystore.create()

    async def admin(database: str) -> Any:
        return await asyncpg.connect(**postgres.connect_kwargs(database))

    await migrate(admin, {role: role_password(keystore, role) for role in dict.fromkeys(ROLES)})
