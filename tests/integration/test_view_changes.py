"""Who follows changes has in the end exactly what a fresh whole view shows (decision 0066).

The rollup runs for real over hours that are long past, with rows that come late, backfills, corrections and passes that
break off anywhere. What a follower holds is kept by the rule that ``Changes`` states, in plain dictionaries.
"""

import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from telemetry.errors import InputError, NotVisible, StoreUnavailable
from telemetry.maintenance.rollup import Rollup
from telemetry.model.series import SITE_GRID
from telemetry.model.sharing import Resolution, SharingPurpose
from telemetry.views.changes import POSITION_BYTES, changes
from telemetry.views.query import Query
from telemetry.views.sight import Viewer
from tests.support import consents
from tests.support.rollups import FIELDS, MINUTE_US, Samples, arrive, base_us, clear, keep, make_hour, run, walk, when
from tests.support.store import HOUR_US, Store
from tests.support.view_world import DAY, HOUR, MINUTE, ViewWorld, mean_amount, query, us

LOOKER, OTHER = 1, 2
B = base_us()
VIEWER = Viewer(LOOKER, SharingPurpose.MAINTENANCE)
Key = tuple[Any, ...]


@dataclass
class Follower:
    """What somebody who follows holds: rows by key, and the position."""

    asked: Query
    rows: dict[Key, Key] = field(default_factory=dict)
    position: bytes | None = None
    told: int = 0

    async def poll(self, world: ViewWorld) -> frozenset[str]:
        found = await changes(world.views, VIEWER, self.asked, self.position)
        seen = set(found.view.devices["device"])
        self.rows = {k: row for k, row in self.rows.items() if k[0] in seen - found.renewed}
        for row in found.view.rows.iter_rows(named=True):
            key = tuple(row[name] for name in ("device", "field", "resolution", "grid", "start"))
            self.rows[key] = tuple(row.values())
            if row["coverage"] == "none" and row["value"] is None:
                del self.rows[key]
        self.told = found.view.rows.height
        self.position = found.position
        assert len(found.position) == POSITION_BYTES
        return found.renewed


async def fresh(world: ViewWorld, asked: Query) -> dict[Key, Key]:
    view = await world.views.view(LOOKER, asked)
    return {
        tuple(row[name] for name in ("device", "field", "resolution", "grid", "start")): tuple(row.values())
        for row in view.rows.iter_rows(named=True)
    }


class Breaking:
    """A connection that is lost at its n-th statement."""

    def __init__(self, connection: Any, fatal: int) -> None:
        self._connection, self._left = connection, fatal

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in {"execute", "fetch", "fetchval", "fetchrow", "copy_from_query"}:
            return found

        async def counted(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left <= 0:
                self._connection.terminate()
                raise ConnectionResetError("broken off on purpose")
            return await found(*arguments, **options)

        return counted


async def broken_off(store: Store, now_us: int, fatal: int) -> None:
    """A pass that may not come to its end."""

    async def connect() -> Any:
        return Breaking(await store.role("rollup")(), fatal)

    with contextlib.suppress(StoreUnavailable, ConnectionResetError):
        await Rollup(connect, lambda: now_us, hot_hours=2).run()


@pytest_asyncio.fixture
async def world(store: Store) -> AsyncIterator[ViewWorld]:
    await clear(store)
    admin = await store.admin()
    await admin.execute("TRUNCATE consent.recipient CASCADE")
    world = ViewWorld(store, admin, when(B))
    for key in (LOOKER, OTHER):
        await consents.add_recipient(admin, key)
    yield world
    await world.pool.close()
    await clear(store)
    await consents.clear(admin)


def split(samples: Samples, chance: random.Random) -> tuple[Samples, Samples, Samples]:
    """What arrives at once, what somewhat later, and what when its hour is long sealed."""
    parts: tuple[Samples, Samples, Samples] = ({}, {}, {})
    for device, fields in samples.items():
        for name, values in fields.items():
            for at, value in values.items():
                part = parts[chance.choices((0, 1, 2), (8, 1, 1))[0]]
                part.setdefault(device, {}).setdefault(name, {})[at] = value
    return parts


TERMS = {
    "quarters": [{"resolution": 2}],
    "hours": [{"resolution": 4}],
    "days": [{"resolution": 5}],
    "own days": [{"resolution": 5, "place": "region"}],
    "quarters of late and hours of always": [{"resolution": 2, "history": 6 * HOUR}, {"resolution": 4}],
    "quarters since and days of always": [{"resolution": 2, "data_from": when(B + 7 * HOUR_US)}, {"resolution": 5}],
}


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("seed", range(2))
async def test_following_ends_with_what_a_fresh_view_shows(world: ViewWorld, terms: str, seed: int) -> None:
    chance = random.Random(f"{terms} {seed}")
    store, until = world.store, 26
    devices = [1, 2, 3]
    kept = Resolution.P1D if terms.endswith("days") else Resolution.PT15M
    for device in devices:
        await keep(store, device, kept, "Asia/Kathmandu" if device == 3 else "Europe/Berlin")
        for number, each in enumerate(TERMS[terms]):
            extra = {"fields": list(FIELDS), "extremes": device == 1}
            await consents.add_grant(world.admin, 10 * device + number, device, LOOKER, **extra | each)
    asked = query(when(B) - DAY, when(B) + 10 * DAY, resolution=Resolution.PT15M)
    followers = [Follower(asked), Follower(replace(asked, resolution=Resolution.PT1H)), Follower(asked)]
    later: dict[int, list[tuple[Samples, bool]]] = {}
    for number in range(until + 1):
        hour = B + number * HOUR_US
        await make_hour(store, hour)
        soon, after, late = split(walk(seed * 100 + number, hour, hour + HOUR_US, devices, (60, 900)), chance)
        if number < until - 8:
            later.setdefault(number, []).append((soon, False))
            later.setdefault(number + 1, []).append((after, False))
            later.setdefault(number + 5, []).append((late, True))
        for samples, is_late in later.get(number, []):
            await arrive(store, samples, received_us=hour if is_late else None)
        for minute in sorted(chance.sample(range(61, 119), 3)):
            now = hour + minute * MINUTE_US
            world.now = when(now)
            if chance.random() < 0.3:
                await broken_off(store, now, chance.randrange(1, 40))
            elif chance.random() < 0.7:
                await run(store, now)
            for follower in followers[:2]:
                if chance.random() < 0.5:
                    await follower.poll(world)
    # A pass is as of the boundary it was begun for: the first may be the one that broke off.
    for minutes in (120, 180):
        world.now = when(B + until * HOUR_US + minutes * MINUTE_US)
        await make_hour(store, B + (until + minutes // 60) * HOUR_US)
        for _ in range(2):
            await run(store, us(world.now))
    for follower in followers:
        await follower.poll(world)
        expected = await fresh(world, follower.asked)
        assert len(expected) > 10
        slid = {k for k, row in follower.rows.items() if k not in expected and "late" in terms and row[3] == "PT15M"}
        held = {k: row for k, row in follower.rows.items() if k not in slid}
        assert held == expected
    if terms == "quarters":
        assert 4 * max(follower.told for follower in followers[:2]) < followers[2].told


class TestOneWindow:
    """A window at a time, put in as the rollup would."""

    @pytest_asyncio.fixture
    async def home(self, world: ViewWorld) -> ViewWorld:
        await keep(world.store, 1, Resolution.PT15M)
        await consents.add_grant(world.admin, 1, 1, LOOKER)
        await self.passed(world, 0)
        return world

    async def passed(self, world: ViewWorld, hours: float) -> None:
        world.now = when(B) + hours * HOUR + 6 * MINUTE
        await world.admin.execute(
            "UPDATE readings.rollup_pass SET done_as_of = $1, done_since = pg_snapshot_xmin(pg_current_snapshot())",
            when(B) + hours * HOUR,
        )

    async def test_nothing_new_tells_nothing(self, home: ViewWorld) -> None:
        await home.series([{"device_key": 1, "start": when(B) - HOUR, "amount": mean_amount(5)}])
        follower = Follower(query(when(B) - DAY, when(B) + DAY))
        assert await follower.poll(home)
        assert follower.told == 1
        await self.passed(home, 1)
        assert not await follower.poll(home)
        assert follower.told == 0

    async def test_a_correction_is_told_once_it_is_effective_and_a_window_that_is_no_more_as_none(
        self, home: ViewWorld
    ) -> None:
        start = when(B) - HOUR
        await home.series([{"device_key": 1, "start": start, "amount": mean_amount(5)}])
        follower = Follower(query(when(B) - DAY, when(B) + DAY))
        await follower.poll(home)
        effective = when(B) + timedelta(minutes=15)
        await home.series([{"device_key": 1, "start": start, "amount": mean_amount(7), "effective_at": effective}])
        home.now += 13 * MINUTE
        await follower.poll(home)
        assert follower.told == 0
        home.now += MINUTE
        await follower.poll(home)
        assert [row[7] for row in follower.rows.values()] == [7.0]
        await self.passed(home, 1)
        gone = {"device_key": 1, "start": start, "amount": 0, "covered_ms": 0, "effective_at": when(B) + 2 * HOUR}
        await home.series([gone])
        await self.passed(home, 2)
        await follower.poll(home)
        assert (follower.told, follower.rows) == (1, {})

    async def test_what_a_pass_commits_late_is_not_missed(self, home: ViewWorld) -> None:
        follower = Follower(query(when(B) - DAY, when(B) + DAY))
        home.now = when(B) + 3 * HOUR  # the rollup is three hours behind
        await follower.poll(home)
        await home.series([{"device_key": 1, "start": when(B) + HOUR, "amount": mean_amount(5)}])
        await follower.poll(home)
        assert follower.told == 1

    async def test_other_homes_change_nothing(self, home: ViewWorld) -> None:
        follower = Follower(query(when(B) - DAY, when(B) + DAY))
        await follower.poll(home)
        await keep(home.store, 2, Resolution.PT15M)
        await consents.add_grant(home.admin, 2, 2, OTHER)
        await consents.add_grant(home.admin, 3, 1, OTHER)
        await consents.add_grant(home.admin, 4, 1, LOOKER, purpose="billing")
        await keep(home.store, 1, Resolution.PT1M)  # another class of the plan, for whatever reason
        await home.admin.execute(
            "INSERT INTO consent.objection (owner_key, purpose, recipient_key) VALUES (1, 'maintenance', 2),"
            " (1, 'billing', NULL), (2, 'maintenance', NULL)"
        )
        await home.admin.execute("INSERT INTO consent.restriction (owner_key, from_at) VALUES (2, now())")
        assert not await follower.poll(home)
        assert follower.told == 0

    @pytest.mark.parametrize(
        "statement",
        [
            "restriction (owner_key, from_at, lifted_at) VALUES (1, now() - interval '9 d', now() - interval '8 d')",
            "objection (owner_key, purpose, withdrawn_at) VALUES (1, 'maintenance', now() - interval '8 d')",
        ],
    )
    async def test_what_stands_against_a_grant_renews_its_home(self, home: ViewWorld, statement: str) -> None:
        await home.series([{"device_key": 1, "start": when(B) - HOUR, "amount": mean_amount(5)}])
        follower = Follower(query(when(B) - DAY, when(B) + DAY))
        await follower.poll(home)
        await home.admin.execute(f"INSERT INTO consent.{statement}")
        assert len(await follower.poll(home)) == 1
        assert not await follower.poll(home)
        assert len(follower.rows) == 1

    async def test_a_grant_renews_its_home_when_it_is_made_begins_ends_and_is_withdrawn(self, home: ViewWorld) -> None:
        for name in ("ac_power_w", "temperature_c"):
            await home.series([{"device_key": 1, "field": name, "start": when(B) - HOUR, "amount": mean_amount(5)}])
        follower = Follower(query(when(B) - DAY, when(B) + DAY))
        await follower.poll(home)
        assert len(follower.rows) == 1
        now = await home.admin.fetchval("SELECT now()")
        more = {"fields": ["temperature_c"], "data_from": when(B) - DAY}
        await consents.add_grant(home.admin, 2, 1, LOOKER, **more)
        assert len(await follower.poll(home)) == 1
        assert len(follower.rows) == 2
        await consents.withdraw(home.admin, 2)
        assert len(await follower.poll(home)) == 1
        assert len(follower.rows) == 1
        # One that is over since, and one that has begun since: by the database's clock, not by that of the test.
        for key, edge in ((3, {"until": now - MINUTE}), (4, {"start": now - MINUTE})):
            await consents.add_grant(home.admin, key, 1, LOOKER, **more | edge)
            await follower.poll(home)
            assert len(await follower.poll(home)) == 1, edge

    async def test_a_home_that_is_withdrawn_is_gone_from_the_devices(self, home: ViewWorld) -> None:
        await keep(home.store, 2, Resolution.PT15M)
        await consents.add_grant(home.admin, 2, 2, LOOKER)
        for device in (1, 2):
            await home.series([{"device_key": device, "start": when(B) - HOUR, "amount": mean_amount(5)}])
        follower = Follower(query(when(B) - DAY, when(B) + DAY))
        await follower.poll(home)
        assert len(follower.rows) == 2
        await consents.withdraw(home.admin, 2)
        assert not await follower.poll(home)
        assert len(follower.rows) == 1

    async def test_a_transaction_that_was_under_way_is_not_missed(self, home: ViewWorld) -> None:
        follower = Follower(query(when(B) - DAY, when(B) + DAY))
        other = await home.store.admin()
        transaction = other.transaction()
        await transaction.start()
        await consents.add_grant(other, 2, 1, LOOKER, fields=["temperature_c"])
        await follower.poll(home)
        await home.admin.execute("SELECT pg_current_xact_id()")
        await follower.poll(home)
        await transaction.commit()
        assert len(await follower.poll(home)) == 1
        assert not await follower.poll(home)

    async def test_a_position_has_one_length_and_nonsense_is_refused(self, home: ViewWorld) -> None:
        follower = Follower(query(when(B) - DAY, when(B) + DAY))
        transactions = []
        for _ in range(30):
            connection = await home.store.admin()
            transactions.append(connection.transaction())
            await transactions[-1].start()
            await connection.fetchval("SELECT pg_current_xact_id()")
        await follower.poll(home)  # asserts the length
        for transaction in transactions:
            await transaction.rollback()
        await follower.poll(home)
        for wrong in (b"", bytes(POSITION_BYTES), b"\1" * 12):
            with pytest.raises(InputError):
                await changes(home.views, VIEWER, follower.asked, wrong)
        with pytest.raises(NotVisible):
            await changes(home.views, VIEWER, replace(follower.asked, sites=frozenset({"site_x"})), follower.position)

    async def test_the_sites_own_days_are_followed_on_their_grid(self, home: ViewWorld) -> None:
        await consents.withdraw(home.admin, 1)
        await consents.add_grant(home.admin, 5, 1, LOOKER, resolution=5, place="region")
        await home.admin.execute("UPDATE consent.site_place SET country='DE', region='DE-BE', timezone='Europe/Berlin'")
        midnight = when(B).replace(hour=23, minute=0)
        if midnight <= when(B):  # the window takes effect after the first poll, whatever the hour
            midnight += DAY
        day = {"device_key": 1, "start": midnight - DAY, "resolution": Resolution.P1D, "grid": SITE_GRID}
        await self.passed(home, 0)
        follower = Follower(query(when(B) - 5 * DAY, when(B) + 5 * DAY, resolution=Resolution.P1D))
        await follower.poll(home)
        await home.series([day | {"zone": "Europe/Berlin", "amount": mean_amount(5, 1440)}])
        home.now = midnight + DAY + HOUR
        await follower.poll(home)
        assert follower.rows == await fresh(home, follower.asked)
        assert len(follower.rows) == 1
