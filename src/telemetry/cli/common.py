"""What every command shares: where its configuration and database are, and how it prints results and errors.

Exit codes: 0 done, 1 done and something was found wrong, 2 not done (one red line says why and what to do).
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

import typer

from telemetry.errors import SupervisorError, TelemetryError
from telemetry.model.shown import key_shown, shown_key

if TYPE_CHECKING:
    from telemetry.config import Config
    from telemetry.store.handover import Handover

T = TypeVar("T")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file; $TELEMETRY_CONFIG without.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
RevealOption = Annotated[
    bool,
    typer.Option("--reveal", help="Open what is sealed. Needs the owners' keys; the owner sees that you looked."),
]

SEALED: Final = "(sealed)"
_TELEMETRY, _KEYS = "telemetry", "keys"


@contextmanager
def reported() -> Iterator[None]:
    """Print a TelemetryError, or all of a group of them, as red lines and end with code 2."""
    try:
        yield
    except TelemetryError as error:
        _print_error(error)
        raise typer.Exit(2) from None
    except BaseExceptionGroup as group:
        ours, others = group.split(TelemetryError)
        if ours is None or others is not None:
            raise  # a defect: the traceback is wanted
        for leaf in _leaves(ours):
            _print_error(leaf)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def config_of(path: Path | None) -> "Config":
    """The configuration that a command was pointed to."""
    from telemetry.config import load_config

    return load_config(path)


def run_command(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; errors end the process as ``reported`` says."""
    with reported():
        return asyncio.run(main)


def database_dsn(config: "Config", database: str = _TELEMETRY) -> str:
    """The address of ``database``, without role or password.

    Raises:
        SupervisorError: the embedded PostgreSQL does not run.

    """
    if config.embedded:
        from telemetry.embedded.attach import postgres_in

        postgres = postgres_in(config.data_dir)
        if postgres is None:
            raise SupervisorError(
                "the embedded PostgreSQL does not run",
                remedy="start the service with `telemetry run`, or name its configuration with --config",
            )
        return postgres.dsn(database, "")
    if database == _KEYS:
        return config.database.keys_dsn or urlsplit(config.database.dsn)._replace(path=f"/{_KEYS}").geturl()
    return config.database.dsn


@asynccontextmanager
async def open_registry(config: "Config", *, owners_keys: bool = False) -> AsyncIterator["Handover"]:
    """The registry as the operator. ``owners_keys`` where owners are added or sealed values are opened."""
    from telemetry.privacy.keys import BlindIndex
    from telemetry.store.connection import connector
    from telemetry.store.handover import Handover
    from telemetry.store.keks import open_keks
    from telemetry.store.keyring import KeyRing
    from telemetry.store.keystore import BLIND_INDEX, open_keystore, role_password

    keystore = open_keystore(config.data_dir)
    async with AsyncExitStack() as stack:

        async def connected(role: str, database: str) -> Any:
            dsn, password = database_dsn(config, database), role_password(keystore, role)
            connection = await connector(dsn, user=role, password=password)()
            stack.push_async_callback(connection.close)
            return connection

        blind = BlindIndex(keystore.secret(BLIND_INDEX))
        ring = None
        if owners_keys:
            ring = KeyRing(await connected("telemetry_keys", _KEYS), open_keks(config))
        yield Handover(await connected("telemetry_operator", _TELEMETRY), blind, ring)


def format_key(kind: str, key: int) -> str:
    """A surrogate key as people handle it: ``o_``, ``s_``, ``g_`` … and 16 hexadecimal digits."""
    return shown_key(kind, key)


def parse_key(kind: str, text: str) -> int:
    """The surrogate key of what ``format_key`` made, or of a plain number.

    Raises:
        InputError: it is neither, or of another kind.

    """
    return key_shown(kind, text)


def print_result(result: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """One result: ``text`` for people, ``result`` for programs."""
    typer.echo(json.dumps(result, default=_plain) if as_json else text)


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, as_json: bool) -> None:
    """A list: JSON with every key, or a table of ``columns`` (key → heading)."""
    if as_json:
        typer.echo(json.dumps(list(rows), default=_plain))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in columns.values():
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_cell(row[key])) for key in columns))
    # Whoever pipes a table wants its lines whole.
    console = Console() if sys.stdout.isatty() else Console(width=240)
    console.print(table if rows else "nothing yet")


def _print_error(error: BaseException) -> None:
    from rich.console import Console

    line = " ".join(f"error: {error}".split())
    Console(stderr=True).print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def _leaves(group: BaseExceptionGroup[TelemetryError]) -> Iterator[TelemetryError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _cell(value: object) -> str:
    if value is None:
        return SEALED
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
