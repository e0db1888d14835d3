"""Codes that the operator hands out, each for one person: who signs up with one is somebody who exists already."""

from datetime import datetime, timedelta
from typing import Any, Final

from telemetry.access.records import (
    SQL,
    Clock,
    Connections,
    Holder,
    holder_exists,
    holder_of,
    record,
    transaction,
    utc_now,
)
from telemetry.access.secret_text import new_secret, secret_hash
from telemetry.errors import PartyUnknown
from telemetry.model.identity import new_key

LIFETIME: Final = timedelta(days=7)


class Claims:
    """Over a pool of the role ``telemetry_access``. Any number of callers, one event loop."""

    def __init__(self, pool: Connections, *, clock: Clock = utc_now) -> None:
        self._pool = pool
        self._clock = clock

    async def invite(self, holder: Holder) -> tuple[str, datetime]:
        """A code for one account of ``holder``, and until when it may be used. Told once, stored as hash.

        Raises:
            PartyUnknown: the holder is unknown, erased, closed or removed.

        """
        code, key, until = new_secret(), new_key(), self._clock() + LIFETIME
        async with transaction(self._pool, "inviting") as connection:
            known = await holder_exists(connection, holder)
            if known:
                keys = (holder.owner_key, holder.member_key, holder.recipient_key)
                await connection.execute(SQL["add_claim"], key, secret_hash(code), holder.role.value, *keys, until)
                await record(connection, "account.invite", holder.owner_key, key)
        if not known:
            raise PartyUnknown("whom the code is for is unknown, erased, closed or removed", remedy="name another")
        return code, until


async def claim_of(connection: Any, code: str, now: datetime) -> int | None:
    """The key of a claim that may still be used."""
    digest = secret_hash(code)
    key: int | None = None if digest is None else await connection.fetchval(SQL["claim"], digest, now)
    return key


async def used_claim(connection: Any, claim_key: int, now: datetime) -> Holder | None:
    """Use a claim up, within the transaction that makes the account; None where it is used or over."""
    row = await connection.fetchrow(SQL["use_claim"], claim_key, now)
    if row is None:
        return None
    holder = holder_of(row)
    return holder if await holder_exists(connection, holder) else None
