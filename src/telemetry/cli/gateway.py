"""`telemetry gateway`: the machines that may send, and their credentials."""

from typing import TYPE_CHECKING, Annotated

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
from telemetry.model.identity import DAY_US, DEFAULT_DEVICE_LIMIT, Enrolment

if TYPE_CHECKING:
    from telemetry.store.administration import Administration

gateway = typer.Typer(help="Enrol, revoke, list and set gateways.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="The gateway's name, or its key (g_…).", metavar="GATEWAY")]
_BACKFILL = "How many days old a reading may be; more for a historical import."
_ENROLMENT = "auto: new devices enrol as they appear; known: announced ones only."
_DEFAULT_BACKFILL_DAYS = 35.0


@gateway.command("enrol")
def enrol(
    site: Annotated[str, typer.Argument(help="The site's key (s_…).")],
    name: Annotated[str, typer.Option(help="Broker user name; random without, which tells nobody anything.")] = "",
    enrolment: Annotated[Enrolment, typer.Option(help=_ENROLMENT)] = Enrolment.AUTO,
    device_limit: Annotated[int, typer.Option(help="How many devices it may enrol.", min=0)] = DEFAULT_DEVICE_LIMIT,
    backfill_days: Annotated[float, typer.Option(help=_BACKFILL, min=0)] = _DEFAULT_BACKFILL_DAYS,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Enrol a gateway at a site and issue its credential, which is shown once and stored nowhere.

    Example: telemetry gateway enrol s_00c0ffee00c0ffee
    """

    async def main() -> None:
        from telemetry.cli.broker_access import admit
        from telemetry.store.registration import NewGateway

        settings = config_of(config)
        new = NewGateway(name, enrolment, device_limit, round(backfill_days * DAY_US))
        async with open_registry(settings) as registry:
            issued = await registry.enrol_gateway(parse_key("site", site), new)
        told = admit(settings, {issued.name: issued.credential})
        shown = {"gateway": format_key("gateway", issued.gateway_key), "gateway_key": issued.gateway_key}
        _print_credential(shown, issued.name, issued.credential, told=told, as_json=json)

    run_command(main())


@gateway.command("renew")
def renew(gateway: NameArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Issue a new credential in place of one that was lost or has leaked; the old one ends at once.

    Example: telemetry gateway renew gw-4mzq7k2w5xtd3ab6
    """

    async def main() -> None:
        from telemetry.cli.broker_access import admit

        settings = config_of(config)
        async with open_registry(settings, owners_keys=gateway.startswith("g_")) as registry:
            key, name = await _find(registry, gateway)
            credential = await registry.renew_credential(key)
        told = admit(settings, {name: credential})
        shown = {"gateway": format_key("gateway", key), "gateway_key": key}
        _print_credential(shown, name, credential, told=told, as_json=json)

    run_command(main())


@gateway.command("revoke")
def revoke(gateway: NameArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Revoke a gateway: the broker refuses it, and what it still has sent is quarantined. There is no way back.

    Example: telemetry gateway revoke gw-4mzq7k2w5xtd3ab6
    """

    async def main() -> None:
        from telemetry.cli.broker_access import expel

        settings = config_of(config)
        async with open_registry(settings, owners_keys=gateway.startswith("g_")) as registry:
            key, name = await _find(registry, gateway)
            await registry.revoke_gateway(key)
        told = expel(settings, name)
        shown = format_key("gateway", key)
        print_result(
            {"gateway": shown, "gateway_key": key, "broker_told": told},
            f"{shown} revoked{_note(told)}",
            as_json=json,
        )

    run_command(main())


@gateway.command("set")
def set_gateway(
    gateway: NameArgument,
    enrolment: Annotated[Enrolment | None, typer.Option(help=_ENROLMENT)] = None,
    device_limit: Annotated[int | None, typer.Option(help="How many devices it may enrol.", min=0)] = None,
    backfill_days: Annotated[float | None, typer.Option(help=_BACKFILL, min=0)] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Change a gateway's limits; what is left out stays.

    Example: telemetry gateway set gw-4mzq7k2w5xtd3ab6 --backfill-days 3650
    """

    async def main() -> None:
        async with open_registry(config_of(config)) as registry:
            key = await _key(registry, gateway)
            await registry.set_gateway(
                key,
                enrolment=enrolment,
                device_limit=device_limit,
                backfill_us=None if backfill_days is None else round(backfill_days * DAY_US),
            )
        shown = format_key("gateway", key)
        print_result({"gateway": shown, "gateway_key": key}, f"{shown} changed", as_json=json)

    run_command(main())


@gateway.command("list")
def list_gateways(
    site: Annotated[str | None, typer.Option(help="Only this site's (s_…).")] = None,
    reveal: RevealOption = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List gateways, by key.

    Example: telemetry gateway list --reveal
    """

    async def main() -> None:
        from telemetry.privacy.keys import Purpose

        async with open_registry(config_of(config), owners_keys=reveal) as registry:
            rows = await registry.gateways(parse_key("site", site) if site else None)
            subjects = [(row["owner_key"], row["gateway_key"]) for row in rows]
            names = await registry.reveal(Purpose.GATEWAY_NAME, subjects) if reveal else {}
        shown = [
            {
                "gateway": format_key("gateway", row["gateway_key"]),
                "site": format_key("site", row["site_key"]),
                "owner": format_key("owner", row["owner_key"]),
                "name": names.get(row["gateway_key"]),
                "backfill_days": row.pop("backfill_us") / DAY_US,
            }
            | row
            for row in rows
        ]
        columns = ("gateway", "name", "site", "devices", "device_limit", "enrolment", "backfill_days", "revoked")
        print_rows(shown, {name: name.replace("_", " ") for name in columns}, as_json=json)

    run_command(main())


async def _key(registry: "Administration", text: str) -> int:
    return parse_key("gateway", text) if text.startswith("g_") else await registry.gateway_named(text)


async def _find(registry: "Administration", text: str) -> tuple[int, str]:
    """Key and name, which only the vault has where the key was given."""
    from telemetry.errors import RegistryError
    from telemetry.privacy.keys import Purpose

    key = await _key(registry, text)
    if not text.startswith("g_"):
        return key, text
    for row in await registry.gateways():
        if row["gateway_key"] == key:
            return key, (await registry.reveal(Purpose.GATEWAY_NAME, [(row["owner_key"], key)]))[key]
    raise RegistryError("the gateway is unknown", remedy="`telemetry gateway list`")


def _print_credential(shown: dict[str, object], name: str, credential: str, *, told: bool, as_json: bool) -> None:
    lines = [f"gateway     {shown['gateway']}", f"user name   {name}", f"password    {credential}  (shown once)"]
    result = shown | {"name": name, "credential": credential, "broker_told": told}
    print_result(result, "\n".join(lines) + _note(told), as_json=as_json)


def _note(told: bool) -> str:
    return "" if told else "\nno mosquitto of this data directory runs here: have yours read its files again (SIGHUP)"
