"""One transaction in which something is settled: who is concerned, what is recorded, and who is told."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from telemetry.errors import PartyUnknown
from telemetry.model.sharing import Grant, Keeping, RecipientKind
from telemetry.store.grant_rows import grant_of
from telemetry.store.sql import queries


@dataclass(frozen=True, slots=True)
class HeldOwner:
    """An owner whose settings nobody else changes until the transaction ends. ``at``: when this was so."""

    owner_key: int
    region: str
    public_key: bytes = field(repr=False)
    at: datetime


@dataclass(frozen=True, slots=True)
class Recipient:
    """Somebody who may be granted something."""

    recipient_key: int
    handle: str
    kind: RecipientKind
    created_at: datetime
    closed_at: datetime | None


class Settling:
    """What every part of a transaction uses: held owners, and what is to be recorded at its end."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._sql = queries("sharing")
        self._held: dict[int, HeldOwner] = {}
        self._events: list[tuple[str, int | None, int | None, int]] = []
        self._changed: set[int] = set()

    @property
    def changed(self) -> list[int]:
        """The owners for whom something changed, in order."""
        return sorted(self._changed)

    async def hold(self, owner_key: int) -> HeldOwner:
        """Keep others from changing this owner's settings; several owners are held in ascending order.

        Raises:
            PartyUnknown: the owner is unknown or erased.

        """
        if owner_key not in self._held:
            row = await self._connection.fetchrow(self._sql["hold_owner"], owner_key)
            if row is None:
                raise PartyUnknown("the owner is unknown or erased", remedy="`telemetry owner list`")
            at = await self._connection.fetchval(self._sql["now"])
            self._held[owner_key] = HeldOwner(owner_key, row["region"], row["public_key"], at)
        return self._held[owner_key]

    async def keeping(self, owner_key: int) -> Keeping:
        """What may be kept of the owner, the default where nothing was said."""
        return await keeping_of(self._connection, owner_key)

    async def active(self, owner_key: int, recipient_key: int | None = None) -> list[Grant]:
        """Grants that are not withdrawn, ended ones included."""
        rows = await self._connection.fetch(self._sql["active"], owner_key, recipient_key)
        return [grant_of(row) for row in rows]

    def note(self, action: str, owner_key: int | None, subject_key: int | None, *, affected: int = 1) -> None:
        """What audit.event will say; the owner counts as changed."""
        self._events.append((action, owner_key, subject_key, affected))
        if owner_key is not None:
            self._changed.add(owner_key)

    def mention(self, action: str, owner_key: int, subject_key: int | None) -> None:
        """What audit.event will say of something that changes nothing of what is kept or shown."""
        self._events.append((action, owner_key, subject_key, 1))

    def concern(self, owner_keys: Iterable[int]) -> None:
        """These owners count as changed, though the change was not theirs."""
        self._changed.update(owner_keys)

    async def finish(self) -> None:
        """Record, mark whose plan is outdated, and tell those who show data. Told at COMMIT."""
        if self._events:
            await self._connection.execute(self._sql["record"], *map(list, zip(*self._events, strict=True)))
            self._events.clear()
        await mark_changed(self._connection, self.changed)


async def mark_changed(connection: asyncpg.Connection, owner_keys: Sequence[int]) -> None:
    """Within a transaction: these owners' plans are outdated, and whoever shows their data looks again."""
    if owner_keys:
        sql = queries("sharing")
        await connection.execute(sql["mark_dirty"], list(owner_keys))
        await connection.execute(sql["tell"], list(owner_keys))


async def keeping_of(connection: asyncpg.Connection, owner_key: int) -> Keeping:
    """The owner's keeping settings in force."""
    row = await connection.fetchrow(queries("sharing")["keeping"], owner_key)
    return Keeping() if row is None else Keeping.model_validate_json(row["settings"])


async def recipient_of(connection: asyncpg.Connection, which: int | str) -> Recipient:
    """A recipient by key or handle, closed ones included.

    Raises:
        PartyUnknown: there is none.

    """
    key, handle = (which, None) if isinstance(which, int) else (None, which)
    row: Any = await connection.fetchrow(queries("sharing")["recipient"], key, handle)
    if row is None:
        raise PartyUnknown("the recipient is unknown", remedy="`telemetry recipient list`")
    return recipient_from(row)


def recipient_from(row: Mapping[str, Any]) -> Recipient:
    """A recipient of a row that has its columns."""
    kind = RecipientKind(row["kind"])
    return Recipient(row["recipient_key"], row["handle"], kind, row["created_at"], row["closed_at"])
