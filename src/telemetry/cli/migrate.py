"""`telemetry migrate`: keys where there are none, and both databases at this version's schema."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, print_result, run_command
from telemetry.errors import ConfigurationError

if TYPE_CHECKING:
    from telemetry.config import Config
    from telemetry.store.migrate import AdminConnect

# Not in the configuration file: the service runs without an administrator's password and should not lie beside it.
AdminDsnOption = Annotated[
    str | None,
    typer.Option(
        "--admin-dsn",
        envvar="TELEMETRY_ADMIN_DSN",
        help="How an administrator (CREATEDB, CREATEROLE) reaches a PostgreSQL of your own.",
        show_default=False,
    ),
]


def migrate(admin_dsn: AdminDsnOption = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Make keys where there are none, and bring both databases to this version's schema. Safe to repeat.

    The embedded PostgreSQL is started for it where it does not run.

    Example: telemetry migrate --config telemetry.toml
    """

    async def main() -> None:
        from telemetry.store.keystore import FileKeystore, open_keystore, role_password
        from telemetry.store.migrate import ROLES
        from telemetry.store.migrate import migrate as bring_up

        settings = config_of(config)
        keystore = open_keystore(settings.data_dir)
        made_keys = False
        async with _administrator(settings, admin_dsn) as connect:
            if isinstance(keystore, FileKeystore):
                if keystore.exists():
                    keystore.add_passwords()
                else:
                    keystore.create()
                    made_keys = True
            report = await bring_up(connect, {role: role_password(keystore, role) for role in ROLES})
        lines = ["keys made: keep a backup of them, apart from the database's"] if made_keys else []
        lines += [f"applied {name}" for name in report.applied] or ["nothing to apply"]
        result = {"keys_made": made_keys, "applied": report.applied, "present": report.present}
        print_result(result, "\n".join(lines), as_json=json)

    run_command(main())


@asynccontextmanager
async def _administrator(config: "Config", dsn: str | None) -> AsyncIterator["AdminConnect"]:
    """Opens a database by name as administrator."""
    from telemetry.embedded.attach import postgres_in
    from telemetry.embedded.postgres import EmbeddedPostgres
    from telemetry.store.connection import connector

    if not config.embedded:
        if not dsn:
            raise ConfigurationError(
                "a PostgreSQL of your own is migrated by its administrator",
                remedy="give --admin-dsn or set $TELEMETRY_ADMIN_DSN",
            )
        parts = urlsplit(dsn)

        async def outside(database: str) -> Any:
            return await connector(parts._replace(path=f"/{database}").geturl())()

        yield outside
        return

    async def inside(database: str) -> Any:
        return await connector(postgres.dsn(database))()

    running = postgres_in(config.data_dir)
    if running is not None:
        postgres = running
        yield inside
    else:
        async with EmbeddedPostgres(config.data_dir / "postgres") as postgres:
            yield inside
