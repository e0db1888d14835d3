"""Keeping the compiled plan up with what owners settled: what is left over is compiled, and all of it can be checked.

Whoever settles something compiles right after it. What that left (a crash, a lost connection), and owners whose grants
begin or end by time, are compiled here, by role telemetry_rights.
"""

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from telemetry.errors import PlanError, StoreError
from telemetry.model.fields import DeviceKind
from telemetry.observe import Observer, events
from telemetry.privacy.compile import compile_owner
from telemetry.privacy.plan import PlanClass
from telemetry.privacy.settled import LATER
from telemetry.store import plans
from telemetry.store.connection import Connect
from telemetry.store.deciding import prune as prune_requests

_PRUNE_EVERY_S: Final = 3600.0
_FEED_AGE: Final = timedelta(days=1)
_RETRY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Drained:
    """How many owners were compiled, and whose plan broke its promise: they stay marked, under the plan before."""

    owners: int
    broken: dict[int, PlanError] = field(default_factory=dict)


async def compile_pending(connection: Any) -> Drained:
    """Compile all that is pending. One owner whose plan breaks its promise holds nobody else up."""
    done, broken = 0, dict[int, PlanError]()
    while keys := [key for key in await plans.pending(connection, plans.AT_ONCE + len(broken)) if key not in broken]:
        try:
            await plans.recompile(connection, keys)
            done += len(keys)
        except PlanError as error:
            if len(keys) == 1:
                broken[keys[0]] = error
            for key in keys if len(keys) > 1 else ():
                try:
                    await plans.recompile(connection, [key])
                    done += 1
                except PlanError as alone:
                    broken[key] = alone
    return Drained(done, broken)


class PlanKeeper:
    """Compiles what is pending, every ``poll_s`` seconds and when the next grant begins or ends. One event loop."""

    def __init__(self, connect: Connect, observer: Observer, *, poll_s: float = 5.0) -> None:
        self._connect = connect
        self._observer = observer
        self._poll_s = poll_s
        self._pruned_at = 0.0

    async def run(self) -> None:
        """Run until cancelled. What fails is reported and tried again: ingest goes on under the plan it has."""
        connection = None
        try:
            while True:
                try:
                    if connection is None or connection.is_closed():
                        connection = await self._connect()
                    wait_s = await self._round(connection)
                except StoreError as error:
                    self._observer.job_failed(events.JobFailed(events.Job.PLAN, error))
                    wait_s = random.uniform(_RETRY_S / 2, _RETRY_S)
                await asyncio.sleep(wait_s)
        finally:
            if connection is not None:
                connection.terminate()

    async def _round(self, connection: Any) -> float:
        """Seconds to wait for the next round."""
        began = time.perf_counter()
        drained = await compile_pending(connection)
        for error in drained.broken.values():
            self._observer.job_failed(events.JobFailed(events.Job.PLAN, error))
        if began - self._pruned_at > _PRUNE_EVERY_S or not self._pruned_at:
            await plans.prune_changes(connection, _FEED_AGE)
            await prune_requests(connection)
            self._pruned_at = began
        if drained.owners:
            self._observer.job_done(events.JobDone(events.Job.PLAN, time.perf_counter() - began))
        due = await plans.next_due(connection)
        wait_s = self._poll_s if due is None else (due - datetime.now(UTC)).total_seconds()
        return min(self._poll_s, max(wait_s, 0.05))


@dataclass(frozen=True, slots=True)
class Checked:
    """``pending``: owners not compiled yet since they settled something. ``failures``: (owner, what is wrong)."""

    owners: int = 0
    pending: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)


async def check_plans(connection: Any) -> Checked:
    """Compile every owner anew, hold that to its promise, and compare it with what workers go by."""
    owners, waiting, failures = 0, 0, list[tuple[int, str]]()
    async for part in plans.stored_plans(connection):
        owners += len(part)
        for stored in part:
            if stored.pending:
                waiting += 1
            elif problem := _problem(stored):
                failures.append((stored.settings.owner_key, problem))
    return Checked(owners, waiting, failures)


def _problem(stored: plans.StoredPlan) -> str:
    """What is wrong with what is stored of one owner; empty if nothing is."""
    try:
        plan = compile_owner(stored.settings, stored.at)
    except PlanError as error:
        return str(error)
    if wrong := sum(_differs(stored, plan.classes, site) for site in stored.settings.sites):
        return f"{wrong} of the owner's sites go by another plan than was settled"
    if stored.astray:
        return f"{stored.astray} devices go by another plan than their site"
    if _differs(stored, plan.classes, LATER):
        return "a site that is added would start under another plan than was settled"
    if stored.due_at != plan.next_change:
        return "the owner would not be compiled again when a grant begins or ends"
    return ""


def _differs(stored: plans.StoredPlan, compiled: Mapping[tuple[int, DeviceKind], PlanClass], site: int) -> bool:
    return any(stored.classes.get((site, kind)) != compiled[site, kind] for kind in DeviceKind)
