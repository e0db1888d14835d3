"""`telemetry grant`: what owners allow recipients to see."""

from typing import Annotated, Any

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, format_key, parse_key, print_result, run_command
from telemetry.cli.sharing import (
    OwnerArgument,
    RecipientArgument,
    RecipientOption,
    checked,
    duration,
    instant,
    open_sharing,
    recipient_key,
    shown_grant,
)
from telemetry.errors import InputError
from telemetry.model.fields import KIND_BY_LABEL, DataClass
from telemetry.model.sharing import GrantTerms, PlaceSetting, Resolution, SerialSetting, SharingPurpose

grant = typer.Typer(help="What owners allow recipients to see.", no_args_is_help=True)

_WHEN = "an instant such as 2026-11-02T12:00:00Z"


@grant.command("set")
def set_grant(
    owner: OwnerArgument,
    recipient: RecipientArgument,
    purpose: Annotated[SharingPurpose, typer.Option(help="What for. Requests are for one purpose each.")],
    data_class: Annotated[list[DataClass] | None, typer.Option("--class", help="A class of fields; repeat.")] = None,
    field: Annotated[list[str] | None, typer.Option(help="A single field; repeat.")] = None,
    site: Annotated[list[str] | None, typer.Option(help="Only this site (s_…); repeat.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind of device; repeat.")] = None,
    resolution: Annotated[Resolution, typer.Option(help="The finest windows shown.")] = Resolution.PT15M,
    serial: Annotated[SerialSetting, typer.Option(help="How devices are named.")] = SerialSetting.WITHHELD,
    place: Annotated[PlaceSetting, typer.Option(help="How precise a place.")] = PlaceSetting.WITHHELD,
    history: Annotated[str | None, typer.Option(help="How far back of now (P30D); no limit without.")] = None,
    data_from: Annotated[str | None, typer.Option(help=f"No data before this: {_WHEN}; the start without.")] = None,
    start: Annotated[str | None, typer.Option(help=f"In force from {_WHEN}; now without.")] = None,
    until: Annotated[str | None, typer.Option(help=f"In force until {_WHEN}.")] = None,
    extremes: Annotated[bool, typer.Option("--extremes", help="Minimum and maximum of power too.")] = False,
    confirm_solar: Annotated[
        float | None, typer.Option(help="Kilometres within which the solar curve tells the place, as was stated.")
    ] = None,
    grant: Annotated[str | None, typer.Option(help="A new version of this grant (c_…), not another one.")] = None,
    policy: Annotated[str | None, typer.Option(help="Version of the privacy notice; the newest without.")] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Grant a recipient something, or with --grant put other terms in place of a grant's.

    Example: telemetry grant set o_00c0ffee00c0ffee example-installer --purpose maintenance --class operation
    """

    async def main() -> None:
        terms = checked(
            GrantTerms,
            {
                "purpose": purpose,
                "classes": data_class or (),
                "fields": field or (),
                "sites": [parse_key("site", text) for text in site] if site else None,
                "kinds": _kinds(kind) if kind else None,
                "resolution": resolution,
                "serial": serial,
                "place": place,
                "extremes": extremes,
                "history": duration(history),
                "data_from": instant(data_from),
                "start": instant(start),
                "until": instant(until),
            },
        )
        await _set(owner, recipient, terms, confirm_solar, grant, policy, config, as_json=json)

    run_command(main())


async def _set(
    owner: str,
    recipient: str,
    terms: GrantTerms,
    confirm_solar: float | None,
    grant: str | None,
    policy: str | None,
    config: Any,
    *,
    as_json: bool,
) -> None:
    from telemetry.privacy.explain import describe

    async with open_sharing(config_of(config)) as sharing:
        done = await sharing.set_grant(
            parse_key("owner", owner),
            await recipient_key(sharing, recipient) or 0,
            terms,
            confirmed_km=confirm_solar,
            grant_key=parse_key("grant", grant) if grant else None,
            policy=policy,
        )
    print_result(shown_grant(done), describe(done), as_json=as_json)


@grant.command("list")
def list_grants(
    owner: OwnerArgument, recipient: RecipientOption = None, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """List an owner's grants that are not withdrawn, ended ones and ones to come included.

    Example: telemetry grant list o_00c0ffee00c0ffee --recipient example-installer
    """

    async def main() -> None:
        async with open_sharing(config_of(config)) as sharing:
            found = await sharing.grants(parse_key("owner", owner), await recipient_key(sharing, recipient))
        _print(found, as_json=json)

    run_command(main())


@grant.command("withdraw")
def withdraw(
    owner: OwnerArgument,
    grant: Annotated[str | None, typer.Option(help="This grant (c_…).")] = None,
    recipient: Annotated[str | None, typer.Option(help="All to this recipient: handle, or key (r_…).")] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Withdraw one grant, or all to a recipient. Effective at once; granted again, tokens are others.

    Example: telemetry grant withdraw o_00c0ffee00c0ffee --recipient example-installer
    """

    async def main() -> None:
        if (grant is None) == (recipient is None):
            raise InputError("say which", remedy="either --grant or --recipient")
        async with open_sharing(config_of(config)) as sharing:
            ended = await sharing.withdraw(
                parse_key("owner", owner),
                grant_key=parse_key("grant", grant) if grant else None,
                recipient_key=await recipient_key(sharing, recipient),
            )
        names = [format_key("grant", one.grant_key) for one in ended]
        print_result({"withdrawn": names}, "\n".join(f"{name} withdrawn" for name in names), as_json=json)

    run_command(main())


@grant.command("history")
def history(
    owner: OwnerArgument,
    recipient: RecipientOption = None,
    at: Annotated[str | None, typer.Option(help=f"Only what counted at {_WHEN}.")] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Every version of an owner's grants, or what counted at an instant.

    Example: telemetry grant history o_00c0ffee00c0ffee --at 2026-11-02T12:00:00Z
    """

    async def main() -> None:
        moment, key = instant(at), parse_key("owner", owner)
        async with open_sharing(config_of(config)) as sharing:
            to = await recipient_key(sharing, recipient)
            if moment is None:
                found = await sharing.history(key, to)
            else:
                found = await sharing.allowed_at(key, moment, to)
        _print(found, as_json=json)

    run_command(main())


def _print(grants: Any, *, as_json: bool) -> None:
    from telemetry.cli.common import print_rows
    from telemetry.privacy.explain import describe

    if as_json:
        print_rows([shown_grant(one) for one in grants], {}, as_json=True)
        return
    for one in grants:
        typer.echo(f"{one.recorded_at:%Y-%m-%d %H:%M:%S} {one.state}: {describe(one)}")
    if not grants:
        typer.echo("nothing")


def _kinds(labels: list[str]) -> list[int]:
    unknown = [label for label in labels if label not in KIND_BY_LABEL]
    if unknown:
        raise InputError(f"kinds of device are {', '.join(KIND_BY_LABEL)}")
    return [int(KIND_BY_LABEL[label]) for label in labels]
