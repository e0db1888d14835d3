"""`telemetry owner | site | device` and `telemetry import`: who exists, and who may send for whom."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from telemetry.cli.common import (
    ConfigOption,
    JsonOption,
    RevealOption,
    config_of,
    format_key,
    open_registry,
    parse_key,
    print_result,
    print_rows,
    run_command,
)
from telemetry.errors import InputError

owner = typer.Typer(help="Add and list owners.", no_args_is_help=True)
site = typer.Typer(help="Add, list and sell sites.", no_args_is_help=True)
device = typer.Typer(help="List and replace devices.", no_args_is_help=True)

_ASKED = "Asked for when left out, so that it stays in no shell history."


@owner.command("add")
def add_owner(
    name: Annotated[str, typer.Option(prompt="Name", help=f"The owner's name, sealed. {_ASKED}")],
    email: Annotated[str, typer.Option(help="E-mail address, sealed.")] = "",
    region: Annotated[str, typer.Option(help="Where this owner's rows live.")] = "default",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Add an owner: makes the key pair that everything of this owner is sealed to.

    Example: telemetry owner add --name "Erika Mustermann"
    """

    async def main() -> None:
        from telemetry.store.registration import NewOwner

        async with open_registry(config_of(config), owners_keys=True) as registry:
            key = await registry.add_owner(NewOwner(name, email, region))
        shown = format_key("owner", key)
        print_result({"owner": shown, "owner_key": key}, shown, as_json=json)

    run_command(main())


@owner.command("list")
def list_owners(reveal: RevealOption = False, config: ConfigOption = None, json: JsonOption = False) -> None:
    """List owners, by key.

    Example: telemetry owner list --json
    """

    async def main() -> None:
        from telemetry.privacy.keys import Purpose

        async with open_registry(config_of(config), owners_keys=reveal) as registry:
            rows = await registry.owners()
            living = [(row["owner_key"], row["owner_key"]) for row in rows if not row["erased"]]
            names = await registry.reveal(Purpose.OWNER_NAME, living) if reveal else {}
        shown = [_with_ids(row) | {"name": names.get(row["owner_key"])} for row in rows]
        columns = {"owner": "owner", "name": "name", "region": "region", "sites": "sites", "created_at": "since"}
        print_rows(shown, columns, as_json=json)

    run_command(main())


@site.command("add")
def add_site(
    owner: Annotated[str, typer.Argument(help="The owner's key (o_…).")],
    name: Annotated[str, typer.Option(prompt="Name", help=f"What the owner calls it, sealed. {_ASKED}")],
    address: Annotated[str, typer.Option(help="Postal address, sealed.")] = "",
    latitude: Annotated[float | None, typer.Option(help="Degrees, WGS 84, sealed.")] = None,
    longitude: Annotated[float | None, typer.Option(help="Degrees, WGS 84, sealed.")] = None,
    country: Annotated[str, typer.Option(help="ISO 3166-1 code (DE), shown where it is granted.")] = "",
    region: Annotated[str, typer.Option(help="ISO 3166-2 code (DE-BY), shown where it is granted.")] = "",
    timezone: Annotated[str, typer.Option(help="IANA name, for days of the site's own; UTC without.")] = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Add a site (a home) of an owner. With coordinates its cell of a few km² is computed, once.

    Example: telemetry site add o_00c0ffee00c0ffee --name "Home" --country DE --timezone Europe/Berlin
    """

    async def main() -> None:
        from telemetry.store.registration import NewSite

        new = NewSite(name, address, latitude, longitude, country, region, timezone)
        async with open_registry(config_of(config)) as registry:
            key = await registry.add_site(parse_key("owner", owner), new)
        shown = format_key("site", key)
        print_result({"site": shown, "site_key": key}, shown, as_json=json)

    run_command(main())


@site.command("list")
def list_sites(
    owner: Annotated[str | None, typer.Option(help="Only this owner's (o_…).")] = None,
    reveal: RevealOption = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List sites, by key.

    Example: telemetry site list --owner o_00c0ffee00c0ffee
    """

    async def main() -> None:
        from telemetry.privacy.keys import Purpose

        async with open_registry(config_of(config), owners_keys=reveal) as registry:
            rows = await registry.sites(parse_key("owner", owner) if owner else None)
            subjects = [(row["owner_key"], row["site_key"]) for row in rows]
            names = await registry.reveal(Purpose.SITE_NAME, subjects) if reveal else {}
        shown = [_with_ids(row) | {"name": names.get(row["site_key"])} for row in rows]
        columns = ("site", "owner", "name", "gateways", "devices", "sold", "created_at")
        print_rows(shown, dict(zip(columns, (*columns[:-1], "since"), strict=True)), as_json=json)

    run_command(main())


@device.command("list")
def list_devices(
    site: Annotated[str | None, typer.Option(help="Only this site's (s_…).")] = None,
    gateway: Annotated[str | None, typer.Option(help="Only this gateway's (g_…).")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 1000,
    reveal: RevealOption = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List devices, by key. Serials stay sealed unless --reveal is given.

    Example: telemetry device list --site s_00c0ffee00c0ffee
    """

    async def main() -> None:
        from telemetry.model.fields import DeviceKind
        from telemetry.privacy.keys import Purpose

        async with open_registry(config_of(config), owners_keys=reveal) as registry:
            rows = await registry.devices(
                site_key=parse_key("site", site) if site else None,
                gateway_key=parse_key("gateway", gateway) if gateway else None,
                limit=limit,
            )
            subjects = [(row["owner_key"], row["device_key"]) for row in rows]
            serials = await registry.reveal(Purpose.DEVICE_SERIAL, subjects) if reveal else {}
        shown = [
            _with_ids(row) | {"kind": DeviceKind(row["kind"]).label, "serial": serials.get(row["device_key"])}
            for row in rows
        ]
        columns = {"device": "device", "kind": "kind", "serial": "serial", "site": "site", "gateway": "gateway"}
        print_rows(
            shown,
            columns | {"enrolled_at": "since", "retired": "retired", "elsewhere": "serial elsewhere too"},
            as_json=json,
        )

    run_command(main())


def import_file(
    file: Annotated[Path, typer.Argument(help="CSV with a header line.", dir_okay=False)],
    credentials: Annotated[
        Path | None, typer.Option(help="Write the gateways' names and credentials to this new file (0600).")
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Import owners, sites and gateways from a CSV file: all of it or nothing.

    Columns: owner, owner_name, site, site_name; where wanted owner_email, region, site_address, latitude,
    longitude, site_country, site_region, site_timezone, gateway (a name, or `new` for a random one), enrolment,
    device_limit, backfill_days. Rows with the same `owner` are one owner, with the same `owner` and `site` one home;
    both are labels within the file.

    Example: telemetry import homes.csv --credentials gateways.csv
    """
    run_command(_import(file, credentials, config, as_json=json))


async def _import(file: Path, credentials: Path | None, config_file: Path | None, *, as_json: bool) -> None:
    from telemetry.cli.broker_access import admit
    from telemetry.cli.progress import CommandProgress
    from telemetry.store.importing import read_import, run_import

    config = config_of(config_file)
    rows = read_import(file)
    if credentials is None and not as_json and any(row.gateway for row in rows):
        raise InputError("the file has gateways, whose credentials are given once", remedy="say --credentials FILE")
    # Made before anything is imported: a file that cannot be written must not cost the credentials.
    with _new_private_file(credentials) as write:
        async with open_registry(config, owners_keys=True) as registry:
            with CommandProgress("importing", total=len(rows), unit="rows") as progress:
                done = await run_import(registry, rows, progress.advance)
        issued = {one.name: one.credential for one in done.gateways}
        write("".join(f"{line}\n" for line in ["gateway,credential", *map(",".join, issued.items())]))
    if issued:
        admit(config, issued)
    counts: dict[str, Any] = {"owners": done.owners, "sites": done.sites, "gateways": len(issued)}
    shown = counts | ({} if credentials else {"credentials": issued})
    text = ", ".join(f"{count} {what}" for what, count in counts.items())
    print_result(shown, f"imported {text}", as_json=as_json)


@contextmanager
def _new_private_file(path: Path | None) -> Iterator[Callable[[str], object]]:
    """What writes to a new file of mode 0600, gone again after an error; without a path it writes nothing."""
    if path is None:
        yield lambda _: None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InputError(f"cannot make {path}: {error.strerror}", remedy="name a file that does not exist") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        try:
            yield file.write
        except BaseException:
            path.unlink()
            raise


def _with_ids(row: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in ("owner", "site", "gateway", "device") if f"{kind}_key" in row]
    return {kind: format_key(kind, row[f"{kind}_key"]) for kind in kinds} | row
