"""`telemetry recipient`: organisations that may be granted something."""

from typing import Annotated

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, format_key, print_result, print_rows, run_command
from telemetry.cli.sharing import RecipientArgument, open_recipients, which_recipient
from telemetry.model.sharing import RecipientKind

recipient = typer.Typer(help="Who may be granted something.", no_args_is_help=True)


@recipient.command("add")
def add(
    handle: Annotated[str, typer.Argument(help="3 to 64 lower-case letters, digits and '-'; names no person.")],
    kind: Annotated[RecipientKind, typer.Option(help="What it is.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Add a recipient. It sees nothing until an owner grants it something.

    Example: telemetry recipient add example-installer --kind installer
    """

    async def main() -> None:
        async with open_recipients(config_of(config)) as recipients:
            key = await recipients.add(handle, kind)
        shown = format_key("recipient", key)
        print_result({"recipient": shown, "recipient_key": key, "handle": handle}, shown, as_json=json)

    run_command(main())


@recipient.command("list")
def list_recipients(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List recipients, and how many owners share something with each.

    Example: telemetry recipient list --json
    """

    async def main() -> None:
        async with open_recipients(config_of(config)) as recipients:
            rows = await recipients.list()
        shown = [
            {"recipient": format_key("recipient", row["recipient_key"]), "closed": row["closed_at"] is not None} | row
            for row in rows
        ]
        columns = {"recipient": "recipient", "handle": "handle", "kind": "kind", "owners": "owners"}
        print_rows(shown, columns | {"created_at": "since", "closed": "closed"}, as_json=json)

    run_command(main())


@recipient.command("close")
def close(recipient: RecipientArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Close a recipient: from now on no grant to it counts. There is no way back.

    Example: telemetry recipient close example-installer
    """

    async def main() -> None:
        async with open_recipients(config_of(config)) as recipients:
            found = await recipients.find(which_recipient(recipient))
            owners = await recipients.close(found.recipient_key)
        shown = format_key("recipient", found.recipient_key)
        text = f"{shown} closed; {owners} owners had shared something with it"
        print_result({"recipient": shown, "owners": owners}, text, as_json=json)

    run_command(main())
