"""Owners, recipients and grants on a real database, for tests of what is settled."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from telemetry.model.identity import new_key
from telemetry.model.sharing import GrantTerms, RecipientKind
from telemetry.privacy.receipts import ReceiptSigner
from telemetry.store.keystore import RECEIPT_SIGNING
from telemetry.store.recipients import Recipients
from telemetry.store.sharing import Sharing
from tests.support.registry import Home, RegistryWorld


@dataclass
class SharingWorld:
    """``compiled``: the owners whose recompilation was asked for, in order."""

    registry: RegistryWorld
    rights: Any
    operator: Any
    admin: Any
    signer: ReceiptSigner
    sharing: Sharing
    recipients: Recipients
    compiled: list[list[int]] = field(default_factory=list)

    async def home(self) -> Home:
        return await self.registry.home()

    async def recipient(self, kind: RecipientKind = RecipientKind.INSTALLER) -> int:
        return await self.recipients.add(f"example-{new_key() % 2**64:016x}", kind)

    async def rows(self, statement: str, *arguments: object) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.admin.fetch(statement, *arguments)]

    async def value(self, statement: str, *arguments: object) -> Any:
        return await self.admin.fetchval(statement, *arguments)

    async def let_end(self, grant_key: int) -> None:
        """As if the grant had been made two days ago for one."""
        for table in ("grant_version", "active_grant"):
            await self.admin.execute(
                f"UPDATE consent.{table} SET start = now() - interval '2 days', until = now() - interval '1 day'"
                " WHERE grant_key = $1",
                grant_key,
            )

    async def policy(self, name: str, expires_at: datetime | None = None) -> None:
        await self.admin.execute(
            "INSERT INTO consent.policy (policy, effective_from, expires_at) VALUES ($1, '2020-01-01', $2)"
            " ON CONFLICT (policy) DO UPDATE SET expires_at = EXCLUDED.expires_at",
            name,
            expires_at,
        )


@asynccontextmanager
async def sharing_world(registry: RegistryWorld) -> AsyncIterator[SharingWorld]:
    rights = await registry.connect("telemetry_rights")
    operator = await registry.connect("telemetry_operator")
    admin = await registry.admin()
    signer = ReceiptSigner(registry.keystore.secret(RECEIPT_SIGNING))
    compiled: list[list[int]] = []

    async def recompile(owner_keys: Iterable[int]) -> None:
        # As the compiler does: from here on the owners are not marked any more.
        keys = list(owner_keys)
        compiled.append(keys)
        await rights.execute("DELETE FROM consent.dirty_owner WHERE owner_key = ANY ($1::bigint[])", keys)

    sharing = Sharing(rights, signer, recompile)
    world = SharingWorld(registry, rights, operator, admin, signer, sharing, Recipients(operator, None), compiled)
    try:
        yield world
    finally:
        for connection in (rights, operator, admin):
            await connection.close()


def terms(**changes: Any) -> GrantTerms:
    """Daily production for maintenance: nothing that has to be confirmed."""
    return GrantTerms(**({"purpose": "maintenance", "classes": ["production"], "resolution": "P1D"} | changes))


async def refused(connection: Any, statement: str, *arguments: object) -> bool:
    """Whether the role may not do this at all."""
    try:
        await connection.execute(statement, *arguments)
    except asyncpg.InsufficientPrivilegeError:
        return True
    return False
