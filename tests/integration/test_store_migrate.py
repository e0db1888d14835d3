"""Migrations: the same schema however often they run; changed history is refused."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.errors import MigrationError
from telemetry.store.connection import connector
from telemetry.store.migrate import DATABASES, ROLES, migrate, pending, scram_verifier
from telemetry.store.readings import PostgresSink
from telemetry.store.sql import migrations, sql_root
from tests.support.postgres import temporary_postgres
from tests.support.store import PASSWORD, batch, this_hour_us

# Everything that makes a schema: columns, constraints, indexes, functions, policies, privileges, owners.
DESCRIBE = """
SELECT 'relation', n.nspname, c.relname, c.relkind::text, pg_get_userbyid(c.relowner), c.relrowsecurity::text,
    c.relforcerowsecurity::text, coalesce(c.relacl::text, ''), coalesce(c.reloptions::text, '')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
UNION ALL SELECT 'column', n.nspname, c.relname, a.attname, a.attnum::text, format_type(a.atttypid, a.atttypmod),
    a.attnotnull::text, coalesce(a.attacl::text, ''), coalesce(pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped
UNION ALL SELECT 'constraint', n.nspname, r.conrelid::regclass::text, r.conname, pg_get_constraintdef(r.oid),
    '', '', '', ''
FROM pg_constraint r JOIN pg_namespace n ON n.oid = r.connamespace
UNION ALL SELECT 'function', n.nspname, p.oid::regprocedure::text, pg_get_functiondef(p.oid),
    pg_get_userbyid(p.proowner), p.prosecdef::text, coalesce(p.proacl::text, ''),
    coalesce(p.proconfig::text, ''), ''
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.prokind <> 'a'
UNION ALL SELECT 'policy', schemaname, tablename, policyname, roles::text, cmd, coalesce(qual, ''),
    coalesce(with_check, ''), permissive FROM pg_policies
UNION ALL SELECT 'schema', nspname, pg_get_userbyid(nspowner), coalesce(nspacl::text, ''), '', '', '', '', ''
FROM pg_namespace
UNION ALL SELECT 'database', datname, pg_get_userbyid(datdba), coalesce(datacl::text, ''), '', '', '', '', ''
FROM pg_database WHERE datname = current_database()
"""
OURS = ("vault", "consent", "readings", "audit", "keys", "migrations", "public")


@pytest.fixture
async def server(migrated: EmbeddedPostgres) -> AsyncIterator[EmbeddedPostgres]:
    await drop_databases(migrated)
    yield migrated
    await drop_databases(migrated)
    await migrate(opener(migrated), {})


def opener(server: EmbeddedPostgres) -> Any:
    return lambda database: asyncpg.connect(server.dsn(database))


async def drop_databases(server: EmbeddedPostgres) -> None:
    admin = await asyncpg.connect(server.dsn())
    for database in DATABASES:
        await admin.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
    await admin.close()


async def schema(server: EmbeddedPostgres) -> dict[str, set[tuple[str, ...]]]:
    described = {}
    for database in DATABASES:
        connection = await asyncpg.connect(server.dsn(database))
        rows = await connection.fetch(DESCRIBE)
        described[database] = {tuple(row) for row in rows if row[0] == "database" or row[1] in OURS}
        await connection.close()
    return described


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(sql_root(), tmp_path / "sql")
    return tmp_path / "sql"


async def test_from_scratch_and_run_again_give_the_same_schema(server: EmbeddedPostgres) -> None:
    first = await migrate(opener(server), {})
    described = await schema(server)
    everything = tuple(f"{d}/{m.name}" for d in DATABASES for m in migrations(d))
    assert (first.applied, first.present) == (everything, ())
    again = await migrate(opener(server), {})
    assert (again.applied, again.present) == ((), everything)
    assert await schema(server) == described
    await drop_databases(server)
    await migrate(opener(server), {})  # roles exist this time
    assert await schema(server) == described


async def test_one_migration_after_the_other_gives_the_same_schema(server: EmbeddedPostgres, copied: Path) -> None:
    await migrate(opener(server), {})
    at_once = await schema(server)
    await drop_databases(server)
    files = sorted((copied / "migrations").glob("*/*.sql"), key=lambda path: (-len(path.parent.name), path.name))
    aside = copied.parent / "aside"
    for path in files:
        target = aside / path.relative_to(copied)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    for path in files:
        shutil.copy(aside / path.relative_to(copied), path)
        await migrate(opener(server), {}, root=copied)
    assert await schema(server) == at_once


async def test_several_at_once_wait_for_one_another(server: EmbeddedPostgres) -> None:
    reports = await asyncio.gather(*(migrate(opener(server), dict.fromkeys(ROLES, "made-up")) for _ in range(3)))
    assert sorted(bool(report.applied) for report in reports) == [False, False, True]


async def test_a_managed_servers_administrator_is_enough() -> None:
    """CREATEDB and CREATEROLE, no superuser, as hosted PostgreSQL gives them."""
    async with temporary_postgres() as server:
        admin = await asyncpg.connect(server.dsn())
        await admin.execute("CREATE ROLE manager LOGIN CREATEDB CREATEROLE PASSWORD 'made-up'")
        await admin.close()

        async def connect(database: str) -> Any:
            return await asyncpg.connect(server.dsn(database, "manager", "made-up"))

        assert (await migrate(connect, dict.fromkeys(ROLES, PASSWORD))).applied
        assert not (await migrate(connect, dict.fromkeys(ROLES, PASSWORD))).applied
        sink = PostgresSink(connector(server.dsn("telemetry", "telemetry_ingest", PASSWORD)))
        assert (await sink.write(batch({"ts": this_hour_us(), "device_key": 1}))).stored == 1
        await sink.close()


async def test_a_changed_earlier_migration_is_refused(server: EmbeddedPostgres, copied: Path) -> None:
    await migrate(opener(server), {}, root=copied)
    path = next((copied / "migrations/telemetry").glob("0003*"))
    path.write_text(path.read_text() + "\n-- harmless\n")
    with pytest.raises(MigrationError, match=r"0003_readings was changed"):
        await migrate(opener(server), {}, root=copied)


async def test_a_missing_earlier_migration_is_refused(server: EmbeddedPostgres, copied: Path) -> None:
    await migrate(opener(server), {}, root=copied)
    max((copied / "migrations/telemetry").glob("*.sql")).unlink()
    with pytest.raises(MigrationError, match="not among the migrations on disk"):
        await migrate(opener(server), {}, root=copied)
    next((copied / "migrations/telemetry").glob("0002*")).unlink()
    with pytest.raises(MigrationError, match="without gaps"):
        await migrate(opener(server), {}, root=copied)


async def test_a_migration_that_fails_leaves_nothing(server: EmbeddedPostgres, copied: Path) -> None:
    await migrate(opener(server), {}, root=copied)
    before = await schema(server)
    path = copied / "migrations/telemetry/0999_x.sql"
    number = len(migrations("telemetry")) + 1
    path = path.with_name(f"{number:04}_broken.sql")
    path.write_text("CREATE TABLE consent.half (); SELECT 1 / 0;")
    with pytest.raises(MigrationError, match="22012"):
        await migrate(opener(server), {}, root=copied)
    assert await schema(server) == before
    connection = await asyncpg.connect(server.dsn("telemetry"))
    assert await pending(connection, "telemetry", root=copied) == (path.stem,)
    await connection.close()


def test_passwords_are_set_as_scram_verifiers() -> None:
    """Password, salt and iteration count of RFC 7677, section 3."""
    verifier = scram_verifier("pencil", salt=b"[m\x99h\x9d\x125\x8e\xec\xa0K\x14\x126\xfa\x81")
    assert verifier == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
        ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    for unusable in ("", "naïve", "two\nlines"):
        with pytest.raises(MigrationError):
            scram_verifier(unusable)


async def test_passwords_of_unknown_roles_are_refused(server: EmbeddedPostgres) -> None:
    with pytest.raises(MigrationError, match="no such role"):
        await migrate(opener(server), {"postgres": "made-up"})
