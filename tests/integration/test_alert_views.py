"""Alerts as they are shown: where the class `alert` is granted, cut to its resolution, and nothing else is told.

First row-level security on its own, each predicate removed once; then the frames that recipients and owners get.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
import pytest_asyncio

from telemetry.errors import NotVisible
from telemetry.model.alert import AlertKind
from telemetry.model.sharing import Resolution, SharingPurpose
from telemetry.store.sql import migrations
from telemetry.views.alerts import alerts, read_alerts
from telemetry.views.sight import Viewer
from tests.support import consents
from tests.support.alerts import add_alert
from tests.support.predicates import apply, mutations
from tests.support.store import Store
from tests.support.view_world import DAY, HOUR, MINUTE, ViewWorld, query, us

LOOKER, OTHER = 1, 2
SECOND = timedelta(seconds=1)


# --- row-level security ------------------------------------------------------------------------------------------

SESSIONS: dict[str, dict[str, str]] = {
    "unset": {},
    "looker": {"recipient": "1", "purpose": "maintenance"},
    "owner 1": {"owner": "1"},
    "erased owner 6": {"owner": "6"},
    "owner and recipient": {"owner": "2", "recipient": "1", "purpose": "maintenance"},
}
MINUTES_AGO = {"old": 15 * 1440, "earlier": 150, "later": 90, "open": 30}


async def seed(admin: Any) -> None:
    """One home for each reason to see nothing of it; owner k has site 10k and inverter 100k."""
    await consents.clear(admin)
    now = await admin.fetchval("SELECT date_trunc('minute', now())")
    for key in (LOOKER, OTHER):
        await consents.add_recipient(admin, key)
    tenures = {5: {"tenure_from": now - 2 * HOUR, "tenure_until": now - HOUR}}
    for owner in range(1, 8):
        await consents.add_owner(admin, owner, now if owner == 6 else None)
        await consents.add_site(admin, 10 * owner, owner, **tenures.get(owner, {}))
        await consents.add_device(admin, 100 * owner, 10 * owner)
    await consents.add_site(admin, 11, 1)  # not granted
    await consents.add_device(admin, 110, 11)
    await consents.add_device(admin, 101, 10, kind=2)  # not granted
    terms: dict[int, dict[str, Any]] = {
        1: {"sites": [10], "kinds": [1], "data_from": now - 10 * DAY},
        2: {"classes": ["operation"], "fields": ["alert_bits", "alert_code"]},
        3: {"history": 2 * HOUR},
    }
    for owner in range(1, 8):
        recipient = OTHER if owner == 7 else LOOKER
        await consents.add_grant(admin, owner, owner, recipient, **{"classes": ["alert"]} | terms.get(owner, {}))
    await admin.execute(
        "INSERT INTO consent.restriction (owner_key, from_at, lifted_at) VALUES (4, $1, $2), (1, $3, $4)",
        now - 3 * HOUR,
        now - 2 * HOUR,
        now - 200 * HOUR,
        now - 199 * HOUR,
    )
    for device in [*range(100, 800, 100), 101, 110]:
        for kind, minutes in MINUTES_AGO.items():
            opened = now - timedelta(minutes=minutes)
            closed = None if kind == "open" else opened + MINUTE
            await add_alert(admin, device, opened, closed)


async def seen_by(connection: Any, settings: dict[str, str]) -> set[tuple[int, str]]:
    """(device, which) of the alerts that a session with these settings reads."""
    async with connection.transaction():
        for name, value in settings.items():
            await connection.execute("SELECT set_config($1, $2, true)", f"telemetry.{name}", value)
        rows = await connection.fetch(
            "SELECT device_key, round(extract(epoch FROM now() - opened_at) / 60) AS ago FROM readings.alert"
        )
    names = {minutes: name for name, minutes in MINUTES_AGO.items()}
    return {(row["device_key"], min(names.items(), key=lambda one: abs(one[0] - row["ago"]))[1]) for row in rows}


async def everything(connection: Any) -> dict[str, Any]:
    return {name: await seen_by(connection, settings) for name, settings in SESSIONS.items()}


@pytest_asyncio.fixture
async def seeded(store: Store) -> AsyncIterator[Store]:
    admin = await store.admin()
    await seed(admin)
    yield store
    await consents.clear(admin)


def all_of(device: int, *but: str) -> set[tuple[int, str]]:
    return {(device, name) for name in MINUTES_AGO if name not in but}


async def test_a_recipient_reads_where_the_class_is_granted_and_the_end_is(seeded: Store) -> None:
    seen = await everything(await seeded.connect("views"))
    assert seen["looker"] == (
        all_of(100, "old") | all_of(300, "old", "earlier") | all_of(400, "earlier") | {(500, "later")}
    )
    assert seen["owner 1"] == all_of(100) | all_of(101) | all_of(110)
    assert seen["unset"] == seen["erased owner 6"] == seen["owner and recipient"] == set()


def text_of_alerts() -> str:
    return next(one.text for one in migrations("telemetry") if one.name.endswith("_alerts"))


def test_every_predicate_is_among_the_mutations() -> None:
    assert len(mutations(text_of_alerts())) == text_of_alerts().count("-- predicate: ")


@pytest.mark.parametrize("mutation", mutations(text_of_alerts()))
async def test_without_a_predicate_something_else_is_read(seeded: Store, mutation: str) -> None:
    admin, connection = await seeded.admin(), await seeded.connect("views")
    before = await everything(connection)
    original, changed = mutations(text_of_alerts())[mutation]
    await admin.execute("SET ROLE telemetry_owner")
    await apply(admin, changed)
    try:
        assert await everything(connection) != before
    finally:
        await apply(admin, original)
        await admin.execute("RESET ROLE")
    assert await everything(connection) == before


# --- what is shown -----------------------------------------------------------------------------------------------

OWNER, SITE, INVERTER, BATTERY = 10, 100, 1000, 1001
NOW = datetime.now(UTC).replace(minute=7, second=0, microsecond=0) - HOUR
HOUR_START = NOW.replace(minute=0) - 4 * HOUR
AT = HOUR_START + timedelta(minutes=21, seconds=13)  # in the quarter that begins at 15
QUARTER = HOUR_START + 15 * MINUTE


@pytest_asyncio.fixture
async def world(store: Store) -> AsyncIterator[ViewWorld]:
    admin = await store.admin()
    await consents.clear(admin)
    world = ViewWorld(store, admin, NOW)
    for key in (LOOKER, OTHER):
        await consents.add_recipient(admin, key)
    for owner in (OWNER, OWNER + 1):
        await consents.add_owner(admin, owner)
        await consents.add_site(admin, SITE + owner - OWNER, owner)
    await consents.add_device(admin, INVERTER, SITE)
    await consents.add_device(admin, BATTERY, SITE, kind=2)
    await consents.add_device(admin, INVERTER + 10, SITE + 1)
    yield world
    await world.pool.close()
    await consents.clear(admin)


async def grant(world: ViewWorld, key: int = 1, **terms: Any) -> None:
    await consents.add_grant(world.admin, key, OWNER, LOOKER, **{"classes": ["alert"], "fields": []} | terms)


async def shown(world: ViewWorld, now: datetime = NOW, **more: Any) -> pl.DataFrame:
    world.now = now
    of_query = {"since": NOW - 90 * DAY, "until": NOW + DAY} | {k: v for k, v in more.items() if k != "open_only"}
    found = query(of_query.pop("since"), of_query.pop("until"), **of_query)
    viewer = Viewer(LOOKER, found.purpose)
    return await alerts(world.views, viewer, found, open_only=more.get("open_only", False))


async def times(world: ViewWorld, now: datetime = NOW, **more: Any) -> list[tuple[Any, Any]]:
    return (await shown(world, now, **more)).select("opened", "closed").rows()


RAW, QUARTERS, DAYS = Resolution.RAW.rank, Resolution.PT15M.rank, Resolution.P1D.rank


class TestInRealTime:
    async def test_an_alert_is_shown_at_once_and_to_the_second(self, world: ViewWorld) -> None:
        await grant(world, resolution=RAW)
        await add_alert(world.admin, INVERTER, AT, kind=AlertKind.STALE, severity=4)
        (row,) = (await shown(world, AT + SECOND)).rows(named=True)
        assert row["site"].startswith("site_")
        assert row["device"].startswith("dev_")
        assert (row["kind"], row["severity"], row["opened"], row["closed"], row["resolution"]) == (
            "stale",
            4,
            AT,
            None,
            "raw",
        )

    async def test_its_end_too(self, world: ViewWorld) -> None:
        await grant(world, resolution=RAW)
        await add_alert(world.admin, INVERTER, AT, AT + MINUTE)
        assert await times(world, AT + MINUTE + SECOND) == [(AT, AT + MINUTE)]

    async def test_what_is_not_found_yet_is_not_shown(self, world: ViewWorld) -> None:
        await grant(world, resolution=RAW)
        await add_alert(world.admin, INVERTER, AT, found=AT + HOUR)
        assert await times(world, AT + HOUR - SECOND) == []
        assert await times(world, AT + HOUR) == [(AT, None)]


class TestCutToTheResolution:
    async def test_it_appears_when_the_window_is_over_and_lateness_has_passed(self, world: ViewWorld) -> None:
        await grant(world, resolution=QUARTERS)
        await add_alert(world.admin, INVERTER, AT)
        assert await times(world, QUARTER + 20 * MINUTE - SECOND) == []
        assert await times(world, QUARTER + 20 * MINUTE) == [(QUARTER, None)]

    async def test_one_that_was_found_late_appears_with_the_window_it_was_found_in(self, world: ViewWorld) -> None:
        await grant(world, resolution=QUARTERS)
        await add_alert(world.admin, INVERTER, AT, found=AT + HOUR)
        assert await times(world, QUARTER + HOUR + 20 * MINUTE - SECOND) == []
        assert await times(world, QUARTER + HOUR + 20 * MINUTE) == [(QUARTER, None)]

    async def test_it_is_open_until_the_window_of_its_end_is_over(self, world: ViewWorld) -> None:
        await grant(world, resolution=QUARTERS)
        await add_alert(world.admin, INVERTER, AT, AT + 2 * HOUR)
        late = QUARTER + 2 * HOUR + 20 * MINUTE
        assert await times(world, late - SECOND) == [(QUARTER, None)]
        assert await times(world, late) == [(QUARTER, QUARTER + 2 * HOUR + 15 * MINUTE)]

    async def test_instants_within_the_window_change_nothing(self, world: ViewWorld) -> None:
        await grant(world, resolution=QUARTERS)
        await add_alert(world.admin, INVERTER, AT, AT + HOUR)
        one = await shown(world)
        await world.admin.execute("UPDATE readings.alert SET opened_at = opened_at + interval '97 s'")
        assert (await shown(world)).equals(one)

    async def test_asking_for_a_range_compares_what_is_shown(self, world: ViewWorld) -> None:
        await grant(world, resolution=QUARTERS)
        await add_alert(world.admin, INVERTER, AT, AT + SECOND)
        for since, until, there in (
            (QUARTER, QUARTER + SECOND, True),
            (QUARTER - HOUR, QUARTER, False),
            (QUARTER + 15 * MINUTE - SECOND, QUARTER + HOUR, True),
            (QUARTER + 15 * MINUTE, QUARTER + HOUR, False),
        ):
            assert bool(await times(world, since=since, until=until)) == there

    async def test_days_are_the_sites_own_where_its_region_is_granted(self, world: ViewWorld) -> None:
        await grant(world, resolution=DAYS)
        at = (NOW - 3 * DAY).replace(hour=23, minute=30)  # the next day in Berlin
        await add_alert(world.admin, INVERTER, at, at + MINUTE)
        day = at.replace(hour=0, minute=0, second=0)
        assert await times(world) == [(day, day + DAY)]
        await grant(world, 2, resolution=DAYS, place="region")
        ((opened, closed),) = await times(world)
        assert opened > day
        assert closed - opened >= 23 * HOUR

    async def test_alerts_that_look_the_same_are_one(self, world: ViewWorld) -> None:
        await grant(world, resolution=QUARTERS)
        for n in range(3):
            await add_alert(world.admin, INVERTER, AT + n * MINUTE, AT + n * MINUTE + SECOND)
        assert len(await times(world)) == 1


class TestWhatIsGranted:
    async def test_fields_alone_are_not_the_class(self, world: ViewWorld) -> None:
        await grant(world, classes=["operation"], fields=["alert_bits", "alert_code", "alert_severity_code"])
        await add_alert(world.admin, INVERTER, AT)
        assert await times(world) == []

    async def test_what_began_before_is_open_without_a_beginning(self, world: ViewWorld) -> None:
        await grant(world, resolution=RAW, data_from=AT + MINUTE)
        await add_alert(world.admin, INVERTER, AT)
        assert await times(world) == [(None, None)]

    async def test_what_ended_before_is_not_there(self, world: ViewWorld) -> None:
        await grant(world, resolution=RAW, data_from=AT + HOUR)
        await add_alert(world.admin, INVERTER, AT, AT + HOUR - SECOND)
        assert await times(world) == []

    async def test_a_coarser_grant_that_reaches_back_says_when_it_began(self, world: ViewWorld) -> None:
        await grant(world, resolution=RAW, data_from=AT + MINUTE)
        await grant(world, 2, resolution=QUARTERS)
        await add_alert(world.admin, INVERTER, AT)
        rows = await shown(world)
        assert rows.select("opened", "closed", "resolution").rows() == [(QUARTER, None, "PT15M")]

    async def test_one_that_ended_while_restricted_is_not_there_and_one_that_began_then_has_no_beginning(
        self, world: ViewWorld
    ) -> None:
        await grant(world, resolution=RAW)
        await world.admin.execute(
            "INSERT INTO consent.restriction (owner_key, from_at, lifted_at) VALUES ($1, $2, $3)",
            OWNER,
            AT - MINUTE,
            AT + HOUR,
        )
        await add_alert(world.admin, INVERTER, AT, AT + MINUTE, kind=AlertKind.STALE)
        await add_alert(world.admin, INVERTER, AT, AT + 2 * HOUR)
        assert await times(world) == [(None, AT + 2 * HOUR)]

    async def test_a_withdrawal_is_obeyed_at_once(self, world: ViewWorld) -> None:
        await grant(world, resolution=RAW)
        await add_alert(world.admin, INVERTER, AT)
        assert len(await times(world)) == 1
        await consents.withdraw(world.admin, 1)
        assert await times(world) == []

    async def test_another_purpose_is_another_grant(self, world: ViewWorld) -> None:
        await grant(world, resolution=RAW, purpose="billing")
        await add_alert(world.admin, INVERTER, AT)
        assert await times(world) == []
        assert len(await times(world, purpose=SharingPurpose.BILLING)) == 1

    async def test_open_ones_can_be_asked_for_alone(self, world: ViewWorld) -> None:
        await grant(world, resolution=RAW)
        await add_alert(world.admin, INVERTER, AT, AT + MINUTE)
        await add_alert(world.admin, INVERTER, AT + HOUR)
        assert await times(world, open_only=True) == [(AT + HOUR, None)]

    async def test_a_device_that_is_not_shared_and_one_that_is_not_there_look_the_same(self, world: ViewWorld) -> None:
        await grant(world, kinds=[1])
        for device in ("dev_unknown", f"d_{BATTERY:016x}"):
            with pytest.raises(NotVisible):
                await shown(world, devices=frozenset({device}))

    async def test_an_owner_sees_the_own_to_the_microsecond_and_nobody_elses(self, world: ViewWorld) -> None:
        at = AT + timedelta(microseconds=7)
        await add_alert(world.admin, INVERTER, at, at + MINUTE)
        await add_alert(world.admin, INVERTER + 10, at)
        found = await alerts(world.views, Viewer(owner_key=OWNER), query(NOW - DAY, NOW))
        assert found.select("device", "opened", "closed").rows() == [(f"d_{INVERTER:016x}", at, at + MINUTE)]

    async def test_a_look_is_recorded_for_the_owners_concerned(self, world: ViewWorld) -> None:
        await grant(world, resolution=QUARTERS)
        await shown(world)
        (row,) = await world.admin.fetch("SELECT owner_key, fields, resolution, way FROM audit.read")
        fields = ["alert_bits", "alert_code", "alert_severity_code"]
        assert tuple(row) == (OWNER, fields, QUARTERS, "view")


class TestWithoutRowLevelSecurity:
    """What is granted is added up once more above the policies: rows are read by the administrator here."""

    async def seen(self, world: ViewWorld) -> list[tuple[str, Any]]:
        world.now = NOW
        async with world.views.seeing(Viewer(LOOKER, SharingPurpose.MAINTENANCE)) as (_, sight, named):
            found = await read_alerts(world.admin, sight, named, (us(NOW - 90 * DAY), us(NOW + DAY)))
        return [(one.device[:4], one.opened_us) for one in found]

    @pytest.mark.parametrize(
        ("terms", "there"),
        [
            ({}, True),
            ({"classes": ["operation"], "fields": ["alert_bits"]}, False),
            ({"kinds": [2]}, False),
            ({"sites": [SITE + 1]}, False),
            ({"data_from": AT + 2 * MINUTE}, False),
            ({"history": HOUR}, False),
            ({"purpose": "billing"}, False),
        ],
    )
    async def test_what_is_not_granted_is_not_there(self, world: ViewWorld, terms: dict[str, Any], there: bool) -> None:
        await grant(world, **{"resolution": RAW} | terms)
        await add_alert(world.admin, INVERTER, AT, AT + MINUTE)
        await add_alert(world.admin, INVERTER + 10, AT, AT + MINUTE)
        assert await self.seen(world) == ([("dev_", us(AT))] if there else [])

    async def test_nor_what_ended_while_restricted(self, world: ViewWorld) -> None:
        await grant(world, resolution=RAW)
        await world.admin.execute(
            "INSERT INTO consent.restriction (owner_key, from_at, lifted_at) VALUES ($1, $2, $3)", OWNER, AT, AT + HOUR
        )
        await add_alert(world.admin, INVERTER, AT - HOUR, AT + MINUTE)
        assert await self.seen(world) == []


# --- what is not granted -----------------------------------------------------------------------------------------

UNSEEN: dict[str, Any] = {
    "another kind of device": lambda w: add_alert(w.admin, BATTERY, AT),
    "another owner's": lambda w: add_alert(w.admin, INVERTER + 10, AT),
    "before what is granted": lambda w: add_alert(w.admin, INVERTER, AT - 20 * DAY, AT - 20 * DAY + MINUTE),
    "not over yet": lambda w: add_alert(w.admin, INVERTER, NOW - MINUTE, kind=AlertKind.LOW_PRODUCTION),
    "what another recipient was granted": lambda w: consents.add_grant(
        w.admin, 9, OWNER, OTHER, classes=["alert"], resolution=RAW
    ),
    "what was granted for another purpose": lambda w: consents.add_grant(
        w.admin, 9, OWNER, LOOKER, classes=["alert"], resolution=RAW, purpose="billing"
    ),
    "an instant within its window": lambda w: w.admin.execute(
        "UPDATE readings.alert SET opened_at = opened_at + interval '31 s', found_at = found_at + interval '40 s'"
    ),
    "when it was found, within a window": lambda w: w.admin.execute(
        "UPDATE readings.alert SET found_at = found_at + interval '2 min'"
    ),
    "a rhythm": lambda w: w.admin.execute(f"INSERT INTO readings.alert_rhythm VALUES ({INVERTER}, now(), 3600, now())"),
}
SEEN: dict[str, Any] = {
    "one more alert": lambda w: add_alert(w.admin, INVERTER, AT, kind=AlertKind.LOW_PRODUCTION),
    "a window later": lambda w: w.admin.execute("UPDATE readings.alert SET opened_at = opened_at + interval '15 min'"),
    "its end": lambda w: w.admin.execute(
        "UPDATE readings.alert SET closed_at = opened_at + interval '1 h', settled_at = opened_at + interval '1 h'"
    ),
    "its severity": lambda w: w.admin.execute("UPDATE readings.alert SET severity = 1"),
}


async def received(world: ViewWorld) -> bytes:
    found = []
    for more in (
        {},
        {"open_only": True},
        {"since": AT, "until": AT + SECOND},
        {"since": NOW - 2 * MINUTE, "until": NOW},
    ):
        frame = await shown(world, **more)
        found.append(repr((frame.schema, frame.rows())))
    return "\0".join(found).encode()


@pytest.mark.parametrize("difference", [*UNSEEN, *SEEN])
async def test_alerts_that_are_not_granted_change_no_byte_and_others_do(world: ViewWorld, difference: str) -> None:
    await grant(world, kinds=[1], resolution=QUARTERS, history=timedelta(days=10))
    await add_alert(world.admin, INVERTER, AT)
    before = await received(world)
    await (UNSEEN | SEEN)[difference](world)
    assert (await received(world) == before) == (difference in UNSEEN)
