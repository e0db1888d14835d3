"""Recipients: organisations that may be granted something. The role ``telemetry_operator`` keeps them."""

import re
from typing import Any, Final

import asyncpg

from telemetry.errors import InputError, PartyUnknown, SharingError
from telemetry.model.identity import new_key
from telemetry.model.sharing import RecipientKind
from telemetry.store.failures import reported
from telemetry.store.settling import Recipient, Settling, recipient_of
from telemetry.store.sharing import Recompile
from telemetry.store.sql import queries

_HANDLE: Final = re.compile(r"[a-z0-9][a-z0-9-]{2,63}")


class Recipients:
    """Over one connection of the role ``telemetry_operator``. One event loop, one caller at a time."""

    def __init__(self, connection: asyncpg.Connection, recompile: Recompile | None = None) -> None:
        self._connection = connection
        self._recompile = recompile
        self._sql = queries("sharing")

    async def add(self, handle: str, kind: RecipientKind) -> int:
        """The new recipient's key. The handle is chosen by the operator, names no person, and is never given again."""
        if not _HANDLE.fullmatch(handle):
            raise InputError("a handle has 3 to 64 lower-case letters, digits and, after the first, '-'")
        with reported("adding a recipient"):
            async with self._connection.transaction():
                settling = Settling(self._connection)
                arguments = (new_key(), handle, kind.value)
                key: int | None = await self._connection.fetchval(self._sql["add_recipient"], *arguments)
                if key is None:
                    raise SharingError("a recipient of this handle exists or existed", remedy="choose another")
                settling.note("recipient.add", None, key)
                await settling.finish()
        return key

    async def close(self, recipient_key: int) -> int:
        """From now on nothing granted to it counts; how many owners that concerns. There is no way back.

        Raises:
            PartyUnknown: unknown, or closed already.

        """
        with reported("closing a recipient"):
            async with self._connection.transaction():
                settling = Settling(self._connection)
                if await self._connection.fetchval(self._sql["close_recipient"], recipient_key) is None:
                    raise PartyUnknown("the recipient is unknown or closed", remedy="`telemetry recipient list`")
                rows = await self._connection.fetch(self._sql["owners_granting"], recipient_key)
                owners = [row["owner_key"] for row in rows]
                settling.note("recipient.close", None, recipient_key, affected=len(owners))
                settling.concern(owners)
                await settling.finish()
        if owners and self._recompile is not None:
            await self._recompile(owners)
        return len(owners)

    async def list(self) -> list[dict[str, Any]]:
        """recipient_key, handle, kind, created_at, closed_at, owners: how many share something with it."""
        with reported("listing recipients"):
            return [dict(row) for row in await self._connection.fetch(self._sql["recipients"])]

    async def find(self, which: int | str) -> Recipient:
        """By key or handle, closed ones included. Raises PartyUnknown."""
        with reported("looking up a recipient"):
            return await recipient_of(self._connection, which)
