"""Names are resolved to owners first: what is remembered of them is a hint and never an answer (decision 0065)."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from telemetry.errors import NotVisible
from telemetry.model.sharing import SharingPurpose
from telemetry.views.fleet import FleetQuery, fleet
from telemetry.views.query import Part, Way
from telemetry.views.sight import Viewer
from tests.support import consents
from tests.support.store import Store
from tests.support.view_world import DAY, HOUR, MINUTE, ViewWorld, as_bytes, mean_amount, query

LOOKER, OTHER = 1, 2
NOW = datetime.now(UTC).replace(minute=7, second=0, microsecond=0) - HOUR
HOMES = range(1, 8)
ASKED = query(NOW - 6 * HOUR, NOW)
VIEWER = Viewer(LOOKER, SharingPurpose.MAINTENANCE)


@pytest_asyncio.fixture
async def world(store: Store) -> AsyncIterator[ViewWorld]:
    """Seven homes of two devices; the last is another recipient's."""
    admin = await store.admin()
    await consents.clear(admin)
    world = ViewWorld(store, admin, NOW)
    for key in (LOOKER, OTHER):
        await consents.add_recipient(admin, key)
    for home in HOMES:
        await consents.add_owner(admin, home)
        await consents.add_site(admin, home, home)
        for device in (10 * home, 10 * home + 1):
            await consents.add_device(admin, device, home)
            start = NOW.replace(minute=0) - 2 * HOUR
            await world.series([{"device_key": device, "start": start, "amount": mean_amount(device)}])
        await consents.add_grant(admin, home, home, OTHER if home == 7 else LOOKER)
    yield world
    await world.pool.close()
    await consents.clear(admin)


async def names(world: ViewWorld, recipient: int = LOOKER) -> dict[int, tuple[str, list[str]]]:
    """Owner → its site's name and its devices', by a whole view with views of their own."""
    _, named = await world.made(lambda: world.now).read(Viewer(recipient, SharingPurpose.MAINTENANCE), ASKED)
    found: dict[int, tuple[str, list[str]]] = {}
    for device, name in zip(named.devices, named.names, strict=True):
        found.setdefault(device.owner_key, (named.sites[device.site_key], []))[1].append(name)
    return found


async def refused(world: ViewWorld, **asked: Any) -> None:
    with pytest.raises(NotVisible):
        await world.views.view(LOOKER, replace(ASKED, **asked))


async def test_a_name_gives_the_same_whether_it_is_remembered_or_not(world: ViewWorld) -> None:
    site, devices = (await names(world))[3]
    for asked in (
        replace(ASKED, sites=frozenset({site})),
        replace(ASKED, devices=frozenset(devices[:1])),
        replace(ASKED, sites=frozenset({site}), devices=frozenset(devices)),
    ):
        first = await world.made(lambda: world.now).view(LOOKER, asked)
        assert first.rows.height == len(asked.devices or devices)
        warm = [await world.views.view(LOOKER, asked) for _ in range(2)]
        assert {as_bytes(view) for view in (first, *warm)} == {as_bytes(first)}


async def test_a_remembered_name_is_refused_once_it_is_withdrawn(world: ViewWorld) -> None:
    site, devices = (await names(world))[3]
    await world.views.view(LOOKER, replace(ASKED, sites=frozenset({site})))
    await consents.withdraw(world.admin, 3)
    await refused(world, sites=frozenset({site}))
    await refused(world, devices=frozenset(devices))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO consent.restriction (owner_key, from_at) VALUES (3, now() - interval '1 h')",
        "INSERT INTO consent.objection (owner_key, purpose) VALUES (3, 'maintenance')",
        "UPDATE consent.owner SET erased_at = now() WHERE owner_key = 3",
        "UPDATE consent.recipient SET closed_at = now() WHERE recipient_key = 1",
    ],
)
async def test_a_remembered_name_is_refused_whatever_stands_against_it(world: ViewWorld, statement: str) -> None:
    site, _ = (await names(world))[3]
    await world.views.view(LOOKER, replace(ASKED, sites=frozenset({site})))
    world.now = datetime.now(UTC)
    await world.admin.execute(statement)
    world.now = datetime.now(UTC) + MINUTE
    await refused(world, sites=frozenset({site}))


async def test_a_name_of_an_epoch_that_ended_is_refused_though_its_home_is_granted_anew(world: ViewWorld) -> None:
    site, devices = (await names(world))[3]
    await world.views.view(LOOKER, replace(ASKED, sites=frozenset({site})))
    await world.admin.execute("UPDATE consent.relation SET epoch = 2 WHERE owner_key = 3")
    await refused(world, sites=frozenset({site}))
    await refused(world, devices=frozenset(devices[:1]))
    renewed, _ = (await names(world))[3]
    assert renewed != site
    assert (await world.views.view(LOOKER, replace(ASKED, sites=frozenset({renewed})))).rows.height == 2


async def test_a_wrong_hint_shows_nothing_and_hides_nothing(world: ViewWorld) -> None:
    found = await names(world)
    keyed = await world.views._names.keyed(LOOKER)
    assert keyed is not None
    await world.views.view(LOOKER, ASKED)
    mine, theirs = found[3][0], found[4][0]
    for token, wrong in ((mine, theirs), (theirs, "site_nonsense"), ("site_nonsense", mine)):
        meant = keyed.meant(mine if wrong == "site_nonsense" else wrong)
        assert meant is not None
        keyed.learn({token: meant})
        if token == "site_nonsense":
            await refused(world, sites=frozenset({token}))
            continue
        view = await world.views.view(LOOKER, replace(ASKED, sites=frozenset({token})))
        assert set(view.devices["site"]) == {token}


async def test_names_of_another_recipient_and_of_another_purpose_are_refused(world: ViewWorld) -> None:
    await consents.add_grant(world.admin, 20, 5, LOOKER, purpose="billing")
    await consents.withdraw(world.admin, 5)
    foreign, _ = (await names(world, OTHER))[7]
    billing = Viewer(LOOKER, SharingPurpose.BILLING)
    _, named = await world.views.read(billing, replace(ASKED, purpose=SharingPurpose.BILLING))
    assert len(named.names) == 2
    await refused(world, sites=frozenset({foreign}))
    await refused(world, devices=frozenset(named.names))


async def test_one_name_that_is_not_there_refuses_all(world: ViewWorld) -> None:
    found = await names(world)
    sites = frozenset(found[home][0] for home in (1, 2))
    assert (await world.views.view(LOOKER, replace(ASKED, sites=sites))).rows.height == 4
    await consents.withdraw(world.admin, 2)
    await refused(world, sites=sites)
    await refused(world, sites=frozenset({found[1][0], "site_nonsense"}))


async def test_devices_without_tokens_are_found_by_their_sites(world: ViewWorld) -> None:
    await consents.withdraw(world.admin, 3)
    await consents.add_grant(world.admin, 30, 3, LOOKER, serial="withheld")
    _, devices = (await names(world))[3]
    assert all("/" in name for name in devices)
    for _ in range(2):
        view = await world.views.view(LOOKER, replace(ASKED, devices=frozenset(devices[:1])))
        assert view.devices["device"].to_list() == devices[:1]
    await refused(world, devices=frozenset({devices[0].partition("/")[0] + "/inverter-3"}))


@pytest.mark.parametrize("at_most", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("remembered", [True, False])
async def test_parts_follow_each_other_to_the_whole(world: ViewWorld, at_most: int, remembered: bool) -> None:
    whole, named = await world.made(lambda: world.now).read(VIEWER, ASKED)
    views = world.views
    found, after = [], None
    while True:
        if not remembered:
            views = world.made(lambda: world.now)
        view, part = await views.read(VIEWER, ASKED, way=Way.EXPORT, part=Part(after=after, at_most=at_most))
        if not part.names:
            break
        assert len(part.names) <= at_most
        found += part.names
        after = view.devices.select("site", "device").row(-1)
        through = Part(after=(after[0], ""), through=after)
        assert after[1] in (await views.read(VIEWER, ASKED, part=through))[1].names
    assert found == list(named.names)
    assert whole.rows.height == 12


async def test_a_part_by_sites_holds_whole_sites(world: ViewWorld) -> None:
    _, named = await world.views.read(VIEWER, ASKED)
    sites = sorted(set(named.sites.values()))
    _, part = await world.views.read(VIEWER, ASKED, part=Part(after=(sites[1], "~"), at_most_sites=3))
    assert [named.sites[d.site_key] for d in part.devices] == [site for site in sites[2:5] for _ in range(2)]


async def test_another_site_of_the_same_owner_stays_out_of_a_part_that_it_is_not_in(world: ViewWorld) -> None:
    for site in range(100, 120):
        await consents.add_site(world.admin, site, 3)
        await consents.add_device(world.admin, 10 * site, site)
    _, named = await world.made(lambda: world.now).read(VIEWER, ASKED)
    found: list[str] = []
    after = None
    for _ in range(40):
        view, part = await world.views.read(VIEWER, ASKED, part=Part(after=after, at_most=2))
        if not part.names:
            break
        found += part.names
        after = view.devices.select("site", "device").row(-1)
    assert found == list(named.names)


async def test_an_owner_asks_by_the_own_names(world: ViewWorld) -> None:
    view = await world.views.own(3, ASKED)
    site = view.devices["site"][0]
    assert (await world.views.own(3, replace(ASKED, sites=frozenset({site})))).rows.height == 2
    with pytest.raises(NotVisible):
        await world.views.own(4, replace(ASKED, sites=frozenset({site})))
    assert (await world.views.own(3, replace(ASKED, since=NOW - 2 * DAY))).rows.height == 2


async def listed(world: ViewWorld) -> list[str]:
    """All sites, page by page."""
    page = await fleet(world.views, VIEWER, FleetQuery(SharingPurpose.MAINTENANCE, at_most=3))
    found = list(page.sites["site"])
    while page.after is not None:
        page = await fleet(world.views, VIEWER, FleetQuery(SharingPurpose.MAINTENANCE, at_most=3, after=page.after))
        found += list(page.sites["site"])
    return found


async def test_pages_list_what_is_granted_now_whatever_was_listed_before(world: ViewWorld) -> None:
    of_owner = {owner: site for owner, (site, _) in (await names(world)).items()}
    before = await listed(world)
    assert before == sorted(of_owner.values())
    await consents.withdraw(world.admin, 3)
    await consents.add_grant(world.admin, 70, 7, LOOKER)
    granted = (await names(world))[7][0]
    assert await listed(world) == sorted({*before, granted} - {of_owner[3]})


async def test_rows_come_by_site_device_field_and_time(world: ViewWorld) -> None:
    begin, more = NOW.replace(minute=0) - 2 * HOUR, ["temperature_c", "ac_voltage_v"]
    await consents.add_grant(world.admin, 80, 1, LOOKER, fields=more)
    for field in more:
        rows = [{"device_key": 10, "field": field, "start": begin + n * 15 * MINUTE, "amount": 1} for n in (2, 0, 1)]
        await world.series(rows)
    view = await world.views.view(LOOKER, ASKED)
    order = view.rows.select("site", "device", "field", "start").rows()
    assert len({field for _, _, field, _ in order}) == 3
    assert order == sorted(order)
