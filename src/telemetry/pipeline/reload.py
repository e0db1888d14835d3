"""Bringing the registry in memory up to what the database knows, once for all who ask at the same time."""

import asyncio
import time

from telemetry.observe import Observer, events
from telemetry.ports import RegistryStore
from telemetry.privacy.binding import Registry


class RegistryReloader:
    """Reloads gateways, devices and plan when a version is asked for that is not here yet. One event loop."""

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
            gateways, devices, plan = await self._store.load()
            await asyncio.to_thread(self._registry.update, plan=plan, gateways=gateways, devices=devices)
            self._observer.registry_loaded(events.RegistryLoaded(len(gateways), devices.height))
            self._observer.plan_applied(events.PlanApplied(plan.version, plan.classes))
            self._observer.job_done(events.JobDone(events.Job.RELOAD, time.perf_counter() - started))
