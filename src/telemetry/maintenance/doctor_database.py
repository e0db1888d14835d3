"""The doctor's look at PostgreSQL: roles, schema, what makes a commit durable, partitions, clock."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg

from telemetry.errors import StoreError
from telemetry.maintenance.doctor import Finding, fail, ok, skipped, warn
from telemetry.store.connection import Connect
from telemetry.store.migrate import DATABASES, AdminConnect, pending

_OLDEST_VERSION: Final = 150_000
_CLOCK_TOLERANCE_S: Final = 1.0
_MANY_WAL_BYTES: Final = 16 * 2**30
# What must be on for an acknowledged message to be there after a power cut, and what it costs when it is not.
_DURABLE: Final = {
    "fsync": "a power cut may lose or damage everything",
    "full_page_writes": "a power cut may damage tables",
    "synchronous_commit": "a power cut may lose messages that were acknowledged",
}
_STATE: Final = """
select current_setting('server_version_num')::int as version,
       extract(epoch from clock_timestamp())::float8 as now,
       current_setting('max_connections')::int as connections,
       (select count(*) from pg_stat_activity where backend_type = 'client backend') as connected
"""
_PARTITIONS: Final = """
select count(*) filter (where c.relname >= to_char(now() at time zone 'UTC', '"hot_"YYYYMMDDHH24')) as ahead,
       count(*) as all
from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = to_regclass('readings.hot') and c.relname like 'hot%'
"""
_WAL: Final = "select coalesce(sum(size), 0)::bigint from pg_ls_waldir()"


async def check_roles(connects: Mapping[str, Connect]) -> list[Finding]:
    """Each role can log in with its password, and none is superuser or passes row-level security."""
    findings = []
    for role, connect in connects.items():
        try:
            connection = await connect()
        except StoreError as error:
            findings.append(fail("database roles", f"{role}: {error.args[0]}", error.remedy))
            continue
        try:
            strong = await connection.fetchval(
                "select rolsuper or rolbypassrls from pg_roles where rolname = current_user"
            )
        finally:
            await connection.close()
        if strong:
            findings.append(
                fail("database roles", f"{role} passes row-level security", "ALTER ROLE … NOSUPERUSER NOBYPASSRLS")
            )
    return findings or [ok("database roles", f"all {len(connects)} can log in and none is superuser")]


async def check_server(connect: Connect) -> list[Finding]:
    """Version, durability, connections and clock of the server, as any role sees them."""
    connection = await connect()
    try:
        asked = time.time()
        state = await connection.fetchrow(_STATE)
        answered = time.time()
        settings = {name: await connection.fetchval("select current_setting($1)", name) for name in _DURABLE}
        checksums = await connection.fetchval("select current_setting('data_checksums', true)")
    finally:
        await connection.close()
    findings = [_version(state["version"]), *_durable(settings, checksums)]
    findings.append(_clock(state["now"], asked, answered))
    free = state["connections"] - state["connected"]
    if free < 10:
        findings.append(warn("database", f"only {free} connections are free", "raise max_connections"))
    return findings


def _version(number: int) -> Finding:
    told = f"PostgreSQL {number // 10_000}.{number % 10_000}"
    if number < _OLDEST_VERSION:
        return fail("database", told, "use version 15 or newer")
    return ok("database", told)


def _durable(settings: Mapping[str, str], checksums: str | None) -> list[Finding]:
    findings = [
        fail("durability", f"{name} is {value}: {_DURABLE[name]}", f"set {name} = on")
        for name, value in settings.items()
        if value in {"off", "local"}
    ]
    if checksums == "off":
        findings.append(warn("durability", "data checksums are off", "pg_checksums --enable while it is stopped"))
    return findings or [ok("durability", "commits wait for the disk, pages have checksums")]


def _clock(server: float, asked: float, answered: float) -> Finding:
    """The server's clock must lie between our asking and its answering."""
    difference = max(asked - server, server - answered, 0.0)
    if difference > _CLOCK_TOLERANCE_S:
        return fail(
            "database clock",
            f"differs from ours by {difference:.1f} s: partitions and time limits would disagree",
            "synchronise both machines with NTP",
        )
    return ok("database clock", "agrees with ours")


async def check_schema(admin: AdminConnect | None, connect: Connect) -> list[Finding]:
    """Migrations, the plan's version, partitions ahead of time. ``admin`` sees more; None leaves that out."""
    findings = []
    connection = await connect()
    try:
        version = await connection.fetchval("select version from consent.state")
        partitions = await connection.fetchrow(_PARTITIONS)
    finally:
        await connection.close()
    findings.append(ok("plan", f"version {version}"))
    if partitions["ahead"] < 2:
        findings.append(
            warn(
                "partitions",
                f"{partitions['ahead']} hourly partitions from now on",
                "the running service makes them; is it running?",
            )
        )
    else:
        findings.append(ok("partitions", f"{partitions['ahead']} from now on, {partitions['all']} in all"))
    return [*findings, *(await _as_admin(admin) if admin else [skipped("migrations", "needs an administrator")])]


async def _as_admin(admin: AdminConnect) -> Sequence[Finding]:
    findings = []
    for database in DATABASES:
        connection = await admin(database)
        try:
            missing = await pending(connection, database)
            if missing:
                findings.append(fail("migrations", f"{database} lacks {len(missing)}", "run `telemetry migrate`"))
            elif database == DATABASES[0]:
                findings.append(await _wal(connection))
        finally:
            await connection.close()
    if not any(finding.check == "migrations" for finding in findings):
        findings.append(ok("migrations", "all are applied"))
    return findings


async def _wal(connection: Any) -> Finding:
    try:
        size = int(await connection.fetchval(_WAL))
    except asyncpg.InsufficientPrivilegeError:
        return skipped("write-ahead log", "its size needs pg_monitor")
    told = f"{size / 2**20:.0f} MiB"
    if size > _MANY_WAL_BYTES:
        return warn("write-ahead log", told, "look for abandoned replication slots and a failing archive_command")
    return ok("write-ahead log", told)
