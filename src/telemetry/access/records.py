"""What everything here does with the database: transactions of the role ``telemetry_access``, and what they record."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from telemetry.access.principal import Role
from telemetry.store.failures import reported
from telemetry.store.sql import queries

SQL: Final = queries("access")

Clock = Callable[[], datetime]
"""The instant that all expiry and delay is counted by."""


def utc_now() -> datetime:
    """By the clock of this machine."""
    return datetime.now(UTC)


class Connections(Protocol):
    """Lends connections of the role ``telemetry_access`` (views.pool.Pool). One event loop."""

    def connection(self) -> AbstractAsyncContextManager[Any]: ...


@dataclass(frozen=True, slots=True)
class Holder:
    """For whom an account, a token or a claim is: one owner (or a member of that household), one recipient, or the
    operator.
    """

    role: Role
    owner_key: int | None = None
    member_key: int | None = None
    recipient_key: int | None = None

    @property
    def key(self) -> int:
        """As in Principal: the owner's or the recipient's, 0 for the operator."""
        return self.owner_key or self.recipient_key or 0


def holder_of(row: Any) -> Holder:
    """Whom a row of accounts, tokens or claims is for."""
    return Holder(Role(row["role"]), row["owner_key"], row["member_key"], row["recipient_key"])


@asynccontextmanager
async def transaction(pool: Connections, what: str) -> AsyncIterator[Any]:
    """One transaction. What is refused is raised after it: a connection on which something was raised is thrown away.

    Raises:
        StoreUnavailable: try again; ``what`` was not done.
        StoreError: the database refused.

    """
    with reported(what):
        async with pool.connection() as connection, connection.transaction():
            yield connection


async def holder_exists(connection: Any, holder: Holder) -> bool:
    """Whether the holder is known, and neither erased, closed nor removed."""
    keys = (holder.owner_key, holder.member_key, holder.recipient_key)
    return bool(await connection.fetchval(SQL["holder_exists"], *keys))


async def record(
    connection: Any, action: str, owner_key: int | None, subject_key: int | None, *, affected: int = 1
) -> None:
    """Leave a row in audit.event, in the transaction of what was done. ``subject_key``: an account's or a token's."""
    await connection.execute(SQL["record"], action, owner_key, subject_key, affected)
