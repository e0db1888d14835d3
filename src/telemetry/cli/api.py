"""`telemetry api`: the HTTP API as a process of its own."""

import asyncio
import signal
from typing import TYPE_CHECKING

from telemetry.cli.common import ConfigOption, config_of, database_dsn, reported

if TYPE_CHECKING:
    from telemetry.config import Config


def api(config: ConfigOption = None) -> None:
    """Serve the HTTP API until Ctrl-C or SIGTERM. The service runs apart from it (`telemetry run`).

    Example: telemetry api --config telemetry.toml
    """
    with reported():
        import uvloop

        from telemetry.observe import configure_logging

        settings = config_of(config)
        undo = configure_logging(settings.observe)
        try:
            uvloop.run(_serve(settings))
        finally:
            undo()


async def _serve(config: "Config") -> None:
    from telemetry.api.context import open_context
    from telemetry.api.server import serving
    from telemetry.store.keystore import open_keystore

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)

    def dsn(database: str) -> str:
        return database_dsn(config, database)

    async with open_context(config, open_keystore(config.data_dir), dsn) as context, serving(context):
        await stopping.wait()
