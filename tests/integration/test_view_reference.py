"""view() against plain loops (tests/support/scalar_view.py) over generated grants, and polled across windows' lives."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry.model.fields import CATALOGUE, FIELD_INDEX
from telemetry.model.series import AGGREGATES
from telemetry.model.sharing import RESOLUTIONS, Resolution
from telemetry.privacy.resolution import window_ends
from telemetry.views.query import DayGrid
from tests.support import consents, scalar_view
from tests.support.store import Store
from tests.support.view_world import DAY, HOUR, MINUTE, ViewWorld, mean_amount, query, us

LOOKER, OWNER, SITE, DEVICE = 1, 10, 100, 1000
QUARTER = 15 * MINUTE
FIELDS = ("ac_power_w", "energy_total_wh", "operating_state_code")
MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - 4 * DAY
US = timedelta(microseconds=1)


@pytest_asyncio.fixture
async def world(store: Store) -> AsyncIterator[ViewWorld]:
    admin = await store.admin()
    world = ViewWorld(store, admin, MIDNIGHT + 3 * DAY)
    yield world
    await world.pool.close()
    await consents.clear(admin)


# Quarters of two days in hours' steps of amount, one of them in a second version; some are missing, some kept as hours.
def stored() -> list[dict[str, Any]]:
    rows = []
    for index, field in enumerate(FIELDS):
        for n in range(192):
            start = MIDNIGHT + n * QUARTER
            if n % 13 == 5 or 96 <= n < 104:
                continue
            row = {"device_key": DEVICE, "field": field, "start": start, "amount": 900_000 * (n % 7 + 1) + index}
            rows.append(row | {"last_at": us(start + MINUTE)} if field.endswith("code") else row)
            if n % 50 == 3:
                rows.append(rows[-1] | {"amount": 900_000 * 11, "effective_at": start + 7 * HOUR})
        for n in range(24, 26):
            start = MIDNIGHT + n * HOUR
            row = {"device_key": DEVICE, "field": field, "start": start, "amount": 3_600_000 * 5}
            extra = {"last_at": us(start)} if field.endswith("code") else {}
            rows.append(row | extra | {"resolution": Resolution.PT1H})
    return rows


def expected(
    rows: list[dict[str, Any]], grants: list[dict[str, Any]], about: dict[str, Any], asked: dict[str, Any]
) -> set[tuple[Any, ...]]:
    """(field, rank, start, value) of every window that the rules show, worked out one by one."""
    found = set()
    now, since, until = about["now_us"], us(asked["since"]), us(asked["until"])
    for field in asked["fields"]:
        index = FIELD_INDEX[field]
        kind = AGGREGATES[index].value
        said = (grants, about, SITE, 1, field, CATALOGUE[index].data_class)
        own = sorted((_plain(row) for row in rows if row["field"] == field), key=lambda row: row["effective"])
        for rank, minutes in ((2, 15), (3, 30), (4, 60), (5, 1440)):
            step = minutes * 60_000_000
            cutoff = (now - 300_000_000) // step * step
            for start in range(us(MIDNIGHT), us(MIDNIGHT) + 2 * 86_400_000_000, step):
                end = start + step
                if start < since or end > min(until, cutoff):
                    continue
                newest = {}
                for row in own:
                    if start <= row["start"] and row["end"] <= end and row["effective"] <= cutoff:
                        newest[row["start"], row["rank"]] = row
                parts = [newest[key] for key in sorted(newest)]
                as_kept = any(row["rank"] == rank for row in parts)
                window = (start, end)
                if not parts or not scalar_view.shown(*said, kind, asked["rank"], "utc", rank, window, kept=as_kept):
                    continue
                amount = sum(row["amount"] for row in parts)
                covered = sum(row["end"] - row["start"] for row in parts) // 1000
                value = {"integral": amount / covered, "increment": amount / 1000, "last": parts[-1]["amount"]}[kind]
                found.add((field, rank, start, round(value, 9)))
    return found


def _plain(row: dict[str, Any]) -> dict[str, int]:
    rank = row.get("resolution", Resolution.PT15M).rank
    end = us(row["start"]) + {2: 900, 4: 3600}[rank] * 1_000_000
    effective = us(row["effective_at"]) if "effective_at" in row else end
    return {"rank": rank, "start": us(row["start"]), "end": end, "effective": effective, "amount": row["amount"]}


_INSTANTS = st.integers(-10, 60).map(lambda n: MIDNIGHT + n * HOUR)
GRANTS = st.lists(
    st.fixed_dictionaries(
        {
            "fields": st.lists(st.sampled_from(FIELDS), min_size=1, unique=True),
            "resolution": st.sampled_from([0, 1, 2, 2, 3, 4, 5]),
            "data_from": _INSTANTS,
            "history": st.sampled_from([None, None, timedelta(hours=20), timedelta(hours=60)]),
            "kinds": st.sampled_from([None, None, None, [2]]),
        }
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.long
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    terms=GRANTS,
    asked=st.sampled_from([r for r in RESOLUTIONS if r is not Resolution.P1M]),
    since=st.integers(-100, 3000),
    length=st.integers(20, 4000),
    now=st.integers(1, 5000),
    restricted=st.none() | st.tuples(st.integers(0, 40), st.integers(1, 10)),
)
async def test_a_view_equals_the_scalar_reference(
    world: ViewWorld,
    terms: list[dict[str, Any]],
    asked: Resolution,
    since: int,
    length: int,
    now: int,
    restricted: tuple[int, int] | None,
) -> None:
    admin = world.admin
    await consents.clear(admin)
    await consents.add_recipient(admin, LOOKER)
    await consents.add_owner(admin, OWNER)
    await consents.add_site(admin, SITE, OWNER)
    await consents.add_device(admin, DEVICE, SITE)
    rows = stored()
    await world.series(rows)
    world.now = MIDNIGHT + now * MINUTE
    real_now = datetime.now(UTC)
    for key, one in enumerate(terms):
        # Row-level security goes by the database's clock: there the history reaches as far as here, and further.
        stretched = None if one["history"] is None else one["history"] + (real_now - world.now)
        await consents.add_grant(admin, key + 1, OWNER, LOOKER, **one | {"history": stretched})
        await admin.execute("UPDATE consent.active_grant SET history = $1 WHERE grant_key = $2", stretched, key + 1)
    holes = []
    if restricted is not None:
        begun = MIDNIGHT + restricted[0] * HOUR
        if begun + restricted[1] * HOUR <= world.now:
            holes = [(begun, begun + restricted[1] * HOUR)]
            await admin.execute("INSERT INTO consent.restriction VALUES ($1, $2, $3)", OWNER, *holes[0])
    grants = [
        {
            "active": True,
            "policy": "2026-11",
            "sites": None,
            "classes": [],
            "fields": one["fields"],
            "kinds": one["kinds"],
            "rank": one["resolution"],
            "place": "withheld",
            "serial": "pseudonym",
            "extremes": False,
            # The view reads the stretched history as well, from its own clock.
            "history_us": None if one["history"] is None else (one["history"] + (real_now - world.now)) // US,
            "data_from_us": us(one["data_from"]),
            "start_us": 0,
            "until_us": None,
        }
        for one in terms
    ]
    about = {
        "now_us": us(world.now),
        "purpose": "maintenance",
        "recipient": LOOKER,
        "erased": False,
        "closed": False,
        "expired": set(),
        "restrictions": [(us(a), us(b)) for a, b in holes],
        "objections": [],
        "tenure": (None, None),
        "align_min": 60,
    }
    first = MIDNIGHT + since * MINUTE
    wanted = {"since": first, "until": first + length * MINUTE, "rank": asked.rank, "fields": FIELDS}
    view = await world.views.view(LOOKER, query(first, wanted["until"], resolution=asked, grid=DayGrid.UTC))
    ranks = {resolution.value: resolution.rank for resolution in RESOLUTIONS}
    ours = {
        (field, ranks[resolution], us(start), round(value, 9))
        for field, resolution, start, value in view.rows.select("field", "resolution", "start", "value").iter_rows()
    }
    assert len(ours) == view.rows.height
    assert ours == expected(rows, grants, about, wanted)


class TestRule17Polling:
    @pytest.mark.long
    @pytest.mark.parametrize("granted", [Resolution.PT15M, Resolution.PT1H, Resolution.P1D])
    async def test_polled_every_second_with_every_offset_nothing_finer_comes_out(
        self, world: ViewWorld, granted: Resolution
    ) -> None:
        """All answers ever given hold one value a window and grid boundary, corrections at later boundaries alone."""
        admin = world.admin
        await consents.clear(admin)
        await consents.add_recipient(admin, LOOKER)
        await consents.add_owner(admin, OWNER)
        await consents.add_site(admin, SITE, OWNER)
        await consents.add_device(admin, DEVICE, SITE)
        await consents.add_grant(admin, 1, OWNER, LOOKER, resolution=granted.rank)
        length = timedelta(minutes=granted.minutes or 0)
        start = MIDNIGHT + 12 * HOUR if granted is not Resolution.P1D else MIDNIGHT
        for n in range(length // QUARTER):
            row = {"device_key": DEVICE, "start": start + n * QUARTER, "amount": mean_amount(n * n)}
            await world.series([row])
        correction = start + length + 11 * MINUTE + 7 * timedelta(seconds=1)
        boundary = start + 2 * length
        await world.series([row | {"amount": mean_amount(999), "effective_at": boundary}])
        changes: list[tuple[datetime, frozenset[Any]]] = []
        for moment in _moments(start, length, correction):
            world.now = moment
            answers = set()
            for since, until, asked in _requests(start, length, moment):
                view = await world.views.view(LOOKER, query(since, until, resolution=asked))
                answers |= set(view.rows.select("start", "end", "value").iter_rows())
            if not changes or changes[-1][1] != answers:
                changes.append((moment, frozenset(answers)))
        lateness = 5 * MINUTE
        assert [(moment, len(rows)) for moment, rows in changes] == [
            (changes[0][0], 0),
            (start + length + lateness, 1),
            (boundary + lateness, 1),
        ]
        for _, rows in changes[1:]:
            ((first, last, _),) = rows
            assert (first, last) == (start, start + length)
            assert us(last) == window_ends(us(first), granted)


def _moments(start: datetime, length: timedelta, correction: datetime) -> list[datetime]:
    """Every second around what could be seen, and every few minutes in between."""
    second, found = timedelta(seconds=1), set()
    for around in (start, start + length, start + length + 5 * MINUTE, correction, start + 2 * length + 5 * MINUTE):
        found |= {around + n * second for n in range(-3, 4)}
    found |= {start + n * (length / 8) for n in range(20)}
    return sorted(found)


def _requests(start: datetime, length: timedelta, now: datetime) -> list[tuple[datetime, datetime, Resolution]]:
    """Overlapping ranges that begin and end off the grid, at every resolution up to the granted."""
    offsets = [timedelta(0), timedelta(seconds=1), QUARTER, length / 2]
    shifted = [
        (start + offset - shift, start + length + offset) for offset in offsets for shift in (timedelta(0), length)
    ]
    everything = (start - 2 * length, now + length)
    return [
        (*everything, Resolution.RAW),
        (*everything, Resolution.PT15M),
        *((*one, Resolution.PT1M) for one in shifted),
    ]
