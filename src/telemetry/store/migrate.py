"""Bring both databases to the schema that this version of the code expects.

Every migration is one transaction and is recorded with its checksum. What was applied must be a prefix of what is
on disk: a changed, renamed or missing earlier migration is refused, never repaired.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from telemetry.errors import MigrationError
from telemetry.store.sql import Migration, migrations

DATABASES: Final = ("telemetry", "keys")
ROLES: Final = (
    "telemetry_ingest",
    "telemetry_rollup",
    "telemetry_views",
    "telemetry_rights",
    "telemetry_operator",
    "telemetry_access",
    "telemetry_keys",
)
_LOCK: Final = 7_310_000_000
_SCRAM_ITERATIONS: Final = 4096  # PostgreSQL's default

AdminConnect = Callable[[str], Awaitable[Any]]
"""Opens a connection to the database of the given name as an administrator (CREATEDB and CREATEROLE suffice)."""

_HISTORY: Final = """
CREATE SCHEMA IF NOT EXISTS migrations;
CREATE TABLE IF NOT EXISTS migrations.applied (
    position integer PRIMARY KEY,
    name text NOT NULL,
    checksum bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What ``migrate`` did: names as ``telemetry/0001_schemas_and_roles``."""

    applied: tuple[str, ...]
    present: tuple[str, ...]


async def migrate(
    admin_connect: AdminConnect,
    passwords: Mapping[str, str],
    *,
    root: Path | None = None,
    maintenance_database: str = "postgres",
) -> MigrationReport:
    """Create the databases and apply what is missing; then set the passwords of the roles named.

    Idempotent. Several may run at once: they wait for one another. Passwords reach the server only as SCRAM
    verifiers, so that neither its log nor its statistics can hold one.

    Raises:
        MigrationError: an earlier migration was changed or is missing, or one failed (and was rolled back).

    """
    if unknown := set(passwords) - set(ROLES):
        raise MigrationError(f"no such role: {', '.join(sorted(unknown))}")
    applied: list[str] = []
    present: list[str] = []
    guard = await admin_connect(maintenance_database)
    try:
        await guard.execute("SELECT pg_advisory_lock($1)", _LOCK)
        for database in DATABASES:
            await _create_database(guard, database)
            connection = await admin_connect(database)
            try:
                done, new = await _bring_up(connection, database, migrations(database, root))
            finally:
                await connection.close()
            present += [f"{database}/{migration.name}" for migration in done]
            applied += [f"{database}/{migration.name}" for migration in new]
        for role, password in passwords.items():
            await guard.execute(f"ALTER ROLE {role} PASSWORD '{scram_verifier(password)}'")
    finally:
        await guard.close()
    return MigrationReport(tuple(applied), tuple(present))


async def pending(connection: Any, database: str, *, root: Path | None = None) -> tuple[str, ...]:
    """The names of migrations that ``database`` still lacks.

    Raises:
        MigrationError: an earlier migration was changed or is missing.

    """
    on_disk = migrations(database, root)
    if await connection.fetchval("SELECT to_regclass('migrations.applied')") is None:
        return tuple(migration.name for migration in on_disk)
    return tuple(migration.name for migration in on_disk[await _applied_count(connection, database, on_disk) :])


async def _create_database(guard: Any, database: str) -> None:
    if await guard.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database):
        return
    await guard.execute(f"CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'")
    await guard.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")


async def _bring_up(
    connection: Any, database: str, on_disk: tuple[Migration, ...]
) -> tuple[tuple[Migration, ...], tuple[Migration, ...]]:
    await connection.execute(_HISTORY)
    if database != DATABASES[0]:  # the roles exist: the first database's first migration made them
        await connection.execute(
            f"ALTER DATABASE {database} OWNER TO telemetry_owner; REVOKE ALL ON DATABASE {database} FROM PUBLIC;"
            " REVOKE ALL ON SCHEMA public FROM PUBLIC"
        )
    count = await _applied_count(connection, database, on_disk)
    for migration in on_disk[count:]:
        await _apply(connection, database, migration)
    if database == DATABASES[0]:
        await connection.execute(
            "GRANT USAGE ON SCHEMA migrations TO telemetry_operator;"
            " GRANT SELECT ON migrations.applied TO telemetry_operator"
        )
    return on_disk[:count], on_disk[count:]


async def _applied_count(connection: Any, database: str, on_disk: tuple[Migration, ...]) -> int:
    applied = await connection.fetch("SELECT position, name, checksum FROM migrations.applied ORDER BY position")
    for index, row in enumerate(applied):
        if index >= len(on_disk) or on_disk[index].name != row["name"]:
            raise MigrationError(
                f"{database}/{row['name']} was applied and is not among the migrations on disk",
                remedy="run the version of the software that wrote this database, or a newer one",
            )
        if on_disk[index].checksum != row["checksum"]:
            raise MigrationError(
                f"{database}/{row['name']} was changed after it had been applied",
                remedy="restore the file; changes go into a new migration",
            )
    return len(applied)


async def _apply(connection: Any, database: str, migration: Migration) -> None:
    try:
        async with connection.transaction():
            if not migration.as_admin:
                await connection.execute("SET LOCAL ROLE telemetry_owner")
            await connection.execute(migration.text)
            await connection.execute("RESET ROLE")
            await connection.execute(
                "INSERT INTO migrations.applied (position, name, checksum) VALUES ($1, $2, $3)",
                migration.position,
                migration.name,
                migration.checksum,
            )
    except asyncpg.PostgresError as error:
        raise MigrationError(
            f"{database}/{migration.name} failed and was rolled back: {error.sqlstate} {error}"
        ) from error


def scram_verifier(password: str, *, salt: bytes | None = None) -> str:
    """What PostgreSQL stores for ``password`` (RFC 5802, RFC 7677; the layout of pg_authid.rolpassword).

    Raises:
        MigrationError: not printable ASCII; SASLprep is not applied here.

    """
    if not password or not password.isascii() or not password.isprintable():
        raise MigrationError("a role's password must be printable ASCII", remedy="let the keystore generate it")
    salt = salt or secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"
