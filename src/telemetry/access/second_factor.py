"""The second factor: an authenticator's codes (RFC 6238), and ten recovery codes for the day it is lost."""

from dataclasses import dataclass, field
from typing import Any, Final

from telemetry.access.accounts import Account, People
from telemetry.access.records import SQL, record, transaction
from telemetry.access.sealing import Sealed
from telemetry.access.texts import second_factor_mail
from telemetry.access.throttle import Budget, Try
from telemetry.access.totp import (
    is_totp,
    matching_step,
    new_recovery_codes,
    new_totp_secret,
    plain_recovery_code,
    provisioning_uri,
    secret_text,
)
from telemetry.errors import LoginRefused, ProofUnknown

# Codes given while logged in.
_CODES: Final = Budget(free=5, first_s=30, most_s=3_600)


@dataclass(frozen=True, slots=True)
class Proposed:
    """What goes into an authenticator: as text to type, and as ``otpauth://`` address for a QR code. Told once."""

    secret: str = field(repr=False)
    uri: str = field(repr=False)


class SecondFactor:
    """For people who are logged in. Any number of callers, one event loop."""

    def __init__(self, people: People) -> None:
        self._people = people

    async def propose(self, account_key: int, session_key: int, password: str) -> Proposed:
        """A new secret. It counts once ``confirm`` saw a code of it; what counted before does until then.

        Raises:
            LoginRefused: the password is wrong.
            TooManyTries: it was wrong too often.

        """
        people, secret = self._people, new_totp_secret()
        account = await people.confirm(account_key, session_key, password)
        sealed = people.keys.seal(secret, kind=Sealed.TOTP, account_key=account_key)
        async with transaction(people.pool, "proposing a second factor") as connection:
            await connection.execute(SQL["propose_totp"], account_key, sealed)
        return Proposed(secret_text(secret), provisioning_uri(secret, account.email))

    async def confirm(self, account_key: int, session_key: int, code: str) -> list[str]:
        """Switch it on, end all other sessions, and return ten recovery codes, told once.

        Raises:
            ProofUnknown: nothing was proposed.
            LoginRefused: the code is wrong.
            TooManyTries: it was wrong too often.

        """
        people = self._people
        one = self._try(session_key)
        await people.throttle.take(one)
        account = await people.account_of(account_key)
        if account.totp_proposed is None:
            raise ProofUnknown
        step = matching_step(account.totp_proposed, code, people.clock())
        if step is None:
            raise LoginRefused
        codes = new_recovery_codes()
        async with transaction(people.pool, "switching the second factor on") as connection:
            switched = await connection.fetchval(SQL["confirm_totp"], account_key, step)
            if switched is not None:
                await self._replace_codes(connection, account_key, codes)
                await connection.execute(SQL["prove_session"], session_key)
                await connection.execute(SQL["end_other_sessions"], account_key, session_key)
                await record(connection, "totp.on", account.owner_key, account_key)
        if switched is None:
            raise ProofUnknown
        await people.throttle.give_back((), clear=(one,))
        people.notify(second_factor_mail(account.email, on=True))
        return codes

    async def remove(self, account_key: int, session_key: int, password: str, code: str) -> None:
        """Switch it off. Wants both factors.

        Raises:
            LoginRefused: password or code are wrong, or it is not on.
            TooManyTries: they were wrong too often.

        """
        people = self._people
        account = await self._proven(account_key, session_key, password, code)
        async with transaction(people.pool, "switching the second factor off") as connection:
            await connection.execute(SQL["remove_totp"], account_key)
            await connection.execute(SQL["forget_codes"], account_key)
            await connection.execute(SQL["end_other_sessions"], account_key, session_key)
            await record(connection, "totp.off", account.owner_key, account_key)
        people.notify(second_factor_mail(account.email, on=False))

    async def renew_codes(self, account_key: int, session_key: int, password: str, code: str) -> list[str]:
        """Ten new recovery codes in place of those that are left. Wants both factors. Raises as ``remove``."""
        codes = new_recovery_codes()
        account = await self._proven(account_key, session_key, password, code)
        async with transaction(self._people.pool, "renewing recovery codes") as connection:
            await self._replace_codes(connection, account_key, codes)
            await record(connection, "totp.codes", account.owner_key, account_key)
        return codes

    async def _proven(self, account_key: int, session_key: int, password: str, code: str) -> Account:
        people, one = self._people, self._try(session_key)
        account = await people.confirm(account_key, session_key, password)
        await people.throttle.take(one)
        if account.totp_secret is None or not await accept_code(people, account, code):
            raise LoginRefused
        await people.throttle.give_back((), clear=(one,))
        return account

    async def _replace_codes(self, connection: Any, account_key: int, codes: list[str]) -> None:
        plain = [plain_recovery_code(code) or "" for code in codes]
        hashes = [self._people.keys.code_hash(account_key, code) for code in plain]
        await connection.execute(SQL["forget_codes"], account_key)
        await connection.execute(SQL["add_codes"], account_key, hashes)

    def _try(self, session_key: int) -> Try:
        return Try(self._people.keys.bucket("code.session", session_key.to_bytes(8, signed=True)), _CODES)


async def accept_code(people: People, account: Account, code: str) -> bool:
    """Whether the code counts. It is used up with that: no step and no recovery code is accepted twice, whoever
    races.
    """
    if is_totp(code) and account.totp_secret is not None:
        step = matching_step(account.totp_secret, code, people.clock())
        if step is None:
            return False
        async with transaction(people.pool, "accepting a code") as connection:
            return await connection.fetchval(SQL["use_step"], account.account_key, step) is not None
    plain = plain_recovery_code(code)
    if plain is None:
        return False
    digest = people.keys.code_hash(account.account_key, plain)
    async with transaction(people.pool, "accepting a recovery code") as connection:
        used = await connection.fetchval(SQL["use_code"], account.account_key, digest) is not None
        if used:
            await record(connection, "totp.recover", account.owner_key, account.account_key)
    return used
