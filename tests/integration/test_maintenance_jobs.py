"""Rollup and retention as jobs of the service: what they tell, and that a failure does not end them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from telemetry.config import Config, RetentionConfig
from telemetry.errors import ConfigurationError, StoreUnavailable
from telemetry.maintenance import jobs
from telemetry.maintenance.jobs import Maintenance
from telemetry.maintenance.retention import Retained
from telemetry.maintenance.rollup import Passed
from telemetry.model.fields import DataClass
from telemetry.observe import Observer
from tests.support.rollups import MINUTE_US, arrive, base_us, clear, make_hour
from tests.support.store import Store

B = base_us()


@pytest_asyncio.fixture
async def world(store: Store) -> AsyncIterator[Store]:
    await clear(store)
    yield store
    await clear(store)


def value(observer: Observer, name: str, **labels: str) -> float:
    found = observer.metrics.registry.get_sample_value(f"telemetry_{name}", labels)
    assert found is not None
    return found


async def test_both_run_one_after_the_other_and_tell_what_they_did(
    world: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_hour(world, B)
    await arrive(world, {1: {"ac_power_w": {B: 5.0}}})
    monkeypatch.setattr(jobs, "ROLLUP_INTERVAL_S", 0.01)
    observer, told, enough = Observer(), [], asyncio.Event()

    def tell(done: Passed | Retained) -> None:
        told.append(done)
        if len(told) == 4:
            enough.set()

    work = Maintenance(Config(), world.role("rollup"), observer, lambda: B + 20 * MINUTE_US, tell)
    running = asyncio.create_task(work.run())
    await asyncio.wait_for(enough.wait(), 30)
    running.cancel()
    passed, retained, again, third = told
    assert (passed.windows, passed.as_of_us) == (1, B + 15 * MINUTE_US)
    assert (retained.ran, retained.devices) == (True, 1)
    assert (again.as_of_us, third.as_of_us) == (None, None)
    assert value(observer, "windows_written_total") == 1
    assert value(observer, "rollup_behind_seconds") == 300
    assert value(observer, "job_seconds_count", job="rollup") == 1
    assert value(observer, "job_seconds_count", job="retention") == 1


async def test_a_round_that_fails_is_told_and_the_next_one_works(world: Store) -> None:
    await make_hour(world, B)
    await arrive(world, {1: {"ac_power_w": {B: 5.0}}})
    connect, failing = world.role("rollup"), [True, True]

    async def flaky() -> Any:
        if failing and failing.pop():
            raise StoreUnavailable("away")
        return await connect()

    observer = Observer()
    work = Maintenance(Config(), flaky, observer, lambda: B + 20 * MINUTE_US)
    for _ in range(2):
        await work.roll_up()
    await work.retain()
    assert value(observer, "job_failures_total", job="rollup") == 2
    await work.roll_up()
    assert value(observer, "windows_written_total") == 1
    assert value(observer, "job_seconds_count", job="retention") == 1


def test_the_operators_days_by_class() -> None:
    config = RetentionConfig(series_days=100, series_class_days=("alert=90", "log=500"))
    assert config.days_by_class == {DataClass.ALERT: 90, DataClass.LOG: 100}


@pytest.mark.parametrize("entry", ["alert", "alert=0", "alert=x", "weather=3"])
def test_days_of_no_class_are_refused(entry: str) -> None:
    from telemetry.config import load_config

    with pytest.raises(ConfigurationError, match="alert=90"):
        load_config(retention={"series_class_days": [entry]})
