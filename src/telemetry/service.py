"""The service as `telemetry run` runs it: servers where they are embedded, the worker, and its health endpoint."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

from telemetry.app import Worker, stopper
from telemetry.config import Config
from telemetry.errors import KeystoreError, SourceUnavailable, StoreUnavailable
from telemetry.health import HealthServer, Heartbeat, Readiness
from telemetry.maintenance.labels import LabelKeeper
from telemetry.maintenance.replan import PlanKeeper
from telemetry.memory import calm_garbage_collection, keep_freed_memory
from telemetry.observe import Observer, events
from telemetry.servers import Running, servers
from telemetry.store.connection import connector
from telemetry.store.keystore import INGEST_SECRETS, LABEL_SECRETS, PLAN_SECRETS, open_keystore, role_password

_RIGHTS = "telemetry_rights"
_ROLLUP = "telemetry_rollup"


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
            if keeper := _plan_keeper(config, running, observer):
                others.append(group.create_task(keeper.run(), name="plan"))
            if labels := _label_keeper(config, running, observer):
                others.append(group.create_task(labels.run(), name="labels"))
            work = group.create_task(worker.run())
            yield health, work
            worker.stop()
            await work
            for task in others:
                task.cancel()
    finally:
        health.close()


def _plan_keeper(config: Config, running: Running, observer: Observer) -> PlanKeeper | None:
    """What compiles owners whose grants begin or end by time. None where this host does not hold its password: then
    another host must run it, or `telemetry plan recompile` from time to time.
    """
    try:
        password = role_password(open_keystore(config.data_dir, allowed=PLAN_SECRETS), _RIGHTS)
    except KeystoreError as error:
        observer.job_failed(events.JobFailed(events.Job.PLAN, error))
        return None
    return PlanKeeper(connector(running.endpoints.dsn, user=_RIGHTS, password=password), observer)


def _label_keeper(config: Config, running: Running, observer: Observer) -> LabelKeeper | None:
    """What keeps place labels. None where this host does not hold its password: `telemetry labels` must run then."""
    try:
        password = role_password(open_keystore(config.data_dir, allowed=LABEL_SECRETS), _ROLLUP)
    except KeystoreError as error:
        observer.job_failed(events.JobFailed(events.Job.LABELS, error))
        return None
    connect = connector(running.endpoints.dsn, user=_ROLLUP, password=password)
    return LabelKeeper(connect, observer, k=config.place.k)


async def _broker(worker: Worker) -> None:
    if not worker.connected:
        raise SourceUnavailable("the broker is not connected")


async def _database(worker: Worker) -> None:
    if not await worker.database_answers():
        raise StoreUnavailable("the database does not answer")
