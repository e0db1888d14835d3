"""PostgreSQL restarted in the middle of COPY, connections cut, replies lost: the worker goes on, nothing is lost."""

import asyncio

import pytest

from device_sim.faults import Faults
from tests.support.proxy import POSTGRES_COMMIT, POSTGRES_COPY_DATA
from tests.support.system import Kind, System, system

FAULTS = Faults(duplicate_share=0.02, poison_share=0.01)
KINDS = ["mosquitto", pytest.param("rumqttd", marks=pytest.mark.long)]


async def restart_during_copy(found: System) -> None:
    """The server has a part of a batch's rows when it is told to end at once (SIGQUIT: no checkpoint)."""
    held = found.database_link.hold_request(
        POSTGRES_COPY_DATA, share=found.rng.uniform(0.1, 0.9), skip=found.rng.randrange(3)
    )
    await found.reached(held.reached)
    await found.postgres.restart_immediate()
    held.release()


async def lose_commits_reply(found: System) -> None:
    """The transaction is committed and the worker cannot know: the connection ends instead of the answer."""
    lost = found.database_link.swallow_reply_to(POSTGRES_COMMIT)
    await found.reached(lost)


async def cut_everything(found: System) -> None:
    await asyncio.sleep(found.rng.uniform(0.0, 0.5))
    found.database_link.cut()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_database_does_to_a_worker_costs_nothing(kind: Kind, seed: int) -> None:
    async with system(kind=kind, seed=seed) as found:
        feed = found.fleet(await found.enrol(4), messages_per_second=120, faults=FAULTS)
        await found.worker.until_committing()
        troubles = [restart_during_copy, lose_commits_reply, lose_commits_reply, cut_everything]
        found.rng.shuffle(troubles)
        for trouble in troubles:
            await trouble(found)
        await feed.finish()
        await found.settle()
        report = await found.check(feed)
        assert report.exact, report
        assert found.worker.starts == 1
        assert found.database_link.swallowed == 2


@pytest.mark.long
@pytest.mark.parametrize("kind", ["mosquitto", "rumqttd"])
async def test_postgres_crashes_again_and_again(kind: Kind, seed: int) -> None:
    """Restarts at once and SIGKILL of every server process, at any time, with a load that never ends."""
    async with system(kind=kind, seed=seed) as found:
        feed = found.fleet(await found.enrol(4), messages_per_second=120, faults=FAULTS)
        await found.worker.until_committing()
        for number in range(8):
            if number % 2:
                await restart_during_copy(found)
            else:
                await asyncio.sleep(found.rng.uniform(0.0, 1.0))
                await found.postgres.kill()
                await asyncio.sleep(found.rng.uniform(0.0, 0.5))
                await found.postgres.start()
        await feed.finish()
        await found.settle()
        report = await found.check(feed)
        assert report.exact, report
        assert found.worker.starts == 1
