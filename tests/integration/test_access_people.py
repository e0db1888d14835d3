"""Accounts from sign-up to reset, on a real database and with a real mail server."""

import asyncio
from datetime import timedelta

import pytest
import pytest_asyncio

from telemetry.access.accounts import People
from telemetry.access.logging_in import OPERATOR_LIFETIME
from telemetry.access.passwords import Passwords
from telemetry.access.principal import ALL_RIGHTS, ALL_SCOPES, Role
from telemetry.access.records import Holder
from telemetry.access.sealing import AccessKeys
from telemetry.access.secret_text import csrf_token
from telemetry.access.signing_up import NewPerson
from telemetry.access.throttle import Whence
from telemetry.access.totp import code_at
from telemetry.config import AccessConfig
from telemetry.errors import (
    InputError,
    LoginRefused,
    NotConfigured,
    PartyUnknown,
    PasswordUnfit,
    ProofUnknown,
    SecondFactorNeeded,
)
from telemetry.model.sharing import MemberRight
from tests.support.access import ACCESS_KEY, API_KEY, FAST, HOME, PASSWORD, people_world

EMAIL = "someone@example.test"
OTHER = "other words and more"


@pytest_asyncio.fixture
async def world(store):
    async with people_world(store) as opened:
        yield opened


async def person(world, logged_in):
    return await world.access.authenticator.person(logged_in.secret)


async def with_totp(world):
    """An account with a second factor: its session, the authenticator's secret, and recovery codes."""
    key = await world.signed_up()
    begun = await world.login()
    await world.access.second_factor.propose(key, begun.session_key, PASSWORD)
    secret = (await world.access.people.account_of(key)).totp_proposed
    codes = await world.access.second_factor.confirm(key, begun.session_key, code_at(secret, world.clock.now))
    world.clock.pass_(seconds=60)
    return begun, secret, codes


class TestSignUp:
    async def test_who_reads_the_mail_chooses_the_password_and_becomes_a_new_owner(self, world):
        await world.signed_up(EMAIL)
        principal = (await person(world, await world.login())).principal
        assert (principal.role, principal.rights, principal.scopes) == (Role.OWNER, ALL_RIGHTS, ALL_SCOPES)
        assert [(new.name, new.email) for new in world.registered] == [("Example Person", EMAIL)]

    async def test_a_known_address_is_answered_alike_and_told_by_mail(self, world):
        await world.signed_up(EMAIL)
        answers = [
            await world.access.signing_up.sign_up(NewPerson(email, True, "Example"), Whence("203.0.113.9"))
            for email in (EMAIL, "unknown@example.test")
        ]
        assert answers == [None, None]
        known, unknown = (await world.mailed(EMAIL))[-1], (await world.mailed("unknown@example.test"))[-1]
        assert known["Subject"] == "You have an account already"
        assert unknown["Subject"] == "Confirm your address"

    async def test_nothing_is_looked_up_before_the_answer(self, world, monkeypatch):
        """How long the answer takes cannot tell whether the address is known: nobody has asked yet."""
        await world.signed_up(EMAIL)
        asked, gate = [], asyncio.Event()
        real = People.account_by_email

        async def noted(people, blind):
            asked.append(blind)
            return await real(people, blind)

        async def held() -> None:
            await gate.wait()

        monkeypatch.setattr(People, "account_by_email", noted)
        world.access.people.letters.post(held)  # what is posted later waits for it
        await world.access.signing_up.sign_up(NewPerson(EMAIL, True, "Example"), HOME)
        await world.access.passwords.forgot(EMAIL, HOME)
        assert asked == []
        gate.set()
        await world.access.people.letters.drained()
        assert len(asked) == 2

    async def test_who_is_under_18_gets_no_account_and_leaves_nothing(self, world):
        with pytest.raises(InputError, match="18"):
            await world.access.signing_up.sign_up(NewPerson(EMAIL, False, "Example"), HOME)
        await world.access.people.letters.drained()
        assert (world.server.mails, await world.admin.fetchval("SELECT count(*) FROM access.sign_up")) == ([], 0)

    async def test_that_it_was_stated_is_kept_with_the_account(self, world):
        key = await world.signed_up()
        stated = await world.admin.fetchval("SELECT adult_stated_at FROM access.account WHERE account_key = $1", key)
        assert stated == world.clock.now

    async def test_the_code_counts_once(self, world):
        await world.signed_up()
        with pytest.raises(ProofUnknown):
            await world.access.signing_up.verify(await world.code(EMAIL), PASSWORD)

    async def test_the_code_counts_for_24_hours(self, world):
        await world.access.signing_up.sign_up(NewPerson(EMAIL, True, "Example"), HOME)
        code = await world.code(EMAIL)
        world.clock.pass_(hours=24)
        with pytest.raises(ProofUnknown):
            await world.access.signing_up.verify(code, PASSWORD)

    async def test_an_unfit_password_does_not_use_the_code_up(self, world):
        await world.access.signing_up.sign_up(NewPerson(EMAIL, True, "Example"), HOME)
        code = await world.code(EMAIL)
        with pytest.raises(PasswordUnfit):
            await world.access.signing_up.verify(code, "short")
        assert await world.access.signing_up.verify(code, PASSWORD)

    async def test_of_two_codes_for_one_address_one_makes_an_account(self, world):
        codes = []
        for _ in range(2):
            await world.access.signing_up.sign_up(NewPerson(EMAIL, True, "Example"), HOME)
            codes.append(await world.code(EMAIL))
        await world.access.signing_up.verify(codes[0], PASSWORD)
        with pytest.raises(ProofUnknown):
            await world.access.signing_up.verify(codes[1], OTHER)
        assert len(world.registered) == 1

    async def test_of_verifications_that_race_one_makes_an_account(self, world):
        await world.access.signing_up.sign_up(NewPerson(EMAIL, True, "Example"), HOME)
        code = await world.code(EMAIL)
        verified = await asyncio.gather(
            *(world.access.signing_up.verify(code, PASSWORD) for _ in range(4)), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in verified) == ["ProofUnknown"] * 3 + ["int"]
        assert len(world.registered) == 1

    async def test_where_codes_are_wanted_nobody_signs_up_without(self, world):
        access = world.assembled(AccessConfig(sign_up="invited"))
        with pytest.raises(InputError, match="needs a code"):
            await access.signing_up.sign_up(NewPerson(EMAIL, True, "Example"), HOME)

    async def test_without_a_mail_server_it_says_so_whoever_asks(self, world):
        world.server.config = lambda **more: type(world.server).config(world.server, host="", **more)
        access = world.assembled()
        for ask in (
            access.signing_up.sign_up(NewPerson(EMAIL, True, "Example"), HOME),
            access.passwords.forgot(EMAIL, HOME),
        ):
            with pytest.raises(NotConfigured):
                await ask

    @pytest.mark.parametrize(
        "email", ["", "nobody", "a@b", "a b@example.test", "Ex <a@example.test>", "a@" + "b" * 300]
    )
    async def test_what_is_no_address_is_refused_without_being_quoted(self, world, email):
        with pytest.raises(InputError) as refused:
            await world.access.signing_up.sign_up(NewPerson(email, True, "Example"), HOME)
        assert not email or email not in str(refused.value)


class TestClaims:
    async def test_an_account_is_its_claims_recipients(self, world):
        recipient = await world.recipient()
        await world.signed_up(holder=recipient)
        principal = (await person(world, await world.login())).principal
        assert (principal.role, principal.key) == (Role.RECIPIENT, recipient.key)
        assert world.registered == []

    async def test_a_member_has_the_members_rights_and_none_once_removed(self, world):
        member = await world.member(await world.owner(), MemberRight.SEE)
        await world.signed_up(holder=member)
        begun = await world.login()
        principal = (await person(world, begun)).principal
        assert (principal.key, principal.rights) == (member.owner_key, {MemberRight.SEE})
        await world.end(member)
        assert await person(world, begun) is None
        with pytest.raises(LoginRefused):
            await world.login()

    async def test_a_code_makes_one_account(self, world):
        code, _ = await world.access.claims.invite(await world.recipient())
        codes = []
        for email in ("first@example.test", "second@example.test"):
            await world.access.signing_up.sign_up(NewPerson(email, True, "", code), HOME)
            codes.append(await world.code(email))
        await world.access.signing_up.verify(codes[0], PASSWORD)
        with pytest.raises(ProofUnknown):
            await world.access.signing_up.verify(codes[1], PASSWORD)
        with pytest.raises(ProofUnknown):
            await world.access.signing_up.sign_up(NewPerson("third@example.test", True, "", code), HOME)

    async def test_a_code_counts_for_7_days(self, world):
        code, _ = await world.access.claims.invite(await world.recipient())
        await world.access.signing_up.sign_up(NewPerson(EMAIL, True, "", code), HOME)
        world.clock.pass_(days=7)
        with pytest.raises(ProofUnknown):
            await world.access.signing_up.sign_up(NewPerson(EMAIL, True, "", code), HOME)
        with pytest.raises(ProofUnknown):
            await world.access.signing_up.verify(await world.code(EMAIL), PASSWORD)

    async def test_nobody_is_invited_for_who_is_gone(self, world):
        recipient = await world.recipient()
        code, _ = await world.access.claims.invite(recipient)
        await world.access.signing_up.sign_up(NewPerson(EMAIL, True, "", code), HOME)
        await world.end(recipient)
        with pytest.raises(PartyUnknown):
            await world.access.claims.invite(recipient)
        with pytest.raises(ProofUnknown):
            await world.access.signing_up.verify(await world.code(EMAIL), PASSWORD)


class TestLogin:
    async def test_address_and_password_begin_a_session_whatever_the_case_of_the_address(self, world):
        key = await world.signed_up()
        begun = await world.login("SomeOne@Example.Test")
        assert (await person(world, begun)).principal.account_key == key == begun.account_key

    async def test_a_wrong_password_an_unknown_address_and_no_address_are_refused_alike(self, world):
        await world.signed_up()
        refusals = []
        for email, password in ((EMAIL, OTHER), ("unknown@example.test", PASSWORD), ("no address", PASSWORD)):
            with pytest.raises(LoginRefused) as refused:
                await world.login(email, password)
            refusals.append(str(refused.value))
        assert len(set(refusals)) == 1

    async def test_an_unknown_address_costs_the_same_hash(self, world, monkeypatch):
        await world.signed_up()
        verified = []
        real = Passwords.verify

        async def noted(self, stored, password):
            verified.append(stored.rpartition("$")[0].rpartition("$")[0])  # algorithm and parameters
            return await real(self, stored, password)

        monkeypatch.setattr(Passwords, "verify", noted)
        for email in (EMAIL, "unknown@example.test"):
            with pytest.raises(LoginRefused):
                await world.login(email, OTHER)
        assert len(verified) == 2
        assert verified[0] == verified[1] != ""

    async def test_a_hash_of_other_parameters_is_renewed_at_the_next_login(self, world):
        key = await world.signed_up()
        slower = FAST.__class__(FAST.type, 19, 16, 32, time_cost=2, memory_cost=16, parallelism=1)
        later = world.assembled(passwords=Passwords(slower))
        world.access = later
        await world.login()
        assert "$m=16,t=2,p=1$" in (await later.people.account_of(key)).password_hash
        await world.login()

    async def test_unicode_written_in_two_ways_is_one_password(self, world):
        await world.signed_up(password="zwölf Bären im Wald")
        await world.login(password="zwo\u0308lf Ba\u0308ren im Wald")

    async def test_a_session_that_a_reset_overtook_does_not_begin(self, world, monkeypatch):
        await world.signed_up()
        real = Passwords.verify

        async def overtaken(self, stored, password):
            found = await real(self, stored, password)
            await world.access.passwords.forgot(EMAIL, HOME)
            await world.access.passwords.reset(await world.code(EMAIL), OTHER)
            return found

        monkeypatch.setattr(Passwords, "verify", overtaken)
        with pytest.raises(LoginRefused):
            await world.login()
        assert await world.admin.fetchval("SELECT count(*) FROM access.session") == 0


class TestSessions:
    async def test_the_csrf_token_is_the_sessions(self, world):
        await world.signed_up()
        first, second = await world.login(), await world.login()
        tokens = [(await person(world, one)).csrf for one in (first, second)]
        assert tokens[0] == csrf_token(API_KEY, first.secret) != tokens[1]

    async def test_ends_when_idle(self, world):
        await world.signed_up()
        begun = await world.login()
        for _ in range(3):
            world.clock.pass_(hours=11)
            assert await person(world, begun) is not None
        world.clock.pass_(hours=12)
        assert await person(world, begun) is None

    async def test_ends_in_any_case(self, world):
        await world.signed_up()
        begun = await world.login()
        while begun.expires_at - world.clock.now > timedelta(hours=6):
            world.clock.pass_(hours=6)
            assert await person(world, begun) is not None
        world.clock.now = begun.expires_at
        assert await person(world, begun) is None

    async def test_they_are_listed_and_ended_one_by_one_by_their_own_person(self, world):
        key = await world.signed_up()
        other = await world.signed_up("other@example.test")
        first, second = await world.login(), await world.login()
        listed = await world.access.sessions.list(key)
        assert {one.session_key for one in listed} == {first.session_key, second.session_key}
        with pytest.raises(PartyUnknown):
            await world.access.sessions.end(other, first.session_key)
        assert await person(world, first) is not None
        await world.access.sessions.end(key, first.session_key)
        assert await person(world, first) is None
        assert await person(world, second) is not None

    async def test_what_is_no_session_is_nobodys(self, world):
        await world.signed_up()
        await world.login()
        for secret in ("", "A" * 43, "ä" * 43, "A" * 5000):
            assert await world.access.authenticator.person(secret) is None

    @pytest.mark.parametrize("whose", ["owner", "recipient"])
    async def test_an_erased_owner_or_closed_recipient_has_none(self, world, whose):
        holder = await getattr(world, whose)()
        await world.signed_up(holder=holder)
        begun = await world.login()
        assert await person(world, begun) is not None
        await world.end(holder)
        assert await person(world, begun) is None
        with pytest.raises(LoginRefused):
            await world.login()

    async def test_an_operator_may_do_nothing_without_a_second_factor_and_has_shorter_ones(self, world):
        key = await world.signed_up(holder=Holder(Role.OPERATOR))
        begun = await world.login()
        assert (await person(world, begun)).principal.scopes == frozenset()
        assert begun.expires_at == world.clock.now + OPERATOR_LIFETIME
        await world.access.second_factor.propose(key, begun.session_key, PASSWORD)
        secret = (await world.access.people.account_of(key)).totp_proposed
        await world.access.second_factor.confirm(key, begun.session_key, code_at(secret, world.clock.now))
        assert (await person(world, begun)).principal.scopes == ALL_SCOPES
        world.clock.pass_(hours=1)
        assert await person(world, begun) is None


class TestPassword:
    async def test_a_change_ends_all_other_sessions_and_outstanding_resets(self, world):
        key = await world.signed_up()
        kept, other = await world.login(), await world.login()
        await world.access.passwords.forgot(EMAIL, HOME)
        code = await world.code(EMAIL)
        await world.access.passwords.change(key, kept.session_key, PASSWORD, OTHER)
        assert await person(world, other) is None
        assert await person(world, kept) is not None
        with pytest.raises(ProofUnknown):
            await world.access.passwords.reset(code, PASSWORD)
        with pytest.raises(LoginRefused):
            await world.login()
        await world.login(password=OTHER)
        assert (await world.mailed(EMAIL))[-1]["Subject"] == "Your password was changed"

    async def test_a_change_wants_the_present_one(self, world):
        key = await world.signed_up()
        begun = await world.login()
        with pytest.raises(LoginRefused):
            await world.access.passwords.change(key, begun.session_key, OTHER, OTHER)
        await world.login()

    async def test_a_reset_ends_every_session_and_every_other_reset_and_counts_once(self, world):
        await world.signed_up()
        begun = await world.login()
        codes = []
        for _ in range(2):
            await world.access.passwords.forgot(EMAIL, HOME)
            codes.append(await world.code(EMAIL))
        await world.access.passwords.reset(codes[0], OTHER)
        assert await person(world, begun) is None
        for code in codes:
            with pytest.raises(ProofUnknown):
                await world.access.passwords.reset(code, PASSWORD)
        await world.login(password=OTHER)

    async def test_a_reset_counts_for_an_hour(self, world):
        await world.signed_up()
        await world.access.passwords.forgot(EMAIL, HOME)
        code = await world.code(EMAIL)
        world.clock.pass_(hours=1)
        with pytest.raises(ProofUnknown):
            await world.access.passwords.reset(code, OTHER)

    async def test_of_resets_that_race_one_counts(self, world):
        await world.signed_up()
        await world.access.passwords.forgot(EMAIL, HOME)
        code = await world.code(EMAIL)
        done = await asyncio.gather(
            *(world.access.passwords.reset(code, f"{OTHER} {at}") for at in range(4)), return_exceptions=True
        )
        assert sum(isinstance(one, ProofUnknown) for one in done) == 3

    async def test_an_unknown_address_is_answered_alike_and_not_written_to(self, world):
        assert await world.access.passwords.forgot("unknown@example.test", HOME) is None
        assert await world.mailed("unknown@example.test") == []

    async def test_a_reset_leaves_the_second_factor(self, world):
        await with_totp(world)
        await world.access.passwords.forgot(EMAIL, HOME)
        await world.access.passwords.reset(await world.code(EMAIL), OTHER)
        with pytest.raises(SecondFactorNeeded):
            await world.login(password=OTHER)


class TestSecondFactor:
    async def test_is_wanted_once_confirmed_and_not_before(self, world):
        key = await world.signed_up()
        begun = await world.login()
        await world.access.second_factor.propose(key, begun.session_key, PASSWORD)
        await world.login()
        secret = (await world.access.people.account_of(key)).totp_proposed
        with pytest.raises(LoginRefused):
            await world.access.second_factor.confirm(key, begun.session_key, "000000")
        await world.access.second_factor.confirm(key, begun.session_key, code_at(secret, world.clock.now))
        with pytest.raises(SecondFactorNeeded):
            await world.login()

    async def test_switching_it_on_ends_other_sessions(self, world):
        key = await world.signed_up()
        other, begun = await world.login(), await world.login()
        await world.access.second_factor.propose(key, begun.session_key, PASSWORD)
        secret = (await world.access.people.account_of(key)).totp_proposed
        await world.access.second_factor.confirm(key, begun.session_key, code_at(secret, world.clock.now))
        assert await person(world, other) is None
        assert await person(world, begun) is not None

    async def test_a_code_without_the_password_is_refused(self, world):
        _, secret, _ = await with_totp(world)
        with pytest.raises(LoginRefused):
            await world.login(password=OTHER, code=code_at(secret, world.clock.now))

    async def test_a_step_is_accepted_once(self, world):
        _, secret, _ = await with_totp(world)
        code = code_at(secret, world.clock.now)
        await world.login(code=code)
        with pytest.raises(LoginRefused):
            await world.login(code=code)
        world.clock.pass_(seconds=30)
        await world.login(code=code_at(secret, world.clock.now))

    async def test_the_step_that_confirmed_it_does_not_log_in(self, world):
        _, secret, _ = await with_totp(world)
        world.clock.pass_(seconds=-60)
        with pytest.raises(LoginRefused):
            await world.login(code=code_at(secret, world.clock.now))

    async def test_of_logins_that_race_with_one_step_one_gets_in(self, world):
        _, secret, _ = await with_totp(world)
        code = code_at(secret, world.clock.now)
        logins = (world.login(code=code, whence=Whence(f"203.0.{at}.1")) for at in range(4))
        done = await asyncio.gather(*logins, return_exceptions=True)
        assert sorted(type(one).__name__ for one in done) == ["LoggedIn"] + ["LoginRefused"] * 3

    async def test_an_earlier_step_is_not_accepted_after_a_later_one(self, world):
        _, secret, _ = await with_totp(world)
        earlier = code_at(secret, world.clock.now)
        world.clock.pass_(seconds=30)
        await world.login(code=code_at(secret, world.clock.now))
        with pytest.raises(LoginRefused):
            await world.login(code=earlier)

    async def test_a_recovery_code_counts_once_however_it_is_typed(self, world):
        _, _, codes = await with_totp(world)
        assert len(set(codes)) == 10
        await world.login(code=codes[0].upper().replace("-", " "))
        with pytest.raises(LoginRefused):
            await world.login(code=codes[0])
        await world.login(code=codes[1])

    async def test_of_logins_that_race_with_one_recovery_code_one_gets_in(self, world):
        _, _, codes = await with_totp(world)
        logins = (world.login(code=codes[0], whence=Whence(f"203.0.{at}.1")) for at in range(4))
        done = await asyncio.gather(*logins, return_exceptions=True)
        assert sorted(type(one).__name__ for one in done) == ["LoggedIn"] + ["LoginRefused"] * 3

    async def test_new_recovery_codes_replace_the_old_ones(self, world):
        begun, secret, old = await with_totp(world)
        code = code_at(secret, world.clock.now)
        arguments = (begun.account_key, begun.session_key, PASSWORD, code)
        new = await world.access.second_factor.renew_codes(*arguments)
        with pytest.raises(LoginRefused):
            await world.login(code=old[0])
        await world.login(code=new[0])

    async def test_switching_it_off_wants_both_factors(self, world):
        begun, secret, _ = await with_totp(world)
        keys = (begun.account_key, begun.session_key)
        for password, code in ((OTHER, code_at(secret, world.clock.now)), (PASSWORD, "000000")):
            with pytest.raises(LoginRefused):
                await world.access.second_factor.remove(*keys, password, code)
        await world.access.second_factor.remove(*keys, PASSWORD, code_at(secret, world.clock.now))
        await world.login()
        assert (await world.mailed(EMAIL))[-1]["Subject"] == "Your second factor was switched off"


class TestTraces:
    async def test_a_dump_holds_neither_address_name_token_secret_nor_hash_in_clear(self, world):
        begun, secret, codes = await with_totp(world)
        await world.access.passwords.forgot(EMAIL, HOME)
        reset = await world.code(EMAIL)
        await world.access.signing_up.sign_up(NewPerson("late@example.test", True, "Example Late"), HOME)
        sign_up = await world.code("late@example.test")
        invited, _ = await world.access.claims.invite(await world.recipient())
        token = await world.access.tokens.issue(await world.recipient())
        account = await world.access.people.account_of(begun.account_key)
        dump = await everything(world)
        for text in (
            EMAIL, "someone", "late@example.test", "Example Person", "Example Late", PASSWORD, begun.secret,
            begun.device_cookie, reset, sign_up, invited, token.secret, token.secret[4:], account.password_hash,
            "argon2", "192.0.2", codes[0], codes[0].replace("-", ""),
        ):  # fmt: skip
            assert text.encode() not in dump
            assert text.encode().hex().encode() not in dump
        assert secret.hex().encode() not in dump
        # The search would find what is there.
        assert AccessKeys(ACCESS_KEY).email_blind(EMAIL).hex().encode() in dump

    async def test_everything_sensitive_leaves_a_row(self, world):
        begun, secret, codes = await with_totp(world)
        key = begun.account_key
        await world.login(code=codes[0])
        await world.access.passwords.change(key, begun.session_key, PASSWORD, OTHER)
        await world.access.passwords.forgot(EMAIL, HOME)
        await world.access.passwords.reset(await world.code(EMAIL), PASSWORD)
        again = await world.login(code=code_at(secret, world.clock.now))
        world.clock.pass_(seconds=60)
        await world.access.second_factor.renew_codes(key, again.session_key, PASSWORD, code_at(secret, world.clock.now))
        world.clock.pass_(seconds=60)
        await world.access.second_factor.remove(key, again.session_key, PASSWORD, code_at(secret, world.clock.now))
        await world.access.sessions.end(key, again.session_key)
        assert await world.actions(key) == [
            "account.add", "session.begin", "totp.on", "totp.recover", "session.begin", "password.change",
            "password.forgot", "password.reset", "session.begin", "totp.codes", "totp.off", "session.end",
        ]  # fmt: skip

    async def test_what_is_over_is_deleted(self, world):
        await with_totp(world)
        await world.access.passwords.forgot(EMAIL, HOME)
        await world.access.signing_up.sign_up(NewPerson("late@example.test", True, "Example"), HOME)
        await world.mailed("late@example.test")
        await world.access.claims.invite(await world.recipient())
        await world.access.tokens.issue(await world.recipient())
        world.clock.pass_(days=90 + 90 - 1)
        await world.access.tidy()
        names = ("attempt", "day_key", "sign_up", "claim", "reset", "session", "token")
        left = {name: await world.admin.fetchval(f"SELECT count(*) FROM access.{name}") for name in names}
        assert left == dict.fromkeys(names, 0) | {"token": 1}
        world.clock.pass_(days=2)
        await world.access.tidy()
        assert await world.admin.fetchval("SELECT count(*) FROM access.token") == 0


async def everything(world) -> bytes:
    """All rows of the schema and of the audit trail as text."""
    tables = await world.admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'access'::regnamespace AND relkind = 'r'"
    )
    names = [f"access.{row['relname']}" for row in tables] + ["audit.event"]
    rows = [row[0] for name in names for row in await world.admin.fetch(f"SELECT t::text FROM {name} AS t")]
    assert len(rows) > 10
    return "\n".join(rows).encode()


class TestLetters:
    async def test_a_mail_that_the_server_puts_off_is_sent_again(self, world):
        world.server.replies = ["451 come again"]
        await world.signed_up()

    async def test_a_mail_that_cannot_be_sent_is_reported_without_its_address_and_holds_up_no_other(self, world):
        reported = []
        access = world.assembled(report=reported.append)
        async with access.people.letters.running():
            for email in ("nobody@example.test", EMAIL):  # the server knows nobody of that name
                await access.signing_up.sign_up(NewPerson(email, True, "Example"), HOME)
            await access.people.letters.drained()
        assert [str(mail["To"]) for mail in world.server.mails] == [EMAIL]
        assert len(reported) == 1
        assert "nobody" not in str(reported[0])
