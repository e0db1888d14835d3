"""`telemetry device replace` and `telemetry site sell`: what changes hands."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from telemetry.cli.common import (
    ConfigOption,
    JsonOption,
    config_of,
    format_key,
    open_registry,
    parse_key,
    print_result,
    run_command,
)
from telemetry.cli.registry import device, site
from telemetry.cli.sharing import instant
from telemetry.errors import InputError
from telemetry.model.identity import MAX_SERIAL_LENGTH


@device.command("replace")
def replace(
    device: Annotated[str, typer.Argument(help="The device's key (d_…).")],
    serial_file: Annotated[
        Path | None,
        typer.Option(help="The new serial is this file's only line (- is standard input); asked for without."),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Another machine takes a device's place: its series goes on under the same key.

    The serial is never an argument, so that it stays in no shell history. A device that enrolled by itself under the
    new serial is retired.

    Example: telemetry device replace d_00c0ffee00c0ffee
    """

    async def main() -> None:
        serial = _serial(serial_file)
        async with open_registry(config_of(config)) as registry:
            done = await registry.replace_device(parse_key("device", device), serial)
        retired = format_key("device", done.retired_key) if done.retired_key else None
        text = f"{device} goes on" + (f"; {retired} is retired" if retired else "")
        print_result({"device": device, "retired": retired}, text, as_json=json)

    run_command(main())


@site.command("sell")
def sell(
    site: Annotated[str, typer.Argument(help="The site's key (s_…).")],
    to: Annotated[str, typer.Option(help="The new owner's key (o_…).")],
    at: Annotated[str | None, typer.Option(help="Since when (2026-11-02T12:00:00Z); now without.")] = None,
    name: Annotated[str, typer.Option(help="What the new owner calls it, sealed.")] = "Home",
    address: Annotated[str, typer.Option(help="Postal address, sealed; the old owner's does not pass.")] = "",
    latitude: Annotated[float | None, typer.Option(help="Degrees, WGS 84, sealed.")] = None,
    longitude: Annotated[float | None, typer.Option(help="Degrees, WGS 84, sealed.")] = None,
    country: Annotated[str, typer.Option(help="ISO 3166-1 code (DE), shown where it is granted.")] = "",
    region: Annotated[str, typer.Option(help="ISO 3166-2 code (DE-BY), shown where it is granted.")] = "",
    timezone: Annotated[str, typer.Option(help="IANA name, for days of the site's own; UTC without.")] = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Hand a home over: a new site with new device keys; neither owner sees the other's tenure. No way back.

    Its gateways go on for the new owner; serials are sealed to the new owner's key.

    Example: telemetry site sell s_00c0ffee00c0ffee --to o_00c0ffee00c0ffee
    """

    async def main() -> None:
        from telemetry.store.registration import NewSite

        new = NewSite(name, address, latitude, longitude, country, region, timezone)
        async with open_registry(config_of(config), owners_keys=True) as registry:
            done = await registry.sell_site(parse_key("site", site), parse_key("owner", to), new, instant(at))
        shown = format_key("site", done.new_site_key)
        result = {
            "site": shown,
            "site_key": done.new_site_key,
            "tenure_from": done.tenure_from,
            "gateways": done.gateways,
            "devices": {format_key("device", old): format_key("device", new) for old, new in done.devices.items()},
        }
        text = f"{shown} since {done.tenure_from:%Y-%m-%d %H:%M} UTC, {len(done.devices)} devices"
        print_result(result, text, as_json=json)

    run_command(main())


def _serial(path: Path | None) -> str:
    """From a file, standard input or a prompt. Raises InputError; never quotes it."""
    if path is None and sys.stdin.isatty():
        text: str = typer.prompt("New serial")
    else:
        path = path or Path("-")
        try:
            text = sys.stdin.read(2 * MAX_SERIAL_LENGTH) if str(path) == "-" else path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the file: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    text = text.strip()
    if not 0 < len(text) <= MAX_SERIAL_LENGTH or not text.isprintable():
        raise InputError(f"a serial is one line of 1 to {MAX_SERIAL_LENGTH} printable characters")
    return text
