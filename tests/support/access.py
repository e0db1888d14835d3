"""Who may ask, on a migrated database: holders, and a clock that tests set."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from telemetry.access.principal import Role
from telemetry.access.records import Holder
from telemetry.model.identity import new_key
from telemetry.model.sharing import MemberRight
from telemetry.views.pool import Pool
from tests.support.store import Store

ACCESS_KEY, API_KEY = b"a" * 32, b"p" * 32
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
