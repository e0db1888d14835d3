"""Requests for access on a real database: what reaches an owner, what it decides, and what the recipient is told."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import pytest_asyncio

from telemetry.errors import (
    GrantChanged,
    InputError,
    PartyUnknown,
    RequestsBounded,
    RequestWidened,
    SolarUnconfirmed,
    StoreError,
)
from telemetry.model.requests import RequestReason, RequestState
from telemetry.model.sharing import Keeping
from telemetry.privacy.keys import Purpose
from telemetry.privacy.requesting import CodeIndex
from telemetry.store import deciding, plans
from telemetry.store.registration import NewSite
from telemetry.store.requests import Requests, SeenSite
from telemetry.store.sharing_pool import SharingPool
from telemetry.views.pool import Pool
from tests.support.postgres import temporary_postgres
from tests.support.registry import registry_world
from tests.support.sharing import SharingWorld, refused, sharing_world, terms

pytestmark = pytest.mark.asyncio(loop_scope="module")
FAULT = RequestReason.FAULT
WRONG = "0000-0000"
TEXT = "Example text: the inverter reports a fault"


class Requesting(SharingWorld):
    """Both sides: what the API has of this."""

    def begin(self) -> None:
        self.codes = CodeIndex(bytes(32))
        self.pool = Pool(self.registry.connector("telemetry_access"))
        self.requests = Requests(self.pool, self.codes)
        self.rights_pool = Pool(self.registry.connector("telemetry_rights"))
        self.owners = SharingPool(self.rights_pool, self.signer, plans.recompile)

    async def code(self, owner: int) -> str:
        async with self.sharing.settling() as settlement:
            return (await settlement.connection_code(owner, self.codes))[0]

    async def asked(self, owner: int, recipient: int, text: str = "", **changes):
        return await self.requests.ask(recipient, terms(**changes), FAULT, to=await self.code(owner), text=text)

    async def settle(self, act):
        async with self.sharing.settling() as settlement:
            return await act(settlement)

    async def expire(self, request: int, days: int = 31) -> None:
        for table in ("access.request", "consent.request"):
            await self.admin.execute(
                f"UPDATE {table} SET made_at = made_at - $2::interval, expires_at = expires_at - $2::interval"
                " WHERE request_key = $1",
                request,
                timedelta(days=days),
            )


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory):
    async with (
        temporary_postgres() as postgres,
        registry_world(postgres, tmp_path_factory.mktemp("keys") / "keys") as registry,
        sharing_world(registry) as opened,
    ):
        opened.__class__ = Requesting
        opened.begin()
        yield opened
        await opened.pool.close()
        await opened.rights_pool.close()


async def parties(world) -> tuple[int, int]:
    return (await world.home()).owner_key, await world.recipient()


def told(requests) -> list[tuple]:
    """What a recipient is told, but for keys and times."""
    return [(one.state, one.reason, one.terms, one.site, one.accepted_at) for one in requests]


class TestWhatReachesAnOwner:
    async def test_a_request_with_the_owners_code_does_with_its_terms_reason_and_sealed_text(self, world):
        owner, recipient = await parties(world)
        made = await world.asked(owner, recipient, text=TEXT)
        (received,) = await world.sharing.received(owner)
        assert (received.request_key, received.recipient.recipient_key) == (made.request_key, recipient)
        assert (received.terms, received.reason, received.has_text) == (terms(), FAULT, True)
        assert received.expires_at == made.expires_at == received.made_at + timedelta(days=30)
        opened = await world.registry.administration.reveal(Purpose.REQUEST_TEXT, [(owner, made.request_key)])
        assert opened == {made.request_key: TEXT}

    async def test_a_code_is_read_as_people_write_it(self, world):
        owner, recipient = await parties(world)
        code = (await world.code(owner)).lower().replace("-", " ").replace("0", "o").replace("1", "l")
        await world.requests.ask(recipient, terms(), FAULT, to=f" {code}")
        assert len(await world.sharing.received(owner)) == 1

    async def test_a_code_works_once(self, world):
        owner, recipient = await parties(world)
        code = await world.code(owner)
        for _ in range(2):
            await world.requests.ask(recipient, terms(), FAULT, to=code)
        await world.requests.ask(await world.recipient(), terms(), FAULT, to=code)
        assert len(await world.sharing.received(owner)) == 1

    async def test_of_two_that_use_a_code_at_once_one_reaches_the_owner(self, world):
        owner, recipient = await parties(world)
        code, other = await world.code(owner), await world.recipient()
        await asyncio.gather(*(world.requests.ask(one, terms(), FAULT, to=code) for one in (recipient, other)))
        assert len(await world.sharing.received(owner)) == 1

    async def test_an_expired_code_does_not(self, world):
        owner, recipient = await parties(world)
        code = await world.code(owner)
        await world.admin.execute("UPDATE consent.connection_code SET expires_at = now() WHERE owner_key = $1", owner)
        await world.requests.ask(recipient, terms(), FAULT, to=code)
        assert await world.sharing.received(owner) == []

    async def test_the_newest_three_codes_of_an_owner_work(self, world):
        owner, recipient = await parties(world)
        codes = [await world.code(owner) for _ in range(4)]
        for code in codes:
            await world.requests.ask(recipient, terms(), FAULT, to=code)
        assert len(await world.sharing.received(owner)) == 3
        assert await world.value("SELECT count(*) FROM consent.connection_code WHERE owner_key = $1", owner) == 0

    async def test_at_most_three_of_one_recipient_are_open_and_others_are_not_kept_out(self, world):
        owner, recipient = await parties(world)
        for _ in range(4):
            await world.asked(owner, recipient)
        assert len(await world.sharing.received(owner)) == 3
        await world.asked(owner, await world.recipient())
        assert len(await world.sharing.received(owner)) == 4

    async def test_an_erased_owner_is_not_reached(self, world):
        owner, recipient = await parties(world)
        code = await world.code(owner)
        await world.admin.execute("UPDATE consent.owner SET erased_at = now() WHERE owner_key = $1", owner)
        await world.requests.ask(recipient, terms(), FAULT, to=code, text=TEXT)
        assert await world.value("SELECT count(*) FROM consent.request WHERE owner_key = $1", owner) == 0

    async def test_a_site_that_is_seen_reaches_its_owner_for_that_site(self, world):
        home, recipient = await world.home(), await world.recipient()
        seen = SeenSite("s_made-up", home.owner_key, home.site_key)
        await world.sharing.set_grant(home.owner_key, recipient, terms())
        made = await world.requests.ask(recipient, terms(purpose="billing"), FAULT, to=seen)
        (received,) = await world.sharing.received(home.owner_key)
        assert received.terms == terms(purpose="billing", sites=[home.site_key])
        assert (made.site, made.terms.sites) == ("s_made-up", None)
        assert "owner" not in repr(seen)

    async def test_a_site_that_is_not_shown_does_not_whatever_the_caller_believes(self, world):
        """Granted to another, another site of the owner, not begun, over, and a recipient that is closed."""
        home, owner = await world.home(), (await world.home()).owner_key
        other_site = await world.registry.administration.add_site(home.owner_key, NewSite("Example Annexe"))
        for changes in (None, {"sites": [other_site]}, {"start": datetime.now(UTC) + timedelta(days=1)}, "over"):
            recipient = await world.recipient()
            if changes is None:
                await world.sharing.set_grant(home.owner_key, await world.recipient(), terms())
            elif changes == "over":
                await world.let_end((await world.sharing.set_grant(home.owner_key, recipient, terms())).grant_key)
            else:
                await world.sharing.set_grant(home.owner_key, recipient, terms(**changes))
            await world.requests.ask(recipient, terms(), FAULT, to=SeenSite("s_x", home.owner_key, home.site_key))
        closed = await world.recipient()
        await world.sharing.set_grant(home.owner_key, closed, terms())
        await world.recipients.close(closed)
        await world.requests.ask(closed, terms(), FAULT, to=SeenSite("s_x", home.owner_key, home.site_key))
        await world.requests.ask(closed, terms(), FAULT, to=await world.code(owner))
        reached = await world.rows("SELECT FROM consent.request WHERE owner_key IN ($1, $2)", home.owner_key, owner)
        assert reached == []

    async def test_a_site_of_another_owner_than_said_reaches_nobody(self, world):
        home, other, recipient = await world.home(), await world.home(), await world.recipient()
        for each in (home, other):
            await world.sharing.set_grant(each.owner_key, recipient, terms())
        await world.requests.ask(recipient, terms(), FAULT, to=SeenSite("s_x", home.owner_key, other.site_key))
        assert await world.sharing.received(home.owner_key) == await world.sharing.received(other.owner_key) == []

    async def test_an_owner_does_not_see_what_a_blocked_recipient_asks(self, world):
        owner, recipient = await parties(world)
        await world.asked(owner, recipient)
        await world.settle(lambda s: s.block(owner, recipient))
        assert await world.sharing.received(owner) == []
        assert [row["recipient_key"] for row in await world.sharing.blocked(owner)] == [recipient]
        code = await world.code(owner)
        await world.requests.ask(recipient, terms(), FAULT, to=code)
        await world.settle(lambda s: s.unblock(owner, recipient))
        assert len(await world.sharing.received(owner)) == 1  # the one from before
        await world.requests.ask(await world.recipient(), terms(), FAULT, to=code)  # not used up by the blocked one
        assert len(await world.sharing.received(owner)) == 2
        with pytest.raises(PartyUnknown):
            await world.settle(lambda s: s.unblock(owner, recipient))


class TestWhatTheRecipientIsTold:
    async def test_is_the_same_whatever_became_of_the_request_until_it_was_accepted(self, world):
        """Declined, blocked, ignored, one too many, erased, a code that was used and one that never was."""
        recipient = await world.recipient()
        owners = [(await world.home()).owner_key for _ in range(4)]
        declined, blocked, ignored, erased = [await world.asked(owner, recipient, text=TEXT) for owner in owners]
        wrong = await world.requests.ask(recipient, terms(), FAULT, to=WRONG, text=TEXT)
        await world.settle(lambda s: s.decline(owners[0], declined.request_key))
        await world.settle(lambda s: s.block(owners[1], recipient))
        await world.admin.execute("UPDATE consent.owner SET erased_at = now() WHERE owner_key = $1", owners[3])
        every = [declined, blocked, ignored, erased, wrong]
        assert {type(one.request_key) for one in every} == {int}
        assert len(set(told(every))) == 1
        now_told = told(await world.requests.asked(recipient))
        assert now_told == [(RequestState.PENDING, FAULT, terms(), None, None)] * 5
        for one in every:
            await world.expire(one.request_key, days=30)
        now_told = told(await world.requests.asked(recipient))
        assert now_told == [(RequestState.NOT_ACCEPTED, FAULT, terms(), None, None)] * 5

    async def test_does_not_depend_on_other_recipients_and_owners(self, world):
        owner, recipient = await parties(world)
        await world.asked(owner, recipient)
        before = await world.requests.asked(recipient)
        other = await world.recipient()
        for _ in range(3):
            await world.asked(owner, other)
        (_, *rest) = await world.sharing.received(owner)
        await world.settle(lambda s: s.accept(owner, rest[0].request_key))
        await world.settle(lambda s: s.block(owner, other))
        assert await world.requests.asked(recipient) == before
        assert len(await world.requests.asked(other)) == 3

    @pytest.mark.parametrize("seed", range(4))
    async def test_no_act_of_anybody_else_changes_a_byte_but_acceptance(self, world, seed):
        """Random acts of owners and other recipients, and of time short of expiry."""
        chance, recipient, other = random.Random(seed), await world.recipient(), await world.recipient()
        owners = [(await world.home()).owner_key for _ in range(3)]
        for owner in owners:
            await world.asked(owner, recipient, text=TEXT)
        await world.requests.ask(recipient, terms(), FAULT, to=WRONG)
        before = repr(await world.requests.asked(recipient))

        async def of_owner(owner: int) -> None:
            received = await world.sharing.received(owner)
            mine = [one.request_key for one in received if one.recipient.recipient_key == recipient]
            theirs = [one.request_key for one in received if one.recipient.recipient_key == other]
            acts = [lambda s: s.connection_code(owner, world.codes), lambda s: s.block(owner, recipient)]
            acts += [lambda s, key=key: s.decline(owner, key) for key in mine + theirs]
            acts += [lambda s, key=key: s.accept(owner, key) for key in theirs]
            acts += [lambda s: s.restrict(owner)] if not await world.sharing.restrictions(owner) else []
            await world.settle(chance.choice(acts))

        for _ in range(15):
            owner = chance.choice(owners)
            act = chance.choice(["owner", "owner", "asked", "pruned", "gone"])
            if act == "asked" and await self.left(world, other):
                await world.asked(owner, other)
            elif act == "pruned":
                await deciding.prune(world.rights)
            elif act == "gone" and len(owners) > 1:
                owners.remove(owner)
                await world.admin.execute("UPDATE consent.owner SET erased_at = now() WHERE owner_key = $1", owner)
            else:
                await of_owner(owner)
            assert repr(await world.requests.asked(recipient)) == before

    async def left(self, world, recipient: int) -> bool:
        return await world.value("SELECT count(*) FROM access.request WHERE recipient_key = $1", recipient) < 20

    async def test_acceptance_is_told(self, world):
        owner, recipient = await parties(world)
        made = await world.asked(owner, recipient)
        await world.settle(lambda s: s.accept(owner, made.request_key))
        (asked,) = await world.requests.asked(recipient)
        assert asked.state is RequestState.ACCEPTED
        assert asked.accepted_at is not None

    async def test_attempts_with_codes_are_bounded_the_same_for_right_and_wrong_ones(self, world):
        ends = []
        for right in (False, True):
            owner, recipient = await parties(world)
            for count in range(20):
                code = await world.code(owner) if right and count < 3 else WRONG
                made = await world.requests.ask(recipient, terms(), FAULT, to=code)
                await world.requests.take_back(recipient, made.request_key)  # gives no attempt back
            with pytest.raises(RequestsBounded) as error:
                await world.requests.ask(recipient, terms(), FAULT, to=await world.code(owner))
            ends.append((str(error.value.args[0]), round(error.value.retry_after_s / 3600)))
            assert await world.sharing.received(owner) == []
        assert ends[0] == ends[1] == ("too many connection codes were tried today", 24)

    async def test_pending_requests_are_bounded_over_all_owners(self, world):
        owner, recipient = await parties(world)
        await world.sharing.set_grant(owner, recipient, terms())
        await world.admin.execute(
            "INSERT INTO access.request (request_key, recipient_key, by_code, reason, terms, expires_at)"
            " SELECT $1::bigint / 2 + n, $1, true, 'fault', $2, now() + interval '1 day'"
            " FROM generate_series(1, 200) AS n",
            recipient,
            terms().model_dump_json(),
        )
        await world.admin.execute(
            "UPDATE access.request SET made_at = now() - interval '2 days' WHERE recipient_key = $1", recipient
        )
        with pytest.raises(RequestsBounded, match="pending"):
            await world.asked(owner, recipient)

    @pytest.mark.parametrize("code", ["", "0000", "0000-000U", "0000-00000", "ÄÄÄÄÄÄÄÄ"])
    async def test_a_code_of_another_form_is_refused_for_its_form(self, world, code):
        with pytest.raises(InputError):
            await world.requests.ask(await world.recipient(), terms(), FAULT, to=code)

    async def test_sites_cannot_be_named_by_key_and_texts_are_short(self, world):
        home, recipient = await world.home(), await world.recipient()
        with pytest.raises(InputError, match="no sites"):
            await world.requests.ask(recipient, terms(sites=[home.site_key]), FAULT, to=WRONG)
        for text in ("x" * 501, "a\nb"):
            with pytest.raises(InputError):
                await world.requests.ask(recipient, terms(), FAULT, to=WRONG, text=text)


class TestTakingBack:
    async def test_it_is_gone_on_both_sides_text_included(self, world):
        owner, recipient = await parties(world)
        made = await world.asked(owner, recipient, text=TEXT)
        await world.requests.take_back(recipient, made.request_key)
        assert await world.requests.asked(recipient) == await world.sharing.received(owner) == []
        assert await world.value("SELECT count(*) FROM vault.entry WHERE subject_key = $1", made.request_key) == 0
        with pytest.raises(PartyUnknown):
            await world.settle(lambda s: s.accept(owner, made.request_key))

    async def test_nobody_elses_is_taken_back_and_a_foreign_one_looks_like_none(self, world):
        owner, recipient = await parties(world)
        made = await world.asked(owner, recipient)
        texts = set()
        for key in (made.request_key, 42):
            with pytest.raises(PartyUnknown) as error:
                await world.requests.take_back(await world.recipient(), key)
            texts.add(str(error.value))
        assert len(texts) == 1
        assert len(await world.sharing.received(owner)) == 1

    async def test_while_an_owner_weighs_it_it_waits(self, world):
        """From the first look on: what is compared is what is granted."""
        owner, recipient = await parties(world)
        made = await world.asked(owner, recipient)
        async with world.sharing.settling() as settlement:
            with pytest.raises(RequestWidened):
                await settlement.accept(owner, made.request_key, terms(extremes=True))
            taking = asyncio.create_task(world.requests.take_back(recipient, made.request_key))
            done, _ = await asyncio.wait([taking], timeout=0.3)
            assert not done
            await settlement.accept(owner, made.request_key)
        await taking
        assert len(await world.sharing.grants(owner, recipient)) == 1

    async def test_while_an_owner_decides_it_waits(self, world):
        owner, recipient = await parties(world)
        made = await world.asked(owner, recipient)
        async with world.sharing.settling() as settlement:
            await settlement.accept(owner, made.request_key)
            taking = asyncio.create_task(world.requests.take_back(recipient, made.request_key))
            done, _ = await asyncio.wait([taking], timeout=0.3)
            assert not done
        await taking
        assert len(await world.sharing.grants(owner, recipient)) == 1


class TestDeciding:
    async def test_accepting_makes_the_grant_asked_for_with_its_receipt_in_one_transaction(self, world):
        owner, recipient = await parties(world)
        made = await world.asked(owner, recipient, text=TEXT)
        grant = await world.settle(lambda s: s.accept(owner, made.request_key))
        assert await world.sharing.grants(owner) == [grant]
        assert grant.terms == terms(start=grant.terms.start, data_from=grant.terms.data_from)
        assert (await world.sharing.receipt(grant.grant_key)).count(".") == 2
        assert await world.sharing.received(owner) == []
        assert await world.value("SELECT count(*) FROM vault.entry WHERE subject_key = $1", made.request_key) == 0
        actions = await world.rows("SELECT action FROM audit.event WHERE owner_key = $1 ORDER BY event_key", owner)
        assert [row["action"] for row in actions][-2:] == ["grant.make", "request.accept"]

    async def test_narrower_terms_are_granted_and_wider_ones_refused_with_the_request_left_open(self, world):
        home, recipient = await world.home(), await world.recipient()
        owner = home.owner_key
        made = await world.asked(owner, recipient, classes=["production", "alert"])
        with pytest.raises(RequestWidened, match="resolution, place"):
            await world.settle(lambda s: s.accept(owner, made.request_key, terms(resolution="PT1H", place="country")))
        assert (await world.sharing.grants(owner), len(await world.sharing.received(owner))) == ([], 1)
        narrow = terms(resolution="P1M", sites=[home.site_key], until=datetime.now(UTC) + timedelta(days=9))
        grant = await world.settle(lambda s: s.accept(owner, made.request_key, narrow))
        assert grant.terms.resolution == "P1M"
        assert grant.terms.until == narrow.until

    async def test_a_start_that_has_passed_while_it_was_pending_means_now(self, world):
        owner, recipient = await parties(world)
        made = await world.asked(owner, recipient, start=datetime.now(UTC) + timedelta(seconds=0.2))
        await asyncio.sleep(0.3)
        grant = await world.settle(lambda s: s.accept(owner, made.request_key))
        assert grant.terms.start == grant.recorded_at

    async def test_what_must_be_confirmed_leaves_the_request_open_until_it_is(self, world):
        owner, recipient = await parties(world)
        made = await world.asked(owner, recipient, resolution="PT15M")
        with pytest.raises(SolarUnconfirmed) as error:
            await world.settle(lambda s: s.accept(owner, made.request_key))
        assert (await world.requests.asked(recipient))[0].state is RequestState.PENDING
        confirmed = error.value.error_km
        await world.settle(lambda s: s.accept(owner, made.request_key, confirmed_km=confirmed))
        assert (await world.requests.asked(recipient))[0].state is RequestState.ACCEPTED

    async def test_decided_withdrawn_expired_foreign_and_unknown_ones_are_the_same_nothing(self, world):
        owner, recipient = await parties(world)
        other = (await world.home()).owner_key
        accepted, declined, expired = [await world.asked(owner, recipient) for _ in range(3)]
        await world.settle(lambda s: s.accept(owner, accepted.request_key))
        await world.settle(lambda s: s.decline(owner, declined.request_key))
        foreign = await world.asked(other, recipient)
        await world.expire(expired.request_key)
        texts = set()
        for key in (accepted, declined, expired, foreign):
            for act in ("accept", "decline"):
                with pytest.raises(PartyUnknown) as error:
                    await world.settle(lambda s, act=act, key=key: getattr(s, act)(owner, key.request_key))
                texts.add(str(error.value))
        with pytest.raises(PartyUnknown) as error:
            await world.settle(lambda s: s.accept(owner, 42))
        assert texts == {str(error.value)}
        assert len(await world.sharing.received(other)) == 1

    async def test_declining_forgets_the_text_and_changes_nothing_that_is_kept(self, world):
        owner, recipient = await parties(world)
        made = await world.asked(owner, recipient, text=TEXT)
        world.compiled.clear()
        await world.settle(lambda s: s.decline(owner, made.request_key))
        assert world.compiled == []
        assert await world.value("SELECT count(*) FROM vault.entry WHERE subject_key = $1", made.request_key) == 0

    async def test_a_change_from_an_outdated_version_is_refused(self, world):
        owner, recipient = await parties(world)
        grant = await world.sharing.set_grant(owner, recipient, terms())
        change = partial(world.sharing.set_grant, owner, recipient, grant_key=grant.grant_key)
        await world.settle(lambda s: s.expect(owner, grant.grant_key, 1))
        await change(terms(resolution="P1M"))
        with pytest.raises(GrantChanged) as error:
            await world.settle(lambda s: s.expect(owner, grant.grant_key, 1))
        assert error.value.current == 2


class TestInvitations:
    async def invited(self, world, recipient, **changes):
        return await world.requests.invite(recipient, terms(**changes), lifetime=timedelta(days=7))

    async def test_an_owner_that_holds_the_secret_sees_and_accepts_it_once(self, world):
        owner, recipient = await parties(world)
        made = await self.invited(world, recipient)
        async with world.sharing.settling() as settlement:
            proposed = await settlement.proposed(made.secret)
        assert (proposed.recipient.recipient_key, proposed.terms) == (recipient, terms())
        grant = await world.settle(lambda s: s.accept_invitation(owner, made.secret))
        assert await world.sharing.grants(owner, recipient) == [grant]
        with pytest.raises(PartyUnknown):
            await world.settle(lambda s: s.accept_invitation(owner, made.secret))
        assert [one.state for one in await world.requests.invitations(recipient)] == ["accepted"]

    async def test_what_is_refused_leaves_it_open(self, world):
        owner, recipient = await parties(world)
        made = await self.invited(world, recipient)
        with pytest.raises(RequestWidened, match="purpose"):
            await world.settle(lambda s: s.accept_invitation(owner, made.secret, terms(purpose="billing")))
        assert [one.state for one in await world.requests.invitations(recipient)] == ["open"]

    async def test_revoked_expired_unknown_and_a_closed_recipients_are_the_same_nothing(self, world):
        owner, recipient = await parties(world)
        closed = await world.recipient()
        revoked, expired = await self.invited(world, recipient), await self.invited(world, recipient)
        of_closed = await self.invited(world, closed)
        await world.requests.revoke(recipient, revoked.invitation_key)
        await world.admin.execute(
            "UPDATE access.invitation SET expires_at = now() WHERE invitation_key = $1", expired.invitation_key
        )
        await world.recipients.close(closed)
        texts = set()
        for secret in (revoked.secret, expired.secret, of_closed.secret, "made-up", ""):
            with pytest.raises(PartyUnknown) as error:
                await world.settle(lambda s, secret=secret: s.accept_invitation(owner, secret))
            texts.add(str(error.value))
        assert len(texts) == 1
        assert [one.state for one in await world.requests.invitations(recipient)] == ["revoked", "expired"]

    async def test_only_the_hash_is_stored_and_the_secret_has_256_bits(self, world):
        made = await self.invited(world, await world.recipient())
        assert len(made.secret) == 43
        assert made.secret not in repr(made)
        rows = await world.rows("SELECT * FROM access.invitation")
        assert made.secret not in repr(rows)

    async def test_nobody_elses_is_revoked(self, world):
        made = await self.invited(world, await world.recipient())
        with pytest.raises(PartyUnknown):
            await world.requests.revoke(await world.recipient(), made.invitation_key)

    async def test_open_ones_are_bounded_by_recipient(self, world):
        recipient = await world.recipient()
        for _ in range(100):
            await self.invited(world, recipient)
        with pytest.raises(RequestsBounded):
            await self.invited(world, recipient)
        await self.invited(world, await world.recipient())

    async def test_those_made_in_a_day_are_bounded_revoked_ones_included(self, world):
        recipient = await world.recipient()
        await world.admin.execute(
            "INSERT INTO access.invitation (invitation_key, recipient_key, code_hash, terms, expires_at, revoked_at)"
            " SELECT $1::bigint / 2 + n, $1, sha256($2::bytea || int4send(n)), '{}', now() + interval '1 day', now()"
            " FROM generate_series(1, 200) AS n",
            recipient,
            recipient.to_bytes(8, signed=True),
        )
        with pytest.raises(RequestsBounded):
            await self.invited(world, recipient)

    @pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(days=31)])
    async def test_lifetimes_are_bounded(self, world, lifetime):
        with pytest.raises(InputError):
            await world.requests.invite(await world.recipient(), terms(), lifetime=lifetime)


class TestTheRoleOfRecipients:
    async def test_reads_nothing_of_owners_and_no_other_recipients_rows(self, world):
        owner, recipient = await parties(world)
        await world.asked(owner, recipient, text=TEXT)
        other = await world.recipient()
        await world.requests.invite(other, terms(), lifetime=timedelta(days=1))
        async with world.pool.connection() as connection:
            for table in ("consent.request", "consent.connection_code", "consent.request_block", "vault.entry"):
                assert await refused(connection, f"SELECT FROM {table}")
            for who in ("", str(other)):
                async with connection.transaction():
                    await connection.execute("SELECT set_config('telemetry.recipient', $1, true)", who)
                    assert await connection.fetch("SELECT FROM access.request") == []
            async with connection.transaction():
                await connection.execute("SELECT set_config('telemetry.recipient', $1, true)", str(recipient))
                assert await connection.fetch("SELECT FROM access.invitation") == []
                assert await connection.fetchval("SELECT count(*) FROM access.request") == 1

    async def test_invites_in_nobody_elses_name(self, world):
        recipient, other = await world.recipient(), await world.recipient()
        async with world.pool.connection() as connection:
            await connection.execute("SELECT set_config('telemetry.recipient', $1, false)", str(recipient))
            assert await refused(
                connection,
                "INSERT INTO access.invitation (invitation_key, recipient_key, code_hash, terms, expires_at)"
                " VALUES (1, $1, $2, '{}', now())",
                other,
                bytes(32),
            )
            await connection.execute("SELECT set_config('telemetry.recipient', '', false)")


class TestPruning:
    async def test_texts_go_when_a_request_expires_and_the_rest_a_month_later(self, world):
        owner, recipient = await parties(world)
        old, expired, open_one = [await world.asked(owner, recipient, text=TEXT) for _ in range(3)]
        await world.expire(old.request_key, days=60)
        await world.expire(expired.request_key, days=30)
        assert await deciding.prune(world.rights) >= 1
        texts = await world.rows(
            "SELECT subject_key FROM vault.entry WHERE owner_key = $1 AND subject_kind = 'request'", owner
        )
        assert [row["subject_key"] for row in texts] == [open_one.request_key]
        left = [one.request_key for one in await world.requests.asked(recipient)]
        assert left == [expired.request_key, open_one.request_key]


class TestManyOwnersAtOnce:
    async def test_settle_side_by_side_and_all_of_it_is_compiled(self, world):
        recipient = await world.recipient()
        owners = [(await world.home()).owner_key for _ in range(12)]

        async def settle(owner: int) -> None:
            async with world.owners.open() as sharing:
                await sharing.set_grant(owner, recipient, terms())
                await sharing.set_keeping(owner, Keeping(never=["ac_power_w"]))

        await asyncio.gather(*map(settle, owners))
        for owner in owners:
            assert len(await world.sharing.grants(owner, recipient)) == 1
        assert await world.value("SELECT count(*) FROM consent.dirty_owner WHERE owner_key = ANY ($1)", owners) == 0

    async def test_what_is_refused_is_raised_and_its_connection_used_again(self, world):
        owner, recipient = await parties(world)
        pool = Pool(world.registry.connector("telemetry_rights"), size=1)
        owners = SharingPool(pool, world.signer, plans.recompile)
        processes = []

        async def settle() -> None:
            async with owners.open() as sharing:
                processes.append(sharing._connection.get_server_pid())
                await sharing.set_grant(owner, recipient, terms(resolution="PT15M"))

        for _ in range(2):
            with pytest.raises(SolarUnconfirmed):
                await settle()
        assert len(set(processes)) == 1
        assert await world.sharing.grants(owner) == []
        await pool.close()

    async def test_what_could_not_be_compiled_is_in_force_marked_and_reported(self, world):
        owner, recipient = await parties(world)
        reported = []

        async def failing(connection, owners):
            raise StoreError("made up")

        owners = SharingPool(world.rights_pool, world.signer, failing, behind=reported.append)
        async with owners.open() as sharing:
            await sharing.set_grant(owner, recipient, terms())
        assert [str(error) for error in reported] == ["made up"]
        assert len(await world.sharing.grants(owner)) == 1
        assert await world.value("SELECT count(*) FROM consent.dirty_owner WHERE owner_key = $1", owner) == 1
