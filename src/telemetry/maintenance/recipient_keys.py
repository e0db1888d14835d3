"""Announces, activates and retires recipients' keys (rule 23), and checks that every stored key opens."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from telemetry.errors import KeystoreError, UnsealError
from telemetry.maintenance.rotation import alone, owner_bounds
from telemetry.ports import Keks
from telemetry.privacy.keys import Bound
from telemetry.privacy.tokens import RECIPIENT_SECRET_BYTES
from telemetry.store.failures import reported
from telemetry.store.keyring import KeyRing, recipient_bound, unwrap_by_name
from telemetry.store.sql import queries

_SQL: Final = queries("keys")
_BATCH: Final = 500
_LOWEST: Final = -(2**63)


@dataclass(frozen=True, slots=True)
class Announcement:
    """A recipient's next key: from ``activates_at`` on its tokens are other ones."""

    version: int
    activates_at: datetime


@dataclass(frozen=True, slots=True)
class Checked:
    """How many stored keys open, and how many do not."""

    opened: int
    unopened: int


async def announce(connection: Any, keks: Keks, recipient_key: int, activates_at: datetime) -> Announcement:
    """Make a recipient's next key, which takes effect at ``activates_at`` (or now, if that is past).

    Broken off and run again, it finds what it made: one announcement at a time. Keys that were replaced before are
    destroyed first.

    Raises:
        KeystoreError: another key is announced already.

    """
    ring = KeyRing(connection, keks)
    async with alone(connection):
        await ring.recipient_secret(recipient_key)  # there is a first one to replace
        await settle(connection, recipient_key)
        for _ in range(5):
            with reported("announcing a recipient's key"):
                row = await connection.fetchrow(_SQL["announcement"], recipient_key)
                if row is not None:
                    raise KeystoreError(
                        f"version {row['version']} is announced already",
                        remedy="wait until it takes effect, or run `telemetry keys cancel`",
                    )
                version = 1 + await connection.fetchval(_SQL["last_version"], recipient_key)
            secret = secrets.token_bytes(RECIPIENT_SECRET_BYTES)
            wrapper = await ring.active()
            wrapped = await asyncio.to_thread(wrapper.wrap_all, [recipient_bound(secret, recipient_key, version)])
            with reported("announcing a recipient's key"):
                try:
                    at = await connection.fetchval(
                        _SQL["announce"], recipient_key, version, wrapped[0], wrapper.kek_id, activates_at
                    )
                except asyncpg.ObjectNotInPrerequisiteStateError:
                    continue
            await settle(connection, recipient_key)
            return Announcement(version, at)
    raise KeystoreError("the key-encryption key kept changing", remedy="`telemetry keys status`")


async def settle(connection: Any, recipient_key: int | None = None) -> list[tuple[int, int]]:
    """Destroy the keys that a newer one in effect has replaced: (recipient, version) each. Safe to repeat."""
    with reported("retiring recipients' keys"):
        async with connection.transaction():
            rows = await connection.fetch(_SQL["retire_replaced"], recipient_key)
            await connection.execute(_SQL["activate_due"], recipient_key)
    return [(row["recipient_key"], row["version"]) for row in rows]


async def check_keys(connection: Any, keks: Keks, progress: Callable[[int], None] = lambda _more: None) -> Checked:
    """Open every stored key once, changing nothing.

    Raises:
        KeystoreError: the key-encryption key cannot be had at all.

    """
    opened = unopened = 0
    last = _LOWEST
    while rows := await _read(connection, _SQL["check_owners"], last, _BATCH):
        good = await asyncio.to_thread(_opening, keks, [(row["kek_id"], owner_bounds(row)) for row in rows])
        opened, unopened, last = opened + good, unopened + len(rows) - good, rows[-1]["owner_key"]
        progress(len(rows))
    rows = await _read(connection, _SQL["check_recipients"])
    bounds = [(row["kek_id"], [recipient_bound(row["wrapped"], row["recipient_key"], row["version"])]) for row in rows]
    good = await asyncio.to_thread(_opening, keks, bounds)
    progress(len(rows))
    return Checked(opened + good, unopened + len(rows) - good)


async def _read(connection: Any, statement: str, *arguments: Any) -> list[Any]:
    with reported("reading stored keys"):
        return list(await connection.fetch(statement, *arguments))


def _opening(keks: Keks, rows: list[tuple[bytes, list[Bound]]]) -> int:
    """How many of ``rows`` open."""
    flat = [(kek_id, bound) for kek_id, bounds in rows for bound in bounds]
    try:
        unwrap_by_name(keks, flat)
    except UnsealError:
        return sum(_opens(keks, row) for row in rows)
    return len(rows)


def _opens(keks: Keks, row: tuple[bytes, list[Bound]]) -> bool:
    try:
        unwrap_by_name(keks, [(row[0], bound) for bound in row[1]])
    except UnsealError:
        return False
    return True


async def cancel(connection: Any, recipient_key: int) -> int:
    """Take back a key that is announced and not in effect: its version. Raises KeystoreError where there is none."""
    with reported("cancelling an announced key"):
        version: int | None = await connection.fetchval(_SQL["cancel_announcement"], recipient_key)
    if version is None:
        raise KeystoreError("no key of this recipient waits to take effect", remedy="`telemetry keys status`")
    return version


async def key_status(connection: Any) -> dict[str, Any]:
    """Key-encryption keys by name with what is under them, and every version of recipients' keys. Opens nothing."""
    keks = [dict(row) | {"kek_id": row["kek_id"].hex()} for row in await _read(connection, _SQL["keks"])]
    return {"keks": keks, "recipients": [dict(row) for row in await _read(connection, _SQL["recipients"])]}
