"""What everything about people's accounts shares: their rows, their addresses, and how each is limited."""

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from email_validator import validate_email

from telemetry.access.authenticator import DEFAULT_IDLE
from telemetry.access.letters import Letters
from telemetry.access.passwords import Passwords, check_password
from telemetry.access.records import SQL, Clock, Connections, transaction, utc_now
from telemetry.access.sealing import AccessKeys, Sealed
from telemetry.access.throttle import Budget, Throttle, Try, Whence
from telemetry.deliver.mail import Mail
from telemetry.errors import AccessBusy, InputError, LoginRefused, TooManyTries

MAX_EMAIL_LENGTH: Final = 254  # RFC 5321, 4.5.3.1.3
# What one address is sent by whoever asks: three at once, then ever more rarely, down to one in half an hour. A code
# counts for longer: however many strangers ask, the newest mail always holds one that counts.
_MAILS: Final = Budget(free=3, first_s=300, most_s=1_800)
# What one network may ask for that makes mails be written, whomever to.
_ASKING: Final = Budget(free=10, first_s=30, most_s=3_600)
# Passwords given once more within one session.
_CONFIRMING: Final = Budget(free=5, first_s=1, most_s=3_600)


@dataclass(frozen=True, slots=True)
class Account:
    """An account's row. ``password_hash`` is the argon2 string, opened."""

    account_key: int
    owner_key: int | None
    email: str = field(repr=False)
    password_hash: str = field(repr=False)
    password_version: int
    totp_secret: bytes | None = field(repr=False)
    totp_proposed: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class People:
    """The tools that sign-up, login, sessions, passwords and second factors work with. One event loop."""

    pool: Connections
    keys: AccessKeys
    passwords: Passwords
    letters: Letters
    throttle: Throttle
    session_lifetime: timedelta = timedelta(days=14)
    idle: timedelta = DEFAULT_IDLE
    clock: Clock = utc_now

    def account(self, row: Any) -> Account:
        """The row of ``account`` or ``account_by_email``, opened."""
        key = row["account_key"]

        def opened(column: str, kind: Sealed) -> bytes | None:
            return None if row[column] is None else self.keys.open(row[column], kind=kind, account_key=key)

        return Account(
            key,
            row["owner_key"],
            (opened("email_sealed", Sealed.EMAIL) or b"").decode(),
            (opened("password_sealed", Sealed.PASSWORD) or b"").decode(),
            row["password_version"],
            opened("totp_sealed", Sealed.TOTP),
            opened("totp_proposed", Sealed.TOTP),
        )

    async def account_of(self, account_key: int) -> Account:
        """The account of somebody who is logged in."""
        async with transaction(self.pool, "reading an account") as connection:
            row = await connection.fetchrow(SQL["account"], account_key)
        if row is None:
            raise LoginRefused
        return self.account(row)

    async def of_account(self, account_key: int) -> str | None:
        """The account's address, for a mail; None where it is none, or would not be let in any more."""
        async with transaction(self.pool, "reading an address") as connection:
            sealed = await connection.fetchval(SQL["mailable"], account_key)
        if not sealed:
            return None
        return self.keys.open(sealed, kind=Sealed.EMAIL, account_key=account_key).decode()

    async def account_by_email(self, email_blind: bytes) -> Account | None:
        """The account under an address."""
        async with transaction(self.pool, "looking an account up") as connection:
            row = await connection.fetchrow(SQL["account_by_email"], email_blind)
        return None if row is None else self.account(row)

    async def confirm(self, account_key: int, session_key: int, password: str) -> Account:
        """The account of who is logged in and gives the password once more.

        Raises:
            LoginRefused: it is wrong.
            TooManyTries: it was wrong too often in this session.
            AccessBusy: too many ask at once.

        """
        one = Try(self.keys.bucket("confirm", session_key.to_bytes(8, signed=True)), _CONFIRMING)
        await self.throttle.take(one)
        account = await self.account_of(account_key)
        if not await self.passwords.verify(account.password_hash, password):
            raise LoginRefused
        await self.throttle.give_back((), clear=(one,))
        return account

    async def sealed_password(self, account_key: int, password: str, email: str) -> bytes:
        """A fit password, hashed, and sealed: a dump of the database alone cannot be searched for weak ones.

        Raises:
            PasswordUnfit: too short, too long, the address, or among the first that are tried.
            AccessBusy: too many are hashed at once.

        """
        check_password(password, email)
        hashed = await self.passwords.hash(password)
        return self.keys.seal(hashed.encode(), kind=Sealed.PASSWORD, account_key=account_key)

    async def ask_for_mail(self, whence: Whence) -> None:
        """Count that somebody asks for something that makes a mail be written.

        Raises:
            NotConfigured: no mail can be sent.
            TooManyTries: from this network too many were asked for.

        """
        self.letters.require()
        place = await self.throttle.place(whence)
        await self.throttle.take(Try(self.keys.bucket("asking", place), _ASKING))

    async def may_be_written_to(self, email_blind: bytes, what: str) -> bool:
        """Count one mail that anybody's request makes us write to an address; False where it had enough of these."""
        try:
            await self.throttle.take(Try(self.keys.bucket(f"mail.{what}", email_blind), _MAILS))
        except TooManyTries:
            return False
        return True

    def notify(self, mail: Mail) -> None:
        """Send the account's person a mail about what was just done, and cannot fail any more."""

        async def write() -> Mail:
            return mail

        with suppress(AccessBusy):
            self.letters.post(write)


def checked_email(text: str) -> str:
    """An address in its plain form (RFC 5321). Looks nothing up.

    Raises:
        InputError: it is no address of the Internet.

    """
    try:
        # test_environment: the domain .test may be used, nothing else.
        found = validate_email(
            text.strip(), allow_smtputf8=False, check_deliverability=False, test_environment=True
        ).ascii_email
    except ValueError:  # EmailNotValidError, or what cannot even be looked at
        found = None
    if found is None or len(found) > MAX_EMAIL_LENGTH:
        # Not chained: the cause quotes the address.
        raise InputError("this is no e-mail address", remedy="write it like name@example.org")
    return found
