"""Live batches and chunks: every one from a snapshot of its own, with the grants of that moment."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import polars as pl
import pytest
import pytest_asyncio

from telemetry.errors import NoLongerAvailable, NotVisible
from telemetry.model.sharing import Resolution
from telemetry.views.export import export
from telemetry.views.stream import stream
from tests.support import consents
from tests.support.store import Store
from tests.support.view_world import DAY, HOUR, MINUTE, ViewWorld, mean_amount, query

LOOKER, OWNER, SITE, DEVICE = 1, 10, 100, 1000
PATIENCE_S = 30.0


@pytest_asyncio.fixture
async def world(store: Store) -> AsyncIterator[ViewWorld]:
    """Two homes of two owners, three devices each, all of ac_power_w granted by both."""
    admin = await store.admin()
    await consents.clear(admin)
    await consents.add_recipient(admin, LOOKER)
    for home in range(2):
        await consents.add_owner(admin, OWNER + home)
        await consents.add_site(admin, SITE + home, OWNER + home)
        for n in range(3):
            await consents.add_device(admin, DEVICE + 10 * home + n, SITE + home)
        await consents.add_grant(admin, home + 1, OWNER + home, LOOKER)
    world = ViewWorld(store, admin, datetime.now(UTC))
    world.views = world.made()
    yield world
    await world.pool.close()
    await consents.clear(admin)


def quarter(back: int) -> datetime:
    """The start of a window that is over and shown, so many before the last one."""
    now = datetime.now(UTC) - 20 * MINUTE
    return now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0) - back * 15 * MINUTE


async def told(world: ViewWorld) -> None:
    await world.admin.execute("SELECT pg_notify('telemetry_consent', '10')")


class TestStream:
    async def test_each_batch_holds_what_is_new_and_what_was_corrected(self, world: ViewWorld) -> None:
        now = datetime.now(UTC)
        await world.series([{"device_key": DEVICE, "start": quarter(2), "amount": mean_amount(1)}])
        batches = stream(world.views, world.store.role("views"), LOOKER, query(now - HOUR, now), poll_s=0.2)
        async with asyncio.timeout(PATIENCE_S):
            first = await anext(batches)
            assert first.rows["value"].to_list() == [1.0]
            assert first.devices.height == 6
            await world.series([{"device_key": DEVICE + 1, "start": quarter(1), "amount": mean_amount(2)}])
            await told(world)
            assert (await anext(batches)).rows["value"].to_list() == [2.0]
            late = {"device_key": DEVICE, "start": quarter(2), "amount": mean_amount(3), "effective_at": quarter(1)}
            await world.series([late])
            await told(world)
            assert (await anext(batches)).rows["value"].to_list() == [3.0]
        await batches.aclose()

    async def test_it_goes_on_with_less_and_ends_with_nothing(self, world: ViewWorld) -> None:
        now = datetime.now(UTC)
        rows = [{"device_key": DEVICE + n, "start": quarter(1), "amount": mean_amount(1)} for n in (0, 10)]
        await world.series(rows)
        batches = stream(world.views, world.store.role("views"), LOOKER, query(now - HOUR, now), poll_s=60)
        async with asyncio.timeout(PATIENCE_S):
            assert (await anext(batches)).rows.height == 2
            await consents.withdraw(world.admin, 1)
            await world.series([row | {"amount": mean_amount(2), "effective_at": quarter(0)} for row in rows])
            await told(world)
            second = await anext(batches)
            assert second.rows.height == 1
            assert second.devices.height == 3
            await consents.withdraw(world.admin, 2)
            await told(world)
            with pytest.raises(NoLongerAvailable):
                await anext(batches)

    async def test_the_end_does_not_tell_why(self, world: ViewWorld) -> None:
        now = datetime.now(UTC)
        endings = (
            "UPDATE consent.owner SET erased_at = now()",
            "INSERT INTO consent.restriction (owner_key) VALUES (10), (11)",
            "INSERT INTO consent.objection (owner_key, purpose) VALUES (10, 'maintenance'), (11, 'maintenance')",
            "UPDATE consent.recipient SET closed_at = now()",
            "UPDATE consent.policy SET expires_at = now()",
            "DELETE FROM consent.active_grant",
        )
        undo = (
            "UPDATE consent.owner SET erased_at = NULL; DELETE FROM consent.restriction; DELETE FROM consent.objection;"
            "UPDATE consent.recipient SET closed_at = NULL; UPDATE consent.policy SET expires_at = NULL"
        )
        texts = []
        await world.series([{"device_key": DEVICE, "start": quarter(1), "amount": mean_amount(1)}])
        for ending in endings:
            batches = stream(world.views, world.store.role("views"), LOOKER, query(now - HOUR, now), poll_s=0.2)
            async with asyncio.timeout(PATIENCE_S):
                await anext(batches)
                await world.admin.execute(ending)
                await told(world)
                with pytest.raises(NoLongerAvailable) as caught:
                    await anext(batches)
            texts.append(repr(caught.value) + str(caught.value))
            await world.admin.execute(undo)
        assert len(set(texts)) == 1

    async def test_a_name_that_does_not_exist_is_told_at_once(self, world: ViewWorld) -> None:
        now = datetime.now(UTC)
        asked = query(now - HOUR, now, devices=frozenset({"dev_x"}))
        with pytest.raises(NotVisible):
            await anext(stream(world.views, world.store.role("views"), LOOKER, asked))


class TestExport:
    async def test_chunks_are_bounded_and_together_the_whole_answer(self, world: ViewWorld) -> None:
        devices = [DEVICE + 10 * home + n for home in range(2) for n in range(3)]
        await world.series(
            [
                {"device_key": device, "start": quarter(back), "amount": mean_amount(back)}
                for device in devices
                for back in range(8)
            ]
        )
        asked = query(quarter(9), quarter(-1), fields=frozenset({"ac_power_w"}), resolution=Resolution.PT15M)
        whole = await world.views.view(LOOKER, asked)
        for rows in (2, 11, 10_000):
            chunks = [chunk async for chunk in export(world.views, LOOKER, asked, rows=rows)]
            assert max(chunk.view.rows.height for chunk in chunks) <= rows
            together = pl.concat([chunk.view.rows for chunk in chunks])
            assert together.rows() == whole.rows.rows()
            assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
        assert whole.rows.height == 48

    async def test_coarse_windows_are_whole_whatever_the_chunk(self, world: ViewWorld) -> None:
        await consents.withdraw(world.admin, 1)
        await consents.add_grant(world.admin, 3, OWNER, LOOKER, resolution=Resolution.P1D.rank)
        midnight = quarter(0).replace(hour=0, minute=0) - 4 * DAY
        starts = [midnight + n * HOUR for n in range(72)]
        await world.series(
            [
                {"device_key": DEVICE, "start": at, "amount": mean_amount(n, 60), "resolution": Resolution.PT1H}
                for n, at in enumerate(starts)
            ]
        )
        asked = query(midnight, midnight + 3 * DAY)
        chunks = [chunk async for chunk in export(world.views, LOOKER, asked, rows=100)]
        days = pl.concat([chunk.view.rows for chunk in chunks]).filter(pl.col("resolution") == "P1D")
        assert days["value"].to_list() == [11.5, 35.5, 59.5]
        assert len(chunks) > 3

    async def test_what_is_withdrawn_meanwhile_is_in_no_later_chunk(self, world: ViewWorld) -> None:
        devices = [DEVICE + 10 * home + n for home in range(2) for n in range(3)]
        await world.series([{"device_key": device, "start": quarter(1), "amount": 1} for device in devices])
        asked = query(quarter(3), quarter(-1), fields=frozenset({"ac_power_w"}))
        chunks = export(world.views, LOOKER, asked, rows=1)
        sites = [(await anext(chunks)).view.devices["site"][0]]
        first = await world.views.view(LOOKER, query(quarter(3), quarter(-1), sites=frozenset(sites)))
        owner = await world.admin.fetchval("SELECT owner_key FROM audit.read ORDER BY read_key DESC LIMIT 1")
        await consents.withdraw(world.admin, owner - OWNER + 1)
        rest = [chunk async for chunk in chunks]
        assert first.devices.height == 3
        assert sum(chunk.view.rows.height for chunk in rest) == 3
        assert {chunk.view.devices["site"][0] for chunk in rest}.isdisjoint(sites)

    async def test_it_ends_when_nothing_is_shared_any_more(self, world: ViewWorld) -> None:
        asked = query(quarter(3), quarter(-1), fields=frozenset({"ac_power_w"}))
        chunks = export(world.views, LOOKER, asked, rows=1)
        await anext(chunks)
        await consents.withdraw(world.admin, 1)
        await consents.withdraw(world.admin, 2)
        with pytest.raises(NoLongerAvailable):
            await anext(chunks)

    async def test_nothing_shared_from_the_beginning_ends_the_same_way(self, world: ViewWorld) -> None:
        with pytest.raises(NoLongerAvailable):
            await anext(export(world.views, 999, query(quarter(3), quarter(-1))))
