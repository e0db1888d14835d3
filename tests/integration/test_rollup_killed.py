"""A rollup that is killed anywhere and run again gives the series that the plain reference gives.

Each trial walks the same days: hot rows, late rows, the same backfill twice, hot rows that come late, hours that are
sealed and dropped. In one of its passes the process kills itself at a seeded statement and moment; the pass is then
run to its end twice.
"""

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.rollup_runner import run_counted
from tests.support.rollups import MINUTE_US, Reference, Samples, arrive, base_us, clear, make_hour, stored, walk
from tests.support.store import HOUR_US, Store

B = base_us()
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Stage:
    """What arrives, and when the rollup then runs."""

    now_us: int
    hot: Samples
    late: dict[int, Samples]


def at(minutes: float) -> int:
    return round(B + minutes * MINUTE_US)


def stages() -> list[Stage]:
    backfill = walk(12, B - 5 * HOUR_US, B + HOUR_US, [2, 3, 4], (60, 900))
    again = walk(15, B - 3 * HOUR_US, B + 2 * HOUR_US, [1, 2, 5], (60, 900))
    return [
        Stage(at(95), walk(11, B, at(90), [1, 2, 3], (30, 500)), {}),
        Stage(at(250), walk(13, at(60), at(240), [1, 2, 3, -4], (30, 500)), {}),
        Stage(at(311), walk(14, at(180), at(300), [2, 3], (30, 500)), {at(250): backfill}),
        Stage(at(431), walk(16, at(300), at(420), [1, 3], (30, 500)), {at(320): backfill, at(365): again}),
        Stage(at(551), {}, {at(425): again}),
    ]


def expected() -> Reference:
    reference = Reference()
    for stage in stages():
        reference.receive(stage.hot)
        for received, samples in stage.late.items():
            reference.receive(samples, received)
        reference.run(stage.now_us, first_hour_us=B - HOUR_US, last_hour_us=B + 11 * HOUR_US)
    return reference


@pytest_asyncio.fixture
async def world(store: Store) -> AsyncIterator[Store]:
    await clear(store)
    yield store
    await clear(store)


async def killed(store: Store, now_us: int, statement: int, delay_ms: float) -> None:
    """A runner that kills itself in the middle of the pass."""
    arguments = [now_us, statement, delay_ms]
    command = [sys.executable, "-m", "tests.support.rollup_runner", store.postgres.dsn("telemetry")]
    process = await asyncio.create_subprocess_exec(*command, *map(str, arguments), cwd=ROOT)
    assert await process.wait() == -signal.SIGKILL


async def one_pass(store: Store, now_us: int) -> int:
    """An undisturbed pass; how many statements it takes."""
    return await run_counted(store.role("rollup"), now_us)


async def walk_through(store: Store, fatal_stage: int, statement: int, delay_ms: float) -> list[int]:
    """All stages, with a kill in one of them; the statements of each stage's undisturbed pass."""
    await clear(store)
    for hour in range(-1, 12):
        await make_hour(store, B + hour * HOUR_US)
    counts = []
    for number, stage in enumerate(stages()):
        await arrive(store, stage.hot)
        for received, samples in stage.late.items():
            await arrive(store, samples, received_us=received)
        if number == fatal_stage:
            await killed(store, stage.now_us, statement, delay_ms)
            await one_pass(store, stage.now_us)
        counts.append(await one_pass(store, stage.now_us))
    return counts


async def trials(store: Store, number: int, seed: int) -> None:
    reference = expected()
    counts = await walk_through(store, -1, 0, 0)
    assert await stored(store) == reference.windows
    chance = random.Random(seed)
    for trial in range(number):
        stage = trial % len(counts)
        statement = chance.randrange(1, counts[stage] + 1)
        # The last statements are over sooner than a delay.
        delay_ms = 0 if statement > counts[stage] - 8 else chance.choice([0, 1, 3, 8])
        await walk_through(store, stage, statement, delay_ms)
        assert await stored(store) == reference.windows, (stage, statement, delay_ms)


async def test_killed_at_four_moments_the_series_equals_the_reference(world: Store) -> None:
    await trials(world, 4, seed=1)


@pytest.mark.long
async def test_killed_at_twenty_moments_the_series_equals_the_reference(world: Store) -> None:
    await trials(world, 20, seed=2)
