"""Two worlds that differ only in what is not granted give a recipient the same bytes, errors included (rule 22).

Every difference has a control: where it is granted, the same change is seen.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry.errors import NotVisible
from telemetry.model.sharing import RESOLUTIONS, Resolution
from telemetry.views.export import export
from tests.support import consents
from tests.support.store import Store
from tests.support.view_world import DAY, HOUR, MINUTE, ViewWorld, as_bytes, mean_amount, query

LOOKER, OTHER, OWNER, SITE, DEVICE = 1, 2, 10, 100, 1000
SECOND_SITE, BATTERY, AWAY = 101, 1001, 1010  # of the same owner
NOW = datetime.now(UTC).replace(minute=7, second=0, microsecond=0) - HOUR
HOUR_START = NOW.replace(minute=0) - 4 * HOUR
OLD = NOW.replace(minute=0) - 30 * DAY
QUARTER = 15 * MINUTE
Terms = dict[str, Any]


async def seed(world: ViewWorld, terms: Terms) -> None:
    """A home with inverter and battery, a second one, and another owner; one grant of ``terms``."""
    admin = world.admin
    await consents.clear(admin)
    for key in (LOOKER, OTHER):
        await consents.add_recipient(admin, key)
    for owner in (OWNER, OWNER + 1):
        await consents.add_owner(admin, owner)
    for site, owner in ((SITE, OWNER), (SECOND_SITE, OWNER), (SITE + 10, OWNER + 1)):
        await consents.add_site(admin, site, owner)
    for device, site, kind in ((DEVICE, SITE, 1), (BATTERY, SITE, 2), (AWAY, SECOND_SITE, 1), (AWAY + 1, SITE + 10, 1)):
        await consents.add_device(admin, device, site, kind)
    world.vault.serial_of = {device: f"MADE-UP-{device}" for device in (DEVICE, BATTERY, AWAY, AWAY + 1)}
    world.vault.place_of = {site: (50.0, float(site % 90)) for site in (SITE, SECOND_SITE, SITE + 10)}
    starts = (*(HOUR_START + n * QUARTER for n in range(-4, 12)), OLD, NOW.replace(minute=0))
    rows = [
        {"device_key": device, "field": field, "start": start, "amount": mean_amount(start.hour)}
        for device in (DEVICE, BATTERY, AWAY, AWAY + 1)
        for field in ("ac_power_w", "temperature_c", "energy_total_wh", "operating_state_code")
        for start in starts
    ]
    await world.series([row | ({"lowest": 1, "highest": 2} if row["field"] == "ac_power_w" else {}) for row in rows])
    await consents.add_grant(admin, 1, OWNER, LOOKER, **terms)


async def received(world: ViewWorld) -> bytes:
    """Everything that the recipient can get, in every resolution, by every way."""
    found = []
    for resolution in (Resolution.RAW, Resolution.PT15M, Resolution.PT1H, Resolution.P1D):
        asked = query(OLD - DAY, NOW + DAY, resolution=resolution)
        found.append(as_bytes(await world.views.view(LOOKER, asked)))
    view = await world.views.view(LOOKER, query(NOW - DAY, NOW))
    if not view.is_gone:
        chunks = export(world.views, LOOKER, query(NOW - DAY, NOW), rows=5_000)
        found += [as_bytes(chunk.view) async for chunk in chunks]
    for name in ("dev_unknown", *world.vault.serial_of.values()):
        with pytest.raises(NotVisible) as caught:
            await world.views.view(LOOKER, query(NOW - DAY, NOW, devices=frozenset({name})))
        found.append(repr(caught.value).encode())
    return b"\1".join(found)


@dataclass(frozen=True)
class Difference:
    """A change of the world, whether a grant of these terms leaves it unseen, and terms under which it is seen."""

    change: Callable[[ViewWorld], Awaitable[None]]
    unseen: Callable[[Terms], bool]
    control: Terms


def windows(device: int, field: str, start: datetime, **more: Any) -> Callable[[ViewWorld], Awaitable[None]]:
    async def change(world: ViewWorld) -> None:
        await world.series([{"device_key": device, "field": field, "start": start, "amount": mean_amount(77)} | more])

    return change


def statement(text: str) -> Callable[[ViewWorld], Awaitable[None]]:
    async def change(world: ViewWorld) -> None:
        await world.admin.execute(text)

    return change


async def finer(world: ViewWorld) -> None:
    """The same hour, otherwise spread over its quarters."""
    for n, watts in enumerate((1, 2, 3, 4 * HOUR_START.hour - 6)):
        await windows(DEVICE, "ac_power_w", HOUR_START + n * QUARTER, amount=mean_amount(watts))(world)


async def another_device(world: ViewWorld) -> None:
    await consents.add_device(world.admin, BATTERY + 1, SITE, kind=2)
    await windows(BATTERY + 1, "ac_power_w", HOUR_START)(world)


async def another_home(world: ViewWorld) -> None:
    await consents.add_site(world.admin, SECOND_SITE + 1, OWNER)
    await consents.add_device(world.admin, AWAY + 2, SECOND_SITE + 1)


async def another_owner(world: ViewWorld) -> None:
    await consents.add_owner(world.admin, OWNER + 2)
    await consents.add_site(world.admin, SITE + 20, OWNER + 2)
    await consents.add_device(world.admin, AWAY + 3, SITE + 20)
    await consents.add_grant(world.admin, 90, OWNER + 2, OTHER)
    await windows(AWAY + 3, "ac_power_w", HOUR_START)(world)


async def to_looker_too(world: ViewWorld) -> None:
    """The control of what another recipient or purpose was granted: the same, to the one who looks."""
    await consents.add_grant(world.admin, 91, OWNER, LOOKER, fields=["temperature_c"], place="exact", serial="real")


async def other_recipient(world: ViewWorld) -> None:
    await consents.add_grant(world.admin, 91, OWNER, OTHER, fields=["temperature_c"], place="exact", serial="real")


async def other_purpose(world: ViewWorld) -> None:
    await consents.add_grant(
        world.admin, 92, OWNER, LOOKER, fields=["temperature_c"], place="exact", serial="real", purpose="billing"
    )


async def serials(world: ViewWorld) -> None:
    world.vault.serial_of = {key: f"OTHER-{key}" for key in world.vault.serial_of}


async def coordinates(world: ViewWorld) -> None:
    world.vault.place_of = dict.fromkeys(world.vault.place_of, (-10.0, 20.0))


ALL: Terms = {
    "fields": ["ac_power_w", "temperature_c", "energy_total_wh", "operating_state_code"],
    "resolution": Resolution.PT15M.rank,
    "place": "region",
    "serial": "real",
    "extremes": True,
}


def lacks(name: str, value: Any) -> Callable[[Terms], bool]:
    return lambda terms: terms[name] is not None and value not in terms[name]


DIFFERENCES = {
    "a withheld field": Difference(windows(DEVICE, "temperature_c", HOUR_START), lacks("fields", "temperature_c"), ALL),
    "a withheld counter": Difference(
        windows(DEVICE, "energy_total_wh", HOUR_START), lacks("fields", "energy_total_wh"), ALL
    ),
    "a field that starts to be reported": Difference(
        windows(DEVICE, "ac_voltage_v", HOUR_START), lambda _: True, ALL | {"fields": ["ac_voltage_v"]}
    ),
    "a device's values": Difference(windows(BATTERY, "ac_power_w", HOUR_START), lacks("kinds", 2), ALL),
    "one more device": Difference(another_device, lacks("kinds", 2), ALL),
    "a site's values": Difference(windows(AWAY, "ac_power_w", HOUR_START), lacks("sites", SECOND_SITE), ALL),
    "one more site": Difference(another_home, lacks("sites", SECOND_SITE + 1), ALL),
    "another owner": Difference(another_owner, lambda _: True, {}),
    "what another recipient was granted": Difference(other_recipient, lambda _: True, {}),
    "what was granted for another purpose": Difference(other_purpose, lambda _: True, {}),
    "a finer series": Difference(
        finer, lambda terms: terms["resolution"] >= Resolution.PT1H.rank and not terms["extremes"], ALL
    ),
    "extremes": Difference(
        windows(DEVICE, "ac_power_w", HOUR_START, amount=mean_amount(HOUR_START.hour), lowest=0, highest=9),
        lambda terms: not terms["extremes"],
        ALL,
    ),
    "what was before": Difference(
        windows(DEVICE, "ac_power_w", OLD), lambda terms: terms["history"] is not None, ALL | {"history": None}
    ),
    "a window that is not over": Difference(windows(DEVICE, "ac_power_w", NOW.replace(minute=0)), lambda _: True, {}),
    "serials": Difference(serials, lambda terms: terms["serial"] != "real", ALL),
    "coordinates": Difference(coordinates, lambda terms: terms["place"] != "exact", ALL | {"place": "exact"}),
    "the region": Difference(
        statement("UPDATE consent.site_place SET region = 'DE-BY'"),
        lambda terms: terms["place"] in {"withheld", "country"},
        ALL,
    ),
    "the country": Difference(
        statement("UPDATE consent.site_place SET country = 'AT'"),
        lambda terms: terms["place"] == "withheld",
        ALL | {"place": "country"},
    ),
    "the time zone": Difference(
        statement("UPDATE consent.site_place SET timezone = 'Asia/Tokyo'"),
        lambda terms: terms["place"] in {"withheld", "country"},
        ALL,
    ),
    "the cell": Difference(statement("UPDATE consent.site_place SET cell7 = 1"), lambda _: True, {}),
    "a label": Difference(
        statement(f"INSERT INTO consent.site_label VALUES (1, {SITE}, 5, 599718752904282111)"),
        lambda terms: not terms["place"].startswith("cell"),
        ALL | {"place": "cell5"},
    ),
    "another one's label": Difference(
        statement(f"INSERT INTO consent.site_label VALUES (2, {SITE}, 5, 599718752904282111)"), lambda _: True, {}
    ),
    "settings of keeping": Difference(
        statement(f"INSERT INTO consent.keeping VALUES ({OWNER}, 1, '{{}}')"), lambda _: True, {}
    ),
}
# What no grant shows has a control of its own kind.
CONTROLS: dict[str, Callable[[ViewWorld], Awaitable[None]]] = {
    "another owner": windows(DEVICE, "ac_power_w", HOUR_START),
    "what another recipient was granted": to_looker_too,
    "what was granted for another purpose": to_looker_too,
    "a window that is not over": windows(DEVICE, "ac_power_w", NOW.replace(minute=0) - QUARTER),
    "the cell": statement("UPDATE consent.site_place SET region = 'DE-BY'"),
    "another one's label": statement("UPDATE consent.site_place SET region = 'DE-BY'"),
    "settings of keeping": statement("DELETE FROM consent.active_grant"),
}


@pytest_asyncio.fixture
async def world(store: Store) -> AsyncIterator[ViewWorld]:
    admin = await store.admin()
    world = ViewWorld(store, admin, NOW)
    yield world
    await world.pool.close()
    await consents.clear(admin)


TERMS = st.fixed_dictionaries(
    {
        "fields": st.lists(st.sampled_from(ALL["fields"]), min_size=1, unique=True),
        "kinds": st.sampled_from([None, [1], [1, 2]]),
        "sites": st.sampled_from([None, [SITE], [SITE, SECOND_SITE]]),
        "resolution": st.sampled_from([r.rank for r in RESOLUTIONS]),
        "serial": st.sampled_from(["withheld", "pseudonym", "real"]),
        "place": st.sampled_from(["withheld", "country", "region", "cell5", "exact"]),
        "extremes": st.booleans(),
        "history": st.sampled_from([None, timedelta(days=2)]),
    }
)


@pytest.mark.long
@pytest.mark.parametrize("difference", DIFFERENCES)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(terms=TERMS)
async def test_what_is_not_granted_changes_no_byte(world: ViewWorld, difference: str, terms: Terms) -> None:
    about = DIFFERENCES[difference]
    if not about.unseen(terms):
        terms = terms | WITHHOLDING
    assert about.unseen(terms)
    await seed(world, terms)
    before = await received(world)
    await about.change(world)
    assert await received(world) == before


# With these nothing but a coarse power of one device is granted.
WITHHOLDING: Terms = {
    "fields": ["ac_power_w"],
    "kinds": [1],
    "sites": [SITE],
    "resolution": Resolution.PT1H.rank,
    "serial": "pseudonym",
    "place": "withheld",
    "extremes": False,
    "history": timedelta(days=2),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
async def test_with_the_least_granted_nothing_else_is_told(world: ViewWorld, difference: str) -> None:
    await seed(world, WITHHOLDING)
    before = await received(world)
    await DIFFERENCES[difference].change(world)
    assert await received(world) == before


@pytest.mark.parametrize("difference", DIFFERENCES)
async def test_where_it_is_granted_the_change_is_seen(world: ViewWorld, difference: str) -> None:
    about = DIFFERENCES[difference]
    await seed(world, about.control or ALL)
    before = await received(world)
    await CONTROLS.get(difference, about.change)(world)
    assert await received(world) != before
