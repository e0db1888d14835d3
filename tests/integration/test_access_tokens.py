"""Machines' tokens, and how a request's bearer is told, on a real database."""

import asyncio
import hashlib
from datetime import timedelta

import pytest
import pytest_asyncio

from telemetry.access.authenticator import DatabaseAuthenticator
from telemetry.access.principal import ALL_RIGHTS, Role, Scope
from telemetry.access.records import Holder
from telemetry.access.tokens import MachineTokens
from telemetry.errors import InputError, PartyUnknown
from telemetry.model.sharing import MemberRight, SharingPurpose
from tests.support.access import API_KEY, access_world


@pytest_asyncio.fixture
async def world(store):
    async with access_world(store) as opened:
        yield opened


@pytest.fixture
def tokens(world):
    return MachineTokens(world.pool, clock=world.clock)


@pytest.fixture
def authenticator(world):
    return DatabaseAuthenticator(world.pool, API_KEY, clock=world.clock)


class TestWhose:
    async def test_a_token_is_its_recipients_with_its_scopes_and_purposes(self, world, tokens, authenticator):
        recipient = await world.recipient()
        purposes = {SharingPurpose.MAINTENANCE}
        issued = await tokens.issue(recipient, {Scope.READ, Scope.LIVE}, purposes=purposes)
        principal = await authenticator.machine(issued.secret)
        assert (principal.role, principal.key) == (Role.RECIPIENT, recipient.recipient_key)
        assert (principal.scopes, principal.purposes) == ({Scope.READ, Scope.LIVE}, purposes)
        assert (principal.token_key, principal.account_key) == (issued.token.token_key, None)

    async def test_without_purposes_it_is_for_all(self, world, tokens, authenticator):
        issued = await tokens.issue(await world.recipient())
        assert (await authenticator.machine(issued.secret)).purposes is None

    async def test_an_owners_token_has_all_rights(self, world, tokens, authenticator):
        owner = await world.owner()
        principal = await authenticator.machine((await tokens.issue(owner)).secret)
        assert (principal.role, principal.key, principal.rights) == (Role.OWNER, owner.owner_key, ALL_RIGHTS)

    async def test_a_members_token_has_the_rights_that_the_member_has_now(self, world, tokens, authenticator):
        member = await world.member(await world.owner(), MemberRight.SEE, MemberRight.SHARE)
        issued = await tokens.issue(member)
        assert (await authenticator.machine(issued.secret)).rights == {MemberRight.SEE, MemberRight.SHARE}
        await world.admin.execute("UPDATE consent.member SET rights = '{see}' WHERE member_key = $1", member.member_key)
        assert (await authenticator.machine(issued.secret)).rights == {MemberRight.SEE}

    async def test_an_operators_token_has_key_0(self, tokens, authenticator):
        principal = await authenticator.machine((await tokens.issue(Holder(Role.OPERATOR))).secret)
        assert (principal.role, principal.key) == (Role.OPERATOR, 0)

    @pytest.mark.parametrize("bearer", ["", "tlm_", "tlm_" + "A" * 42, "tlm_" + "A" * 43, "A" * 43, "tlm_" + "ä" * 43])
    async def test_what_was_never_issued_is_nobodys(self, tokens, authenticator, bearer):
        await tokens.issue(Holder(Role.OPERATOR))
        assert await authenticator.machine(bearer) is None


class TestEnds:
    async def test_a_revoked_token_is_unknown_at_the_next_request(self, world, tokens, authenticator):
        recipient = await world.recipient()
        kept, revoked = await tokens.issue(recipient), await tokens.issue(recipient)
        await tokens.revoke(revoked.token.token_key, recipient)
        assert await authenticator.machine(revoked.secret) is None
        assert await authenticator.machine(kept.secret) is not None

    async def test_a_token_is_unknown_from_its_last_instant_on(self, world, tokens, authenticator):
        issued = await tokens.issue(await world.recipient())
        world.clock.pass_(days=90, microseconds=-1)
        assert await authenticator.machine(issued.secret) is not None
        world.clock.pass_(microseconds=1)
        assert await authenticator.machine(issued.secret) is None

    @pytest.mark.parametrize("whose", ["owner", "recipient", "member"])
    async def test_a_token_of_who_is_erased_closed_or_removed_is_unknown(self, world, tokens, authenticator, whose):
        holder = await (world.recipient() if whose == "recipient" else world.owner())
        if whose == "member":
            holder = await world.member(holder)
        issued = await tokens.issue(holder)
        assert await authenticator.machine(issued.secret) is not None
        await world.end(holder)
        assert await authenticator.machine(issued.secret) is None

    async def test_none_is_issued_or_rotated_for_who_is_gone(self, world, tokens):
        recipient = await world.recipient()
        issued = await tokens.issue(recipient)
        await world.end(recipient)
        with pytest.raises(PartyUnknown):
            await tokens.issue(recipient)
        with pytest.raises(PartyUnknown):
            await tokens.rotate(issued.token.token_key)

    async def test_a_member_of_another_household_is_nobody(self, world, tokens):
        member = await world.member(await world.owner())
        other = await world.owner()
        with pytest.raises(PartyUnknown):
            await tokens.issue(Holder(Role.OWNER, other.owner_key, member.member_key))


class TestRotation:
    async def test_both_count_until_the_overlap_is_over(self, world, tokens, authenticator):
        recipient = await world.recipient()
        old = await tokens.issue(recipient, {Scope.EXPORT}, purposes={SharingPurpose.BILLING})
        new = await tokens.rotate(old.token.token_key, recipient, overlap=timedelta(hours=24))
        assert (new.token.scopes, new.token.purposes) == (old.token.scopes, old.token.purposes)
        world.clock.pass_(hours=23, minutes=59)
        assert await authenticator.machine(old.secret) is not None
        world.clock.pass_(minutes=1)
        assert await authenticator.machine(old.secret) is None
        assert await authenticator.machine(new.secret) is not None

    async def test_the_new_one_lives_as_long_as_the_old_one_was_to_live(self, world, tokens):
        old = await tokens.issue(await world.recipient(), lifetime=timedelta(days=10))
        world.clock.pass_(days=9)
        new = await tokens.rotate(old.token.token_key)
        assert new.token.expires_at == world.clock.now + timedelta(days=10)

    async def test_the_overlap_does_not_lengthen_the_old_ones_life(self, world, tokens, authenticator):
        old = await tokens.issue(await world.recipient(), lifetime=timedelta(hours=1))
        await tokens.rotate(old.token.token_key)
        world.clock.pass_(hours=1)
        assert await authenticator.machine(old.secret) is None

    async def test_who_missed_the_answer_rotates_again_and_the_lost_one_is_revoked(self, world, tokens, authenticator):
        old = await tokens.issue(await world.recipient())
        lost = await tokens.rotate(old.token.token_key)
        again = await tokens.rotate(old.token.token_key)
        assert await authenticator.machine(lost.secret) is None
        assert await authenticator.machine(again.secret) is not None

    async def test_once_the_new_one_is_used_the_old_one_rotates_no_more(self, world, tokens, authenticator):
        old = await tokens.issue(await world.recipient())
        new = await tokens.rotate(old.token.token_key)
        await authenticator.machine(new.secret)
        with pytest.raises(PartyUnknown):
            await tokens.rotate(old.token.token_key)

    async def test_of_rotations_that_race_one_token_remains(self, world, tokens, authenticator):
        old = await tokens.issue(await world.recipient())
        issued = await asyncio.gather(*(tokens.rotate(old.token.token_key) for _ in range(6)))
        alive = [one for one in issued if await authenticator.machine(one.secret)]
        assert len(alive) == 1

    async def test_a_revoked_or_expired_one_does_not_rotate(self, world, tokens):
        recipient = await world.recipient()
        revoked, expired = await tokens.issue(recipient), await tokens.issue(recipient, lifetime=timedelta(hours=1))
        await tokens.revoke(revoked.token.token_key)
        world.clock.pass_(hours=1)
        for ended in (revoked, expired):
            with pytest.raises(PartyUnknown):
                await tokens.rotate(ended.token.token_key)


class TestOfOthers:
    async def test_are_not_listed_rotated_or_revoked(self, world, tokens, authenticator):
        mine, other = await world.recipient(), await world.recipient()
        issued = await tokens.issue(other)
        assert await tokens.list(mine) == []
        for attempt in (tokens.rotate, tokens.revoke):
            with pytest.raises(PartyUnknown):
                await attempt(issued.token.token_key, mine)
        assert await authenticator.machine(issued.secret) is not None

    async def test_an_owner_sees_those_of_members_and_a_member_only_the_own_ones(self, world, tokens):
        owner = await world.owner()
        member = await world.member(owner)
        of_owner, of_member = await tokens.issue(owner), await tokens.issue(member)
        assert [one.token_key for one in await tokens.list(member)] == [of_member.token.token_key]
        listed = {one.token_key for one in await tokens.list(owner)}
        assert listed == {of_owner.token.token_key, of_member.token.token_key}
        with pytest.raises(PartyUnknown):
            await tokens.revoke(of_owner.token.token_key, member)


class TestRecords:
    async def test_the_day_of_use_is_kept_and_nothing_finer(self, world, tokens, authenticator):
        recipient = await world.recipient()
        issued = await tokens.issue(recipient)
        assert (await tokens.list(recipient))[0].last_used_on is None
        world.clock.pass_(days=3, hours=5)
        await authenticator.machine(issued.secret)
        assert (await tokens.list(recipient))[0].last_used_on == world.clock.now.date()

    async def test_the_database_holds_the_hash_and_not_the_secret(self, world, tokens):
        issued = await tokens.issue(await world.recipient())
        stored = await world.admin.fetchval("SELECT t::text FROM access.token AS t")
        assert hashlib.sha256(issued.secret[4:].encode()).hexdigest() in stored
        assert issued.secret[4:] not in stored
        assert issued.secret not in repr(issued)

    async def test_every_change_leaves_a_row_for_the_owner(self, world, tokens):
        owner = await world.owner()
        old = await tokens.issue(owner, by_operator=True)
        await tokens.rotate(old.token.token_key)
        await tokens.revoke(old.token.token_key)
        expected = ["operator.token.issue", "token.rotate", "token.revoke"]
        assert await world.actions(old.token.token_key) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": set()},
        {"lifetime": timedelta(days=367)},
        {"lifetime": timedelta(0)},
        {"purposes": set()},
    ],
)
async def test_what_is_no_token_is_refused(world, tokens, wrong):
    with pytest.raises(InputError):
        await tokens.issue(await world.recipient(), **wrong)


async def test_an_owners_token_is_not_bound_to_purposes(world, tokens):
    with pytest.raises(InputError):
        await tokens.issue(await world.owner(), purposes={SharingPurpose.BILLING})
