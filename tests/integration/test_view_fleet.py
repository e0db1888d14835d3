"""Pages of the fleet, the last of each field, and how much an answer can be: each beside the whole view."""

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
import pytest_asyncio

from telemetry.errors import NotVisible
from telemetry.model.sharing import Resolution, SharingPurpose
from telemetry.views.estimate import estimate
from telemetry.views.fleet import FleetQuery, fleet, roster, roster_query
from telemetry.views.latest import latest
from telemetry.views.query import Part
from telemetry.views.sight import Viewer
from telemetry.views.view import View
from tests.support import consents
from tests.support.store import Store
from tests.support.view_world import DAY, HOUR, MINUTE, ViewWorld, as_bytes, mean_amount, query

LOOKER, OTHER = 1, 2
NOW = datetime.now(UTC).replace(minute=7, second=0, microsecond=0) - HOUR
VIEWER = Viewer(LOOKER, SharingPurpose.MAINTENANCE)
FIELDS = ["ac_power_w", "temperature_c", "energy_total_wh", "operating_state_code"]
TERMS = [
    {"fields": FIELDS},
    {"fields": FIELDS[:2], "resolution": Resolution.PT1H.rank},
    {"fields": FIELDS, "resolution": Resolution.P1D.rank, "place": "region"},
    {"fields": FIELDS, "resolution": Resolution.RAW.rank, "history": 2 * HOUR},
    {"fields": FIELDS, "resolution": Resolution.PT15M.rank, "history": 3 * DAY, "place": "country"},
    {"fields": FIELDS[2:], "resolution": Resolution.PT15M.rank, "serial": "withheld"},
]


def last_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Of the rows of a view the last one of each device and field, in the same order."""
    last: dict[tuple[str, str], tuple[datetime, datetime]] = {}
    for device, field, start, end in rows.select("device", "field", "start", "end").iter_rows():
        last[device, field] = max(last.get((device, field), (start, end)), (start, end))
    kept = [
        last[device, field] == (start, end)
        for device, field, start, end in rows.select("device", "field", "start", "end").iter_rows()
    ]
    return rows.filter(pl.Series(kept, dtype=pl.Boolean))


def with_last_seen(view: View) -> pl.DataFrame:
    """The devices of a view, each with the end of the row that starts last."""
    last: dict[str, tuple[datetime, datetime]] = {}
    for device, start, end in view.rows.select("device", "start", "end").iter_rows():
        last[device] = max(last.get(device, (start, end)), (start, end))
    ends = [last[name][1] if name in last else None for name in view.devices["device"]]
    return view.devices.with_columns(last_seen=pl.Series(ends, dtype=view.devices["last_seen"].dtype))


@pytest_asyncio.fixture
async def world(store: Store) -> AsyncIterator[ViewWorld]:
    """Nine homes under different grants, each device silent since another moment; the last two are not shared."""
    admin = await store.admin()
    await consents.clear(admin)
    world = ViewWorld(store, admin, NOW)
    chance = random.Random(5)
    for key in (LOOKER, OTHER):
        await consents.add_recipient(admin, key)
    rows = []
    for home in range(1, 10):
        await consents.add_owner(admin, home)
        await consents.add_site(admin, home, home)
        for device, kind in ((10 * home, 1), (10 * home + 1, 2)):
            await consents.add_device(admin, device, home, kind)
            for name in chance.sample(FIELDS, 3):
                last = NOW.replace(minute=0) - chance.choice([0, 1, 5, 30, 24 * 9, 24 * 33, 24 * 90]) * HOUR
                starts = {last - n * chance.choice([1, 1, 7, 96]) * 15 * MINUTE for n in range(1, 30)}
                kept = chance.choice([Resolution.PT15M, Resolution.PT15M, Resolution.P1D])
                days = {start.replace(hour=0, minute=0) - DAY for start in starts}
                for start in starts if kept is Resolution.PT15M else days:
                    row = {"device_key": device, "field": name, "start": start, "resolution": kept}
                    rows.append(row | {"amount": mean_amount(chance.randrange(9999)), "last_at": None})
        if home < 8:
            await consents.add_grant(admin, home, home, LOOKER, **TERMS[home % len(TERMS)])
    await world.series(rows)
    for device in (30, 31, 91):
        for minutes in (1, 3, 20, 50):
            await consents.add_reading(admin, "hot", device, NOW - minutes * MINUTE, ac_power_w=float(minutes))
    yield world
    await world.pool.close()
    await consents.clear(admin)


@pytest.mark.parametrize("resolution", [Resolution.RAW, Resolution.PT15M, Resolution.PT1H, Resolution.P1D])
@pytest.mark.parametrize("back", [HOUR, DAY, 40 * DAY, 200 * DAY])
async def test_the_last_of_each_field_is_that_of_the_whole_view(
    world: ViewWorld, resolution: Resolution, back: timedelta
) -> None:
    for until in (NOW, NOW - 7 * HOUR, NOW + DAY):
        asked = query(until - back, until, resolution=resolution)
        whole = await world.views.view(LOOKER, asked)
        found = await latest(world.views, VIEWER, asked)
        assert found.rows.rows() == last_rows(whole.rows).rows()
        assert found.shared.rows() == whole.shared.rows()
        assert found.devices.drop("last_seen").rows() == whole.devices.drop("last_seen").rows()
    assert back <= DAY or found.rows.height > 5


async def test_who_was_last_seen_when_is_that_of_the_whole_view(world: ViewWorld) -> None:
    for days in (1, 35, 200):
        asked = query(NOW - days * DAY, NOW + HOUR, resolution=Resolution.RAW)
        whole = await world.views.view(LOOKER, asked)
        found = await roster(world.views, VIEWER, asked)
        assert found.devices.rows() == with_last_seen(whole).rows()
        assert found.not_shared.rows() == whole.not_shared.rows()
        assert found.rows.is_empty()
    assert whole.devices["last_seen"].null_count() < 3


async def test_an_owner_sees_the_last_of_the_own_devices(world: ViewWorld) -> None:
    asked = query(NOW - 200 * DAY, NOW, resolution=Resolution.PT15M)
    owner = Viewer(owner_key=3)
    found = await latest(world.views, owner, asked)
    assert found.rows.rows() == last_rows((await world.views.own(3, asked)).rows).rows()
    assert found.rows.height


@pytest.mark.parametrize("at_most", [1, 3, 7, 50])
async def test_pages_of_the_fleet_follow_each_other(world: ViewWorld, at_most: int) -> None:
    whole = await fleet(world.views, VIEWER, FleetQuery(SharingPurpose.MAINTENANCE))
    assert whole.after is None
    assert whole.sites["site"].to_list() == sorted(whole.sites["site"])
    assert whole.sites.height == 7
    pages, after = [], None
    while True:
        page = await fleet(world.views, VIEWER, FleetQuery(SharingPurpose.MAINTENANCE, at_most, after))
        assert page.sites.height <= at_most
        pages.append(page)
        if page.after is None:
            break
        after = page.after
    for name in ("sites", "shared", "not_shared"):
        assert pl.concat([getattr(page, name) for page in pages]).rows() == getattr(whole, name).rows()


async def test_a_page_says_what_is_shared_by_kind_and_where_a_home_is(world: ViewWorld) -> None:
    page = await fleet(world.views, VIEWER, FleetQuery(SharingPurpose.MAINTENANCE))
    view = await world.views.view(LOOKER, query(NOW - 35 * DAY, NOW + HOUR, resolution=Resolution.RAW))
    assert set(page.sites["place"]) == {None, "DE", "DE-BE"}
    assert all(kinds == ["battery", "inverter"] for kinds in page.sites["kinds"].to_list())
    kind_of = dict(view.devices.select("device", "kind").iter_rows())
    site_of = dict(view.devices.select("device", "site").iter_rows())
    for name in ("shared", "not_shared"):
        by_device = {(site_of[row[0]], kind_of[row[0]], *row[1:]) for row in getattr(view, name).iter_rows()}
        assert set(getattr(page, name).iter_rows()) == by_device
    last = with_last_seen(view).group_by("site").agg(pl.col("last_seen").max()).sort("site")
    assert page.sites.select("site", "last_seen").rows() == last.rows()


async def test_named_sites_and_devices_alone(world: ViewWorld) -> None:
    whole = await fleet(world.views, VIEWER, FleetQuery(SharingPurpose.MAINTENANCE))
    name = whole.sites["site"][2]
    one = await fleet(world.views, VIEWER, FleetQuery(SharingPurpose.MAINTENANCE, sites=frozenset({name})))
    assert one.sites.rows() == whole.sites.filter(pl.col("site") == name).rows()
    devices = await roster(world.views, VIEWER, roster_query(SharingPurpose.MAINTENANCE, sites=frozenset({name})))
    assert devices.devices.height == 2
    with pytest.raises(NotVisible):
        await fleet(world.views, VIEWER, FleetQuery(SharingPurpose.MAINTENANCE, sites=frozenset({"site_x"})))


async def test_what_is_not_shared_changes_nothing_of_pages_and_estimates(world: ViewWorld) -> None:
    async def received() -> bytes:
        page = await fleet(world.views, VIEWER, FleetQuery(SharingPurpose.MAINTENANCE, at_most=3))
        last = await latest(world.views, VIEWER, query(NOW - 40 * DAY, NOW))
        bound = await estimate(world.views, VIEWER, query(NOW - 40 * DAY, NOW))
        return repr(
            (page.sites.rows(), page.shared.rows(), page.not_shared.rows(), page.after, bound)
        ).encode() + as_bytes(last)

    before = await received()
    start = NOW.replace(minute=0) - 15 * MINUTE
    for device in (80, 81, 90, 91):
        await world.series([{"device_key": device, "start": start, "amount": mean_amount(1)}])
    await world.series([{"device_key": 60, "field": "dc_power_w", "start": start, "amount": mean_amount(1)}])
    await consents.add_site(world.admin, 99, 9)
    await consents.add_device(world.admin, 990, 99)
    assert await received() == before
    await world.series(
        [{"device_key": 60, "start": start, "amount": mean_amount(1), "effective_at": start + 15 * MINUTE}]
    )
    assert await received() != before


@pytest.mark.parametrize("resolution", [Resolution.RAW, Resolution.PT15M, Resolution.PT1H, Resolution.P1D])
async def test_an_estimate_is_a_bound_and_knows_no_data(world: ViewWorld, resolution: Resolution) -> None:
    for back in (HOUR, 3 * DAY, 100 * DAY):
        asked = query(NOW - back, NOW, resolution=resolution)
        bound = await estimate(world.views, VIEWER, asked)
        assert bound >= (await world.views.view(LOOKER, asked)).rows.height
        assert bound > 0 or back < DAY
    one = await estimate(world.views, VIEWER, asked, part=Part(at_most=1))
    assert 0 < one < bound
    await world.admin.execute("TRUNCATE readings.series, readings.hot")
    assert await estimate(world.views, VIEWER, asked) == bound
    fine = await estimate(world.views, VIEWER, replace(asked, fields=frozenset({"ac_power_w"})))
    assert fine < bound
    for home in range(1, 8):
        await consents.withdraw(world.admin, home)
    assert await estimate(world.views, VIEWER, asked) == 0
