"""The API as `telemetry api` runs it: one context, the server, and metrics and health from threads of their own."""

import asyncio
import signal
from collections.abc import Callable

from telemetry.api.context import Context, open_context
from telemetry.api.server import serving
from telemetry.api.telling import telling
from telemetry.config import Config
from telemetry.health import HealthServer, Heartbeat, Readiness
from telemetry.memory import calm_garbage_collection, keep_freed_memory
from telemetry.observe import Observer
from telemetry.store.keystore import ACCESS, API_SECRETS, open_keystore


async def serve(config: Config, dsn: Callable[[str], str]) -> None:
    """Run until SIGINT or SIGTERM. ``dsn``: the address of a database, without role or password.

    Raises:
        TelemetryError: an address cannot be had, a key is missing or a certificate cannot be used.

    """
    stopping, observer = asyncio.Event(), Observer()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    keep_freed_memory()
    keystore = open_keystore(config.data_dir, allowed=API_SECRETS)
    async with (
        open_context(config, keystore, dsn, observer=observer) as context,
        telling(context, keystore.secret(ACCESS)),
        serving(context),
    ):
        calm_garbage_collection()  # a full pass over all modules would hold every answer up for 50 ms
        heartbeat = Heartbeat(observer)
        health = HealthServer(
            observer.metrics.registry,
            heartbeat,
            Readiness({"database": lambda: _database(context)}, loop),
            address=config.observe.address,
            port=config.api.metrics_port,
        )
        beating = asyncio.create_task(heartbeat.run())
        try:
            await stopping.wait()
        finally:
            beating.cancel()
            health.close()


async def _database(context: Context) -> None:
    async with context.pools.views.connection() as connection:
        await connection.fetchval("SELECT 1")
