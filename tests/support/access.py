"""Who may ask, on a migrated database: holders, and a clock that tests set."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from argon2 import Parameters, Type

from telemetry.access.assembly import Access, assemble
from telemetry.access.letters import Letters
from telemetry.access.logging_in import LoggedIn, Login
from telemetry.access.passwords import Passwords
from telemetry.access.principal import Role
from telemetry.access.records import Holder
from telemetry.access.signing_up import NewPerson
from telemetry.access.throttle import Whence
from telemetry.config import AccessConfig
from telemetry.deliver.mail import Mailer
from telemetry.model.identity import new_key
from telemetry.model.sharing import MemberRight
from telemetry.store.registration import NewOwner
from telemetry.views.pool import Pool
from tests.support.mail_server import MailServer
from tests.support.store import Store

ACCESS_KEY, API_KEY = b"a" * 32, b"p" * 32
FAST = Parameters(Type.ID, 19, 16, 32, time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "three words and more"
HOME = Whence("192.0.2.7")
START = datetime(2026, 11, 26, 9, 0, tzinfo=UTC)


@dataclass
class SetClock:
    """A clock that stands until it is set."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **time: float) -> None:
        self.now += timedelta(**time)


@dataclass
class AccessWorld:
    """Holders written as the administrator: what is tested is not how they come to be."""

    store: Store
    admin: Any
    pool: Pool
    clock: SetClock = field(default_factory=SetClock)

    async def owner(self) -> Holder:
        key = new_key()
        await self.admin.execute(
            "INSERT INTO consent.owner (owner_key, region, public_key) VALUES ($1, 'default', $2)", key, bytes(1216)
        )
        return Holder(Role.OWNER, key)

    async def member(self, owner: Holder, *rights: MemberRight) -> Holder:
        key = new_key()
        statement = "INSERT INTO consent.member (member_key, owner_key, rights) VALUES ($1, $2, $3)"
        await self.admin.execute(statement, key, owner.owner_key, sorted(rights))
        return Holder(Role.OWNER, owner.owner_key, key)

    async def recipient(self) -> Holder:
        key = new_key()
        handle = f"example-{key % 2**64:016x}"
        statement = "INSERT INTO consent.recipient (recipient_key, handle, kind) VALUES ($1, $2, 'installer')"
        await self.admin.execute(statement, key, handle)
        return Holder(Role.RECIPIENT, recipient_key=key)

    async def end(self, holder: Holder) -> None:
        """Erase the owner, remove the member, or close the recipient."""
        if holder.member_key is not None:
            statement = "UPDATE consent.member SET removed_at = now() WHERE member_key = $1"
            await self.admin.execute(statement, holder.member_key)
        elif holder.owner_key is not None:
            await self.admin.execute("UPDATE consent.owner SET erased_at = now() WHERE owner_key = $1", holder.key)
        else:
            await self.admin.execute(
                "UPDATE consent.recipient SET closed_at = now() WHERE recipient_key = $1", holder.key
            )

    async def actions(self, subject_key: int) -> list[str]:
        statement = "SELECT action FROM audit.event WHERE subject_key = $1 ORDER BY event_key"
        return [row["action"] for row in await self.admin.fetch(statement, subject_key)]


@dataclass
class PeopleWorld(AccessWorld):
    """With mails, and everything that people do."""

    server: MailServer = field(default_factory=MailServer)
    access: Access = field(init=False)
    registered: list[NewOwner] = field(default_factory=list)

    def assembled(self, config: AccessConfig | None = None, **more: Any) -> Access:
        async def register(new: NewOwner) -> int:
            self.registered.append(new)
            return (await self.owner()).key

        arguments = {"access_key": ACCESS_KEY, "api_key": API_KEY, "passwords": Passwords(FAST)} | more
        mailer = Mailer(self.server.config(link_base="https://example.test"))
        access = assemble(self.pool, mailer=mailer, register=register, config=config, clock=self.clock, **arguments)
        letters: Letters = access.people.letters
        letters._pauses_s = (0.0,)
        return access

    async def mailed(self, to: str) -> list[Any]:
        """All mails to an address, once nothing waits to be written."""
        await self.access.people.letters.drained()
        return [mail for mail in self.server.mails if mail["To"] == to]

    async def code(self, to: str) -> str:
        """The code in the newest mail to an address."""
        return code_in((await self.mailed(to))[-1])

    async def signed_up(
        self, email: str = "someone@example.test", holder: Holder | None = None, password: str = PASSWORD
    ) -> int:
        """A new account: an owner's without a holder."""
        code = None if holder is None else (await self.access.claims.invite(holder))[0]
        whence = Whence(f"198.51.{len(self.server.mails) % 250}.1")
        await self.access.signing_up.sign_up(NewPerson(email, True, "Example Person", code), whence)
        return await self.access.signing_up.verify(await self.code(email), password)

    async def login(
        self,
        email: str = "someone@example.test",
        password: str = PASSWORD,
        code: str | None = None,
        whence: Whence = HOME,
    ) -> LoggedIn:
        return await self.access.logging_in.login(Login(email, password, code), whence)


def code_in(mail: Any) -> str:
    """The code that a mail holds."""
    found = re.search(r"^The code is: (\S{43})\s*$", mail.get_content(), re.MULTILINE)
    assert found is not None
    return found[1]


@asynccontextmanager
async def people_world(store: Store) -> AsyncIterator[PeopleWorld]:
    async with access_world(store) as below, MailServer() as server:
        world = PeopleWorld(store, below.admin, below.pool, server=server)
        world.access = world.assembled()
        async with world.access.people.letters.running():
            yield world


@asynccontextmanager
async def access_world(store: Store) -> AsyncIterator[AccessWorld]:
    admin = await store.admin()
    tables = "account, recovery_code, session, token, claim, sign_up, reset, attempt, day_key"
    await admin.execute("TRUNCATE " + ", ".join(f"access.{name}" for name in tables.split(", ")) + " CASCADE")
    pool = Pool(store.role("access"), size=8)
    try:
        yield AccessWorld(store, admin, pool)
    finally:
        await pool.close()
        await asyncio.sleep(0)
