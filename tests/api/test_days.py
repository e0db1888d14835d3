"""Days over HTTP on days when clocks change, against plain arithmetic with zoneinfo; on both grids of rule 10.

``tz`` changes how instants are written, and nothing else.
"""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
import pytest_asyncio

from telemetry.embedded.postgres import EmbeddedPostgres
from tests.support import consents
from tests.support.api_world import ApiWorld, api_world, text
from tests.support.store import Store
from tests.support.view_world import mean_amount

pytestmark = pytest.mark.asyncio(loop_scope="module")
REGION, COUNTRY, HOURLY = 1, 2, 3  # recipients
QUARTER, DAY = timedelta(minutes=15), timedelta(days=1)
# Zone, the day, and its length by the clock.
DAYS = [
    ("Europe/Amsterdam", date(2026, 3, 29), 23.0),
    ("Europe/Amsterdam", date(2025, 10, 26), 25.0),
    ("America/New_York", date(2026, 3, 8), 23.0),
    ("America/New_York", date(2025, 11, 2), 25.0),
    ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
    ("Australia/Lord_Howe", date(2025, 10, 5), 23.5),
    ("Asia/Kolkata", date(2026, 3, 29), 24.0),
]
SITES = {zone: n for n, zone in enumerate(dict.fromkeys(zone for zone, _, _ in DAYS))}


def watts(start: datetime) -> int:
    """What a device makes in a quarter: no two days have the same sum."""
    return (start - datetime(2025, 1, 1, tzinfo=UTC)) // QUARTER % 1009


def around(day: date) -> list[datetime]:
    """Quarters from two days before a date to three days after, in UTC."""
    first = datetime(day.year, day.month, day.day, tzinfo=UTC) - 2 * DAY
    return [first + n * QUARTER for n in range(5 * 96)]


def midnight(day: date, zone: str) -> datetime:
    """The first instant of a date, in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def mean(since: datetime, until: datetime) -> float:
    """The scalar reference: every quarter counts alike."""
    values = []
    while since < until:
        values.append(watts(since))
        since += QUARTER
    assert since == until
    return sum(values) / len(values)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(migrated: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiWorld]:
    store = Store(migrated)
    async with api_world(store, tmp_path_factory.mktemp("api"), requests_per_minute=10**6) as made:
        for recipient in (REGION, COUNTRY, HOURLY):
            await consents.add_recipient(made.admin, recipient)
        for zone, n in SITES.items():
            await made.home(10 + n, 100 + n, 1000 + n, timezone=zone)
            terms = [(REGION, "region", 2), (COUNTRY, "country", 2), (HOURLY, "region", 4)]
            for recipient, place, rank in terms:
                await consents.add_grant(
                    made.admin, 10 * n + recipient, 10 + n, recipient, place=place, resolution=rank, sites=[100 + n]
                )
        for zone, day, _ in DAYS:
            device = 1000 + SITES[zone]
            await made.series(
                [{"device_key": device, "start": start, "amount": mean_amount(watts(start))} for start in around(day)]
            )
        yield made
    await store.close()


async def rows(world: ApiWorld, recipient: int, zone: str, day: date, **more: Any) -> list[dict[str, Any]]:
    """The days around one date, of the home in a zone."""
    bearer = await world.token(recipient)
    since, until = around(day)[0], around(day)[-1] + QUARTER
    asked = {"from_": text(since), "to": text(until), "resolution": "P1D", "format": "rows", "fields": "ac_power_w"}
    answer = await world.get("/series", bearer, **asked | more)
    assert answer.status_code == 200, answer.text
    devices = await of_zone(world, recipient, zone)
    return [row for row in answer.json()["rows"] if row["device"] in devices]


async def of_zone(world: ApiWorld, recipient: int, zone: str) -> set[str]:
    """The name of the device in a zone: it alone has an hour at this time."""
    key = 1000 + SITES[zone]
    marker = datetime(2026, 6, 1, tzinfo=UTC) + SITES[zone] * DAY
    await world.series([{"device_key": key, "start": marker + n * QUARTER, "amount": mean_amount(7)} for n in range(4)])
    asked = {"from_": text(marker), "to": text(marker + 4 * QUARTER), "resolution": "PT1H", "format": "rows"}
    told = (await world.get("/series", await world.token(recipient), **asked)).json()
    return {row["device"] for row in told["rows"]}


def instants(found: list[dict[str, Any]]) -> list[tuple[datetime, datetime, float, str]]:
    return [
        (
            datetime.fromisoformat(row["start"]).astimezone(UTC),
            datetime.fromisoformat(row["end"]).astimezone(UTC),
            round(row["value"], 6),
            row["coverage"],
        )
        for row in found
    ]


def expected(days: list[date], zone: str) -> list[tuple[datetime, datetime, float, str]]:
    edges = [(midnight(day, zone), midnight(day + DAY, zone)) for day in days]
    return [(start, end, round(mean(start, end), 6), "full") for start, end in edges]


@pytest.mark.parametrize(("zone", "day", "hours"), DAYS)
async def test_days_of_the_site_are_as_long_as_its_clocks_say(
    world: ApiWorld, zone: str, day: date, hours: float
) -> None:
    told = instants(await rows(world, REGION, zone, day, grid="site"))
    first, last = around(day)[0], around(day)[-1] + QUARTER
    days = [day + n * DAY for n in range(-3, 4)]
    whole = [one for one in days if first <= midnight(one, zone) and midnight(one + DAY, zone) <= last]
    assert len(whole) >= 4
    assert told == expected(whole, zone)
    assert midnight(day + DAY, zone) - midnight(day, zone) == timedelta(hours=hours)
    assert instants(await rows(world, REGION, zone, day)) == told, "the site's own where no grid is asked for"


@pytest.mark.parametrize(("zone", "day", "hours"), DAYS)
async def test_days_of_utc_have_24_hours_always(world: ApiWorld, zone: str, day: date, hours: float) -> None:
    told = instants(await rows(world, REGION, zone, day, grid="utc"))
    assert told == expected([day + n * DAY for n in range(-2, 3)], "UTC")


@pytest.mark.parametrize(("zone", "day", "hours"), DAYS)
async def test_a_days_edge_is_a_place(world: ApiWorld, zone: str, day: date, hours: float) -> None:
    """Who is not told the region is not told where its days begin, be it asked for."""
    assert await rows(world, COUNTRY, zone, day, grid="site") == []
    assert instants(await rows(world, COUNTRY, zone, day)) == expected([day + n * DAY for n in range(-2, 3)], "UTC")


@pytest.mark.parametrize(("zone", "day", "hours"), DAYS)
async def test_a_granted_hour_is_not_cut_by_a_days_edge(world: ApiWorld, zone: str, day: date, hours: float) -> None:
    own = await rows(world, HOURLY, zone, day, grid="site")
    cut = zone in {"Asia/Kolkata", "Australia/Lord_Howe"}
    assert bool(own) is not cut
    utc = expected([day + n * DAY for n in range(-2, 3)], "UTC")
    assert instants(await rows(world, HOURLY, zone, day, grid="utc")) == utc


@pytest.mark.parametrize("written", ["UTC", *SITES])
@pytest.mark.parametrize("form", ["rows", "columns", "csv"])
async def test_a_time_zone_formats_and_does_nothing_else(world: ApiWorld, written: str, form: str) -> None:
    _, day, _ = DAYS[0]
    bearer = await world.token(REGION)
    asked = {"from_": text(around(day)[0]), "to": text(around(day)[-1]), "resolution": "P1D", "fields": "ac_power_w"}
    answers = [await world.get("/series", bearer, **asked, format=form, tz=tz) for tz in ("UTC", written)]
    plain, formatted = (table(answer.content, form) for answer in answers)
    assert plain.height > 0
    same = [name for name in plain.columns if name not in {"start", "end"}]
    assert plain.select(same).equals(formatted.select(same))
    for name in ("start", "end"):
        for one, other in zip(plain[name], formatted[name], strict=True):
            local = datetime.fromisoformat(one).astimezone(ZoneInfo(written))
            assert other == local.isoformat().replace("+00:00", "Z")


def table(body: bytes, form: str) -> pl.DataFrame:
    """Rows, as text and numbers."""
    if form == "csv":
        return pl.read_csv(body, infer_schema_length=None)
    told = pl.read_json(body)
    if form == "rows":
        return told.select(pl.col("rows").explode()).unnest("rows")
    columns = ("start", "end", "value", "coverage")
    return told.select(pl.col("series").explode()).unnest("series").explode(*columns)
