"""Row-level security of the role of the views, on its own: raw statements, without the code above it.

Every predicate of the policies is removed once, and what can be seen must then differ (rule 18).
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from telemetry.store.sql import migrations
from tests.support import consents
from tests.support.predicates import apply, mutations
from tests.support.store import Store

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LOOKER, OTHER, CLOSED = 1, 2, 3

# Who looks: settings of the session, by name.
SESSIONS = {
    "unset": {},
    "empty": {"recipient": "", "purpose": "", "owner": "", "scope": ""},
    "looker": {"recipient": "1", "purpose": "maintenance"},
    "looker, no purpose": {"recipient": "1"},
    "looker, one owner": {"recipient": "1", "purpose": "maintenance", "scope": "{1}"},
    "closed": {"recipient": "3", "purpose": "maintenance"},
    "owner 1": {"owner": "1"},
    "erased owner 6": {"owner": "6"},
    "owner and recipient": {"owner": "2", "recipient": "1", "purpose": "maintenance"},
}
TABLES = {
    "consent.active_grant": "grant_key",
    "consent.recipient": "recipient_key",
    "consent.policy": "policy",
    "consent.relation": "(owner_key, recipient_key)",
    "consent.owner": "owner_key",
    "consent.restriction": "owner_key",
    "consent.objection": "(owner_key, purpose, coalesce(recipient_key, 0))",
    "consent.site": "site_key",
    "consent.device": "device_key",
    "consent.site_place": "site_key",
    "consent.site_label": "(recipient_key, site_key)",
    "readings.hot": "(device_key, ac_power_w)",
    "readings.late": "(device_key, ac_power_w)",
    "readings.series": "(device_key, amount)",
}
# What each row of readings is told by: how many minutes ago it was measured.
MINUTES_AGO = (30, 90, 150, 15 * 1440)


async def seed(admin: Any) -> None:
    """One home for each reason to see nothing of it; owner k has site 10k and inverter 100k."""
    await consents.clear(admin)
    now = await admin.fetchval("SELECT date_trunc('minute', now())")
    await admin.execute("INSERT INTO consent.policy (policy, expires_at) VALUES ('old', now() - interval '1 s')")
    for key, closed_at in ((LOOKER, None), (OTHER, None), (CLOSED, now)):
        await consents.add_recipient(admin, key, closed_at)
    tenures = {12: {"tenure_from": now - 2 * HOUR, "tenure_until": now - HOUR}}
    for owner in range(1, 15):
        await consents.add_owner(admin, owner, now if owner == 6 else None)
        await consents.add_site(admin, 10 * owner, owner, **tenures.get(owner, {}))
        await consents.add_device(admin, 100 * owner, 10 * owner)
    await consents.add_site(admin, 11, 1)  # not granted
    await consents.add_device(admin, 110, 11)
    await consents.add_device(admin, 101, 10, kind=2)  # not granted
    terms: dict[int, dict[str, Any]] = {
        1: {"sites": [10], "kinds": [1], "place": "cell5", "data_from": now - 10 * DAY},
        3: {"purpose": "billing", "place": "cell5"},
        4: {"start": now + HOUR},
        5: {"until": now},
        7: {"policy": "old"},
        10: {"history": HOUR},
        12: {"place": "region"},
        14: {"place": "withheld"},
    }
    for owner in range(1, 15):
        recipient = OTHER if owner == 2 else LOOKER
        await consents.add_grant(admin, owner, owner, recipient, **{"place": "cell5"} | terms.get(owner, {}))
    await consents.add_grant(admin, 20, 1, CLOSED)
    await admin.execute(
        "INSERT INTO consent.restriction (owner_key, from_at, lifted_at)"
        " VALUES (8, $1, NULL), (11, $1, $2), (2, $1, $2)",
        now - 3 * HOUR,
        now - 2 * HOUR,
    )
    await admin.execute(
        "INSERT INTO consent.objection (owner_key, purpose, recipient_key) VALUES (9, 'maintenance', NULL),"
        " (1, 'billing', NULL), (1, 'maintenance', 2), (2, 'maintenance', NULL)"
    )
    for site in [*range(10, 150, 10), 11]:
        for recipient in (LOOKER, OTHER):
            await admin.execute(
                "INSERT INTO consent.site_label (recipient_key, site_key, granted, label) VALUES ($1, $2, 5, 1)",
                recipient,
                site,
            )
    for device in [*range(100, 1500, 100), 101, 110]:
        for minutes in MINUTES_AGO:
            for table in ("hot", "late")[minutes > 1440 :]:
                at = now - timedelta(minutes=minutes)
                await consents.add_reading(admin, table, device, at, ac_power_w=float(minutes))
            await consents.add_window(admin, device, at - timedelta(minutes=5), amount=minutes)
        # Twenty minutes to two hours ago: longer than what lies before a tenure, a grant or a restriction.
        await consents.add_window(admin, device, now - 2 * HOUR - timedelta(minutes=10), amount=1, resolution=3)


async def seen_by(connection: Any, settings: dict[str, str]) -> dict[str, set[str]]:
    """Table → what a session with these settings reads of it."""
    async with connection.transaction():
        for name, value in settings.items():
            await connection.execute("SELECT set_config($1, $2, true)", f"telemetry.{name}", value)
        return {
            table: {row[0] for row in await connection.fetch(f"SELECT ({key})::text FROM {table}")}
            for table, key in TABLES.items()
        }


async def may_record(connection: Any, settings: dict[str, str], recipient: int, owner: int, purpose: str) -> bool:
    """Whether the session may say that this recipient read of this owner."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        for name, value in settings.items():
            await connection.execute("SELECT set_config($1, $2, true)", f"telemetry.{name}", value)
        await connection.execute(
            "INSERT INTO audit.read (recipient_key, owner_key, purpose, way, fields, resolution, from_at, to_at)"
            " VALUES ($1, $2, $3, 'view', '{}', 2, now(), now())",
            recipient,
            owner,
            purpose,
        )
    except Exception as error:
        return getattr(error, "sqlstate", "") != "42501"
    finally:
        await transaction.rollback()
    return True


RECORDS = [(1, 1, "maintenance"), (2, 1, "maintenance"), (1, 1, "billing"), (1, 2, "maintenance")]


async def everything(connection: Any) -> dict[str, Any]:
    """All that every session reads and may record."""
    found: dict[str, Any] = {name: await seen_by(connection, settings) for name, settings in SESSIONS.items()}
    found["records"] = {
        (name, *record): await may_record(connection, settings, *record)
        for name, settings in SESSIONS.items()
        for record in RECORDS
    }
    return found


@pytest_asyncio.fixture
async def seeded(store: Store) -> AsyncIterator[Store]:
    admin = await store.admin()
    await seed(admin)
    yield store
    await consents.clear(admin)


def _rows(*wanted: tuple[int, tuple[int, ...]]) -> set[str]:
    return {f"({device},{minutes})" for device, several in wanted for minutes in several}


RECENT = (30, 90, 150)


class TestWhatIsSeen:
    async def test_a_recipient_sees_what_was_granted_and_nothing_else(self, seeded: Store) -> None:
        seen = await seen_by(await seeded.connect("views"), SESSIONS["looker"])
        shown = {1, 10, 11, 12, 13, 14}
        assert seen["consent.device"] == {str(100 * owner) for owner in shown}
        assert seen["consent.site"] == {str(10 * owner) for owner in shown}
        assert seen["consent.site_place"] == {str(10 * owner) for owner in shown - {14}}
        assert seen["consent.site_label"] == {f"(1,{10 * owner})" for owner in shown - {12, 14}}
        partly = [(1000, (30,)), (1100, (30, 90)), (1200, (90,))]
        assert seen["readings.hot"] == _rows((100, RECENT), (1300, RECENT), (1400, RECENT), *partly)
        old = [(1100, (30, 90, MINUTES_AGO[3])), (1200, (90,)), (1000, (30,)), (100, RECENT)]
        assert seen["readings.late"] == _rows((1300, MINUTES_AGO), (1400, MINUTES_AGO), *old)
        edge = {f"({device},1)" for device in (100, 1200, 1300, 1400)}  # 1100: partly measured while restricted
        assert seen["readings.series"] == seen["readings.late"] | edge

    @pytest.mark.parametrize("session", ["unset", "empty", "looker, no purpose", "closed", "erased owner 6"])
    async def test_without_a_right_there_is_nothing(self, seeded: Store, session: str) -> None:
        seen = await seen_by(await seeded.connect("views"), SESSIONS[session])
        private = {table: rows for table, rows in seen.items() if table not in {"consent.recipient", "consent.policy"}}
        if session != "closed":
            private = {t: r for t, r in private.items() if t != "consent.relation"}
            private |= {"consent.owner": private["consent.owner"] - {"6"}}
        else:
            private = {table: private[table] for table in TABLES if "readings" in table or "site" in table}
        assert set().union(*private.values()) == set()

    async def test_an_owner_sees_the_own_and_nothing_else(self, seeded: Store) -> None:
        seen = await seen_by(await seeded.connect("views"), SESSIONS["owner 1"])
        assert seen["consent.device"] == {"100", "101", "110"}
        assert seen["readings.late"] == _rows(*((device, MINUTES_AGO) for device in (100, 101, 110)))
        assert seen["readings.series"] == _rows(*((device, (1, *MINUTES_AGO)) for device in (100, 101, 110)))
        assert seen["consent.owner"] == {"1"}
        assert seen["consent.active_grant"] == set()

    async def test_one_records_the_own_reads_alone(self, seeded: Store) -> None:
        connection = await seeded.connect("views")
        allowed = [record for record in RECORDS if await may_record(connection, SESSIONS["looker"], *record)]
        assert allowed == [(1, 1, "maintenance")]


# --- mutation ----------------------------------------------------------------------------------------------------


def text_of_views() -> str:
    """The migration that makes the policies, with the function that a later one made anew."""
    text, anew = (
        next(one.text for one in migrations("telemetry") if one.name.endswith(name)) for name in ("_views", "_scope")
    )
    function = anew[anew.index("CREATE FUNCTION consent.grants_in_force()") :].strip()
    start = text.index("CREATE FUNCTION consent.grants_in_force()")
    return text[:start] + function + text[text.index("$$;", start) + 3 :]


def test_every_predicate_is_among_the_mutations() -> None:
    assert len(mutations(text_of_views())) == text_of_views().count("-- predicate: ")


@pytest.mark.parametrize("mutation", mutations(text_of_views()))
async def test_without_a_predicate_something_else_is_seen(seeded: Store, mutation: str) -> None:
    admin, connection = await seeded.admin(), await seeded.connect("views")
    before = await everything(connection)
    original, changed = mutations(text_of_views())[mutation]
    await admin.execute("SET ROLE telemetry_owner")
    await apply(admin, changed)
    try:
        assert await everything(connection) != before
    finally:
        await apply(admin, original)
        await admin.execute("RESET ROLE")
    assert await everything(connection) == before
