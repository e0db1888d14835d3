"""`telemetry member | restriction | objection`: an owner's household, and what stands against every grant."""

from collections.abc import Mapping
from typing import Annotated

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
from telemetry.cli.sharing import OwnerArgument, open_sharing, recipient_key
from telemetry.model.sharing import MemberRight, SharingPurpose

member = typer.Typer(help="People of an owner's household.", no_args_is_help=True)
restriction = typer.Typer(help="Show nothing of an owner, for a time (GDPR Art. 18).", no_args_is_help=True)
objection = typer.Typer(help="An owner's objection to a purpose (GDPR Art. 21).", no_args_is_help=True)

MemberArgument = Annotated[str, typer.Argument(help="The member's key (m_…).")]
RightOption = Annotated[list[MemberRight] | None, typer.Option("--right", help="What the member may do; repeat.")]
PurposeOption = Annotated[SharingPurpose, typer.Option(help="The purpose objected to.")]
OfRecipient = Annotated[str | None, typer.Option("--recipient", help="Of this one only: handle, or key (r_…).")]


@member.command("add")
def add_member(
    owner: OwnerArgument,
    name: Annotated[str, typer.Option(prompt="Name", help="Sealed. Asked for when left out.")],
    right: RightOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Add a member of the household, with rights of their own.

    Example: telemetry member add o_00c0ffee00c0ffee --right see
    """

    async def main() -> None:
        async with open_sharing(config_of(config)) as sharing, sharing.settling() as settlement:
            key = await settlement.add_member(parse_key("owner", owner), name, right or [])
        shown = format_key("member", key)
        print_result({"member": shown, "member_key": key}, shown, as_json=json)

    run_command(main())


@member.command("list")
def list_members(
    owner: OwnerArgument, reveal: RevealOption = False, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """List the members of a household, by key.

    Example: telemetry member list o_00c0ffee00c0ffee --reveal
    """

    async def main() -> None:
        from telemetry.privacy.keys import Purpose

        settings = config_of(config)
        async with open_sharing(settings) as sharing:
            rows = await sharing.members(parse_key("owner", owner))
        names: Mapping[int, str] = {}
        if reveal and rows:
            async with open_registry(settings, owners_keys=True) as registry:
                subjects = [(row["owner_key"], row["member_key"]) for row in rows]
                names = await registry.reveal(Purpose.MEMBER_NAME, subjects)
        shown = [
            {
                "member": format_key("member", row["member_key"]),
                "name": names.get(row["member_key"]),
                "rights": row["rights"],
                "added_at": row["added_at"],
                "removed": row["removed_at"] is not None,
            }
            for row in rows
        ]
        columns = {"member": "member", "name": "name", "rights": "rights", "added_at": "since", "removed": "removed"}
        print_rows(shown, columns, as_json=json)

    run_command(main())


@member.command("set")
def set_member(
    owner: OwnerArgument,
    member: MemberArgument,
    right: RightOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Give a member these rights and no others.

    Example: telemetry member set o_00c0ffee00c0ffee m_00c0ffee00c0ffee --right see --right share
    """

    async def main() -> None:
        rights = right or []
        async with open_sharing(config_of(config)) as sharing, sharing.settling() as settlement:
            await settlement.set_member(parse_key("owner", owner), parse_key("member", member), rights)
        text = f"{member} may {', '.join(rights) or 'nothing'}"
        print_result({"member": member, "rights": rights}, text, as_json=json)

    run_command(main())


@member.command("remove")
def remove_member(
    owner: OwnerArgument, member: MemberArgument, config: ConfigOption = None, json: JsonOption = False
) -> None:
    """End a member's rights and delete the name.

    Example: telemetry member remove o_00c0ffee00c0ffee m_00c0ffee00c0ffee
    """

    async def main() -> None:
        async with open_sharing(config_of(config)) as sharing, sharing.settling() as settlement:
            await settlement.remove_member(parse_key("owner", owner), parse_key("member", member))
        print_result({"member": member, "removed": True}, f"{member} removed", as_json=json)

    run_command(main())


@restriction.command("begin")
def begin_restriction(owner: OwnerArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """From now on nobody but the owner sees anything. What is measured meanwhile stays unseen by recipients.

    Example: telemetry restriction begin o_00c0ffee00c0ffee
    """

    async def main() -> None:
        async with open_sharing(config_of(config)) as sharing, sharing.settling() as settlement:
            await settlement.restrict(parse_key("owner", owner))
        print_result({"owner": owner, "restricted": True}, f"{owner} is restricted", as_json=json)

    run_command(main())


@restriction.command("lift")
def lift_restriction(owner: OwnerArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """End the restriction: grants count again, for what is measured from now on.

    Example: telemetry restriction lift o_00c0ffee00c0ffee
    """

    async def main() -> None:
        async with open_sharing(config_of(config)) as sharing, sharing.settling() as settlement:
            await settlement.lift(parse_key("owner", owner))
        print_result({"owner": owner, "restricted": False}, f"{owner} is not restricted any more", as_json=json)

    run_command(main())


@restriction.command("list")
def list_restrictions(owner: OwnerArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """List an owner's restrictions, from when to when.

    Example: telemetry restriction list o_00c0ffee00c0ffee
    """

    async def main() -> None:
        async with open_sharing(config_of(config)) as sharing:
            rows = await sharing.restrictions(parse_key("owner", owner))
        shown = [row | {"until": row["lifted_at"] or "it is lifted"} for row in rows]
        print_rows(rows if json else shown, {"from_at": "from", "until": "until"}, as_json=json)

    run_command(main())


@objection.command("make")
def make_objection(
    owner: OwnerArgument,
    purpose: PurposeOption,
    recipient: OfRecipient = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Object to a purpose: no grant for it counts, whatever is granted later.

    Example: telemetry objection make o_00c0ffee00c0ffee --purpose product_improvement
    """

    async def main() -> None:
        async with open_sharing(config_of(config)) as sharing:
            to = await recipient_key(sharing, recipient)
            async with sharing.settling() as settlement:
                await settlement.make_objection(parse_key("owner", owner), purpose, to)
        print_result({"owner": owner, "purpose": purpose}, f"{owner} objects to {purpose}", as_json=json)

    run_command(main())


@objection.command("withdraw")
def withdraw_objection(
    owner: OwnerArgument,
    purpose: PurposeOption,
    recipient: OfRecipient = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """End an objection, as narrow as it was made.

    Example: telemetry objection withdraw o_00c0ffee00c0ffee --purpose product_improvement
    """

    async def main() -> None:
        async with open_sharing(config_of(config)) as sharing:
            to = await recipient_key(sharing, recipient)
            async with sharing.settling() as settlement:
                await settlement.withdraw_objection(parse_key("owner", owner), purpose, to)
        print_result({"owner": owner, "purpose": purpose}, f"{owner} objects to {purpose} no more", as_json=json)

    run_command(main())


@objection.command("list")
def list_objections(owner: OwnerArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """List an owner's objections, ended ones included.

    Example: telemetry objection list o_00c0ffee00c0ffee
    """

    async def main() -> None:
        async with open_sharing(config_of(config)) as sharing:
            rows = await sharing.objections(parse_key("owner", owner))
        shown = [
            row
            | {
                "recipient": "all" if row["recipient_key"] is None else format_key("recipient", row["recipient_key"]),
                "stands": row["withdrawn_at"] is None,
            }
            for row in rows
        ]
        columns = {"purpose": "purpose", "recipient": "recipient", "made_at": "made", "stands": "stands"}
        print_rows(shown, columns, as_json=json)

    run_command(main())
