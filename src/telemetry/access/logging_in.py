"""Login: address, password and, where there is one, the second factor. One path for known and unknown addresses.

Who is limited, so that nobody can lock somebody else out:

- a browser that logged in before (it shows a device cookie) has a budget of its own, and no other counts for it;
- everybody else has one for each account and network, shares one for the account with all strangers, whose delay is
  bounded at 15 minutes, and one for the network;
- codes of the second factor have one more, for each of both, and strangers share it too.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from telemetry.access.accounts import Account, People, checked_email
from telemetry.access.principal import Role
from telemetry.access.records import SQL, holder_exists, holder_of, record, transaction
from telemetry.access.sealing import Sealed
from telemetry.access.second_factor import accept_code
from telemetry.access.secret_text import new_secret, secret_hash
from telemetry.access.throttle import Budget, Try, Whence
from telemetry.errors import InputError, LoginRefused, SecondFactorNeeded
from telemetry.model.identity import new_key

OPERATOR_LIFETIME: Final = timedelta(hours=12)
MAX_SESSIONS: Final = 50

DEVICE: Final = Budget(free=5, first_s=1, most_s=3_600)
PLACE: Final = Budget(free=3, first_s=1, most_s=3_600)
STRANGERS: Final = Budget(free=30, first_s=1, most_s=900)
NETWORK: Final = Budget(free=50, first_s=1, most_s=60)
CODES: Final = Budget(free=5, first_s=30, most_s=3_600)

_NOBODY: Final = 0


@dataclass(frozen=True, slots=True)
class Login:
    """What somebody types. ``code``: of the authenticator, or a recovery code."""

    email: str = field(repr=False)
    password: str = field(repr=False)
    code: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A new session. ``secret`` and ``device_cookie`` go into cookies; neither is stored in clear."""

    account_key: int
    session_key: int
    secret: str = field(repr=False)
    device_cookie: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class _Budgets:
    """``own``: of the device, or of this network with this account. ``shared``: with others."""

    own: Try
    shared: tuple[Try, ...]
    codes: Try

    @property
    def all(self) -> tuple[Try, ...]:
        return (self.own, *self.shared)


class LoggingIn:
    """Any number of callers, one event loop."""

    def __init__(self, people: People) -> None:
        self._people = people
        # Nobody's: verified where there is no account, so that an unknown address takes as long as a known one.
        hashed = people.passwords.nobodys.encode()
        self._nobodys = people.keys.seal(hashed, kind=Sealed.PASSWORD, account_key=_NOBODY)

    async def login(self, login: Login, whence: Whence) -> LoggedIn:
        """Begin a session.

        Raises:
            LoginRefused: address, password or code are wrong.
            SecondFactorNeeded: the password is right, and no code was given.
            TooManyTries: come again later; nothing was verified.
            AccessBusy: too many ask at once.

        """
        people = self._people
        try:
            email = checked_email(login.email)
        except InputError:
            raise LoginRefused from None
        blind = people.keys.email_blind(email)
        budgets = await self._budgets(blind, whence)
        await people.throttle.take(*budgets.all)
        account = await self._verified(blind, login.password)
        if account is None:
            raise LoginRefused
        if account.totp_secret is not None:
            if login.code is None:
                await people.throttle.give_back(budgets.all)
                raise SecondFactorNeeded
            await people.throttle.take(budgets.codes)
            if not await accept_code(people, account, login.code):
                raise LoginRefused
        begun = await self._begin(account, blind, second_factor=account.totp_secret is not None)
        if begun is None:
            raise LoginRefused
        await people.throttle.give_back(budgets.shared, clear=(budgets.own, budgets.codes))
        return begun

    async def _budgets(self, blind: bytes, whence: Whence) -> _Budgets:
        keys = self._people.keys
        device = keys.device(whence.device_cookie, blind, self._people.clock().date())
        if device is not None:
            own = Try(keys.bucket("login.device", blind, device), DEVICE)
            return _Budgets(own, (), Try(keys.bucket("code.device", blind, device), CODES))
        place = await self._people.throttle.place(whence)
        return _Budgets(
            Try(keys.bucket("login.place", blind, place), PLACE),
            (Try(keys.bucket("login.strangers", blind), STRANGERS), Try(keys.bucket("login.network", place), NETWORK)),
            Try(keys.bucket("code.strangers", blind), CODES),
        )

    async def _verified(self, blind: bytes, password: str) -> Account | None:
        """The account, if this is its password. Reads, opens and verifies the same amount where there is none."""
        people = self._people
        account = await people.account_by_email(blind)
        nobodys = people.keys.open(self._nobodys, kind=Sealed.PASSWORD, account_key=_NOBODY).decode()
        stored = nobodys if account is None else account.password_hash
        is_right = await people.passwords.verify(stored, password)
        if account is None or not is_right:
            return None
        if people.passwords.is_outdated(stored):
            hashed = (await people.passwords.hash(password)).encode()
            sealed = people.keys.seal(hashed, kind=Sealed.PASSWORD, account_key=account.account_key)
            async with transaction(people.pool, "renewing a hash") as connection:
                await connection.execute(SQL["renew_hash"], account.account_key, sealed, account.password_version)
        return account

    async def _begin(self, account: Account, blind: bytes, *, second_factor: bool) -> LoggedIn | None:
        people, now = self._people, self._people.clock()
        secret, key = new_secret(), new_key()
        async with transaction(people.pool, "beginning a session") as connection:
            # Not where the password or the second factor was changed meanwhile: that ends sessions.
            proven = (account.account_key, account.password_version, second_factor)
            row = await connection.fetchrow(SQL["hold_account"], *proven)
            holder = None if row is None else holder_of(row)
            if holder is None or not await holder_exists(connection, holder):
                return None
            lifetime = OPERATOR_LIFETIME if holder.role is Role.OPERATOR else people.session_lifetime
            expires_at = now + lifetime
            arguments = (key, account.account_key, secret_hash(secret), second_factor, now, expires_at)
            await connection.execute(SQL["add_session"], *arguments)
            await connection.execute(SQL["bound_sessions"], account.account_key, MAX_SESSIONS)
            await record(connection, "session.begin", holder.owner_key, account.account_key)
        cookie = people.keys.device_cookie(blind, now.date())
        return LoggedIn(account.account_key, key, secret, cookie, expires_at)
