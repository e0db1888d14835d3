"""`telemetry run` and `telemetry demo`: the processes that stay."""

import asyncio
import contextlib
import json
import signal
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from telemetry.cli.common import ConfigOption, config_of, reported

_GATEWAYS = 10


def run(config: ConfigOption = None) -> None:
    """Run the service until Ctrl-C or SIGTERM: receive, protect, store, acknowledge.

    Example: telemetry run --config telemetry.toml
    """
    with reported():
        from telemetry.observe import install_logging
        from telemetry.service import serve

        settings = config_of(config)
        undo = install_logging(level=settings.observe.log_level, log_file=settings.observe.log_file)
        try:
            _loop(serve(settings))
        finally:
            undo()


def demo(
    seconds: Annotated[float | None, typer.Option("--for", help="End after so many seconds.", min=1)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    gateways: Annotated[int, typer.Option(help="How many homes to simulate.", min=1, max=1000)] = _GATEWAYS,
    broker: Annotated[str, typer.Option(help="auto, mosquitto or rumqttd.")] = "auto",
    keep: Annotated[Path | None, typer.Option(help="Keep all data in this directory.")] = None,
) -> None:
    """Run the whole system on this machine with simulated homes, and check that nothing personal was stored.

    Example: telemetry demo --for 30 --json out.json
    """
    with reported(), contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="telemetry-demo-")))
        scratch.chmod(0o711)
        data_dir = keep if keep is not None else scratch / "data"
        outcome = _loop(_demo(data_dir, scratch, gateways, broker, seconds))
        told = json.dumps(outcome.as_json(), indent=2)
        if json_file is not None:
            json_file.write_text(told + "\n")
        typer.echo(told)
        if not outcome.balanced:
            raise typer.Exit(1)


async def _demo(data_dir: Path, scratch: Path, gateways: int, broker: str, seconds: float | None) -> Any:
    from telemetry.cli.live import LiveFigures
    from telemetry.config import load_config
    from telemetry.demo import Demo, recordings_folder
    from telemetry.observe import Observer, install_logging

    observe = {"port": 0, "log_level": "warning"}
    api = {"port": 0, "cookie_secure": False}
    config = load_config(data_dir=data_dir, embedded=True, broker_kind=broker, observe=observe, api=api)
    install_logging(level=config.observe.log_level)
    with LiveFigures() as live:
        demonstration = Demo(
            config,
            Observer(),
            scratch,
            say=live.say,
            show=live.show,
            gateways=gateways,
            duration_s=seconds,
            recordings=recordings_folder(),
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, demonstration.stop)
        return await demonstration.run()


def _loop(main: Any) -> Any:
    """Run on uvloop, which is quicker than asyncio's own loop."""
    import uvloop

    return uvloop.run(main)
