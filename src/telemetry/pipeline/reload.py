"""Bringing the registry in memory up to what the database knows, once for all who ask at the same time."""

import asyncio
import time

from telemetry.observe import Observer, events
from telemetry.ports import RegistryStore
from telemetry.privacy.binding import Registry


class RegistryReloader:
    """Applies what changed, or loads everything, when a version is asked for that is not here yet. One event loop."""

    def __init__(self, registry: Registry, store: RegistryStore, observer: Observer) -> None:
        self._registry = registry
        self._store = store
        self._observer = observer
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, version: int) -> None:
        """Return when the registry is at ``version`` or later. Raises StoreUnavailable."""
        if self._registry.plan.version >= version:
            return
        async with self._one_at_a_time:
            if self._registry.plan.version >= version:
                return
            started = time.perf_counter()
            if not await self._apply_changes():
                await self._load()
            plan = self._registry.plan
            self._observer.registry_loaded(events.RegistryLoaded(self._registry.gateways, len(self._registry)))
            self._observer.plan_applied(events.PlanApplied(plan.version, plan.classes))
            self._observer.job_done(events.JobDone(events.Job.RELOAD, time.perf_counter() - started))

    async def _apply_changes(self) -> bool:
        """Apply the changes since the plan that is here; False where they cannot be told."""
        changes = await self._store.changes(self._registry.plan)
        if changes is None:
            return False
        await asyncio.to_thread(
            self._registry.update,
            plan=changes.plan,
            gateways=changes.gateways,
            devices=changes.devices,
            forget_gateways=changes.gone_gateways,
            whole_sites=changes.sites,
        )
        return True

    async def _load(self) -> None:
        gateways, devices, plan = await self._store.load()
        await asyncio.to_thread(self._registry.update, plan=plan, gateways=gateways, devices=devices, whole=True)
