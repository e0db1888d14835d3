"""How an account comes to be: somebody states an address, and whoever reads its mail chooses the password.

The password is chosen with the code from the mail and not before: who signs somebody else's address up gets nothing
into an account that its person then confirms. Nothing tells whether an address is known: every answer is the same, and
mails are written after it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from telemetry.access.accounts import People, checked_email
from telemetry.access.claims import claim_of, used_claim
from telemetry.access.principal import Role
from telemetry.access.records import SQL, Holder, record, transaction
from telemetry.access.sealing import Sealed
from telemetry.access.secret_text import new_secret, secret_hash
from telemetry.access.texts import known_mail, verify_mail
from telemetry.access.throttle import Whence
from telemetry.deliver.mail import Mail
from telemetry.errors import InputError, ProofUnknown
from telemetry.model.identity import new_key
from telemetry.store.registration import NewOwner

LIFETIME: Final = timedelta(hours=24)

Register = Callable[[NewOwner], Awaitable[int]]
"""Adds an owner and returns its key (store.administration.Administration.add_owner). Called one at a time."""


@dataclass(frozen=True, slots=True)
class NewPerson:
    """Who signs up. ``of_age``: the person states to be 18 or older. ``code``: what the operator handed out; without
    one, a new owner of this ``name``.
    """

    email: str = field(repr=False)
    of_age: bool
    name: str = field(default="", repr=False)
    code: str | None = field(default=None, repr=False)


class SigningUp:
    """Any number of callers, one event loop. ``register``: None where nobody becomes an owner without a code."""

    def __init__(self, people: People, register: Register | None) -> None:
        self._people = people
        self._register = register
        self._registering = asyncio.Lock()

    async def sign_up(self, new: NewPerson, whence: Whence) -> None:
        """Take somebody's wish. The same whether the address is known or not.

        Raises:
            InputError: under 18, no address, or neither code nor name.
            ProofUnknown: the code is unknown, used or expired.
            TooManyTries: from this network too many signed up.
            NotConfigured: no mail can be sent.
            AccessBusy: too many ask at once.

        """
        if not new.of_age:
            raise InputError("accounts are for people who are 18 or older")  # CHILD-1: nothing was stored
        email, people = checked_email(new.email), self._people
        if new.code is None:
            if self._register is None:
                raise InputError("signing up needs a code", remedy="ask who runs this service for one")
            NewOwner(new.name, email)  # refuses what cannot be a name
        await people.ask_for_mail(whence)
        claim_key = None
        if new.code is not None:
            async with transaction(people.pool, "looking a code up") as connection:
                claim_key = await claim_of(connection, new.code, people.clock())
            if claim_key is None:
                raise ProofUnknown
        people.letters.post(lambda: self._write(email, new.name, claim_key))

    async def verify(self, secret: str, password: str) -> int:
        """Make the account of who reads the address's mail; its key. The code is used up with it.

        Raises:
            ProofUnknown: the code is unknown, used or expired, or the address got an account meanwhile.
            PasswordUnfit: see ``check_password``; the code may be used again.
            AccessBusy: too many ask at once.

        """
        people, digest = self._people, secret_hash(secret)
        async with transaction(people.pool, "looking a sign-up up") as connection:
            row = None if digest is None else await connection.fetchrow(SQL["sign_up"], digest, people.clock())
        if row is None:
            raise ProofUnknown
        key = row["sign_up_key"]
        email = people.keys.open(row["email_sealed"], kind=Sealed.EMAIL, account_key=key).decode()
        name = people.keys.open(row["name_sealed"], kind=Sealed.NAME, account_key=key).decode()
        sealed = await people.sealed_password(key, password, email)
        async with self._registering, transaction(people.pool, "making an account") as connection:
            made = await self._make(connection, digest, sealed, NewOwner(name or "-", email))
        if not made:
            raise ProofUnknown
        return int(key)

    async def _make(self, connection: Any, digest: bytes | None, sealed: bytes, new: NewOwner) -> bool:
        now = self._people.clock()
        row = await connection.fetchrow(SQL["use_sign_up"], digest, now)
        if row is None or await connection.fetchrow(SQL["account_by_email"], row["email_blind"]) is not None:
            return False
        if row["claim_key"] is not None:
            holder = await used_claim(connection, row["claim_key"], now)
        elif self._register is not None:
            # In a database transaction of its own, before ours: an owner without an account harms nobody.
            holder = Holder(Role.OWNER, await self._register(new))
        else:
            holder = None
        if holder is None:
            return False
        key = row["sign_up_key"]
        keys = (holder.owner_key, holder.member_key, holder.recipient_key)
        address = (row["email_blind"], row["email_sealed"])
        stated_at = row["adult_stated_at"]
        await connection.execute(SQL["add_account"], key, holder.role.value, *keys, *address, sealed, stated_at, now)
        await connection.execute(SQL["forget_sign_ups"], row["email_blind"])
        await record(connection, "account.add", holder.owner_key, key)
        return True

    async def _write(self, email: str, name: str, claim_key: int | None) -> Mail | None:
        people = self._people
        blind, link_base = people.keys.email_blind(email), people.letters.link_base
        if not await people.may_be_written_to(blind, "sign_up"):
            return None
        if await people.account_by_email(blind) is not None:
            return known_mail(email, link_base)
        secret, key, now = new_secret(), new_key(), people.clock()
        values = (
            people.keys.seal(email.encode(), kind=Sealed.EMAIL, account_key=key),
            people.keys.seal(name.encode(), kind=Sealed.NAME, account_key=key),
        )
        async with transaction(people.pool, "keeping a sign-up") as connection:
            statement = SQL["add_sign_up"]
            arguments = (secret_hash(secret), key, blind, *values, claim_key, now, now + LIFETIME)
            await connection.execute(statement, *arguments)
        return verify_mail(email, secret, link_base)
