"""The worker dies by SIGKILL at any moment, again and again: what was published is stored, once."""

import pytest

from device_sim.faults import Faults
from tests.support.moments import Moment, kill_worker, moments
from tests.support.system import Kind, System, system

FAULTS = Faults(duplicate_share=0.02, poison_share=0.01, implausible_share=0.01, unlisted_share=0.01)
NAMED = [Moment.DURING_COPY, Moment.BEFORE_COMMIT, Moment.AFTER_COMMIT, Moment.BEFORE_PUBACK]


async def die(found: System, sequence: list[Moment]) -> None:
    """Under load, one death after the other; then all must be there."""
    found.worker.prepare()
    feed = found.fleet(await found.enrol(4), messages_per_second=120, faults=FAULTS)
    for left, moment in reversed(list(enumerate(sequence))):
        await found.worker.until_committing()
        await kill_worker(found, moment)
        found.worker.start(spare=left > 0)
    await feed.until(poison=1)  # a short run may have met none
    await feed.finish()
    await found.settle()
    report = await found.check(feed)
    assert report.exact, report
    assert report.poison_messages > 0
    assert found.worker.starts == len(sequence) + 1


@pytest.mark.parametrize(
    ("kind", "which"), [("mosquitto", NAMED), ("rumqttd", NAMED[1:3])], ids=["mosquitto", "rumqttd"]
)
async def test_worker_killed_at_each_named_moment(kind: Kind, which: list[Moment], seed: int) -> None:
    async with system(kind=kind, seed=seed) as found:
        found.rng.shuffle(sequence := list(which))
        await die(found, sequence)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["mosquitto", "rumqttd"])
async def test_worker_killed_at_twenty_moments(kind: Kind, seed: int) -> None:
    async with system(kind=kind, seed=seed) as found:
        await die(found, moments(found, 20))
