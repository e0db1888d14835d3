"""Owners whose settings are compiled for real, and workers that follow, on a real database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from telemetry.model.identity import new_key
from telemetry.model.sharing import RecipientKind
from telemetry.observe import Observer
from telemetry.pipeline.reload import RegistryReloader
from telemetry.privacy.binding import Registry
from telemetry.privacy.receipts import ReceiptSigner
from telemetry.store.keystore import RECEIPT_SIGNING
from telemetry.store.plans import recompile
from telemetry.store.recipients import Recipients
from telemetry.store.registry import PostgresRegistryStore
from telemetry.store.sharing import Sharing
from tests.support.registry import Home, RegistryWorld, random_serial

Devices = dict[tuple[int, bytes], tuple[int, int, bytes, str | None]]


@dataclass
class PlanWorld:
    """``sharing`` compiles after each change; ``settling`` leaves that to others."""

    registry: RegistryWorld
    rights: Any
    operator: Any
    admin: Any
    sharing: Sharing
    settling: Sharing
    recipients: Recipients

    async def recipient(self) -> int:
        return await self.recipients.add(f"example-{new_key() % 2**64:016x}", RecipientKind.INSTALLER)

    async def device(self, home: Home, serial: str | None = None, **options: Any) -> int:
        """Enrol one; its key."""
        proposed = await self.registry.device(home, serial or random_serial(), **options)
        (found,) = (await self.registry.store.enrol([proposed])).devices
        return found.device_key

    async def version(self) -> int:
        return await self.admin.fetchval("SELECT version FROM consent.state")

    async def kept(self, device_key: int) -> set[int]:
        """Indices of the fields that may be stored of a device, as the database has it."""
        keep = await self.admin.fetchval(
            "SELECT keep FROM consent.device JOIN consent.plan_class USING (plan_class) WHERE device_key = $1",
            device_key,
        )
        return {index for index, byte in enumerate(keep) if byte}

    async def marked(self, owner_key: int) -> bool:
        return await self.admin.fetchval(
            "SELECT EXISTS (SELECT FROM consent.dirty_owner WHERE owner_key = $1)", owner_key
        )

    async def worker(self) -> "FollowingWorker":
        store = self.registry.worker()
        gateways, devices, plan = await store.load()
        registry = Registry(self.registry.blind, gateways, devices, plan)
        return FollowingWorker(store, registry, RegistryReloader(registry, store, Observer()))


@dataclass
class FollowingWorker:
    """A worker's registry, as its listener would keep it."""

    store: PostgresRegistryStore
    registry: Registry
    reload: RegistryReloader

    def devices(self) -> Devices:
        """(site, serial's blind index) → device key, gateway key, mask of kept fields, why withheld."""
        return known_devices(self.registry)

    def gateways(self) -> dict[int, tuple[Any, ...]]:
        return known_gateways(self.registry)


def known_devices(registry: Registry) -> Devices:
    devices, plan = registry._devices, registry.plan
    found: Devices = {}
    for slot in range(1, devices._size):
        site, key = devices._who[slot].tolist()
        if key:
            plan_class = int(devices.plan_class[slot])
            gateway = int(registry._gateways.gateway_key[devices._gateway[slot]])
            found[site, key] = (gateway, plan_class, plan.keep[plan_class].tobytes(), plan.withhold[plan_class])
    return found


def known_gateways(registry: Registry) -> dict[int, tuple[Any, ...]]:
    table = registry._gateways
    names = ("site_key", "home_site_key", "owner_key", "backfill_us", "tenure_from_us", "revoked", "announced_only")
    return {
        key: (
            table._blind_of[slot],
            *(getattr(table, name)[slot].item() for name in (*names, "device_limit", "devices")),
        )
        for key, slot in table._by_key.items()
    }


def findable(registry: Registry, devices: pl.DataFrame) -> np.ndarray[Any, Any]:
    """Device keys that the blind indices of ``devices`` lead to."""
    slots = registry._devices.find_blind(devices["serial_blind"].to_numpy(), devices["site_key"].to_numpy())
    return registry._devices._who[slots, 1]


@asynccontextmanager
async def plan_world(registry: RegistryWorld) -> AsyncIterator[PlanWorld]:
    rights = await registry.connect("telemetry_rights")
    operator = await registry.connect("telemetry_operator")
    admin = await registry.admin()
    signer = ReceiptSigner(registry.keystore.secret(RECEIPT_SIGNING))
    try:
        yield PlanWorld(
            registry,
            rights,
            operator,
            admin,
            sharing=Sharing(rights, signer, partial(recompile, rights)),
            settling=Sharing(rights, signer),
            recipients=Recipients(operator, None),
        )
    finally:
        for connection in (rights, operator, admin):
            await connection.close()
