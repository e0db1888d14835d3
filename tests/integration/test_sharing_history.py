"""What the history says of every moment is what counted then by the rules that views go by (SHARE-5)."""

from datetime import datetime, timedelta
from random import Random

import pytest
import pytest_asyncio

from telemetry.errors import SharingError
from telemetry.model.sharing import Grant, SharingPurpose
from telemetry.privacy.combine import in_force
from tests.support.postgres import temporary_postgres
from tests.support.registry import registry_world
from tests.support.sharing import SharingWorld, sharing_world, terms

pytestmark = pytest.mark.asyncio(loop_scope="module")
PURPOSES = (SharingPurpose.MAINTENANCE, SharingPurpose.BILLING)
HOUR = timedelta(hours=1)
LATER = (timedelta(0), 2 * HOUR, 4 * HOUR)  # before and after what begins or ends by time
POLICIES = ("long-1", "brief-1")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory):
    async with (
        temporary_postgres() as postgres,
        registry_world(postgres, tmp_path_factory.mktemp("keys") / "keys") as registry,
        sharing_world(registry) as opened,
    ):
        yield opened


async def something_happens(world: SharingWorld, random: Random, owner: int, recipients: list[int]) -> None:
    """One change at random; what is refused changes nothing."""
    recipient, purpose = random.choice(recipients), random.choice(PURPOSES)
    standing, now = await world.sharing.grants(owner), await world.sharing.now()
    grant = random.choice(standing) if standing else None
    often, seldom = ["make", "make", "make", "lift", "unobject"], ["change", "withdraw", "restrict", "object", "expire"]
    what = random.choice(often * 2 + seldom)
    async with world.sharing.settling() as settlement:
        if what == "make":
            limits = random.choice(({}, {"until": now + HOUR}, {"start": now + HOUR}))
            asked = terms(purpose=purpose, classes=[random.choice(("battery", "grid"))], **limits)
            await settlement.set_grant(owner, recipient, asked, policy=random.choice(POLICIES))
        elif what == "change" and grant:
            asked = terms(purpose=grant.terms.purpose, classes=["alert"])
            await settlement.set_grant(owner, grant.recipient_key, asked, grant_key=grant.grant_key)
        elif what == "withdraw" and grant:
            await settlement.withdraw(owner, grant.grant_key)
        elif what in {"restrict", "lift"}:
            await (settlement.restrict if what == "restrict" else settlement.lift)(owner)
        elif what in {"object", "unobject"}:
            change = settlement.make_objection if what == "object" else settlement.withdraw_objection
            await change(owner, purpose, random.choice((None, recipient)))
    if what == "expire":
        await world.policy("brief-1", now + 3 * HOUR if random.random() < 0.5 else None)


async def counting(world: SharingWorld, owner: int, recipients: list[int], at: datetime) -> list[Grant]:
    """What counts at ``at``, by the settings of now, as views see it."""
    found: list[Grant] = []
    for key in sorted(recipients):
        recipient = await world.sharing.recipient(key)
        standing = await world.sharing.standing(owner, recipient, at)
        found += in_force(await world.sharing.grants(owner, key), standing, at)
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_the_history_tells_of_every_moment_what_counted_then(world, seed):
    random = Random(seed)
    owner, recipients = (await world.home()).owner_key, [await world.recipient() for _ in range(2)]
    for policy in POLICIES:
        await world.policy(policy)
    moments, several = [], 0
    for _ in range(36):
        try:
            await something_happens(world, random, owner, recipients)
        except SharingError:
            continue
        now = await world.sharing.now()
        for away in LATER:
            found = await counting(world, owner, recipients, now + away)
            assert await world.sharing.allowed_at(owner, now + away) == found
            several += len(found) > 1
        moments.append((now, await counting(world, owner, recipients, now)))
    assert several > 3  # the comparison is about something
    # And it tells the same of them afterwards.
    for at, found in moments:
        assert await world.sharing.allowed_at(owner, at) == found
