"""Owners' private keys and token secrets, wrapped, in the database `keys`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from telemetry.errors import RegistryError
from telemetry.ports import KeyWrapper
from telemetry.privacy.keys import Opener, Purpose
from telemetry.store.failures import reported

_ADD: Final = """
INSERT INTO keys.owner_key (owner_key, wrapped_private, wrapped_token_secret, kek_id)
SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[])
"""
_PRIVATE: Final = "SELECT wrapped_private FROM keys.owner_key WHERE owner_key = $1"
_TOKEN_SECRET: Final = "SELECT wrapped_token_secret FROM keys.owner_key WHERE owner_key = $1"  # noqa: S105


@dataclass(frozen=True, slots=True)
class OwnerSecrets:
    """What a new owner gets, before it is wrapped: 96 bytes of private key, 32 of token secret."""

    owner_key: int
    private: bytes = field(repr=False)
    token_secret: bytes = field(repr=False)


class KeyRing:
    """Stores and opens owners' keys. One event loop; the connection is of the role ``telemetry_keys``."""

    def __init__(self, connection: asyncpg.Connection, wrapper: KeyWrapper) -> None:
        self._connection = connection
        self._wrapper = wrapper

    async def add(self, owners: Sequence[OwnerSecrets]) -> None:
        """Store new owners' keys, all or none, committed on return."""
        wrap = self._wrapper.wrap
        private = [wrap(one.private, purpose=Purpose.OWNER_PRIVATE_KEY, owner_key=one.owner_key) for one in owners]
        token = [wrap(one.token_secret, purpose=Purpose.TOKEN_SECRET, owner_key=one.owner_key) for one in owners]
        keys = [one.owner_key for one in owners]
        with reported("storing owners' keys"):
            await self._connection.execute(_ADD, keys, private, token, [self._wrapper.kek_id] * len(keys))

    async def opener(self, owner_key: int) -> Opener:
        """Opens what was sealed to this owner.

        Raises:
            RegistryError: the owner's key does not exist (any more): nothing sealed to it can be read.
            UnsealError: it was wrapped under another key-encryption key, or changed.

        """
        wrapped = await self._fetch(_PRIVATE, owner_key)
        return Opener(self._wrapper.unwrap(wrapped, purpose=Purpose.OWNER_PRIVATE_KEY, owner_key=owner_key))

    async def token_secret(self, owner_key: int) -> bytes:
        """The owner's 256-bit secret, from which recipients' tokens are derived. Raises as ``opener``."""
        wrapped = await self._fetch(_TOKEN_SECRET, owner_key)
        return self._wrapper.unwrap(wrapped, purpose=Purpose.TOKEN_SECRET, owner_key=owner_key)

    async def _fetch(self, statement: str, owner_key: int) -> bytes:
        with reported("reading an owner's key"):
            wrapped: bytes | None = await self._connection.fetchval(statement, owner_key)
        if wrapped is None:
            raise RegistryError("this owner has no key", remedy="erased owners have none; nothing can be opened")
        return wrapped
