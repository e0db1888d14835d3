"""`telemetry token | account`: machines' tokens, and codes with which people sign up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from telemetry.access.principal import Role, Scope
from telemetry.cli.common import (
    ConfigOption,
    JsonOption,
    config_of,
    database_dsn,
    format_key,
    parse_key,
    print_result,
    print_rows,
    run_command,
)
from telemetry.cli.sharing import open_recipients, which_recipient
from telemetry.errors import InputError
from telemetry.model.sharing import SharingPurpose

if TYPE_CHECKING:
    from telemetry.access.records import Holder
    from telemetry.access.tokens import IssuedToken, MachineToken
    from telemetry.config import Config
    from telemetry.views.pool import Pool

token = typer.Typer(help="Machines' tokens for the HTTP API.", no_args_is_help=True)
account = typer.Typer(help="People's accounts.", no_args_is_help=True)

ForOwner = Annotated[str | None, typer.Option("--owner", help="For this owner (o_…).")]
ForMember = Annotated[str | None, typer.Option("--member", help="For this member (m_…) of the owner's household.")]
ForRecipient = Annotated[str | None, typer.Option("--recipient", help="For this recipient: handle, or key (r_…).")]
ForOperator = Annotated[bool, typer.Option("--operator", help="For whoever runs the service.")]
TokenArgument = Annotated[str, typer.Argument(help="The token's key (t_…), not its secret.")]


@token.command("issue")
def issue(
    owner: ForOwner = None,
    member: ForMember = None,
    recipient: ForRecipient = None,
    operator: ForOperator = False,
    scope: Annotated[list[Scope] | None, typer.Option(help="What it may be used for; repeat. read without.")] = None,
    purpose: Annotated[
        list[SharingPurpose] | None, typer.Option(help="Of a recipient: what for; repeat. All without.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="How long it lives.")] = 90,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Issue a token. Its secret is printed once and stored nowhere.

    Example: telemetry token issue --recipient example-installer --scope read --scope live --purpose maintenance
    """

    async def main() -> None:
        from telemetry.access.tokens import MachineTokens

        settings = config_of(config)
        holder = await _holder(settings, owner, member, recipient, operator=operator)
        async with open_pool(settings) as pool:
            issued = await MachineTokens(pool).issue(
                holder, scope or [Scope.READ], purposes=purpose, lifetime=timedelta(days=days), by_operator=True
            )
        _print_issued(issued, as_json=json)

    run_command(main())


@token.command("list")
def list_tokens(
    owner: ForOwner = None,
    recipient: ForRecipient = None,
    operator: ForOperator = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List tokens by key, with what they may and when they were used, to the day. All without an option.

    Example: telemetry token list --recipient example-installer
    """

    async def main() -> None:
        from telemetry.access.tokens import MachineTokens

        settings = config_of(config)
        anybody = not (owner or recipient or operator)
        holder = None if anybody else await _holder(settings, owner, None, recipient, operator=operator)
        async with open_pool(settings) as pool:
            found = await MachineTokens(pool).list(holder)
        columns = ("token", "for", "scopes", "purposes", "issued_at", "expires_at", "last_used_on", "revoked")
        shown = [shown_token(one) for one in found]
        if not json:
            shown = [{key: "-" if value is None else value for key, value in row.items()} for row in shown]
        print_rows(shown, {column: column for column in columns}, as_json=json)

    run_command(main())


@token.command("rotate")
def rotate(
    token: TokenArgument,
    overlap_hours: Annotated[float, typer.Option(min=0, max=720, help="How long the old one counts on.")] = 24.0,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Issue a token that may do the same, and let the old one end after an overlap.

    Example: telemetry token rotate t_00c0ffee00c0ffee --overlap-hours 2
    """

    async def main() -> None:
        from telemetry.access.tokens import MachineTokens

        async with open_pool(config_of(config)) as pool:
            overlap = timedelta(hours=overlap_hours)
            issued = await MachineTokens(pool).rotate(parse_key("token", token), overlap=overlap, by_operator=True)
        _print_issued(issued, as_json=json)

    run_command(main())


@token.command("revoke")
def revoke(token: TokenArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """End a token: it is unknown from the next request on, and what it streams is broken off.

    Example: telemetry token revoke t_00c0ffee00c0ffee
    """

    async def main() -> None:
        from telemetry.access.tokens import MachineTokens

        async with open_pool(config_of(config)) as pool:
            await MachineTokens(pool).revoke(parse_key("token", token), by_operator=True)
        print_result({"token": token, "revoked": True}, f"{token} revoked", as_json=json)

    run_command(main())


@account.command("invite")
def invite(
    owner: ForOwner = None,
    member: ForMember = None,
    recipient: ForRecipient = None,
    operator: ForOperator = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Print a code with which one person signs up for somebody who exists. It counts once, for 7 days.

    Example: telemetry account invite --recipient example-installer
    """

    async def main() -> None:
        from telemetry.access.claims import Claims

        settings = config_of(config)
        holder = await _holder(settings, owner, member, recipient, operator=operator)
        async with open_pool(settings) as pool:
            code, until = await Claims(pool).invite(holder)
        print_result({"code": code, "for": shown_holder(holder), "expires_at": until}, code, as_json=json)

    run_command(main())


@asynccontextmanager
async def open_pool(config: "Config") -> AsyncIterator["Pool"]:
    """A connection of the role of accounts and tokens."""
    from telemetry.store.connection import connector
    from telemetry.store.keystore import open_keystore, role_password
    from telemetry.views.pool import Pool

    role, keystore = "telemetry_access", open_keystore(config.data_dir)
    connect = connector(database_dsn(config), user=role, password=role_password(keystore, role))
    pool = Pool(connect, size=1)
    try:
        yield pool
    finally:
        await pool.close()


async def _holder(
    config: "Config", owner: str | None, member: str | None, recipient: str | None, *, operator: bool
) -> "Holder":
    from telemetry.access.records import Holder

    if sum((owner is not None, recipient is not None, operator)) != 1:
        raise InputError("name one of --owner, --recipient and --operator")
    if member is not None and owner is None:
        raise InputError("--member goes with --owner")
    if owner is not None:
        member_key = None if member is None else parse_key("member", member)
        return Holder(Role.OWNER, parse_key("owner", owner), member_key)
    if recipient is None:
        return Holder(Role.OPERATOR)
    async with open_recipients(config) as recipients:
        found = await recipients.find(which_recipient(recipient))
    return Holder(Role.RECIPIENT, recipient_key=found.recipient_key)


def shown_holder(holder: "Holder") -> str:
    """For whom, by key."""
    if holder.member_key is not None:
        return format_key("member", holder.member_key)
    return holder.role.value if holder.role is Role.OPERATOR else format_key(holder.role.value, holder.key)


def shown_token(token: "MachineToken") -> dict[str, Any]:
    """A token for people and programs, without its secret."""
    purposes, successor = token.purposes, token.successor_key
    return {
        "token": format_key("token", token.token_key),
        "for": shown_holder(token.holder),
        "scopes": " ".join(sorted(token.scopes)),
        "purposes": "all" if purposes is None else " ".join(sorted(purposes)),
        "issued_at": token.issued_at,
        "expires_at": token.expires_at,
        "last_used_on": None if token.last_used_on is None else token.last_used_on.isoformat(),
        "revoked": token.revoked_at is not None,
        "successor": None if successor is None else format_key("token", successor),
    }


def _print_issued(issued: "IssuedToken", *, as_json: bool) -> None:
    print_result(shown_token(issued.token) | {"secret": issued.secret}, issued.secret, as_json=as_json)
