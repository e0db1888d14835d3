"""What the functions of faster reads tell, on their own: names, what is kept, and whose settings count otherwise.

Every predicate of theirs is removed once, and what is told must then differ.
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from telemetry.store.sql import migrations
from tests.integration import test_view_policies as policies
from tests.support import consents
from tests.support.store import Store

TEXT = next(one.text for one in migrations("telemetry") if one.name.endswith("_views_reads"))
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
LOOKER, OTHER = 1, 2
OWNERS = range(1, 14)
RENEWED = {4, 5, 6, 7, 8, 9, 10}


async def seed(admin: Any) -> tuple[Any, str]:
    """Thirteen homes, twelve of the looker's: the instant and snapshot of an earlier read, and what comes after it."""
    await consents.clear(admin)
    for key in (LOOKER, OTHER):
        await consents.add_recipient(admin, key)
    for owner in OWNERS:
        await consents.add_owner(admin, owner)
        await consents.add_site(admin, owner, owner)
        await consents.add_device(admin, 10 * owner, owner)
        await consents.add_grant(admin, owner, owner, OTHER if owner == 13 else LOOKER)
    now = await admin.fetchval("SELECT now()")
    before, edge = now - 2 * HOUR, now - HOUR
    await consents.add_grant(admin, 50, 5, LOOKER, start=edge)
    await consents.add_grant(admin, 60, 6, LOOKER, until=edge)
    await admin.execute("INSERT INTO consent.restriction VALUES (8, $1, $2)", now - DAY, edge)
    objection = (
        "INSERT INTO consent.objection (owner_key, purpose, recipient_key, withdrawn_at) VALUES ($1, $2, $3, $4)"
    )
    await admin.execute("INSERT INTO consent.restriction VALUES (1, $1, $2)", now - 3 * DAY, now - 2 * DAY)
    await admin.execute(objection, 1, "maintenance", None, now - DAY)
    await admin.execute(objection, 10, "maintenance", None, edge)
    earlier = await admin.fetchval("SELECT pg_current_snapshot()::text")
    await consents.add_grant(admin, 20, 2, OTHER)
    await consents.add_grant(admin, 30, 3, LOOKER, purpose="billing")
    await consents.add_grant(admin, 40, 4, LOOKER, fields=["temperature_c"])
    await admin.execute("INSERT INTO consent.restriction VALUES (7, $1, $2)", now - 2 * DAY, now - DAY)
    await admin.execute(objection, 9, "maintenance", LOOKER, now - DAY)
    await admin.execute(objection, 11, "billing", None, now - DAY)
    await admin.execute(objection, 12, "maintenance", OTHER, now - DAY)
    await admin.execute("UPDATE consent.device SET retired_at = NULL, plan_class = plan_class WHERE device_key = 10")
    return before, earlier


async def renewed(connection: Any, settings: dict[str, str], position: tuple[Any, str]) -> set[int]:
    async with connection.transaction():
        for name, value in settings.items():
            await connection.execute("SELECT set_config($1, $2, true)", f"telemetry.{name}", value)
        rows = await connection.fetch("SELECT consent.renewed_since($1, $2::text::pg_snapshot) AS owner", *position)
        return {row["owner"] for row in rows}


async def named(connection: Any, settings: dict[str, str]) -> tuple[Any, ...]:
    async with connection.transaction():
        for name, value in settings.items():
            await connection.execute("SELECT set_config($1, $2, true)", f"telemetry.{name}", value)
        return tuple(await connection.fetchrow("SELECT * FROM consent.seen_names()"))


@pytest_asyncio.fixture
async def seeded(store: Store) -> AsyncIterator[tuple[Store, tuple[Any, str]]]:
    admin = await store.admin()
    yield store, await seed(admin)
    await consents.clear(admin)


Seeded = tuple[Store, tuple[Any, str]]


async def test_homes_are_renewed_by_what_concerns_the_viewer_alone(seeded: Seeded) -> None:
    connection = await seeded[0].connect("views")
    assert await renewed(connection, policies.SESSIONS["looker"], seeded[1]) == RENEWED
    for session in ("unset", "empty", "looker, no purpose", "closed", "owner and recipient"):
        assert await renewed(connection, policies.SESSIONS[session], seeded[1]) == set()
    now = await connection.fetchrow("SELECT now(), pg_current_snapshot()::text")
    assert await renewed(connection, policies.SESSIONS["looker"], tuple(now)) == set()


async def test_names_are_those_of_what_is_seen(seeded: Seeded) -> None:
    connection = await seeded[0].connect("views")
    devices, sites, owners, epochs = await named(connection, policies.SESSIONS["looker"])
    assert owners == sites == list(range(1, 13))
    assert devices == [10 * owner for owner in owners]
    assert set(epochs) == {1}
    one = await named(connection, policies.SESSIONS["looker, one owner"])
    assert one == ([10], [1], [1], [1])
    for session in ("unset", "looker, no purpose", "closed", "owner 1", "owner and recipient"):
        assert await named(connection, policies.SESSIONS[session]) == ([], [], [], [])


async def test_what_is_kept_is_told_of_devices_that_are_seen_and_rolled_up_under_their_plan(seeded: Seeded) -> None:
    store = seeded[0]
    admin, connection = await store.admin(), await store.connect("views")

    async def kept() -> set[int]:
        async with connection.transaction():
            for name, value in policies.SESSIONS["looker"].items():
                await connection.execute("SELECT set_config($1, $2, true)", f"telemetry.{name}", value)
            rows = await connection.fetch("SELECT device_key FROM consent.kept_since(now() - interval '1 h')")
            return {row["device_key"] for row in rows}

    passed = "UPDATE readings.rollup_pass SET done_as_of = now() - $1::interval, done_since = $2::text::xid8"
    try:
        assert await kept() == set()
        since = str(await admin.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text"))
        await admin.execute(passed, MINUTE, since)
        assert await kept() == {10 * owner for owner in range(1, 13)}
        await admin.execute("UPDATE consent.device SET plan_class = plan_class WHERE device_key = 30")
        assert await kept() == {10 * owner for owner in range(1, 13)} - {30}
        await admin.execute(passed, 2 * HOUR, since)
        assert await kept() == set()
    finally:
        await admin.execute("UPDATE readings.rollup_pass SET done_as_of = NULL, done_since = NULL")


def mutations(kind: str) -> dict[str, tuple[str, str]]:
    """Name → an object of this kind as it is, and without one predicate."""
    found: dict[str, tuple[str, str]] = {}
    for match in policies._OBJECT.finditer(TEXT):
        statement = match[0]
        name = statement.split(" (", 1)[0].split("(", 1)[0].removesuffix(" FOR SELECT TO telemetry_views USING")
        if not statement.startswith(f"CREATE {kind}"):
            continue
        for block in policies._BLOCK.finditer(statement):
            changed = f"{statement[: block.start()]}{block[1]}{block[2]}true{statement[block.end() :]}"
            found[f"{name}: {block[3]}"] = statement, changed
        for line in policies._LINE.finditer(statement):
            if "NOT EXISTS (" not in line[0]:
                changed = f"{statement[: line.start()]}{line[1]}{line[2]}true{statement[line.end() :]}"
                found[f"{name}: {line[4]}"] = statement, changed
    return found


def test_every_predicate_is_among_the_mutations() -> None:
    assert len(mutations("FUNCTION")) + len(mutations("POLICY")) == TEXT.count("-- predicate: ")


@pytest.mark.parametrize("mutation", mutations("FUNCTION"))
async def test_without_a_predicate_of_a_function_something_else_is_told(seeded: Seeded, mutation: str) -> None:
    store, position = seeded
    admin, connection = await store.admin(), await store.connect("views")
    original, changed = mutations("FUNCTION")[mutation]
    await admin.execute("SET ROLE telemetry_owner")
    await policies.apply(admin, changed)
    try:
        assert await renewed(connection, policies.SESSIONS["looker"], position) != RENEWED
    finally:
        await policies.apply(admin, original)
        await admin.execute("RESET ROLE")
    assert await renewed(connection, policies.SESSIONS["looker"], position) == RENEWED


@pytest.mark.parametrize("mutation", mutations("POLICY"))
async def test_without_a_predicate_of_a_policy_something_else_is_seen(store: Store, mutation: str) -> None:
    admin, connection = await store.admin(), await store.connect("views")
    await policies.seed(admin)
    original, changed = mutations("POLICY")[mutation]
    await admin.execute("SET ROLE telemetry_owner")
    await policies.apply(admin, original)  # other tests put back what an earlier migration says
    before = await policies.everything(connection)
    await policies.apply(admin, changed)
    try:
        assert await policies.everything(connection) != before
    finally:
        await policies.apply(admin, original)
        await admin.execute("RESET ROLE")
    assert await policies.everything(connection) == before
    await consents.clear(admin)
