"""The moments at which a worker is killed under load. Which one, and where in it, follows from the seed."""

import asyncio
from enum import StrEnum

from tests.support.proxy import POSTGRES_COMMIT, POSTGRES_COPY_DATA, Held, mqtt_puback
from tests.support.system import System


class Moment(StrEnum):
    """Where in a message's life the worker dies."""

    ANY = "any"
    DURING_COPY = "during_copy"  # the server has a part of the rows
    BEFORE_COMMIT = "before_commit"  # between COPY and COMMIT: the server has all rows, nobody said COMMIT
    AFTER_COMMIT = "after_commit"  # between COMMIT and PUBACK: committed, and the worker does not know
    BEFORE_PUBACK = "before_puback"  # acknowledged, and the broker has none or only some of it


async def kill_worker(system: System, moment: Moment) -> None:
    """SIGKILL the worker at ``moment`` of some batch; it stays down. It must be committing."""
    rng, database, broker = system.rng, system.database_link, system.broker_link
    skip = rng.randrange(4)
    held: Held | None = None
    match moment:
        case Moment.ANY:
            await asyncio.sleep(rng.uniform(0.0, 1.0))
        case Moment.DURING_COPY:
            held = database.hold_request(POSTGRES_COPY_DATA, share=rng.uniform(0.1, 0.9), skip=skip)
        case Moment.BEFORE_COMMIT:
            held = database.hold_request(POSTGRES_COMMIT, skip=skip)
        case Moment.AFTER_COMMIT:
            await system.reached(database.swallow_reply_to(POSTGRES_COMMIT, cut=False))
        case Moment.BEFORE_PUBACK:
            held = broker.hold_request(mqtt_puback, share=rng.choice((0.0, 0.5)), skip=skip)
    if held is not None:
        await system.reached(held.reached)
    system.worker.kill()
    for link in (database, broker):
        link.cut()  # what is held on its way dies with the worker
    if held is not None:
        held.release()


def moments(system: System, count: int) -> list[Moment]:
    """``count`` moments in an order by seed, every kind as often as any other."""
    found = [list(Moment)[number % len(Moment)] for number in range(count)]
    system.rng.shuffle(found)
    return found
