"""`telemetry quarantine`: messages that could not be accepted: look, try again, or give up."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from telemetry.errors import InputError

if TYPE_CHECKING:
    from telemetry.config import Config
    from telemetry.store.quarantine import QuarantineStore

quarantine = typer.Typer(help="Messages that could not be accepted.", no_args_is_help=True)

KeysArgument = Annotated[list[int] | None, typer.Argument(help="Numbers of messages, as `list` prints them.")]
ReasonOption = Annotated[str | None, typer.Option(help="Those held for this reason.")]
CodecOption = Annotated[str | None, typer.Option(help="Those of this codec.")]
GatewayOption = Annotated[str | None, typer.Option(help="Those of this gateway (g_…).")]
AllOption = Annotated[bool, typer.Option("--all", help="All that are held.")]

_PAGE = 1000
_COLUMNS = {
    "number": "number",
    "reason": "reason",
    "codec": "codec",
    "readings": "readings",
    "size_bytes": "bytes",
    "seen": "seen",
    "gateway": "gateway",
    "received_hour": "received",
    "state": "state",
}
_SUMMARY = {name: name for name in ("reason", "codec", "state", "messages", "readings", "seen")}


@quarantine.command("list")
def list_messages(
    *,
    reason: ReasonOption = None,
    codec: CodecOption = None,
    gateway: GatewayOption = None,
    messages: Annotated[bool, typer.Option(help="Each message instead of their numbers by reason.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many messages.", min=1)] = _PAGE,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """How many messages are in quarantine, by reason, codec and state; with --messages each held one.

    Example: telemetry quarantine list --messages --reason malformed
    """

    async def main() -> None:
        async with _opened(config_of(config)) as store:
            if not messages and not (reason or codec or gateway):
                print_rows(await store.summary(), _SUMMARY, as_json=json)
                return
            rows = await store.messages(reason=reason, codec=codec, gateway_key=_gateway_key(gateway), limit=limit)
            print_rows([_shown(row) for row in rows], _COLUMNS, as_json=json)

    run_command(main())


@quarantine.command("show")
def show(
    number: Annotated[int, typer.Argument(help="The message's number.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """All that is known of one message but its content, which stays sealed.

    Example: telemetry quarantine show 17
    """

    async def main() -> None:
        async with _opened(config_of(config)) as store:
            rows = await store.messages(state=None, after=number - 1, limit=1)
        if not rows or rows[0]["quarantine_key"] != number:
            raise InputError("there is no message of this number", remedy="`telemetry quarantine list --messages`")
        shown = _shown(rows[0])
        print_result(shown, "\n".join(f"{key}: {value}" for key, value in shown.items()), as_json=json)

    run_command(main())


@quarantine.command("retry")
def retry(
    *,
    numbers: KeysArgument = None,
    reason: ReasonOption = None,
    codec: CodecOption = None,
    gateway: GatewayOption = None,
    everything: AllOption = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Try held messages again, after a codec was mended, a gateway enrolled or a limit raised.

    Safe to repeat: what is stored already counts as duplicate. Needs the owners' keys.

    Example: telemetry quarantine retry --reason malformed
    """

    async def main() -> None:
        found = config_of(config)
        async with _opened(found) as store:
            keys = await _selected(store, numbers, (reason, codec, gateway), everything=everything)
            from telemetry.recovery import retry_quarantined

            report = await retry_quarantined(found, store, keys, lambda name: database_dsn(found, name))
        told = report.to_json()
        held = ", ".join(f"{count} {name}" for name, count in told["held"].items()) or "none"
        text = (
            f"{report.tried} tried, {report.recovered} recovered: {report.stored} readings stored,"
            f" {report.duplicate} duplicates; still held: {held}; without a key: {report.unopened}"
        )
        print_result(told, text, as_json=json)

    run_command(main())


@quarantine.command("discard")
def discard(
    *,
    numbers: KeysArgument = None,
    reason: ReasonOption = None,
    codec: CodecOption = None,
    gateway: GatewayOption = None,
    everything: AllOption = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Delete the content of held messages for good. That they came stays counted.

    Example: telemetry quarantine discard --reason too_old --yes
    """

    async def main() -> None:
        async with _opened(config_of(config)) as store:
            keys = await _selected(store, numbers, (reason, codec, gateway), everything=everything)
            if keys and not yes:
                typer.confirm(f"Delete the content of {len(keys)} messages for good?", abort=True, err=True)
            done = await store.settle(keys, "discarded")
        print_result({"discarded": done}, f"{done} discarded", as_json=json)

    run_command(main())


@asynccontextmanager
async def _opened(config: "Config") -> AsyncIterator["QuarantineStore"]:
    from telemetry.store.connection import connector
    from telemetry.store.keystore import open_keystore, role_password
    from telemetry.store.quarantine import QuarantineStore

    role = "telemetry_operator"
    password = role_password(open_keystore(config.data_dir), role)
    connection = await connector(database_dsn(config), user=role, password=password)()
    try:
        yield QuarantineStore(connection)
    finally:
        await connection.close()


async def _selected(
    store: "QuarantineStore",
    numbers: list[int] | None,
    filters: tuple[str | None, str | None, str | None],
    *,
    everything: bool,
) -> list[int]:
    """The held messages that the arguments name; naming none is not naming all."""
    reason, codec, gateway = filters
    if numbers:
        if any(filters) or everything:
            raise InputError("numbers and filters exclude each other", remedy="give one of them")
        return numbers
    if not any(filters) and not everything:
        raise InputError("no message is named", remedy="give numbers, a filter, or --all")
    found: list[int] = []
    while True:
        page = await store.messages(
            reason=reason,
            codec=codec,
            gateway_key=_gateway_key(gateway),
            after=found[-1] if found else 0,
            limit=_PAGE,
        )
        found += [row["quarantine_key"] for row in page]
        if len(page) < _PAGE:
            return found


def _gateway_key(text: str | None) -> int | None:
    return None if text is None else parse_key("gateway", text)


def _shown(row: Any) -> dict[str, Any]:
    gateway = row["gateway_key"]
    shown = {
        "number": row["quarantine_key"],
        "gateway": "unknown" if gateway is None else format_key("gateway", gateway),
    }
    rest = ("reason", "codec", "detail", "readings", "size_bytes", "seen", "received_hour", "state")
    return shown | {name: row[name] for name in rest}
