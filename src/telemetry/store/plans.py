"""The compiled plan in the database: owners compiled again, one transaction for some hundred of them.

owners locked → marks read → settings read → compiled and checked → classes numbered → enrolment held → sites and
devices set → version bumped, if a class changed anywhere → marks deleted → COMMIT

The order is the lock order, and the bump comes last but one because it waits for the writes in flight. Whoever
settles something does not wait with it: owners are locked beside their rows, and marks touched at the very end. A
change made meanwhile makes its mark anew; that one was not read here, stays, and is compiled next.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from telemetry.model.fields import DeviceKind
from telemetry.model.identity import ChangeKind
from telemetry.privacy.compile import compile_owner
from telemetry.privacy.plan import PlanClass
from telemetry.privacy.settled import LATER, OwnerPlan, OwnerSettings
from telemetry.store.failures import reported
from telemetry.store.registry import plan_class_of
from telemetry.store.settings import read_settings
from telemetry.store.sql import queries

AT_ONCE: Final = 500  # owners of one transaction: their sites and devices stay locked until it commits
_SQL: Final = queries("plans")


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """What workers go by for one owner's sites (LATER included), beside what the owner settled.

    ``astray``: devices whose class is not their site's. ``pending``: the owner settled something since.
    """

    settings: OwnerSettings
    at: datetime
    numbers: Mapping[tuple[int, DeviceKind], int]
    classes: Mapping[tuple[int, DeviceKind], PlanClass]
    astray: int
    due_at: datetime | None
    pending: bool


async def recompile(connection: asyncpg.Connection, owner_keys: Iterable[int]) -> int:
    """Compile these owners again and put their plans in force; the version that holds them.

    For role telemetry_rights, outside any transaction. Unknown owners are passed over. The version is bumped only if
    some site or device has another class than before, so a change that changes nothing for ingest costs it nothing.

    Raises:
        PlanError: a compiled plan breaks its promise; the plan before stays, and the owner marked.
        StoreUnavailable: try again; what was committed stays so.

    """
    keys = sorted(set(owner_keys))
    with reported("compiling the plan"):
        for start in range(0, len(keys), AT_ONCE):
            async with connection.transaction():
                await _recompile(connection, keys[start : start + AT_ONCE])
        version: int = await connection.fetchval(_SQL["version"])
    return version


async def pending(connection: asyncpg.Connection, limit: int = AT_ONCE) -> list[int]:
    """Owners to compile: those marked, and those whose grants have begun or ended by time. The oldest first."""
    with reported("looking for owners to compile"):
        return [row["owner_key"] for row in await connection.fetch(_SQL["pending"], limit)]


async def next_due(connection: asyncpg.Connection) -> datetime | None:
    """When the next grant begins or ends by time."""
    with reported("looking for owners to compile"):
        due: datetime | None = await connection.fetchval(_SQL["next_due"])
    return due


async def prune_changes(connection: asyncpg.Connection, age: timedelta) -> None:
    """Forget what changed longer ago than ``age``: a worker that is further behind loads everything."""
    with reported("forgetting old changes"):
        await connection.execute(_SQL["prune_changes"], age)


async def owner_pages(connection: asyncpg.Connection) -> AsyncIterator[list[int]]:
    """The keys of all owners, some hundred at a time."""
    last = -(2**63)
    while True:
        with reported("listing owners"):
            keys = [row["owner_key"] for row in await connection.fetch(_SQL["all_owners"], last, AT_ONCE)]
        if not keys:
            return
        yield keys
        last = keys[-1]


async def stored_plans(connection: asyncpg.Connection) -> AsyncIterator[list[StoredPlan]]:
    """What is stored of every owner, some hundred at a time, each page of one snapshot."""
    async for keys in owner_pages(connection):
        yield list((await stored_of(connection, keys)).values())


async def stored_of(connection: asyncpg.Connection, keys: Sequence[int]) -> dict[int, StoredPlan]:
    """What is stored of these owners, of one snapshot; unknown ones are left out."""
    with reported("reading the plan"):
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            at: datetime = await connection.fetchval(_SQL["transaction_clock"])
            settings = await read_settings(connection, keys)
            sites = await connection.fetch(_SQL["stored_plan"], keys)
            later = {row["owner_key"]: row for row in await connection.fetch(_SQL["later_classes"], keys)}
            marked = {row["owner_key"] for row in await connection.fetch(_SQL["marks"], keys)}
            used = {0, *(number for row in sites for number in row["plan_classes"])}
            used |= {number for row in later.values() for number in row["site_classes"]}
            rows = await connection.fetch(_SQL["classes"], sorted(used))
    classes = {row["plan_class"]: plan_class_of(row) for row in rows}
    of_owner: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sites:
        of_owner[row["owner_key"]].append(row)
    found = {}
    for key, each in settings.items():
        due_at = later[key]["due_at"] if key in later else None
        numbers = {row["site_key"]: row["plan_classes"] for row in of_owner[key]}
        numbers[LATER] = later[key]["site_classes"] if key in later else [0] * len(DeviceKind)
        found[key] = StoredPlan(
            settings=each,
            at=at,
            numbers={(site, kind): of[kind - 1] for site, of in numbers.items() for kind in DeviceKind},
            classes={(site, kind): classes[of[kind - 1]] for site, of in numbers.items() for kind in DeviceKind},
            astray=sum(row["astray"] for row in of_owner[key]),
            due_at=due_at,
            pending=key in marked or (due_at is not None and due_at <= at),
        )
    return found


async def _recompile(connection: asyncpg.Connection, keys: Sequence[int]) -> None:
    await connection.fetch(_SQL["lock_owners"], keys)
    now: datetime = await connection.fetchval(_SQL["clock"])  # the one that grants are dated by
    marks = [(row["owner_key"], row["seen"]) for row in await connection.fetch(_SQL["marks"], keys)]
    plans = {key: compile_owner(each, now) for key, each in (await read_settings(connection, keys)).items()}
    numbers = await _numbers(connection, {one for plan in plans.values() for one in plan.classes.values()})
    sites = {
        site: [numbers[plan.classes[site, kind]] for kind in DeviceKind]
        for plan in plans.values()
        for site in {place for place, _ in plan.classes}
        if site != LATER
    }
    await connection.execute(_SQL["lock_enrolment"], list(sites))
    changed = await _set_classes(connection, sites)
    await _set_owner_plans(connection, plans, numbers)
    if changed:
        kinds = [ChangeKind.SITE.value] * len(changed)
        await connection.fetchval(_SQL["bump_version"], kinds, sorted(changed))
    if marks:
        await connection.execute(_SQL["clear_marks"], *map(list, zip(*marks, strict=True)))


async def _set_classes(connection: asyncpg.Connection, sites: Mapping[int, list[int]]) -> set[int]:
    """Give sites and their devices their classes; the sites where any differed."""
    keys = list(sites)
    changed = await connection.fetch(_SQL["set_sites"], keys, [_listed(sites[key]) for key in keys])
    moved = await connection.fetch(_SQL["set_devices"], keys)
    return {row["site_key"] for row in (*changed, *moved)}


async def _numbers(connection: asyncpg.Connection, classes: set[PlanClass]) -> dict[PlanClass, int]:
    """The number of each class; those that nobody had before are added."""
    by_digest = {one.digest: one for one in classes}
    known = await _known_numbers(connection, list(by_digest))
    if len(known) < len(by_digest):
        await connection.execute(_SQL["lock_classes"])
        known = await _known_numbers(connection, list(by_digest))  # others may have added some while we waited
        new = [one for digest, one in by_digest.items() if digest not in known]
        if new:
            columns = (
                [one.digest for one in new],
                [one.keep for one in new],
                [one.kept_resolution for one in new],
                [_listed(one.retention_days) for one in new],
                [one.withhold and one.withhold.value for one in new],
            )
            added = await connection.fetch(_SQL["add_classes"], *columns)
            known |= {row["digest"]: row["plan_class"] for row in added}
    return {one: known[digest] for digest, one in by_digest.items()}


async def _known_numbers(connection: asyncpg.Connection, digests: Sequence[bytes]) -> dict[bytes, int]:
    rows = await connection.fetch(_SQL["class_numbers"], digests)
    return {row["digest"]: row["plan_class"] for row in rows}


async def _set_owner_plans(
    connection: asyncpg.Connection, plans: Mapping[int, OwnerPlan], numbers: Mapping[PlanClass, int]
) -> None:
    """What sites added later start under, and when the owner is due; nothing is kept of owners who settled nothing."""
    rows, plain = [], []
    for key, plan in plans.items():
        later = [numbers[plan.classes[LATER, kind]] for kind in DeviceKind]
        if plan.next_change is None and not any(later):
            plain.append(key)
        else:
            rows.append((key, _listed(later), plan.next_change))
    if plain:
        await connection.execute(_SQL["drop_owner_plan"], plain)
    if rows:
        await connection.execute(_SQL["set_owner_plan"], *map(list, zip(*rows, strict=True)))


def _listed(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))
