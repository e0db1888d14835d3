"""Lock-out that cannot be used to lock others out, on a real database by a clock that tests set."""

import asyncio
from datetime import timedelta

import pytest
import pytest_asyncio

from telemetry.access.logging_in import NETWORK, PLACE, STRANGERS
from telemetry.access.passwords import Passwords
from telemetry.access.signing_up import NewPerson
from telemetry.access.throttle import Budget, Throttle, Try, Whence
from telemetry.access.totp import code_at
from telemetry.errors import LoginRefused, TooManyTries
from tests.support.access import HOME, PASSWORD, people_world

EMAIL = "someone@example.test"
WRONG = "wrong words and more"
BUDGET = Budget(free=2, first_s=10, most_s=60)


@pytest_asyncio.fixture
async def world(store):
    async with people_world(store) as opened:
        yield opened


def stranger(number: int) -> Whence:
    """From a network of its own."""
    return Whence(f"10.{number // 250}.{number % 250}.1")


async def fails(world, whence: Whence, email: str = EMAIL, code: str | None = None) -> int:
    """A login that is refused: 0 where it was verified, otherwise the seconds to wait."""
    try:
        await world.login(email, WRONG if code is None else PASSWORD, code, whence)
    except LoginRefused:
        return 0
    except TooManyTries as early:
        return early.retry_after_s
    pytest.fail("got in")


async def strangers_fail(world, times: int) -> int:
    """So many failed logins from as many networks; how many of them were verified at all."""
    verified = 0
    for number in range(times):
        verified += await fails(world, stranger(number)) == 0
        world.clock.pass_(seconds=1)
    return verified


class TestBudgets:
    async def waits(self, world, one: Try) -> int:
        try:
            await world.access.people.throttle.take(one)
        except TooManyTries as early:
            return early.retry_after_s
        return 0

    async def test_the_statement_delays_as_the_formula_says(self, world):
        one = Try(b"a" * 16, BUDGET)
        for tries in range(1, 9):
            assert await self.waits(world, one) == 0, tries
            delay_s = BUDGET.delay_s(tries)
            if delay_s:
                world.clock.pass_(seconds=delay_s, microseconds=-1)
                assert await self.waits(world, one) == 1
                world.clock.pass_(microseconds=1)
        assert [BUDGET.delay_s(tries) for tries in range(1, 8)] == [0, 0, 10, 20, 40, 60, 60]

    async def test_a_try_too_early_prolongs_nothing(self, world):
        one = Try(b"a" * 16, BUDGET)
        for _ in range(3):
            await world.access.people.throttle.take(one)
        for _ in range(50):
            assert await self.waits(world, one) == 10
        world.clock.pass_(seconds=10)
        assert await self.waits(world, one) == 0

    async def test_where_one_must_wait_no_other_is_counted(self, world):
        throttle = world.access.people.throttle
        full, other = Try(b"z" * 16, BUDGET), Try(b"a" * 16, BUDGET)
        for _ in range(3):
            await throttle.take(full)
        with pytest.raises(TooManyTries):
            await throttle.take(full, other)
        assert await world.admin.fetchval("SELECT count(*) FROM access.attempt WHERE bucket = $1", other.bucket) == 0

    async def test_tries_at_once_do_not_slip_through(self, world):
        one = Try(b"a" * 16, BUDGET)
        waits = await asyncio.gather(*(self.waits(world, one) for _ in range(40)))
        assert waits.count(0) == 3  # two free ones, and the one that begins the delay

    async def test_all_is_forgotten_a_day_after_the_last_try(self, world):
        one = Try(b"a" * 16, BUDGET)
        for _ in range(3):
            await world.access.people.throttle.take(one)
        world.clock.pass_(days=1)
        for _ in range(3):
            assert await self.waits(world, one) == 0


class TestStrangers:
    async def test_their_1000_failures_do_not_delay_a_device_that_logged_in_before(self, world):
        await world.signed_up()
        device = Whence(HOME.address, (await world.login()).device_cookie)
        verified = await strangers_fail(world, 1000)
        assert verified < 100
        assert await fails(world, stranger(5000)) > 0  # strangers wait
        await world.login(whence=device)

    async def test_nor_do_they_lock_the_account_for_good(self, world):
        await world.signed_up()
        await strangers_fail(world, 1000)
        with pytest.raises(TooManyTries) as early:
            await world.login(whence=HOME)
        assert early.value.retry_after_s <= STRANGERS.most_s == 900
        world.clock.pass_(seconds=early.value.retry_after_s)
        await world.login(whence=HOME)

    async def test_nor_keep_out_who_reads_the_accounts_mail(self, world):
        await world.signed_up()
        await strangers_fail(world, 100)
        await world.access.passwords.forgot(EMAIL, HOME)
        cookie = await world.access.passwords.reset(await world.code(EMAIL), "other words and more")
        await world.login(password="other words and more", whence=Whence(HOME.address, cookie))

    async def test_nor_who_asks_for_a_mail_while_they_ask_for_hundreds(self, world):
        """Whenever the person looks, the newest mail holds a code that counts."""
        await world.signed_up()
        for number in range(600):
            await world.access.passwords.forgot(EMAIL, stranger(number))
            await world.access.people.letters.drained()
            world.clock.pass_(seconds=30)
        mails = [mail for mail in await world.mailed(EMAIL) if mail["Subject"] == "Choose a new password"]
        assert 3 < len(mails) < 25
        await world.access.passwords.reset(await world.code(EMAIL), "other words and more")

    async def test_from_one_network_wait_ever_longer_for_one_account_only(self, world):
        await world.signed_up()
        await world.signed_up("other@example.test")
        assert [await fails(world, HOME) for _ in range(5)] == [0, 0, 0, 0, 1]
        world.clock.pass_(seconds=1)
        assert [await fails(world, HOME) for _ in range(2)] == [0, 2]
        await world.login("other@example.test", whence=HOME)
        await world.login(whence=stranger(1))

    async def test_who_tries_one_password_at_many_accounts_waits_too(self, world):
        emails = [f"person{number}@example.test" for number in range(NETWORK.free + 2)]
        waits = [await fails(world, HOME, email) for email in emails]
        assert waits == [0] * (NETWORK.free + 1) + [1]

    async def test_an_unknown_address_is_limited_like_a_known_one(self, world):
        await world.signed_up()
        known = [await fails(world, stranger(1)) for _ in range(6)]
        unknown = [await fails(world, stranger(2), "unknown@example.test") for _ in range(6)]
        assert known == unknown
        assert known[-1] > 0

    async def test_what_must_wait_is_not_verified(self, world, monkeypatch):
        await world.signed_up()
        for _ in range(PLACE.free + 1):
            await fails(world, HOME)
        verified = []
        monkeypatch.setattr(Passwords, "verify", lambda *arguments: verified.append(arguments))
        with pytest.raises(TooManyTries):
            await world.login(whence=HOME)
        assert verified == []


class TestDevices:
    async def test_have_a_budget_of_their_own_that_ends_too(self, world):
        await world.signed_up()
        device = Whence(HOME.address, (await world.login()).device_cookie)
        assert [await fails(world, device) for _ in range(7)] == [0] * 6 + [1]
        await world.login(whence=stranger(1))  # strangers do not pay for it

    async def test_a_cookie_of_another_account_or_a_changed_one_is_a_strangers(self, world):
        await world.signed_up()
        await world.signed_up("other@example.test")
        others = (await world.login("other@example.test")).device_cookie
        own = (await world.login()).device_cookie
        for _ in range(PLACE.free + 1):
            await fails(world, HOME)
        for cookie in (others, own[:-2] + "AA", own[2:], "", "ä", "A" * 4096):
            assert await fails(world, Whence(HOME.address, cookie)) > 0
        await world.login(whence=Whence(HOME.address, own))

    async def test_a_cookie_counts_for_180_days(self, world):
        await world.signed_up()
        cookie = (await world.login()).device_cookie
        world.clock.pass_(days=180)
        for _ in range(PLACE.free + 1):
            await fails(world, HOME)
        await world.login(whence=Whence(HOME.address, cookie))
        world.clock.pass_(days=1)
        for _ in range(PLACE.free + 1):
            await fails(world, HOME)
        assert await fails(world, Whence(HOME.address, cookie)) > 0

    async def test_a_login_clears_the_own_failures(self, world):
        await world.signed_up()
        for _ in range(3):
            for _ in range(PLACE.free):
                await fails(world, HOME)
            await world.login()


class TestCodes:
    async def switched_on(self, world) -> bytes:
        key = await world.signed_up()
        begun = await world.login()
        await world.access.second_factor.propose(key, begun.session_key, PASSWORD)
        secret = (await world.access.people.account_of(key)).totp_proposed
        await world.access.second_factor.confirm(key, begun.session_key, code_at(secret, world.clock.now))
        world.clock.pass_(seconds=60)
        self.device = Whence(HOME.address, begun.device_cookie)
        return secret

    async def test_who_knows_the_password_cannot_guess_on(self, world):
        await self.switched_on(world)
        waits = [await fails(world, stranger(number), code="000000") for number in range(7)]
        assert waits == [0] * 6 + [30]

    async def test_asking_whether_a_code_is_wanted_does_not_clear_failures(self, world):
        await self.switched_on(world)
        waits = []
        for number in range(7):
            waits.append(await fails(world, stranger(number), code="000000"))
            with pytest.raises(Exception, match="code is needed"):
                await world.login(whence=stranger(number + 100))
        assert waits[-1] > 0

    async def test_strangers_guesses_do_not_delay_a_device(self, world):
        secret = await self.switched_on(world)
        for number in range(20):
            await fails(world, stranger(number), code="000000")
        await world.login(code=code_at(secret, world.clock.now), whence=self.device)

    async def test_a_password_given_once_more_is_limited_within_the_session(self, world):
        key = await world.signed_up()
        begun = await world.login()
        results = []
        for _ in range(7):
            try:
                await world.access.passwords.change(key, begun.session_key, WRONG, "other words and more")
            except (LoginRefused, TooManyTries) as error:
                results.append(type(error))
        assert results == [LoginRefused] * 6 + [TooManyTries]


class TestWhereFrom:
    async def place(self, world, address: str | None) -> bytes:
        return await world.access.people.throttle.place(Whence(address))

    @pytest.mark.parametrize(
        ("first", "second", "same"),
        [
            ("192.0.2.1", "192.0.2.254", True),
            ("192.0.2.1", "192.0.3.1", False),
            ("2001:db8:0:100::1", "2001:db8:0:1ff::2", True),
            ("2001:db8:0:100::1", "2001:db8:0:200::1", False),
            ("::ffff:192.0.2.1", "192.0.2.9", True),
            (None, "not an address", True),
        ],
    )
    async def test_is_a_network(self, world, first, second, same):
        assert (await self.place(world, first) == await self.place(world, second)) is same

    async def test_is_told_by_another_key_each_day_and_the_old_key_is_gone(self, world):
        today = await self.place(world, "192.0.2.1")
        world.clock.pass_(hours=14, minutes=59)
        assert await self.place(world, "192.0.2.1") == today
        world.clock.pass_(minutes=1)
        assert await self.place(world, "192.0.2.1") != today
        days = await world.admin.fetch("SELECT day FROM access.day_key")
        assert [row["day"] for row in days] == [world.clock.now.date()]

    async def test_is_the_same_for_all_processes_of_a_day_even_where_they_begin_at_once(self, world):
        people = world.access.people
        throttles = [Throttle(world.pool, people.keys, clock=world.clock) for _ in range(8)]
        places = await asyncio.gather(*(one.place(HOME) for one in throttles))
        assert len(set(places)) == 1


class TestMails:
    async def test_one_address_is_sent_few_whoever_asks(self, world):
        for number in range(40):
            await world.access.signing_up.sign_up(NewPerson(EMAIL, True, "Example"), stranger(number))
        assert len(await world.mailed(EMAIL)) == 4

    async def test_one_network_may_ask_for_few_whomever_to(self, world):
        async def ask(number: int) -> None:
            new = NewPerson(f"person{number}@example.test", True, "Example")
            await world.access.signing_up.sign_up(new, HOME)

        for number in range(11):
            await ask(number)
        with pytest.raises(TooManyTries):
            await ask(11)
        with pytest.raises(TooManyTries):
            await world.access.passwords.forgot(EMAIL, HOME)
        world.clock.now += timedelta(seconds=30)
        await ask(12)
