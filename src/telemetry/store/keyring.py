"""Owners' private keys and token secrets, and recipients' keys, wrapped, in the database `keys`."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import asyncpg

from telemetry.errors import KeystoreError, RegistryError
from telemetry.ports import Keks, KeyWrapper
from telemetry.privacy.keys import Bound, Closed, Opener, Purpose
from telemetry.privacy.tokens import RECIPIENT_SECRET_BYTES
from telemetry.store.failures import reported
from telemetry.store.sql import queries

_SQL: Final = queries("keys")
_ATTEMPTS: Final = 5  # a rotation may change the active key between wrapping and storing


@dataclass(frozen=True, slots=True)
class OwnerSecrets:
    """What a new owner gets, before it is wrapped: 96 bytes of private key, 32 of token secret."""

    owner_key: int
    private: bytes = field(repr=False)
    token_secret: bytes = field(repr=False)


class RecipientSecret(Closed):
    """A recipient's key in effect: ``version``, ``secret``, and when the announced next one takes effect."""

    __slots__ = ("next_at", "secret", "version")

    def __init__(self, version: int, secret: bytes, next_at: datetime | None) -> None:
        self.version, self.secret, self.next_at = version, secret, next_at


class KeyRing:
    """Stores and opens keys. One event loop.

    The connection is of the role ``telemetry_keys``; that of ``telemetry_views`` serves for what makes tokens:
    ``token_secrets`` and ``recipient_secret``, and nothing else.
    """

    def __init__(self, connection: asyncpg.Connection, keks: Keks) -> None:
        self._connection = connection
        self._keks = keks

    async def add(self, owners: Sequence[OwnerSecrets]) -> None:
        """Store new owners' keys, all or none, committed on return.

        Raises:
            UnsealError: the stored keys are under another key-encryption key than the one at hand.

        """
        bound = [Bound(one.private, Purpose.OWNER_PRIVATE_KEY, one.owner_key) for one in owners]
        bound += [Bound(one.token_secret, Purpose.TOKEN_SECRET, one.owner_key) for one in owners]
        keys = [one.owner_key for one in owners]

        async def store(wrapped: list[bytes], kek_id: bytes) -> None:
            halves = wrapped[: len(keys)], wrapped[len(keys) :]
            await self._connection.execute(_SQL["add_owners"], keys, *halves, kek_id)

        await self._store_wrapped("storing owners' keys", bound, store)

    async def opener(self, owner_key: int) -> Opener:
        """Opens what was sealed to this owner.

        Raises:
            RegistryError: the owner's key does not exist (any more): nothing sealed to it can be read.
            UnsealError: it was wrapped under another key-encryption key, or changed.

        """
        with reported("reading an owner's key"):
            row = await self._connection.fetchrow(_SQL["private"], owner_key)
        if row is None:
            raise _no_key()
        bound = Bound(row["wrapped"], Purpose.OWNER_PRIVATE_KEY, owner_key)
        return Opener((await self._unwrapped([(row["kek_id"], bound)]))[0])

    async def token_secret(self, owner_key: int) -> bytes:
        """The owner's 256-bit secret, from which recipients' tokens are derived. Raises as ``opener``."""
        found = await self.token_secrets([owner_key])
        if owner_key not in found:
            raise _no_key()
        return found[owner_key]

    async def token_secrets(self, owner_keys: Sequence[int]) -> dict[int, bytes]:
        """The token secret of each of these owners; those who have none (any more) are left out.

        Raises:
            UnsealError: one was wrapped under another key-encryption key, or changed.

        """
        with reported("reading owners' token secrets"):
            rows = await self._connection.fetch(_SQL["token_secrets"], list(owner_keys))
        bound = [(row["kek_id"], Bound(row["wrapped"], Purpose.TOKEN_SECRET, row["owner_key"])) for row in rows]
        opened = await self._unwrapped(bound)
        return {row["owner_key"]: secret for row, secret in zip(rows, opened, strict=True)}

    async def recipient_secret(self, recipient_key: int) -> RecipientSecret:
        """The recipient's key in effect now, by the database's clock; its first one is made at the first need.

        Raises:
            UnsealError: it was wrapped under another key-encryption key, or changed.

        """
        for _ in range(2):
            with reported("reading a recipient's key"):
                row = await self._connection.fetchrow(_SQL["recipient_key"], recipient_key)
            if row is not None:
                bound = recipient_bound(row["wrapped"], recipient_key, row["version"])
                secret = (await self._unwrapped([(row["kek_id"], bound)]))[0]
                return RecipientSecret(row["version"], secret, row["next_at"])
            await self._begin_recipient(recipient_key)
        raise KeystoreError("this recipient has no key in effect", remedy="`telemetry keys status` lists them")

    async def _begin_recipient(self, recipient_key: int) -> None:
        secret = secrets.token_bytes(RECIPIENT_SECRET_BYTES)

        async def store(wrapped: list[bytes], kek_id: bytes) -> None:
            await self._connection.execute(_SQL["begin_recipient"], recipient_key, wrapped[0], kek_id)

        # Whoever comes second finds the first one's: it stores nothing.
        await self._store_wrapped("making a recipient's key", [recipient_bound(secret, recipient_key, 1)], store)

    async def _store_wrapped(self, what: str, bound: Sequence[Bound], store: Any) -> None:
        for _ in range(_ATTEMPTS):
            wrapper = await self.active()
            wrapped = await asyncio.to_thread(wrapper.wrap_all, bound)
            with reported(what):
                try:
                    await store(wrapped, wrapper.kek_id)
                except asyncpg.ObjectNotInPrerequisiteStateError:
                    continue  # a rotation has begun meanwhile
                return
        raise KeystoreError(f"{what}: the key-encryption key kept changing", remedy="`telemetry keys status`")

    async def active(self) -> KeyWrapper:
        """The key-encryption key that is written under. The first one ever is what this process holds.

        Raises:
            UnsealError: it is another one than those at hand; nothing is written under a wrong key.

        """
        with reported("reading which key-encryption key is active"):
            kek_id = await self._connection.fetchval(_SQL["active_kek"])
            if kek_id is None:
                newest = await asyncio.to_thread(self._keks.newest)
                await self._connection.execute(_SQL["adopt_first_kek"], newest.kek_id)
                kek_id = await self._connection.fetchval(_SQL["active_kek"])
        return await asyncio.to_thread(self._keks.named, kek_id)

    async def _unwrapped(self, wrapped: Sequence[tuple[bytes, Bound]]) -> list[bytes]:
        """The secrets, in order. Each comes with the name of the key it is under."""
        return await asyncio.to_thread(unwrap_by_name, self._keks, wrapped)


def unwrap_by_name(keks: Keks, wrapped: Sequence[tuple[bytes, Bound]]) -> list[bytes]:
    """Unwrap each under the key it names. Raises UnsealError."""
    by_kek: dict[bytes, list[int]] = {}
    for index, (kek_id, _) in enumerate(wrapped):
        by_kek.setdefault(kek_id, []).append(index)
    found = [b""] * len(wrapped)
    for kek_id, indices in by_kek.items():
        opened = keks.named(kek_id).unwrap_all([wrapped[index][1] for index in indices])
        for index, secret in zip(indices, opened, strict=True):
            found[index] = secret
    return found


def recipient_bound(value: bytes, recipient_key: int, version: int) -> Bound:
    """A recipient's key, bound to its recipient and version."""
    return Bound(value, f"{Purpose.RECIPIENT_KEY}.{version}", recipient_key)


def _no_key() -> RegistryError:
    return RegistryError("this owner has no key", remedy="erased owners have none; nothing can be opened")
