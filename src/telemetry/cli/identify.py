"""`telemetry identify`: which formats a gateway speaks, and what of them would be kept."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, reported, run_command

if TYPE_CHECKING:
    from telemetry.config import BrokerConfig, Config
    from telemetry.model.batch import RawMessage


def identify(
    *,
    capture: Annotated[
        Path | None, typer.Argument(help='JSON lines: {"topic": "…", "payload": "base64", "retained": false}.')
    ] = None,
    gateway: Annotated[str | None, typer.Option(help="Listen to this gateway at the broker instead.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="How long to listen.")] = 30.0,
    username: Annotated[
        str | None, typer.Option(help="Broker user that may read the gateway's prefix; never the worker's own.")
    ] = None,
    password_file: Annotated[Path | None, typer.Option(help="File (0600) that holds that user's password.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell the formats in a capture or at the broker, the fields that would be kept, and what is withheld and why.

    Names that may hold an identifier appear as <name>, devices are only counted. Without --username a broker whose
    files are here gets a user for as long as this listens.

    Example: telemetry identify --gateway gw-0001 --seconds 60
    """
    from telemetry.maintenance.identify import identify as look
    from telemetry.maintenance.identify import read_capture

    if (capture is None) == (gateway is None):
        raise typer.BadParameter("name either a capture or --gateway")
    with reported():
        if capture is not None:
            formats = look(read_capture(capture))
        else:
            found = config_of(config)
            formats = look(_heard(found, str(gateway), seconds, username, password_file))
    told = [one.to_json() for one in formats]
    if as_json:
        typer.echo(json.dumps({"formats": told}))
    else:
        _show(told)


def _heard(
    config: "Config", gateway: str, seconds: float, username: str | None, password_file: Path | None
) -> "Sequence[RawMessage]":
    from telemetry.cli.broker_access import listener
    from telemetry.errors import InputError
    from telemetry.maintenance.listening import listen

    broker = _broker(config)
    if username is not None:
        if password_file is None:
            raise InputError("--username needs --password-file")
        if username == broker.username:
            raise InputError("this is the worker's own user", remedy="a broker would end the worker's connection")
        try:
            password = password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise InputError("the password file cannot be read") from None
        return run_command(listen(broker, gateway, seconds, username=username, password=password))
    with listener(config, gateway) as (name, secret):
        return run_command(listen(broker, gateway, seconds, username=name, password=secret))


def _broker(config: "Config") -> "BrokerConfig":
    """Where the broker is: for an embedded one where it was last started."""
    from telemetry.embedded.attach import broker_port_in
    from telemetry.errors import InputError

    if not config.embedded:
        return config.broker
    port = broker_port_in(config.data_dir)
    if port is None:
        raise InputError("the embedded broker does not run", remedy="start the service with `telemetry run`")
    return config.broker.model_copy(update={"port": port})


def _show(formats: Sequence[Mapping[str, Any]]) -> None:
    if not formats:
        typer.echo("no messages")
    for one in formats:
        kinds = f" ({', '.join(one['kinds'])})" if one["kinds"] else ""
        time = "with a time of their own" if one["rows_with_time"] else "without a time of their own"
        rows = f"{one['rows']} readings of {one['devices']} devices{kinds}, {time}" if one["rows"] else "no readings"
        typer.echo(f"{one['format']}: {one['messages']} messages, {one['payload_bytes']} bytes: {rows}")
        for name, count in one["kept"].items():
            typer.echo(f"  would be kept   {name} ({count})")
        for name, count in one["withheld"].items():
            typer.echo(f"  withheld        {name} ({count}): {one['withheld_why']}")
        for name, count in one["place"].items():
            typer.echo(f"  withheld        {name} ({count}): {one['place_why']}")
        for name, told in one["readings_withheld"].items():
            typer.echo(f"  withheld        {told['readings']} readings, {name}: {told['why']}")
        for name, count in one["implausible"].items():
            typer.echo(f"  implausible     {name} ({count})")
        for name, count in one["rejected"].items():
            typer.echo(f"  rejected        {count} readings: {name}")
        for name, count in one["unknown_topics"].items():
            typer.echo(f"  nobody reads    {name} ({count})")
