"""`telemetry keys`: what is wrapped under which key, and how keys are replaced."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, database_dsn, print_result, run_command
from telemetry.cli.progress import CommandProgress
from telemetry.errors import InputError, RegistryError

if TYPE_CHECKING:
    from telemetry.config import Config
    from telemetry.maintenance.rotation import KekRotation

keys = typer.Typer(help="Keys: what is wrapped under which, and how they are replaced.", no_args_is_help=True)
rotate = typer.Typer(help="Replace a key. Can be interrupted and run again.", no_args_is_help=True)
keys.add_typer(rotate, name="rotate")

RecipientArgument = Annotated[str, typer.Argument(help="The recipient's handle.")]
_RESTORE: Final = "restore them from a backup of the database `keys`, or the key-encryption key they are under"


@rotate.command("kek")
def rotate_kek_command(
    resume: Annotated[bool, typer.Option("--resume", help="Only finish a rotation that was broken off.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Replace the key-encryption key, and wrap every stored key anew. The service goes on meanwhile.

    Needed after erasures too: what was deleted survives in old backups until the key it was under is gone.

    Example: telemetry keys rotate kek
    """

    async def main() -> None:
        from telemetry.maintenance.rotation import rotate_kek
        from telemetry.store.keks import kek_places, open_keks

        settings = config_of(config)
        async with _connected(settings, "keys") as connection:
            with CommandProgress("re-wrapping stored keys", unit="rows") as progress:
                done = await rotate_kek(
                    connection,
                    open_keks(settings),
                    kek_places(settings),
                    resume=resume,
                    tell=lambda step, count: progress.advance(count, step.value),
                )
        result = {"rewrapped": done.rewrapped, "unopened": done.unopened, "adopted": done.adopted}
        print_result(result, _told(done), as_json=json)
        if done.unopened:
            raise typer.Exit(1)

    run_command(main())


def _told(done: "KekRotation") -> str:
    if done.unopened:
        return (
            f"{done.rewrapped} rows re-wrapped; {done.unopened} do not open, so the old key stays. Restore them from a"
            " backup of the database `keys`, or delete them if their owners are erased, and run this again."
        )
    if done.adopted:
        return f"done: {done.rewrapped} rows re-wrapped, the old key is gone. Keep a backup of the new one."
    return (
        f"{done.rewrapped} rows re-wrapped. If $TELEMETRY_SECRET_KEK_NEXT is set, give its value to"
        " $TELEMETRY_SECRET_KEK everywhere and unset it."
    )


@rotate.command("recipient")
def rotate_recipient_command(
    recipient: RecipientArgument,
    activate_at: Annotated[
        str | None, typer.Option(help="When new tokens begin: a time with its offset from UTC; now without.")
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Announce a recipient's next key. From the given instant on the recipient sees other tokens.

    Example: telemetry keys rotate recipient sunny-installers --activate-at 2027-01-01T00:00:00Z
    """

    async def main() -> None:
        from telemetry.maintenance.recipient_keys import announce
        from telemetry.store.keks import open_keks

        at = _instant(activate_at) if activate_at else datetime.now(UTC)
        settings = config_of(config)
        recipient_key = await _recipient_key(settings, recipient)
        async with _connected(settings, "keys") as connection:
            made = await announce(connection, open_keks(settings), recipient_key, at)
        result = {"recipient": recipient, "version": made.version, "activates_at": made.activates_at}
        text = (
            f"version {made.version} of the key of {recipient} takes effect at {made.activates_at:%Y-%m-%dT%H:%M:%SZ}"
        )
        print_result(result, text, as_json=json)

    run_command(main())


@keys.command("recipient")
def recipient_command(recipient: RecipientArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Make a recipient's first key, if it has none. It is made at the first read otherwise.

    Example: telemetry keys recipient sunny-installers
    """

    async def main() -> None:
        from telemetry.store.keks import open_keks
        from telemetry.store.keyring import KeyRing

        settings = config_of(config)
        recipient_key = await _recipient_key(settings, recipient)
        async with _connected(settings, "keys") as connection:
            found = await KeyRing(connection, open_keks(settings)).recipient_secret(recipient_key)
        result = {"recipient": recipient, "version": found.version, "next_at": found.next_at}
        print_result(result, f"version {found.version} of the key of {recipient} is in effect", as_json=json)

    run_command(main())


@keys.command("cancel")
def cancel_command(recipient: RecipientArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Take back an announced key that has not taken effect.

    Example: telemetry keys cancel sunny-installers
    """

    async def main() -> None:
        from telemetry.maintenance.recipient_keys import cancel

        settings = config_of(config)
        recipient_key = await _recipient_key(settings, recipient)
        async with _connected(settings, "keys") as connection:
            version = await cancel(connection, recipient_key)
        print_result({"recipient": recipient, "cancelled": version}, f"version {version} is cancelled", as_json=json)

    run_command(main())


@keys.command("settle")
def settle_command(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Destroy recipients' keys that a newer one has replaced. Run it daily where keys are rotated.

    Example: telemetry keys settle
    """

    async def main() -> None:
        from telemetry.maintenance.recipient_keys import settle

        async with _connected(config_of(config), "keys") as connection:
            retired = await settle(connection)
        print_result({"retired": len(retired)}, f"{len(retired)} replaced keys destroyed", as_json=json)

    run_command(main())


@keys.command("status")
def status_command(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show which keys are in use and which are announced. Needs no key.

    Example: telemetry keys status --json
    """

    async def main() -> None:
        from telemetry.maintenance.recipient_keys import key_status
        from telemetry.store.keks import kek_places
        from telemetry.store.keystore import KEK_NEXT
        from telemetry.store.sql import queries

        settings = config_of(config)
        async with _connected(settings, "keys") as connection:
            status: dict[str, Any] = await key_status(connection)
        async with _connected(settings, "operator", "telemetry") as connection:
            rows = await connection.fetch(queries("keys")["handles"])
            handles = {row["recipient_key"]: row["handle"] for row in rows}
        places = kek_places(settings)
        status["staged"] = places is not None and places.has(KEK_NEXT)
        for row in status["recipients"]:
            row["recipient"] = handles.get(row["recipient_key"])
        print_result(status, _status_text(status), as_json=json)

    run_command(main())


def _status_text(status: dict[str, Any]) -> str:
    lines = ["the next key-encryption key is staged: `telemetry keys rotate kek --resume`"] if status["staged"] else []
    lines += [
        f"key-encryption key {row['kek_id']}: {row['state']} since {row['since']:%Y-%m-%d %H:%M}, on"
        f" {row['owners']} owners' and {row['recipients']} recipients' keys"
        for row in status["keks"]
    ]
    for row in status["recipients"]:
        when = "in effect since" if row["in_effect"] else "takes effect at"
        state = "destroyed" if row["state"] == "retired" else f"{when} {row['activates_at']:%Y-%m-%d %H:%M}"
        lines.append(f"recipient {row['recipient']}: version {row['version']} {state}")
    return "\n".join(lines) or "no keys yet"


@keys.command("check")
def check_command(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Open every stored key once, and say how many do not open. Changes nothing.

    Example: telemetry keys check
    """

    async def main() -> None:
        from telemetry.maintenance.recipient_keys import check_keys
        from telemetry.store.keks import open_keks

        settings = config_of(config)
        async with _connected(settings, "keys") as connection:
            with CommandProgress("opening stored keys", unit="rows") as progress:
                found = await check_keys(connection, open_keks(settings), progress.advance)
        text = f"{found.opened} stored keys open"
        if found.unopened:
            text += f"; {found.unopened} do not: {_RESTORE}"
        print_result({"opened": found.opened, "unopened": found.unopened}, text, as_json=json)
        if found.unopened:
            raise typer.Exit(1)

    run_command(main())


@asynccontextmanager
async def _connected(config: "Config", role: str, database: str = "keys") -> AsyncIterator[Any]:
    from telemetry.store.connection import connector
    from telemetry.store.keystore import open_keystore, role_password

    name = f"telemetry_{role}"
    password = role_password(open_keystore(config.data_dir), name)
    async with AsyncExitStack() as stack:
        connection = await connector(database_dsn(config, database), user=name, password=password)()
        stack.push_async_callback(connection.close)
        yield connection


async def _recipient_key(config: "Config", handle: str) -> int:
    from telemetry.store.failures import reported
    from telemetry.store.sql import queries

    async with _connected(config, "operator", "telemetry") as connection:
        with reported("looking up a recipient"):
            key: int | None = await connection.fetchval(queries("keys")["recipient_by_handle"], handle)
    if key is None:
        raise RegistryError("no open recipient has this handle", remedy="`telemetry recipient list`")
    return key


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise InputError("this is not a time with its offset from UTC", remedy="write it like 2027-01-01T00:00:00Z")
    return at
