"""`telemetry rollup` and `telemetry retention`: what the service does from time to time, by hand or as a process."""

import dataclasses
import json as json_module
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, database_dsn, print_result, run_command

if TYPE_CHECKING:
    from telemetry.config import Config
    from telemetry.store.connection import Connect

OnceOption = Annotated[bool, typer.Option("--once", help="One round, then end; without, until Ctrl-C.")]


def rollup(once: OnceOption = False, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Turn hot and late readings into windows, and drop the partitions that are done with.

    The service does this itself unless `jobs` is false. Safe beside it: one process works at a time.

    Example: telemetry rollup --once
    """

    async def main() -> None:
        from telemetry.maintenance.jobs import make_rollup

        found = config_of(config)
        if not once:
            await _stay(found, rollup=True, as_json=json)
            return
        passed = await make_rollup(found, _connect(found), _now_us).run()
        text = (
            "nothing is due, or another process is at it"
            if passed.as_of_us is None
            else f"{passed.windows} windows of {passed.devices} devices written; for good: {passed.sealed} hours,"
            f" {passed.late_hours} hours of late readings; {len(passed.dropped)} partitions dropped"
        )
        print_result(dataclasses.asdict(passed), text, as_json=json)

    run_command(main())


def retention(once: OnceOption = False, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Coarsen and delete windows as owners and operator settled it.

    The service does this itself, hourly, unless `jobs` is false.

    Example: telemetry retention --once --json
    """

    async def main() -> None:
        from telemetry.maintenance.jobs import make_retention

        found = config_of(config)
        if not once:
            await _stay(found, rollup=False, as_json=json)
            return
        done = await make_retention(found, _connect(found), _now_us).run()
        text = (
            f"{done.devices} devices: {done.expired} windows expired, {done.coarsened} coarsened to {done.written},"
            f" {done.superseded} replaced versions removed; {len(done.dropped)} months dropped"
            if done.ran
            else "another process is at it"
        )
        print_result(dataclasses.asdict(done), text, as_json=json)

    run_command(main())


def _now_us() -> int:
    return time.time_ns() // 1000


def _connect(config: "Config") -> "Connect":
    from telemetry.maintenance.jobs import ROLLUP, rollup_connector
    from telemetry.store.keystore import open_keystore, password_name

    keystore = open_keystore(config.data_dir, allowed=frozenset({password_name(ROLLUP)}))
    return rollup_connector(config, database_dsn(config), keystore)


async def _stay(config: "Config", *, rollup: bool, as_json: bool) -> None:
    """Round after round; with ``as_json`` a line for each."""
    from telemetry.maintenance.jobs import Maintenance
    from telemetry.observe import Observer, configure_logging

    def tell(done: Any) -> None:
        if as_json:
            typer.echo(json_module.dumps(dataclasses.asdict(done)))

    undo = configure_logging(config.observe)
    try:
        jobs = Maintenance(config, _connect(config), Observer(), _now_us, tell)
        await jobs.run(rollup=rollup, retention=not rollup)
    finally:
        undo()
