"""The service as `telemetry run` runs it: servers where they are embedded, the worker, and its health endpoint."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

from telemetry.app import Worker, stopper
from telemetry.background import jobs
from telemetry.config import Config
from telemetry.errors import SourceUnavailable, StoreUnavailable
from telemetry.health import HealthServer, Heartbeat, Readiness
from telemetry.memory import calm_garbage_collection, keep_freed_memory
from telemetry.observe import Observer
from telemetry.servers import Running, servers
from telemetry.store.keystore import INGEST_SECRETS, open_keystore


async def serve(config: Config, observer: Observer | None = None) -> None:
    """Run until SIGINT or SIGTERM; a second one ends at once, which loses nothing either.

    Raises:
        TelemetryError: a part does not start or fails for good; the message names the remedy.

    """
    observer = observer or Observer()
    keep_freed_memory()
    calm_garbage_collection()
    async with servers(config, observer) as running:
        worker = Worker(config, running.endpoints, open_keystore(config.data_dir, allowed=INGEST_SECRETS), observer)
        loop = asyncio.get_running_loop()
        stop = stopper(worker)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        async with working(config, worker, running, observer) as (_, work):
            await work


@contextlib.asynccontextmanager
async def working(
    config: Config, worker: Worker, running: Running, observer: Observer
) -> AsyncIterator[tuple[HealthServer, asyncio.Task[None]]]:
    """Run ``worker`` and its health endpoint for as long as the context lasts; their failure ends the context."""
    heartbeat = Heartbeat(observer)
    probes = {"broker": lambda: _broker(worker), "database": lambda: _database(worker)}
    health = HealthServer(
        observer.metrics.registry,
        heartbeat,
        Readiness(probes, asyncio.get_running_loop()),
        address=config.observe.address,
        port=config.observe.port,
    )
    try:
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(heartbeat.run()), group.create_task(running.failed())]
            others += [group.create_task(job, name=name) for name, job in jobs(config, running.endpoints.dsn, observer)]
            work = group.create_task(worker.run())
            yield health, work
            worker.stop()
            await work
            for task in others:
                task.cancel()
    finally:
        health.close()


async def _broker(worker: Worker) -> None:
    if not worker.connected:
        raise SourceUnavailable("the broker is not connected")


async def _database(worker: Worker) -> None:
    if not await worker.database_answers():
        raise StoreUnavailable("the database does not answer")
