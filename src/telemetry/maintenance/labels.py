"""Keeps what recipients are shown as place (rule 24): all labels once a day, new ones when settings change.

Within a day a label that exists stays, unless what was granted has become coarser; sites that were granted anew get
theirs without taking from any label what it needs. Until a site has a label its place is withheld, and a view never
shows a label finer than what is granted at that moment, so a job that is late shows less and never more.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np

from telemetry.errors import StoreError
from telemetry.observe import Observer, events
from telemetry.privacy.labels import (
    DEFAULT_K,
    EXACT,
    NEW,
    WITHHELD,
    Levels,
    Population,
    Shown,
    extend,
    labels_at,
    relabel,
)
from telemetry.store.connection import Connect
from telemetry.store.failures import reported
from telemetry.store.sql import queries

CHANNEL: Final = "telemetry_consent"
_SQL: Final = queries("labels")
_POLL_S: Final = 300.0  # grants begin and end by time, and nobody notifies of that
_GATHER_S: Final = 0.5  # changes that come together are worked through together
_RETRY_S: Final = 2.0
_RESOLUTION_SHIFT: Final = 52


@dataclass(frozen=True, slots=True)
class Labelled:
    """What a round did: recipients looked at, labels written and removed."""

    recipients: int = 0
    written: int = 0
    removed: int = 0


async def keep_labels(connection: Any, owners: Iterable[int] | None = None, *, k: int = DEFAULT_K) -> Labelled:
    """Decide anew what is due today, and give labels to what changed: for these owners, or (None) for all.

    ``connection``: of the role telemetry_rollup. A transaction for each recipient; broken off and run again it goes
    on. Two rounds at once wait for each other.
    """
    async with _alone(connection):
        with reported("reading what labels are due"):
            today = await connection.fetchval(_SQL["today"])
            chosen = list(owners) if owners is not None else None
            due = {row["recipient"] for row in await connection.fetch(_SQL["undecided"], today)}
            due |= {row["recipient"] for row in await connection.fetch(_SQL["recipients"], chosen)}
            rows = await connection.fetch(_SQL["population"]) if due else []
        population = await asyncio.to_thread(_population, rows)
        written = removed = 0
        for recipient in sorted(due):
            one = await _keep_recipient(connection, recipient, population, today, k)
            written, removed = written + one.written, removed + one.removed
    return Labelled(len(due), written, removed)


@asynccontextmanager
async def _alone(connection: Any) -> AsyncIterator[None]:
    with reported("beginning a round of labels"):
        await connection.execute(_SQL["lock"])
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute(_SQL["unlock"])


def _population(rows: Sequence[Any]) -> Population:
    cells = np.array([row["cell7"] for row in rows], np.int64)
    return Population(cells, np.array([row["sites"] for row in rows], np.int64))


async def _keep_recipient(connection: Any, recipient: int, population: Population, today: date, k: int) -> Labelled:
    with reported("keeping a recipient's labels"):
        async with connection.transaction(isolation="repeatable_read"):
            wanted = await connection.fetch(_SQL["granted"], recipient)
            stored = {row["site_key"]: row for row in await connection.fetch(_SQL["labels"], recipient)}
            decided_on = await connection.fetchval(_SQL["decided_on"], recipient)
            anew = (decided_on is None or decided_on < today) and not _changed_today(wanted, stored, today)
            shown = _shown(wanted, stored)
            levels, labels = await asyncio.to_thread(_decide, population, shown, k, anew=anew)
            changed = [
                (row["site_key"], row["granted"], label)
                for row, level, label in zip(wanted, levels.tolist(), labels.tolist(), strict=True)
                if _differs(stored.get(row["site_key"]), row["granted"], _stored_label(level, label))
            ]
            gone = sorted(stored.keys() - {row["site_key"] for row in wanted})
            if gone:
                await connection.execute(_SQL["remove"], recipient, gone)
            if changed:
                columns = [list(column) for column in zip(*changed, strict=True)]
                columns[2] = [label or None for label in columns[2]]
                await connection.execute(_SQL["put"], recipient, *columns, today)
            if anew:
                await connection.execute(_SQL["decided"], recipient, today)
    return Labelled(1, len(changed), len(gone))


def _changed_today(wanted: Sequence[Any], stored: dict[int, Any], today: date) -> bool:
    """Whether a label that is still wanted has changed today already."""
    return any(row["site_key"] in stored and stored[row["site_key"]]["changed_on"] >= today for row in wanted)


def _shown(wanted: Sequence[Any], stored: dict[int, Any]) -> Shown:
    return Shown(
        np.array([row["cell7"] for row in wanted], np.int64),
        np.array([row["granted"] for row in wanted], np.int8),
        np.array([_current(stored.get(row["site_key"]), row["granted"]) for row in wanted], np.int8),
    )


def _current(row: Any, granted: int) -> int:
    """The level shown now; NEW where there is none, or where more is granted than the label was made for."""
    if row is None or row["granted"] < granted:
        return NEW
    if row["granted"] == EXACT:
        return EXACT
    return WITHHELD if row["label"] is None else row["label"] >> _RESOLUTION_SHIFT & 0xF


def _decide(population: Population, shown: Shown, k: int, *, anew: bool) -> tuple[Levels, Any]:
    levels = relabel(population, shown, k=k) if anew else extend(population, shown, k=k)
    return levels, labels_at(shown.cells, levels)


def _stored_label(level: int, label: int) -> int | None:
    return None if level == WITHHELD else label


def _differs(row: Any, granted: int, label: int | None) -> bool:
    return row is None or row["granted"] != granted or row["label"] != label


class LabelKeeper:
    """Runs rounds when settings change, every few minutes, and so within minutes of a day's begin. One event loop."""

    def __init__(self, connect: Connect, observer: Observer, *, k: int = DEFAULT_K, poll_s: float = _POLL_S) -> None:
        self._connect, self._observer, self._k, self._poll_s = connect, observer, k, poll_s
        self._woken = asyncio.Event()
        self._owners: set[int] = set()

    async def run(self) -> None:
        """Run until cancelled. What fails is reported and tried again; views show what labels there are."""
        while True:
            try:
                connection = await self._connect()
                try:
                    await self._follow(connection)
                finally:
                    connection.terminate()
            except StoreError as error:
                self._observer.job_failed(events.JobFailed(events.Job.LABELS, error))
                await asyncio.sleep(random.uniform(_RETRY_S / 2, _RETRY_S))

    async def _follow(self, connection: Any) -> None:
        connection.add_termination_listener(lambda _: self._woken.set())
        with reported("listening for changes of settings"):
            await connection.add_listener(CHANNEL, self._heard)
        owners: set[int] | None = None  # at first, and now and then, all of them
        while True:
            began = time.perf_counter()
            done = await keep_labels(connection, owners, k=self._k)
            self._observer.job_done(
                events.JobDone(events.Job.LABELS, time.perf_counter() - began, made=done.written, removed=done.removed)
            )
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._woken.wait()
            except TimeoutError:
                owners = None
                continue
            await asyncio.sleep(_GATHER_S)
            self._woken.clear()
            owners, self._owners = self._owners, set()

    def _heard(self, _connection: Any, _process: int, _channel: str, payload: str) -> None:
        if payload.removeprefix("-").isdigit():
            self._owners.add(int(payload))
        self._woken.set()
