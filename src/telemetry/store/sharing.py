"""What owners settle: the role ``telemetry_rights`` acts for them, in one transaction for each change.

A change is in force for every view when its transaction commits. What workers keep follows: the owner is marked in
the same transaction, and ``recompile`` is called after it (docs/decisions/0030-sharing-frame.md).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from telemetry.errors import PartyUnknown, TelemetryError
from telemetry.model.sharing import Grant, GrantTerms, Keeping
from telemetry.privacy.combine import Objection, Restriction, Standing, instant_us
from telemetry.privacy.receipts import ReceiptSigner
from telemetry.store.deciding import Deciding, Received, blocked
from telemetry.store.failures import reported
from telemetry.store.grant_rows import grant_of
from telemetry.store.household import Household
from telemetry.store.settling import Recipient, keeping_of, recipient_from, recipient_of
from telemetry.store.sql import queries

Recompile = Callable[[Sequence[int]], Awaitable[object]]
"""Compiles the plan of these owners anew and commits it."""

HOT_RETENTION: Final = timedelta(hours=2)
Row = dict[str, Any]


class Settlement(Deciding, Household):
    """Everything that one transaction may settle."""


class Sharing:
    """Over one connection of the role ``telemetry_rights``. One event loop, one caller at a time.

    ``behind``: a change is in force whose compilation failed; its owners stay marked, so the next one includes it.
    """

    def __init__(
        self,
        connection: asyncpg.Connection,
        signer: ReceiptSigner,
        recompile: Recompile | None = None,
        *,
        hot_retention: timedelta = HOT_RETENTION,
    ) -> None:
        self._connection = connection
        self._signer = signer
        self._recompile = recompile
        self._hot_retention = hot_retention
        self._sql = queries("sharing")
        self.behind: TelemetryError | None = None

    @asynccontextmanager
    async def settling(self) -> AsyncIterator[Settlement]:
        """One transaction: what is settled in it is in force, recorded and told at its end, or none of it is."""
        with reported("settling what is shared"):
            async with self._connection.transaction():
                settlement = Settlement(self._connection, self._signer, self._hot_retention)
                yield settlement
                await settlement.finish()
        if settlement.changed and self._recompile is not None:
            try:
                await self._recompile(settlement.changed)
            except TelemetryError as error:
                self.behind = error

    @asynccontextmanager
    async def rehearsing(self) -> AsyncIterator[Settlement]:
        """The same, undone at its end: every refusal comes up, nothing changes and nobody is told."""
        with reported("rehearsing what is shared"):
            transaction = self._connection.transaction()
            await transaction.start()
            try:
                settlement = Settlement(self._connection, self._signer, self._hot_retention)
                yield settlement
                await settlement.finish()
            finally:
                await transaction.rollback()

    async def set_grant(
        self,
        owner_key: int,
        recipient_key: int,
        terms: GrantTerms,
        *,
        confirmed_km: float | None = None,
        grant_key: int | None = None,
        policy: str | None = None,
    ) -> Grant:
        """See ``Granting.set_grant``."""
        async with self.settling() as settlement:
            return await settlement.set_grant(
                owner_key, recipient_key, terms, confirmed_km=confirmed_km, grant_key=grant_key, policy=policy
            )

    async def withdraw(
        self, owner_key: int, *, grant_key: int | None = None, recipient_key: int | None = None
    ) -> list[Grant]:
        """End one grant, or all of this owner to a recipient; their last versions."""
        if (grant_key is None) == (recipient_key is None):
            raise ValueError("either a grant or a recipient")
        async with self.settling() as settlement:
            if grant_key is not None:
                return [await settlement.withdraw(owner_key, grant_key)]
            return await settlement.withdraw_all(owner_key, recipient_key or 0)

    async def set_keeping(self, owner_key: int, keeping: Keeping) -> None:
        """See ``Household.set_keeping``."""
        async with self.settling() as settlement:
            await settlement.set_keeping(owner_key, keeping)

    async def recipient(self, which: int | str) -> Recipient:
        """By key or handle, closed ones included. Raises PartyUnknown."""
        with reported("looking up a recipient"):
            return await recipient_of(self._connection, which)

    async def recipients(self) -> list[Recipient]:
        """Those that may be granted something, in the order of their handles."""
        with reported("listing recipients"):
            rows = await self._connection.fetch(self._sql["open_recipients"])
        return [recipient_from(row) for row in rows]

    async def reads(
        self, owner_key: int, *, recipient_key: int | None = None, before: int | None = None, limit: int
    ) -> list[Row]:
        """Who looked at what of the owner, newest first: read_key, at, handle, purpose, way, fields, resolution (rank),
        from_at, to_at. ``before``: only those with a lower read_key.
        """
        return [dict(row) for row in await self._of_owner("reads", owner_key, before, limit, recipient_key)]

    async def grants(self, owner_key: int, recipient_key: int | None = None) -> list[Grant]:
        """What is not withdrawn; ended ones and ones to come included. Raises PartyUnknown for the owner."""
        return [grant_of(row) for row in await self._of_owner("active", owner_key, recipient_key)]

    async def history(self, owner_key: int, recipient_key: int | None = None) -> list[Grant]:
        """Every version of every grant, in the order recorded (SHARE-5)."""
        return [grant_of(row) for row in await self._of_owner("history", owner_key, recipient_key)]

    async def allowed_at(self, owner_key: int, at: datetime, recipient_key: int | None = None) -> list[Grant]:
        """What counted at an instant: restrictions, objections, policies and closed recipients included."""
        return [grant_of(row) for row in await self._of_owner("allowed_at", owner_key, recipient_key, at)]

    async def receipt(self, grant_key: int, version: int | None = None) -> str:
        """The receipt of a version, the newest without. Raises PartyUnknown."""
        with reported("reading a receipt"):
            row = await self._connection.fetchrow(self._sql["receipt"], grant_key, version)
        if row is None:
            raise PartyUnknown("there is no receipt of this grant and version", remedy="`telemetry grant history`")
        receipt: str = row["jws"]
        return receipt

    async def keeping(self, owner_key: int) -> Keeping:
        """The keeping settings in force. Raises PartyUnknown for the owner."""
        await self._of_owner("known_owner", owner_key)
        with reported("reading keeping settings"):
            return await keeping_of(self._connection, owner_key)

    async def members(self, owner_key: int) -> list[Row]:
        """member_key, owner_key, rights, added_at, removed_at."""
        return [dict(row) for row in await self._of_owner("members", owner_key)]

    async def received(self, owner_key: int) -> list[Received]:
        """The owner's open requests, in the order made. Raises PartyUnknown for the owner."""
        await self._of_owner("known_owner", owner_key)
        with reported("reading requests"):
            return await Settlement(self._connection, self._signer, self._hot_retention).received(owner_key)

    async def blocked(self, owner_key: int) -> list[Row]:
        """recipient_key, handle, kind, blocked_at: whose requests the owner does not see."""
        with reported("reading whose requests are blocked"):
            return await blocked(self._connection, owner_key)

    async def restrictions(self, owner_key: int) -> list[Row]:
        """from_at, lifted_at."""
        return [dict(row) for row in await self._of_owner("restrictions", owner_key)]

    async def objections(self, owner_key: int) -> list[Row]:
        """objection_key, purpose, recipient_key, made_at, withdrawn_at."""
        return [dict(row) for row in await self._of_owner("objections", owner_key)]

    async def sites(self, owner_key: int) -> list[int]:
        """The owner's sites, those handed over left out."""
        return [row["site_key"] for row in await self._of_owner("sites", owner_key)]

    async def standing(self, owner_key: int, recipient: Recipient, now: datetime) -> Standing:
        """What stands against every grant of the owner to the recipient."""
        with reported("reading what stands against grants"):
            policies = await self._connection.fetch(self._sql["policies"])
        restrictions = [
            Restriction(instant_us(row["from_at"]), None if row["lifted_at"] is None else instant_us(row["lifted_at"]))
            for row in await self.restrictions(owner_key)
        ]
        objections = [row for row in await self.objections(owner_key) if row["withdrawn_at"] is None]
        ends = {row["policy"]: row["expires_at"] for row in policies}
        return Standing(
            recipient_closed=recipient.closed_at is not None,
            restrictions=tuple(restrictions),
            objections=tuple(Objection(row["purpose"], row["recipient_key"]) for row in objections),
            expired_policies=frozenset(policy for policy, end in ends.items() if end is not None and end <= now),
        )

    async def now(self) -> datetime:
        """The database's clock, by which everything here is recorded."""
        with reported("reading the database's clock"):
            at: datetime = await self._connection.fetchval(self._sql["now"])
        return at

    async def _of_owner(self, statement: str, owner_key: int, *arguments: object) -> list[Any]:
        with reported("reading what is shared"):
            if await self._connection.fetchrow(self._sql["known_owner"], owner_key) is None:
                raise PartyUnknown("the owner is unknown or erased", remedy="`telemetry owner list`")
            rows: list[Any] = await self._connection.fetch(self._sql[statement], owner_key, *arguments)
        return rows
