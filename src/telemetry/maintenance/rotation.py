"""Replaces the key-encryption key, and recipients' keys; each can be killed anywhere and run again.

The key-encryption key:

1. *stage*: the new key is made beside the old one (by a KMS: there is a newer key). Processes can open both.
2. *switch*: the new key becomes the active one in the database. From the commit on, nothing is stored under the old.
3. *re-wrap*: every stored key is unwrapped and wrapped anew, in transactions of bounded size.
4. *remove*: the database forgets the old key, which a foreign key refuses while any row is under it.
5. *adopt*: the new key takes the old one's place where keys are kept, and the old one is gone.

Whatever has been done is seen in the database and in the keystore, so that running it again goes on from there.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import asyncpg

from telemetry.errors import KeystoreError, UnsealError
from telemetry.ports import Keks, KeyWrapper
from telemetry.privacy.keys import Bound, Purpose
from telemetry.store.failures import reported
from telemetry.store.keks import KeyPlaces
from telemetry.store.keyring import recipient_bound
from telemetry.store.keystore import KEK_NEXT, FileKeystore
from telemetry.store.sql import queries

_SQL: Final = queries("keys")
_BATCH: Final = 500
_LOWEST: Final = -(2**63)


class Step(StrEnum):
    """What has just been done."""

    STAGED = "staged"
    SWITCHED = "switched"
    REWRAPPED = "rewrapped"
    REMOVED = "removed"
    ADOPTED = "adopted"


Tell = Callable[[Step, int], None]
"""Called after each step has taken effect, with how many rows it moved."""


_LOCK_ATTEMPTS: Final = 30
_LOCK_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class KekRotation:
    """What a rotation did. ``unopened``: rows that do not open under the key they name; the old key stays then."""

    rewrapped: int
    unopened: int
    adopted: bool


@asynccontextmanager
async def alone(connection: Any) -> AsyncIterator[None]:
    """Hold the rotation's lock, which ends with the connection. Raises KeystoreError when another one holds it.

    Asked for some seconds: the server may not have noticed yet that whoever was killed is gone.
    """
    with reported("beginning a rotation"):
        for _ in range(_LOCK_ATTEMPTS):
            if await connection.fetchval(_SQL["try_lock"]):
                break
            await asyncio.sleep(_LOCK_PAUSE_S)
        else:
            raise KeystoreError("another rotation is running", remedy="wait for it: `telemetry keys status`")
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.fetchval(_SQL["unlock"])


async def rotate_kek(
    connection: Any,
    keks: Keks,
    places: KeyPlaces | None,
    *,
    resume: bool = False,
    batch: int = _BATCH,
    tell: Tell = lambda _step, _count: None,
) -> KekRotation:
    """Replace the key-encryption key, or finish a replacement that was broken off.

    ``connection``: of the role telemetry_keys. ``places``: where the key is kept, None for a KMS. ``resume``: begin
    nothing new.

    Raises:
        UnsealError: the key at hand is not the one the stored keys are under; nothing was changed.
        KeystoreError: there is no newer key to go to, or another rotation is running.

    """
    async with alone(connection):
        target = await _target(connection, keks, places, resume=resume)
        if target is None:
            return KekRotation(0, 0, adopted=False)
        tell(Step.STAGED, 0)
        await _switch(connection, target)
        tell(Step.SWITCHED, 0)
        rewrapped = unopened = 0
        for row in await _keks(connection):
            if row["state"] == "retiring":
                work = _Rewrap(connection, keks.named(row["kek_id"]), target, batch, tell)
                await work.run()
                rewrapped, unopened = rewrapped + work.done, unopened + work.unopened
                if not work.unopened:
                    await _remove(connection, row["kek_id"])
                    tell(Step.REMOVED, 0)
        if unopened:
            return KekRotation(rewrapped, unopened, adopted=False)
        if isinstance(places, FileKeystore):
            places.adopt_kek()
        tell(Step.ADOPTED, 0)
        return KekRotation(rewrapped, 0, adopted=not places or isinstance(places, FileKeystore))


async def _target(connection: Any, keks: Keks, places: KeyPlaces | None, *, resume: bool) -> KeyWrapper | None:
    """The key to go to, staged where that is for us to do; None when there is nothing to finish."""
    states = {row["kek_id"]: row["state"] for row in await _keks(connection)}
    active = next((kek_id for kek_id, state in states.items() if state == "active"), None)
    staged = places is not None and places.has(KEK_NEXT)
    if active is not None:
        await asyncio.to_thread(keks.named, active)  # a wrong key is refused before anything is made
    if "retiring" in states.values() and active is not None and not staged:
        return keks.named(active)
    if resume and not staged:
        return None
    if isinstance(places, FileKeystore) and not staged:
        places.stage_kek()
    newest = await asyncio.to_thread(keks.newest)
    if newest.kek_id == active and not staged:
        raise _nothing_newer(places)
    return newest


def _nothing_newer(places: KeyPlaces | None) -> KeystoreError:
    if places is None:
        return KeystoreError("the KMS names no newer key", remedy="rotate the key in the KMS, then run this again")
    return KeystoreError(
        "there is no newer key-encryption key in the environment",
        remedy="give every process $TELEMETRY_SECRET_KEK_NEXT (32 random bytes in base64), then run this again",
    )


async def _keks(connection: Any) -> list[Any]:
    with reported("reading which key-encryption keys are in use"):
        return list(await connection.fetch(_SQL["keks"]))


async def _switch(connection: Any, target: KeyWrapper) -> None:
    with reported("switching to the new key-encryption key"):
        async with connection.transaction():
            # Waits for what is being stored under the old key, and refuses what comes later.
            await connection.execute(_SQL["retire_kek"], target.kek_id)
            await connection.execute(_SQL["activate_kek"], target.kek_id)


async def _remove(connection: Any, kek_id: bytes) -> None:
    with reported("removing the old key-encryption key"):
        try:
            await connection.execute(_SQL["remove_kek"], kek_id)
        except asyncpg.ForeignKeyViolationError:
            raise KeystoreError(
                "a stored key is still under the old key-encryption key", remedy="run it again; nothing is lost"
            ) from None


class _Rewrap:
    """Moves all rows from one key-encryption key to another, a transaction for each batch."""

    def __init__(self, connection: Any, old: KeyWrapper, new: KeyWrapper, batch: int, tell: Tell) -> None:
        self._connection, self._old, self._new, self._batch, self._tell = connection, old, new, batch, tell
        self.done = self.unopened = 0

    async def run(self) -> None:
        await self._owners()
        await self._recipients()

    async def _owners(self) -> None:
        last = _LOWEST
        while True:
            async with self._transaction():
                rows = await self._connection.fetch(_SQL["owners_under"], self._old.kek_id, last, self._batch)
                moved = await self._moved([owner_bounds(row) for row in rows])
                await self._store(
                    "rewrap_owners",
                    [rows[index]["owner_key"] for index in moved],
                    [pair[0] for pair in moved.values()],
                    [pair[1] for pair in moved.values()],
                )
            if not rows:
                return
            last = rows[-1]["owner_key"]
            self._count(len(rows), len(moved))

    async def _recipients(self) -> None:
        last = (_LOWEST, 0)
        while True:
            async with self._transaction():
                rows = await self._connection.fetch(_SQL["recipients_under"], self._old.kek_id, *last, self._batch)
                moved = await self._moved([_recipient_bounds(row) for row in rows])
                await self._store(
                    "rewrap_recipients",
                    [rows[index]["recipient_key"] for index in moved],
                    [rows[index]["version"] for index in moved],
                    [one[0] for one in moved.values()],
                )
            if not rows:
                return
            last = (rows[-1]["recipient_key"], rows[-1]["version"])
            self._count(len(rows), len(moved))

    async def _store(self, statement: str, *columns: Sequence[Any]) -> None:
        if columns[0]:
            await self._connection.execute(_SQL[statement], *columns, self._new.kek_id, self._old.kek_id)

    def _count(self, rows: int, moved: int) -> None:
        self.done += moved
        self.unopened += rows - moved
        self._tell(Step.REWRAPPED, moved)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        with reported("re-wrapping stored keys"):
            async with self._connection.transaction():
                yield

    async def _moved(self, rows: Sequence[Sequence[Bound]]) -> dict[int, list[bytes]]:
        """Every row's values under the new key, by its number; rows that do not open are left out."""
        try:
            return await asyncio.to_thread(self._moved_together, dict(enumerate(rows)))
        except UnsealError:
            found: dict[int, list[bytes]] = {}
            for index, row in enumerate(rows):
                try:
                    found |= await asyncio.to_thread(self._moved_together, {index: row})
                except UnsealError:
                    continue
            return found

    def _moved_together(self, rows: dict[int, Sequence[Bound]]) -> dict[int, list[bytes]]:
        flat = [bound for row in rows.values() for bound in row]
        opened = self._old.unwrap_all(flat)
        again = [Bound(value, bound.purpose, bound.owner_key) for value, bound in zip(opened, flat, strict=True)]
        wrapped = iter(self._new.wrap_all(again))
        return {index: [next(wrapped) for _ in row] for index, row in rows.items()}


def owner_bounds(row: Any) -> list[Bound]:
    """Both wrapped secrets of an owner's row."""
    return [
        Bound(row["wrapped_private"], Purpose.OWNER_PRIVATE_KEY, row["owner_key"]),
        Bound(row["wrapped_token_secret"], Purpose.TOKEN_SECRET, row["owner_key"]),
    ]


def _recipient_bounds(row: Any) -> list[Bound]:
    return [recipient_bound(row["wrapped"], row["recipient_key"], row["version"])]
