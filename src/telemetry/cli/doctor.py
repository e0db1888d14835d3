"""`telemetry doctor`: what is wrong with this installation and what to mend."""

import json as json_module
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, database_dsn, reported, run_command

if TYPE_CHECKING:
    from telemetry.config import BrokerConfig, Config
    from telemetry.maintenance.doctor import Check, Finding

_COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def doctor(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Check broker, database, keys, clock and disk, and say what to mend. Changes nothing.

    Ends with 1 when something fails.

    Example: telemetry doctor --config telemetry.toml
    """
    from telemetry.maintenance.doctor import examine, healthy, to_json

    with reported():
        checks = _checks(config_of(config))
    findings = run_command(examine(checks))
    if json:
        typer.echo(json_module.dumps(to_json(findings)))
    else:
        _print(findings)
    if not healthy(findings):
        raise typer.Exit(1)


def _checks(config: "Config") -> "dict[str, Check]":
    """Every check, with its parts looked up only when it runs: what is missing fails there and nowhere else."""
    from telemetry.maintenance import doctor as local
    from telemetry.maintenance import doctor_database as database
    from telemetry.maintenance.doctor_broker import check_broker
    from telemetry.store.connection import connector
    from telemetry.store.keystore import SECRET_NAMES, FileKeystore, open_keystore, role_password
    from telemetry.store.migrate import ROLES

    def connect_as(role: str) -> Any:
        password = role_password(open_keystore(config.data_dir), role)
        name = "keys" if role == "telemetry_keys" else "telemetry"
        return connector(database_dsn(config, name), user=role, password=password)

    async def roles() -> Any:
        return await database.check_roles({role: connect_as(role) for role in ROLES})

    async def server() -> Any:
        return await database.check_server(connect_as("telemetry_operator"))

    async def schema() -> Any:
        return await database.check_schema(_administrator(config), connect_as("telemetry_operator"))

    async def broker() -> Any:
        found, password = _broker(config)
        return await check_broker(found, password, worker_runs=_worker_runs(config))

    def keys() -> "list[Finding]":
        keystore = open_keystore(config.data_dir)
        directory = config.data_dir / "keys" if isinstance(keystore, FileKeystore) else None
        return local.check_keys(keystore, SECRET_NAMES, directory)

    return {
        "data directory": local.in_thread(lambda: local.check_data_dir(config.data_dir)),
        "disk": local.in_thread(lambda: local.check_disk(config.data_dir)),
        "keys": local.in_thread(keys),
        "clock": local.in_thread(local.check_clock),
        "broker": broker,
        "database roles": roles,
        "database": server,
        "schema": schema,
    }


def _administrator(config: "Config") -> Any:
    """Connects as the embedded server's superuser; None where the server is somebody else's."""
    import asyncpg

    from telemetry.embedded.attach import postgres_in

    running = postgres_in(config.data_dir) if config.embedded else None
    if running is None:
        return None
    return lambda name: asyncpg.connect(running.dsn(name))


def _broker(config: "Config") -> "tuple[BrokerConfig, str | None]":
    """Where the worker connects, and its password."""
    from telemetry.embedded.attach import broker_port_in
    from telemetry.embedded.broker import WORKER_USER
    from telemetry.errors import SupervisorError

    found = config.broker
    if config.embedded:
        port = broker_port_in(config.data_dir)
        if port is None:
            raise SupervisorError("the embedded broker was never started", remedy="`telemetry run` starts it")
        password_file = config.data_dir / "broker" / "worker-password"
        more = {"port": port, "username": WORKER_USER, "client_id": WORKER_USER, "password_file": password_file}
        found = found.model_copy(update=more)
    return found, _password(found.password_file)


def _password(path: Path | None) -> str | None:
    from telemetry.errors import ConfigurationError

    try:
        return None if path is None else path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError("broker.password_file cannot be read", remedy="name a readable file") from error


def _worker_runs(config: "Config") -> bool:
    """Does the service say that it is connected to the broker?"""
    url = f"http://{config.observe.address}:{config.observe.port}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            told = answer.read()
    except urllib.error.HTTPError as error:
        told = error.read()
    except (OSError, ValueError):
        return False
    try:
        return bool(json_module.loads(told)["parts"]["broker"] == "ok")
    except (ValueError, KeyError, TypeError):
        return False


def _print(findings: "list[Finding]") -> None:
    for finding in findings:
        status = typer.style(f"{finding.status.value:<8}", fg=_COLOURS.get(finding.status.value))
        typer.echo(f"{status}{finding.check}: {finding.told}")
        if finding.remedy:
            typer.echo(f"        → {finding.remedy}")
    bad = sum(finding.status.value == "fail" for finding in findings)
    typer.echo(f"{bad} to mend" if bad else "nothing to mend")
