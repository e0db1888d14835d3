"""The worker dies by SIGKILL at any moment, again and again: what was published is stored, once."""

import pytest

from device_sim.faults import Faults
from tests.support.moments import Moment, kill_worker, moments
from tests.support.system import Kind, System, system

FAULTS = Faults(duplicate_share=0.02, poison_share=0.01, implausible_share=0.01, unlisted_share=0.01)
BROKERS = pytest.mark.parametrize("kind", ["mosquitto", "rumqttd"])


async def die(found: System, sequence: list[Moment]) -> None:
    """Under load, one death after the other; then all must be there."""
    feed = found.fleet(await found.enrol(4), messages_per_second=150, faults=FAULTS)
    for moment in sequence:
        await found.worker.until_committing()
        await kill_worker(found, moment)
        found.worker.start()
    await feed.finish()
    await found.settle()
    report = await found.check(feed)
    assert report.exact, report
    assert report.poison_messages > 0
    assert found.worker.starts == len(sequence) + 1


@BROKERS
async def test_worker_killed_once_at_every_kind_of_moment(kind: Kind, seed: int) -> None:
    async with system(kind=kind, seed=seed) as found:
        await die(found, moments(found, len(Moment)))


@pytest.mark.long
@BROKERS
async def test_worker_killed_at_twenty_moments(kind: Kind, seed: int) -> None:
    async with system(kind=kind, seed=seed) as found:
        await die(found, moments(found, 20))
