"""Passes over real tables: what begins, what ends, and that repeating or killing a pass changes nothing."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytest_asyncio

from telemetry.alerts.find import AlertFinder, Found
from telemetry.alerts.job import AlertJob
from telemetry.config import Config
from telemetry.errors import StoreUnavailable
from telemetry.model.alert import AlertKind
from telemetry.model.fields import CATALOGUE, FIELD_INDEX
from telemetry.observe import Observer
from telemetry.privacy.location import cell_of
from telemetry.privacy.rollup import ROLLUP_SCHEMA
from telemetry.store.series import write_series
from tests.support import consents
from tests.support.alerts import add_alert
from tests.support.store import Store
from tests.support.sunny import DAY_US, QUARTER_US, cell

HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)
HOUR_US, MINUTE_US = 3_600_000_000, 60_000_000
OWNER, SITE, DEVICE = 10, 100, 1000
# Seven minutes into a quarter of an hour, whenever the tests run.
NOW = datetime.now(UTC)
NOW = NOW.replace(minute=NOW.minute // 15 * 15, second=0, microsecond=0) - 8 * MINUTE


def us(instant: datetime) -> int:
    return round(instant.timestamp() * 1_000_000)


class World:
    """A home with one inverter, and passes at any time."""

    def __init__(self, store: Store, admin: Any) -> None:
        self.store, self.admin = store, admin

    async def run(self, now: datetime = NOW, *, production: bool = False, k: int = 15) -> Found:
        finder = AlertFinder(self.store.role("rollup"), lambda: us(now), hot_hours=2, k=k)
        return await finder.run(production=production)

    async def says(self, at: datetime, device: int = DEVICE, **fields: Any) -> None:
        await consents.add_reading(self.admin, "hot", device, at, **fields)

    async def series(self, device: int, field: str, starts_us: np.ndarray, amounts: np.ndarray) -> None:
        n = len(starts_us)
        frame = pl.DataFrame(
            {
                "device_key": [device] * n,
                "field": [FIELD_INDEX[field]] * n,
                "resolution": [2] * n,
                "grid": [0] * n,
                "window_start": starts_us,
                "effective_at": starts_us + QUARTER_US,
                "amount": amounts,
                "covered_ms": [900_000] * n,
                "last_at": [None] * n,
                "lowest": [None] * n,
                "highest": [None] * n,
                "slots": [2**60 - 1] * n,
            },
            schema=dict(ROLLUP_SCHEMA),
        )
        await write_series(self.admin, frame)

    async def heard(self, device: int, since: datetime, until: datetime) -> None:
        """It said something in every quarter."""
        starts = np.arange(us(since) // QUARTER_US, us(until) // QUARTER_US, dtype=np.int64) * QUARTER_US
        await self.series(device, "temperature_c", starts, np.full(starts.size, 200))

    async def stored(self) -> list[tuple[Any, ...]]:
        rows = await self.admin.fetch(
            "SELECT device_key, kind, opened_at, closed_at, severity FROM readings.alert ORDER BY 1, 2, 3"
        )
        return [tuple(row) for row in rows]


@pytest_asyncio.fixture
async def world(store: Store) -> AsyncIterator[World]:
    admin = await store.admin()
    await consents.clear(admin)
    await consents.add_owner(admin, OWNER)
    await consents.add_site(admin, SITE, OWNER)
    await consents.add_device(admin, DEVICE, SITE)
    yield World(store, admin)
    await consents.clear(admin)


class TestAlarms:
    async def test_a_devices_own_alarm_begins_and_ends(self, world: World) -> None:
        for minutes, bits in ((60, 0), (50, 8), (40, 8), (30, 0), (5, 0)):
            await world.says(NOW - minutes * MINUTE, alert_bits=bits)
        found = await world.run(NOW - 35 * MINUTE)
        assert (found.ran, found.devices, found.begun, found.ended) == (True, 1, 1, 0)
        assert await world.stored() == [(DEVICE, 1, NOW - 50 * MINUTE, None, 3)]
        found = await world.run()
        assert (found.begun, found.ended) == (0, 1)
        assert await world.stored() == [(DEVICE, 1, NOW - 50 * MINUTE, NOW - 30 * MINUTE, 3)]

    async def test_another_pass_changes_nothing(self, world: World) -> None:
        await world.says(NOW - 50 * MINUTE, alert_code=7)
        for _ in range(3):
            await world.run()
        assert len(await world.stored()) == 1

    async def test_without_alarms_there_is_nothing(self, world: World) -> None:
        await world.says(NOW - 50 * MINUTE, alert_bits=0, alert_code=5, alert_severity_code=6, ac_power_w=5.0)
        assert (await world.run()).begun == 0

    async def test_one_process_works_at_a_time(self, world: World) -> None:
        admin = await world.store.admin()
        await admin.execute("SELECT pg_advisory_lock(7315, 1)")
        assert not (await world.run()).ran
        await admin.execute("SELECT pg_advisory_unlock(7315, 1)")
        assert (await world.run()).ran

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE consent.owner SET erased_at = now()",
            "UPDATE consent.device SET retired_at = now()",
            "UPDATE consent.site SET tenure_until = now()",
        ],
    )
    async def test_who_has_left_has_no_alerts(self, world: World, statement: str) -> None:
        await world.says(NOW - 50 * MINUTE, alert_code=7)
        await world.admin.execute(statement)
        assert (await world.run()).devices == 0

    async def test_where_nothing_of_the_class_is_kept_nothing_is_looked_for(self, world: World) -> None:
        kept = bytes(255 if field.data_class == "alert" else 2 for field in CATALOGUE)
        await world.admin.execute(
            "INSERT INTO consent.plan_class SELECT 77, sha256($1), $1, $1, array_fill(1098::smallint, ARRAY[9])"
            " ON CONFLICT DO NOTHING",
            kept,
        )
        await world.admin.execute("UPDATE consent.device SET plan_class = 77")
        await world.says(NOW - 50 * MINUTE, alert_code=7)
        assert (await world.run()).devices == 0

    async def test_alerts_past_their_class_time_are_forgotten(self, world: World) -> None:
        await add_alert(world.admin, DEVICE, NOW - 1200 * DAY, NOW - 1199 * DAY)
        await add_alert(world.admin, DEVICE, NOW - 1100 * DAY, NOW - 1000 * DAY)
        await world.run()
        assert [row[3] for row in await world.stored()] == [NOW - 1000 * DAY]

    async def test_erasing_a_device_takes_its_alerts(self, world: World) -> None:
        await add_alert(world.admin, DEVICE, NOW - DAY)
        await world.admin.execute("DELETE FROM consent.device")
        assert await world.stored() == []


class TestSilence:
    async def test_a_device_that_falls_silent_is_stale_and_recovers(self, world: World) -> None:
        await world.heard(DEVICE, NOW - 10 * DAY, NOW - 3 * HOUR)
        await world.run(NOW - 150 * MINUTE)
        assert await world.stored() == []
        await world.run()
        ((device, kind, opened, closed, severity),) = await world.stored()
        assert (device, kind, closed, severity) == (DEVICE, AlertKind.STALE, None, 4)
        assert NOW - 150 * MINUTE < opened < NOW - 2 * HOUR
        await world.run(NOW + HOUR)
        assert len(await world.stored()) == 1
        await world.says(NOW + 10 * MINUTE, ac_power_w=1.0)
        await world.run(NOW + 20 * MINUTE)
        assert [row[3] for row in await world.stored()] == [NOW + 10 * MINUTE]
        await world.run(NOW + 25 * MINUTE)
        assert len(await world.stored()) == 1

    async def test_one_that_goes_on_is_not(self, world: World) -> None:
        await world.heard(DEVICE, NOW - 10 * DAY, NOW - 3 * HOUR)
        await world.run(NOW - 170 * MINUTE)
        for minutes in range(170, 0, -10):
            await world.says(NOW - minutes * MINUTE, ac_power_w=1.0)
        await world.run()
        assert await world.stored() == []

    async def test_readings_that_were_late_end_it_where_they_begin(self, world: World) -> None:
        await world.heard(DEVICE, NOW - 10 * DAY, NOW - 3 * HOUR)
        await world.run()
        ((*_, opened, _, _),) = await world.stored()
        for minutes in range(10, 170, 10):
            await consents.add_reading(world.admin, "late", DEVICE, NOW - minutes * MINUTE, ac_power_w=1.0)
        await world.run(NOW + MINUTE)
        ((*_, closed, _),) = await world.stored()
        assert opened <= closed <= opened + 10 * MINUTE

    async def test_a_new_device_has_no_rhythm_to_miss(self, world: World) -> None:
        await world.heard(DEVICE, NOW - 2 * DAY, NOW - 20 * HOUR)
        await world.run()
        assert await world.stored() == []


def amounts(wh: np.ndarray) -> np.ndarray:
    return np.round(wh.ravel() * 1000).astype(np.int64)  # mWh


async def neighbourhood(world: World, homes: int, *, days: int = 45) -> list[np.ndarray]:
    """Homes under one sky without haze, up to the last midnight; device ``DEVICE + n`` of a home of its own."""
    first = us(NOW) // DAY_US - days
    made = cell(11, first, days, homes, shares=(0.5, 0.35, 0.15, 0.0))
    place = cell_of(made[0].home.latitude, made[0].home.longitude)
    await world.admin.execute("UPDATE consent.site_place SET cell7 = $1", place)
    for n in range(1, homes):
        await consents.add_site(world.admin, SITE + n, OWNER, cell7=place)
        await consents.add_device(world.admin, DEVICE + n, SITE + n)
    return [each.wh.copy() for each in made]


async def store_made(world: World, made: list[np.ndarray]) -> datetime:
    """Write it; the evening of the last day."""
    days = made[0].shape[0]
    starts = (us(NOW) // DAY_US - days) * DAY_US + np.arange(days * 96, dtype=np.int64) * QUARTER_US
    for n, wh in enumerate(made):
        await world.series(DEVICE + n, "energy_total_wh", starts, amounts(wh))
    return datetime.fromtimestamp((us(NOW) // DAY_US * DAY_US - HOUR_US) / 1e6, UTC)


class TestProduction:
    async def test_an_inverter_that_is_off_is_found_and_recovers(self, world: World) -> None:
        made = await neighbourhood(world, 1)
        made[0][-2] = 0
        evening = await store_made(world, made)
        await world.run(evening - DAY, production=True)
        low = [row for row in await world.stored() if row[1] == AlertKind.LOW_PRODUCTION]
        ((device, _, opened, closed, severity),) = low
        assert (device, closed, severity) == (DEVICE, None, 3)
        assert opened.date() == (evening - DAY).date()
        await world.run(evening - DAY, production=True)
        await world.run(evening, production=True)
        ((*_, closed, _),) = [row for row in await world.stored() if row[1] == AlertKind.LOW_PRODUCTION]
        assert closed is not None
        assert closed.date() == evening.date()

    async def test_snow_on_all_roofs_of_a_cell_is_nobodys_fault(self, world: World) -> None:
        made = await neighbourhood(world, 7)
        for wh in made:
            wh[-1] = 0
        evening = await store_made(world, made)
        await world.run(evening, production=True, k=6)
        assert [row for row in await world.stored() if row[1] == AlertKind.LOW_PRODUCTION] == []
        await world.run(evening, production=True, k=7)  # too few neighbours to tell
        assert len([row for row in await world.stored() if row[1] == AlertKind.LOW_PRODUCTION]) == 7

    async def test_one_dark_roof_among_bright_ones_is_found(self, world: World) -> None:
        made = await neighbourhood(world, 7)
        made[0][-1] = 0
        evening = await store_made(world, made)
        await world.run(evening, production=True, k=6)
        found = [row[0] for row in await world.stored() if row[1] == AlertKind.LOW_PRODUCTION]
        assert found == [DEVICE]

    async def test_neighbours_never_give_an_alarm(self, world: World) -> None:
        """One roof's alerts are those it has alone, or fewer, whatever the others make."""
        made = await neighbourhood(world, 7)
        for wh in made[1:]:
            wh[:] *= 3
        evening = await store_made(world, made)
        await world.run(evening, production=True, k=6)
        assert [row for row in await world.stored() if row[1] == AlertKind.LOW_PRODUCTION] == []

    async def test_who_is_told_to_make_less_makes_less(self, world: World) -> None:
        made = await neighbourhood(world, 1)
        made[0][-1] = 0
        evening = await store_made(world, made)
        starts = us(evening) // DAY_US * DAY_US + np.arange(96, dtype=np.int64) * QUARTER_US
        limit = np.full(96, 300 * 900_000)  # 30 % in steps of a tenth, over the quarter
        await world.series(DEVICE, "power_limit_pct", starts, limit)
        await world.run(evening, production=True)
        assert [row for row in await world.stored() if row[1] == AlertKind.LOW_PRODUCTION] == []


@pytest.mark.parametrize("seed", range(4))
async def test_a_pass_that_is_killed_anywhere_ends_as_one_that_was_not(world: World, seed: int) -> None:
    chance = random.Random(seed)
    for n in range(1, 30):
        await consents.add_device(world.admin, DEVICE + n, SITE)
    for n in range(30):
        for minutes in range(110, 0, -5):
            bits = int(chance.random() < 0.3)
            await world.says(NOW - minutes * MINUTE, DEVICE + n, alert_bits=bits)
    for at in (NOW - 60 * MINUTE, NOW - 30 * MINUTE, NOW):
        await world.run(at)
        await world.run(at)
    expected = await world.stored()
    await world.admin.execute("TRUNCATE readings.alert, readings.alert_rhythm")
    for at in (NOW - 60 * MINUTE, NOW - 30 * MINUTE, NOW):
        for _ in range(6):
            task = asyncio.create_task(world.run(at))
            await asyncio.sleep(chance.uniform(0, 0.06))
            # the server's end of the connection is killed, as by a power cut of the client
            await world.admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'telemetry_rollup'"
            )
            await asyncio.gather(task, return_exceptions=True)
        for _ in range(2):
            while not (await world.run(at)).ran:
                await asyncio.sleep(0.01)
    assert expected
    assert await world.stored() == expected


async def test_the_job_tells_what_it_did_and_goes_on_after_a_failure(world: World) -> None:
    await world.says(NOW - 50 * MINUTE, alert_code=7)
    failing = [True]

    async def flaky() -> Any:
        if failing and failing.pop():
            raise StoreUnavailable("away")
        return await world.store.role("rollup")()

    observer = Observer()
    job = AlertJob(Config(), flaky, observer, lambda: us(NOW))
    assert await job.look(production=False) is None
    assert await job.look(production=True) is not None
    value = observer.metrics.registry.get_sample_value
    assert value("telemetry_job_failures_total", {"job": "alerts"}) == 1
    assert value("telemetry_alerts_begun_total") == 1
    assert value("telemetry_job_seconds_count", {"job": "alerts"}) == 1
