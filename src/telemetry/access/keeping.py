"""What people do with an account that exists: its password, its sessions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from telemetry.access.accounts import People, checked_email
from telemetry.access.records import SQL, record, transaction
from telemetry.access.secret_text import new_secret, secret_hash
from telemetry.access.texts import password_changed_mail, reset_mail
from telemetry.access.throttle import Whence
from telemetry.deliver.mail import Mail
from telemetry.errors import PartyUnknown, ProofUnknown

RESET_LIFETIME: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One session, without its secret. ``seen_at``: to the minute."""

    session_key: int
    begun_at: datetime
    seen_at: datetime
    expires_at: datetime
    second_factor: bool


class PasswordKeeping:
    """Changing and resetting passwords. Any number of callers, one event loop."""

    def __init__(self, people: People) -> None:
        self._people = people

    async def change(self, account_key: int, session_key: int, password: str, new_password: str) -> None:
        """Another password. Ends all other sessions and outstanding resets.

        Raises:
            LoginRefused: the present password is wrong.
            TooManyTries: it was wrong too often.
            PasswordUnfit: the new one cannot be one.

        """
        people = self._people
        account = await people.confirm(account_key, session_key, password)
        sealed = await people.sealed_password(account_key, new_password, account.email)
        async with transaction(people.pool, "changing a password") as connection:
            await connection.execute(SQL["set_password"], account_key, sealed)
            await connection.execute(SQL["end_other_sessions"], account_key, session_key)
            await connection.execute(SQL["forget_resets"], account_key)
            await record(connection, "password.change", account.owner_key, account_key)
        people.notify(password_changed_mail(account.email))

    async def forgot(self, email: str, whence: Whence) -> None:
        """Write a code to this address if there is an account under it. The same whether there is or not.

        Raises:
            InputError: no address.
            TooManyTries: from this network too many asked.
            NotConfigured: no mail can be sent.
            AccessBusy: too many ask at once.

        """
        address = checked_email(email)
        await self._people.ask_for_mail(whence)
        self._people.letters.post(lambda: self._write(address))

    async def reset(self, secret: str, new_password: str) -> str:
        """Another password for who reads the account's mail; ends all sessions and outstanding resets.

        Returns a device cookie: who reads the mail is no stranger, however many strangers try. A second factor stays.

        Raises:
            ProofUnknown: the code is unknown, used or expired.
            PasswordUnfit: the password cannot be one; the code may be used again.
            AccessBusy: too many ask at once.

        """
        people, digest = self._people, secret_hash(secret)
        async with transaction(people.pool, "looking a reset up") as connection:
            row = None if digest is None else await connection.fetchrow(SQL["reset"], digest, people.clock())
        if row is None:
            raise ProofUnknown
        account = await people.account_of(row["account_key"])
        key = account.account_key
        sealed = await people.sealed_password(key, new_password, account.email)
        async with transaction(people.pool, "resetting a password") as connection:
            used = await connection.fetchval(SQL["use_reset"], digest, people.clock()) is not None
            if used:
                await connection.execute(SQL["set_password"], key, sealed)
                await connection.execute(SQL["end_sessions"], key)
                await connection.execute(SQL["forget_resets"], key)
                await record(connection, "password.reset", account.owner_key, key)
        if not used:
            raise ProofUnknown
        people.notify(password_changed_mail(account.email))
        return people.keys.device_cookie(people.keys.email_blind(account.email), people.clock().date())

    async def _write(self, email: str) -> Mail | None:
        people = self._people
        blind = people.keys.email_blind(email)
        account = await people.account_by_email(blind)
        if account is None or not await people.may_be_written_to(blind, "reset"):
            return None
        secret = new_secret()
        async with transaction(people.pool, "keeping a reset") as connection:
            until = people.clock() + RESET_LIFETIME
            await connection.execute(SQL["add_reset"], secret_hash(secret), account.account_key, until)
            await record(connection, "password.forgot", account.owner_key, account.account_key)
        return reset_mail(account.email, secret, people.letters.link_base)


class Sessions:
    """A person's sessions. Any number of callers, one event loop."""

    def __init__(self, people: People) -> None:
        self._people = people

    async def list(self, account_key: int) -> Sequence[SessionRow]:
        """Those that are not over, the newest first."""
        async with transaction(self._people.pool, "listing sessions") as connection:
            rows = await connection.fetch(SQL["sessions"], account_key, self._people.clock(), self._people.idle)
        return [SessionRow(**dict(row)) for row in rows]

    async def end(self, account_key: int, session_key: int) -> None:
        """From the next request on it is unknown. Raises PartyUnknown for one that is not this account's."""
        async with transaction(self._people.pool, "ending a session") as connection:
            row = await connection.fetchrow(SQL["end_session"], account_key, session_key)
            if row is not None:
                await record(connection, "session.end", row["owner_key"], account_key)
        if row is None:
            raise PartyUnknown("there is no such session", remedy="list the sessions")
