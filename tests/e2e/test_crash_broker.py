"""The broker restarts or dies. Gracefully: nothing is lost. By SIGKILL: what is lost is counted, or sent again."""

import asyncio

from device_sim.faults import Faults
from device_sim.gateway import Delivery
from tests.support.system import Feed, System, system

FAULTS = Faults(duplicate_share=0.02, poison_share=0.01)
WAITING = Delivery(wait_watermark=True, resend_s=3.0, missing_resend_s=0.5, reconnect_max_s=1.0)
FORGETTING = Delivery(reconnect_max_s=1.0)


async def test_mosquitto_restarted_gracefully_loses_nothing(seed: int) -> None:
    """With the worker there, and away: then its queue survives in the broker's file."""
    async with system(seed=seed) as found:
        found.worker.prepare()
        feed = found.fleet(await found.enrol(4), messages_per_second=120, faults=FAULTS, delivery=FORGETTING)
        await found.worker.until_committing()
        await asyncio.sleep(found.rng.uniform(0.0, 0.5))
        await found.broker.restart()
        await feed.until(feed.figures.acknowledged + 1_000)
        found.worker.kill()
        await feed.until(feed.figures.acknowledged + 1_000)
        await found.broker.restart()
        found.worker.start()
        await feed.finish()
        await found.settle()
        report = await found.check(feed)
        assert report.exact, report


async def kill_broker_with_a_backlog(found: System, *feeds: Feed) -> None:
    """SIGKILL while the worker cannot commit, so that the broker holds what it has acknowledged to gateways."""
    found.database_link.stall()
    goals = [(feed, feed.figures.acknowledged + 1_000) for feed in feeds]
    for feed, goal in goals:
        await feed.until(goal)
    await found.broker.kill()
    found.database_link.resume()
    await asyncio.sleep(found.rng.uniform(0.0, 0.5))
    await found.broker.start()


async def test_mosquitto_killed_loses_nothing_for_who_waits_and_counts_what_others_lose(seed: int) -> None:
    config = {"broker": {"receive_maximum": 20}, "pipeline": {"batch_messages": 20}}  # the rest stays in the broker
    async with system(seed=seed, config=config) as found:
        waiting = found.fleet(await found.enrol(2), messages_per_second=40, faults=FAULTS, delivery=WAITING)
        forgetting = found.fleet(await found.enrol(2), messages_per_second=40, delivery=FORGETTING)
        await found.worker.until_committing(50)
        await kill_broker_with_a_backlog(found, waiting, forgetting)
        await found.worker.until_subscribed()
        await forgetting.until(forgetting.figures.acknowledged + 1_000)  # so that what is missing lies before
        await asyncio.gather(forgetting.finish(), waiting.finish())
        await found.drain()
        missing = await found.worker.metric("telemetry_sequence_missing")
        await found.worker.stop()

        kept = await found.check(waiting)
        assert kept.exact, kept
        lost = await found.check(forgetting)
        assert lost.lost_messages > 0, "nothing was lost, so nothing was tried"
        assert lost.uncounted_messages == 0, lost
        assert missing == lost.lost_messages
        assert (lost.unexpected, lost.duplicates, lost.different) == (0, 0, 0), lost
