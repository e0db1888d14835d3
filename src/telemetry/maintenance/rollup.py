"""Hot and late rows become windows: one pass after another, each of which may be killed at any moment.

    begin (as-of instant, snapshot) → seal hours that are hot no longer → recompute hours → mark them → late hours
    → end → drop partitions

Every arrow is a commit, every step is safe to repeat, and a pass that was begun goes on under the same as-of instant.
What an hour's windows hold depends on its rows only, so recomputing them changes nothing that is right already; late
rows fill only slots that are not covered, so filling twice adds nothing (docs/decisions/0040-rollup-passes.md).
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import polars as pl

from telemetry.maintenance.kept import load_kept
from telemetry.model.fields import FIELD_NAMES
from telemetry.model.series import LATENESS_US
from telemetry.model.sharing import RESOLUTIONS, Resolution
from telemetry.privacy.resolution import last_boundary
from telemetry.privacy.revisions import gathered, late_windows, revised
from telemetry.privacy.rollup import DEFAULT_LIMITS, ROLLUP_SCHEMA, Limits, rollup
from telemetry.store import partitions
from telemetry.store.alone import ROLLUP, alone
from telemetry.store.connection import Connect
from telemetry.store.failures import reported
from telemetry.store.series import (
    ALL_RANKS,
    FOREVER_US,
    delete_windows,
    newest,
    occurring,
    read_rows,
    read_stored,
    write_series,
)
from telemetry.store.sql import queries

HOUR_US: Final = 3_600_000_000
_MONTH_US: Final = 32 * 24 * HOUR_US  # longer than any
_SUB_DAY: Final = tuple(rank for rank in ALL_RANKS if rank < Resolution.P1D.rank)
_PLACE: Final = ("device_key", "field")
_NEVER_US: Final = -(2**62)
_FIRST_US: Final = 0  # no reading is older
_QUERIES: Final = queries("rollup")


@dataclass(slots=True)
class Passed:
    """What a pass did. ``as_of_us``: up to where windows are computed; None where nothing was due.

    ``windows``: versions written; ``hours``: hot hours looked at; ``sealed``, ``late_hours``: hours rolled up for
    good; ``dropped``: partitions.
    """

    as_of_us: int | None = None
    windows: int = 0
    hours: int = 0
    devices: int = 0
    sealed: int = 0
    late_hours: int = 0
    dropped: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _State:
    """What readings.rollup_pass says of the pass under way. ``since``: transactions that the last one may not know."""

    as_of_us: int
    due_after_us: int
    since: str | None


class Rollup:
    """Runs passes on a connection of role telemetry_rollup. Not for concurrent use; processes exclude each other."""

    def __init__(
        self,
        connect: Connect,
        now_us: Callable[[], int],
        *,
        hot_hours: int,
        lateness_us: int = LATENESS_US,
        limits: Limits = DEFAULT_LIMITS,
        devices_at_once: int = 500,
    ) -> None:
        self._connect = connect
        self._now_us = now_us
        self._hot_hours = hot_hours
        self._lateness_us = lateness_us
        self._limits = limits
        self._reach_us = max(limits.hold_max_us, limits.gap_max_us)
        self._at_once = devices_at_once

    async def run(self) -> Passed:
        """Finish the pass that was begun, or do the one that is due; drop what is done with.

        Raises:
            StoreUnavailable: the database is away; run it again.
            StoreError: the database refused.

        """
        passed = Passed()
        with reported("rolling up"):
            async with alone(self._connect, ROLLUP) as connection:
                if connection is None:
                    return passed
                state = await self._begin(connection)
                if state is not None:
                    passed.as_of_us = state.as_of_us
                    await self._pass(connection, state, passed)
                passed.dropped = await partitions.drop_expired(connection, self._hot_hours)
        return passed

    async def _begin(self, connection: Any) -> _State | None:
        """The pass under way, or a new one; None where no window has ended since the last one."""
        finest = await connection.fetchval(_QUERIES["finest"])
        resolution = Resolution.PT1M if finest == Resolution.PT1M.rank else Resolution.PT15M
        as_of_us = last_boundary(self._now_us() - self._lateness_us, resolution)
        await connection.execute(_QUERIES["begin_pass"], as_of_us)
        row = await connection.fetchrow(_QUERIES["state"])
        if row["as_of"] is None:
            return None
        done_us = row["done_as_of"]
        return _State(row["as_of"], _NEVER_US if done_us is None else done_us, row["done_since"])

    async def _pass(self, connection: Any, state: _State, passed: Passed) -> None:
        await self._seal(connection)
        hours = await connection.fetch(_QUERIES["open_hours"])
        for row in hours:
            if row["hour"] * HOUR_US < state.as_of_us:
                await self._hour(connection, row["hour"] * HOUR_US, state, passed)
            if row["sealed"]:
                await connection.execute(_QUERIES["mark"], "hot", row["hour"])
                passed.sealed += 1
        still_hot = [row["hour"] * HOUR_US for row in hours if not row["sealed"]]
        frozen_us = min(still_hot, default=last_boundary(state.as_of_us, Resolution.PT1H))
        for row in await connection.fetch(_QUERIES["open_late_hours"]):
            if (row["hour"] + 1) * HOUR_US <= state.as_of_us:
                await self._late_hour(connection, row["hour"] * HOUR_US, frozen_us, state, passed)
                await connection.execute(_QUERIES["mark"], "late", row["hour"])
                passed.late_hours += 1
        await connection.execute(_QUERIES["end_pass"])

    async def _seal(self, connection: Any) -> None:
        """Take hours that are hot no longer away from the workers; one in use waits for the next pass."""
        last = self._now_us() // HOUR_US - self._hot_hours - 1
        for row in await connection.fetch(_QUERIES["open_hours"]):
            if not row["sealed"] and row["hour"] <= last:
                try:
                    await connection.execute(_QUERIES["seal"], row["hour"], self._hot_hours)
                except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                    return  # hours are frozen in order

    async def _hour(self, connection: Any, hour_us: int, state: _State, passed: Passed) -> None:
        """Compute the windows that start in an hour: of all devices where some are due, else of those with new rows."""
        due = hour_us + HOUR_US > state.due_after_us
        span = (hour_us - self._reach_us, hour_us + HOUR_US + self._reach_us)
        rows = await connection.fetch(_QUERIES["hot_devices"], *span, None if due else state.since)
        passed.hours += 1
        passed.devices += len(rows)
        fields = await occurring(connection, "hot", *span) if rows else []
        for devices in self._chunks([row["device_key"] for row in rows]):
            async with connection.transaction():
                passed.windows += await self._hour_of(connection, devices, fields, hour_us, state)

    async def _hour_of(
        self, connection: Any, devices: Sequence[int], fields: Sequence[str], hour_us: int, state: _State
    ) -> int:
        kept = (await load_kept(connection, devices)).resolutions
        readings = await read_rows(
            connection,
            "hot",
            devices=devices,
            fields=fields,
            from_us=hour_us - self._reach_us,
            to_us=hour_us + HOUR_US + self._reach_us,
        )
        found = await asyncio.to_thread(hot_windows, readings, kept, self._limits)
        computed = found.filter(
            pl.col("window_start") >= hour_us,
            pl.col("window_start") < hour_us + HOUR_US,
            pl.col("effective_at") <= state.as_of_us,
        )
        versions = await read_stored(
            connection, devices=devices, from_us=hour_us, to_us=hour_us + HOUR_US, resolutions=_SUB_DAY
        )
        stored = newest(versions)
        wanted = kept.select(*_PLACE, resolution=gathered())
        # What is kept has changed meanwhile: the hour's windows of another resolution give way at once.
        foreign = stored.join(wanted, on=[*_PLACE, "resolution"], how="anti")
        await delete_windows(connection, foreign)
        stored = stored.join(wanted, on=[*_PLACE, "resolution"], how="semi")
        changed = revised(computed, stored, due_after_us=state.due_after_us, as_of_us=state.as_of_us)
        return await write_series(connection, changed)

    async def _late_hour(self, connection: Any, hour_us: int, frozen_us: int, state: _State, passed: Passed) -> None:
        """Add what was received late in one hour, once that hour is over; the hour before it gives the context."""
        received = (hour_us - HOUR_US, hour_us + HOUR_US)
        rows = await connection.fetch(_QUERIES["late_devices"], hour_us)
        fields = await occurring(connection, "late", _FIRST_US, FOREVER_US, received=received) if rows else []
        for devices in self._chunks([row["device_key"] for row in rows]):
            async with connection.transaction():
                passed.windows += await self._late_of(
                    connection, devices, fields, received=received, frozen_us=frozen_us, state=state
                )

    async def _late_of(
        self,
        connection: Any,
        devices: Sequence[int],
        fields: Sequence[str],
        *,
        received: tuple[int, int],
        frozen_us: int,
        state: _State,
    ) -> int:
        readings = await read_rows(
            connection,
            "late",
            devices=devices,
            fields=fields,
            from_us=_FIRST_US,
            to_us=FOREVER_US,
            received=received,
        )
        if readings.is_empty():
            return 0
        kept = (await load_kept(connection, devices)).resolutions
        first, last = readings.select(pl.col("ts").min(), last=pl.col("ts").max()).row(0)
        versions = await read_stored(
            connection, devices=devices, from_us=first - _MONTH_US, to_us=last + _MONTH_US, resolutions=ALL_RANKS
        )
        changed = await asyncio.to_thread(
            late_windows,
            readings,
            kept,
            newest(versions),
            frozen_us=frozen_us,
            as_of_us=state.as_of_us,
            limits=self._limits,
        )
        return await write_series(connection, changed)

    def _chunks(self, devices: Sequence[int]) -> Iterator[Sequence[int]]:
        for start in range(0, len(devices), self._at_once):
            yield devices[start : start + self._at_once]


def hot_windows(readings: pl.DataFrame, kept: pl.DataFrame, limits: Limits = DEFAULT_LIMITS) -> pl.DataFrame:
    """All windows that hot ``readings`` shape, each (device, field) in the resolution in which it is gathered."""
    done = [pl.DataFrame(schema=ROLLUP_SCHEMA)]
    for (rank,), part in kept.with_columns(rank=gathered()).partition_by("rank", as_dict=True).items():
        rows = readings.join(part.select("device_key").unique(), on="device_key", how="semi")
        fields = [FIELD_NAMES[index] for index in part["field"].unique().sort()]
        windows = rollup(rows, RESOLUTIONS[rank], fields=fields, limits=limits)
        done.append(windows.join(part.select(_PLACE), on=_PLACE, how="semi"))
    return pl.concat(done)
