"""The job that keeps place labels (rule 24), on a real database: once a day, on changes, by who may see what."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import h3.api.basic_int as h3
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry.maintenance.labels import LabelKeeper, keep_labels
from telemetry.model.sharing import Grant, GrantState, GrantTerms, PlaceSetting
from telemetry.observe import Observer
from telemetry.privacy.combine import Objection, Restriction, Standing, combine
from tests.support.consents import add_grant, add_owner, add_recipient, add_site, clear, withdraw
from tests.support.store import Store

HERE = h3.latlng_to_cell(47.5, 11.5, 7)
NEXT = next(cell for cell in h3.cell_to_children(h3.cell_to_parent(HERE, 6), 7) if cell != HERE)
FAR = h3.latlng_to_cell(-33.1, 151.2, 7)
R = 1  # the recipient
YESTERDAY = """
UPDATE consent.label_day SET decided_on = decided_on - 1;
UPDATE consent.site_label SET changed_on = changed_on - 1
"""


class Place:
    """Owners with a site each (of the same key), and what they grant."""

    def __init__(self, admin, rollup) -> None:
        self.admin, self.rollup = admin, rollup
        self.last = 0

    async def homes(self, count: int, cell: int = HERE, place: str | None = None, **terms) -> list[int]:
        """So many new homes in a cell; with ``place`` each granted to the recipient."""
        keys = list(range(self.last + 1, self.last + count + 1))
        self.last += count
        for key in keys:
            await add_owner(self.admin, key)
            await add_site(self.admin, key, key, cell7=cell)
            if place:
                await add_grant(self.admin, key, key, R, place=place, **terms)
        return keys

    async def round(self, owners=None):
        return await keep_labels(self.rollup, owners)

    async def labels(self) -> dict[int, int | None]:
        """The resolution of each site's label, None where it is withheld."""
        rows = await self.admin.fetch("SELECT site_key, label FROM consent.site_label WHERE recipient_key = $1", R)
        return {row["site_key"]: row["label"] and h3.get_resolution(row["label"]) for row in rows}

    async def change_place(self, site: int, place: str) -> None:
        """A new version of the home's grant."""
        row = await self.admin.fetchrow("SELECT * FROM consent.active_grant WHERE grant_key = $1", site)
        changed = {key: value for key, value in row.items() if key not in {"owner_key", "recipient_key", "grant_key"}}
        changed |= {"version": row["version"] + 1, "place": place}
        await add_grant(self.admin, site, row["owner_key"], R, **changed)


@pytest_asyncio.fixture
async def place(store: Store) -> Place:
    admin = await store.admin()
    await clear(admin)
    await admin.execute("TRUNCATE consent.active_grant, consent.keeping")  # no foreign key takes them along
    await add_recipient(admin, R)
    return Place(admin, await store.connect("rollup"))


async def test_rule_24_a_cell_of_fifteen_homes_is_shown_and_one_of_fourteen_nowhere(place: Place) -> None:
    await place.homes(14)
    (mine,) = await place.homes(1, place="cell7")
    (lonely,) = await place.homes(1, FAR, place="cell5")
    done = await place.round()
    assert (done.recipients, done.written) == (1, 2)
    assert await place.labels() == {mine: 7, lonely: None}
    row = await place.admin.fetchrow("SELECT label, granted FROM consent.site_label WHERE site_key = $1", mine)
    assert tuple(row) == (HERE, 7)


async def test_rule_24_labels_change_once_a_day_and_get_finer_at_twenty(place: Place) -> None:
    await place.homes(14, NEXT)
    (mine,) = await place.homes(1, place="cell7")
    await place.round()
    assert await place.labels() == {mine: 6}
    await place.homes(18)  # nineteen in the cell
    await place.admin.execute(YESTERDAY)
    await place.round()
    assert await place.labels() == {mine: 6}
    await place.homes(1)
    await place.round()
    assert await place.labels() == {mine: 6}  # decided today already
    await place.admin.execute(YESTERDAY)
    await place.round()
    assert await place.labels() == {mine: 7}


async def test_rule_24_where_homes_leave_labels_get_coarser_the_next_day(place: Place) -> None:
    (mine,) = await place.homes(1, place="cell7")
    others = await place.homes(14)
    await place.homes(14, NEXT)
    await place.round()
    assert await place.labels() == {mine: 7}
    await place.admin.execute("UPDATE consent.owner SET erased_at = now() WHERE owner_key = $1", others[0])
    await place.admin.execute("UPDATE consent.site SET tenure_until = now() WHERE site_key = $1", others[1])
    await place.round()
    assert await place.labels() == {mine: 7}
    await place.admin.execute(YESTERDAY)
    await place.round()
    assert await place.labels() == {mine: 6}


async def test_rule_24_within_a_day_new_ones_get_labels_and_others_keep_theirs(place: Place) -> None:
    """Fifteen at the parent and fifteen in the cell: were one shown in the cell, the parent's would have 29, enough."""
    await place.homes(20)
    coarse = await place.homes(15, NEXT, place="cell6")
    await place.round()
    assert set((await place.labels()).values()) == {6}
    (new,) = await place.homes(1, place="cell7")
    await place.round([new])
    assert await place.labels() == dict.fromkeys(coarse, 6) | {new: 7}


async def test_rule_24_a_narrowed_grant_narrows_the_label_at_once(place: Place) -> None:
    await place.homes(30)
    (mine,) = await place.homes(1, place="cell7")
    await place.round()
    assert await place.labels() == {mine: 7}
    await place.change_place(mine, "cell4")
    await place.round([mine])
    assert await place.labels() == {mine: 4}
    await withdraw(place.admin, mine)
    done = await place.round([mine])
    assert done.removed == 1
    assert await place.labels() == {}


async def test_an_exact_place_needs_no_label_and_counts_for_nobody_elses(place: Place) -> None:
    await place.homes(13)
    (mine,) = await place.homes(1, place="cell7")
    (exact,) = await place.homes(1, place="exact")
    await place.round()
    assert await place.labels() == {mine: None, exact: 7}
    assert await place.admin.fetchval("SELECT granted FROM consent.site_label WHERE site_key = $1", exact) == 8
    await place.change_place(exact, "cell7")
    await place.admin.execute(YESTERDAY)
    await place.round()
    assert await place.labels() == {mine: None, exact: 7}  # fifteen are enough for one that is new to labels


async def test_the_finest_place_of_all_purposes_makes_the_one_label(place: Place) -> None:
    await place.homes(20)
    (mine,) = await place.homes(1, place="cell4")
    await add_grant(place.admin, 9_000, mine, R, place="cell6", purpose="billing")
    await place.round()
    assert await place.labels() == {mine: 6}


async def test_the_job_hears_of_changes(place: Place, store: Store) -> None:
    await place.homes(20)
    keeper = LabelKeeper(store.role("rollup"), Observer(), poll_s=60)
    task = asyncio.create_task(keeper.run())
    try:
        await asyncio.sleep(0.5)
        (mine,) = await place.homes(1, place="cell7")
        async with asyncio.timeout(30):
            while await place.labels() != {mine: 7}:
                await place.admin.execute("SELECT pg_notify('telemetry_consent', $1::text)", str(mine))
                await asyncio.sleep(0.1)
    finally:
        task.cancel()


async def test_two_rounds_at_once_leave_the_same_labels(place: Place, store: Store) -> None:
    await place.homes(30, place="cell7")
    others = [await store.connect("rollup") for _ in range(3)]
    await asyncio.gather(*(keep_labels(connection) for connection in others))
    assert set((await place.labels()).values()) == {7}


DENIED = [
    "SELECT cell7 FROM consent.site_place",
    "SELECT grant_key FROM consent.active_grant",
    "DELETE FROM consent.label_day",
    "UPDATE consent.site_label SET site_key = 1",
]


@pytest.mark.parametrize("statement", DENIED)
async def test_the_jobs_role_reads_neither_cells_nor_grants(store: Store, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await (await store.connect("rollup")).execute(statement)


@pytest.mark.parametrize("role", ["ingest", "views", "operator", "rights"])
async def test_no_other_role_asks_for_cells(store: Store, role: str) -> None:
    connection = await store.connect(role)
    for call in ("consent.cell_population()", "consent.cells_granted(1)", "consent.recipients_placed(NULL)"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"SELECT * FROM {call}")


NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
ends = st.sampled_from([None, NOW - DAY, NOW + DAY])
grant = st.fixed_dictionaries(
    {
        "place": st.sampled_from([p.value for p in PlaceSetting]),
        "purpose": st.sampled_from(["maintenance", "billing"]),
        "span": st.sampled_from(
            [
                (NOW - 10 * DAY, None),
                (NOW - 10 * DAY, NOW + 5 * DAY),
                (NOW - 10 * DAY, NOW - 2 * DAY),
                (NOW + DAY, None),
            ]
        ),
        "sites": st.sampled_from([None, [1], [2]]),
        "policy": st.sampled_from(["2026-11", "old", "later"]),
        "recipient": st.sampled_from([1, 2]),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    grants=st.lists(grant, max_size=4),
    erased=st.booleans(),
    closed=ends,
    restriction=st.sampled_from([None, (NOW - DAY, None), (NOW - 2 * DAY, NOW - DAY), (NOW - DAY, NOW + DAY)]),
    objection=st.sampled_from([None, ("maintenance", None), ("billing", 1), ("maintenance", 2)]),
)
def test_rule_19_what_the_database_says_is_granted_is_the_combination(
    store: Store, grants, erased, closed, restriction, objection
) -> None:
    """consent.cells_granted against privacy.combine, over all purposes."""
    loop = asyncio.get_event_loop_policy().new_event_loop()
    try:
        got = loop.run_until_complete(_granted(store, grants, erased, closed, restriction, objection))
    finally:
        loop.close()
    standing = Standing(
        owner_erased=erased,
        recipient_closed=closed is not None and closed <= NOW,
        restrictions=(Restriction(*(_us(at) for at in restriction)),) if restriction else (),
        objections=(Objection(*objection),) if objection else (),
        expired_policies=frozenset({"old"}),
    )
    expected = {}
    for site in (1, 2):
        places = [
            combine(
                [_grant(one) for one in grants if one["recipient"] == R and one["purpose"] == purpose],
                site,
                standing,
                datetime.now(UTC),
            ).place
            for purpose in ("maintenance", "billing")
        ]
        finest = max(places, key=lambda one: one.rank)
        if finest.rank >= PlaceSetting.CELL4.rank:
            expected[site] = 8 if finest is PlaceSetting.EXACT else finest.cell
    assert got == expected


BASE = {
    "place": "cell6",
    "purpose": "maintenance",
    "span": (NOW - 10 * DAY, None),
    "sites": [1],
    "policy": "2026-11",
    "recipient": R,
}
DENIALS = {
    "nothing": ({}, {}),
    "site": ({"sites": [2]}, {}),
    "recipient": ({"recipient": 2}, {}),
    "place": ({"place": "region"}, {}),
    "begun": ({"span": (NOW + DAY, None)}, {}),
    "over": ({"span": (NOW - 10 * DAY, NOW - DAY)}, {}),
    "policy": ({"policy": "old"}, {}),
    "erased": ({}, {"erased": True}),
    "closed": ({}, {"closed": NOW - DAY}),
    "restricted": ({}, {"restriction": (NOW - DAY, None)}),
    "objection": ({}, {"objection": ("maintenance", None)}),
}


@pytest.mark.parametrize("denial", DENIALS)
async def test_rule_24_each_thing_that_denies_a_grant_denies_its_cell(store: Store, denial: str) -> None:
    grant, standing = DENIALS[denial]
    given = {"erased": False, "closed": None, "restriction": None, "objection": None} | standing
    found = await _granted(store, [BASE | grant], **given)
    assert found.get(1) == (6 if denial == "nothing" else None)


def _us(at: datetime | None) -> int | None:
    return None if at is None else round(at.timestamp() * 1e6)


def _grant(one) -> Grant:
    start, until = one["span"]
    return Grant(
        grant_key=1,
        version=1,
        owner_key=1,
        recipient_key=one["recipient"],
        state=GrantState.ACTIVE,
        terms=GrantTerms(
            purpose=one["purpose"],
            fields={"ac_power_w"},
            place=one["place"],
            sites=one["sites"],
            start=start,
            until=until,
        ),
        epoch=1,
        policy=one["policy"],
        recorded_at=NOW - 10 * DAY,
    )


async def _granted(store: Store, grants, erased, closed, restriction, objection) -> dict[int, int]:
    admin = await asyncpg.connect(store.postgres.dsn("telemetry"))
    try:
        async with admin.transaction():
            await admin.execute("TRUNCATE consent.owner, consent.recipient, consent.active_grant CASCADE")
            await admin.execute(
                "INSERT INTO consent.policy (policy, expires_at) VALUES ('old', $1), ('later', $2)"
                " ON CONFLICT (policy) DO UPDATE SET expires_at = EXCLUDED.expires_at",
                NOW - DAY,
                NOW + DAY,
            )
            await add_recipient(admin, 1, closed)
            await add_recipient(admin, 2)
            await add_owner(admin, 1, NOW - DAY if erased else None)
            for site in (1, 2):
                await add_site(admin, site, 1, cell7=HERE)
            for number, one in enumerate(grants, 1):
                terms = {name: one[name] for name in ("place", "purpose", "sites", "policy")}
                start, until = one["span"]
                await add_grant(admin, number, 1, one["recipient"], start=start, until=until, **terms)
            if restriction:
                await admin.execute("INSERT INTO consent.restriction VALUES (1, $1, $2)", *restriction)
            if objection:
                await admin.execute(
                    "INSERT INTO consent.objection (owner_key, purpose, recipient_key) VALUES (1, $1, $2)", *objection
                )
            rows = await admin.fetch("SELECT site_key, granted FROM consent.cells_granted($1)", R)
            return {row["site_key"]: row["granted"] for row in rows}
    finally:
        await admin.close()
