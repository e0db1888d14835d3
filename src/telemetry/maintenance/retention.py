"""What is kept becomes coarser and goes, as owners and operator settled it (rules 8 and 9).

Device after device: fields that are not kept any more are deleted, windows past the retention of their class too,
windows finer than what is kept are coarsened, versions that a newer one has replaced for a whole month go. Months in
which nothing can be left are dropped whole. Each page of devices is one transaction, and running again changes nothing.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from telemetry.maintenance.kept import NOT_KEPT, Kept, load_kept
from telemetry.maintenance.rollup import HOUR_US
from telemetry.model.fields import CATALOGUE, DataClass
from telemetry.model.series import LATENESS_US
from telemetry.model.sharing import DEFAULT_RETENTION_DAYS, MAX_RETENTION_DAYS, Resolution
from telemetry.privacy.resolution import last_boundary
from telemetry.privacy.revisions import coarsened
from telemetry.store.alone import ROLLUP, alone
from telemetry.store.connection import Connect
from telemetry.store.failures import reported
from telemetry.store.series import delete_windows, read_stored, write_series
from telemetry.store.sql import queries

_DAY_US: Final = 24 * HOUR_US
_MONTH_US: Final = 32 * _DAY_US  # longer than any
_COARSENED_AT_ONCE: Final = 5  # devices, each with up to years of windows
_FIRST_KEY: Final = -(2**63)
_SERIES: Final = queries("series")
_ROLLUP: Final = queries("rollup")


@dataclass(slots=True)
class Retained:
    """What a run did. Counts are of versions of windows, ``dropped`` of partitions; ``ran``: no other process did."""

    ran: bool = False
    devices: int = 0
    expired: int = 0
    coarsened: int = 0
    written: int = 0
    superseded: int = 0
    dropped: list[str] = field(default_factory=list)


class Retention:
    """Runs on a connection of role telemetry_rollup, never at the same time as a pass of the rollup."""

    def __init__(
        self,
        connect: Connect,
        now_us: Callable[[], int],
        *,
        operator_days: Mapping[DataClass, int] | None = None,
        lateness_us: int = LATENESS_US,
        devices_at_once: int = 200,
    ) -> None:
        self._connect = connect
        self._now_us = now_us
        self._operator_days = operator_days or {}
        self._lateness_us = lateness_us
        self._at_once = devices_at_once

    async def run(self) -> Retained:
        """One run over all devices.

        Raises:
            StoreUnavailable: the database is away; run it again.
            StoreError: the database refused.

        """
        done = Retained()
        with reported("keeping to retention"):
            async with alone(self._connect, ROLLUP) as connection:
                if connection is None:
                    return done
                done.ran = True
                after = _FIRST_KEY
                while devices := await self._page(connection, after):
                    done.devices += len(devices)
                    await self._keep(connection, devices, done)
                    after = devices[-1]
                done.dropped = await self._drop(connection)
        return done

    async def _page(self, connection: Any, after: int) -> list[int]:
        rows = await connection.fetch(_SERIES["devices_after"], after, self._at_once)
        return [row["device_key"] for row in rows]

    async def _keep(self, connection: Any, devices: Sequence[int], done: Retained) -> None:
        async with connection.transaction():
            kept = await load_kept(connection, devices)
            done.expired += await self._expire(connection, kept)
            before = self._superseded_before()
            done.superseded += await _count(connection, "delete_superseded", list(devices), before)
        rows = await connection.fetch(_SERIES["coarsenable"], *(kept.resolutions[n].to_list() for n in _KEPT))
        for start in range(0, len(rows), _COARSENED_AT_ONCE):
            part = rows[start : start + _COARSENED_AT_ONCE]
            async with connection.transaction():
                await self._coarsen(connection, part, kept.resolutions, done)

    async def _expire(self, connection: Any, kept: Kept) -> int:
        """Delete what is not kept at all, and what is past the days of its class: the owner's or the operator's."""
        gone = 0
        ours = [self._operator_days.get(one.data_class, MAX_RETENTION_DAYS) for one in CATALOGUE]
        settled = (
            kept.fields.sort("device_key", "field")
            .group_by("device_key", maintain_order=True)
            .agg("days", kept=pl.col("field").filter(pl.col("rank") != NOT_KEPT))
        )
        for (days, fields), rows in settled.group_by("days", "kept", maintain_order=True):
            devices = rows["device_key"].to_list()
            gone += await _count(connection, "delete_unkept", devices, list(fields))
            before = [self._now_us() - min(pair) * _DAY_US for pair in zip(days, ours, strict=True)]
            gone += await _count(connection, "delete_expired", devices, list(range(len(CATALOGUE))), before)
        return gone

    async def _coarsen(
        self, connection: Any, rows: Sequence[Mapping[str, Any]], kept: pl.DataFrame, done: Retained
    ) -> None:
        devices = [row["device_key"] for row in rows]
        versions = await read_stored(
            connection,
            devices=devices,
            from_us=min(row["first"] for row in rows) - _MONTH_US,
            to_us=max(row["last"] for row in rows) + _MONTH_US,
        )
        own = kept.filter(pl.col("device_key").is_in(devices))
        frozen_us = await self._frozen_us(connection)
        change = await asyncio.to_thread(coarsened, own, versions, frozen_us=frozen_us)
        done.written += await write_series(connection, change.write)
        done.coarsened += await delete_windows(connection, change.delete)

    async def _frozen_us(self, connection: Any) -> int:
        """The start of the first hour whose windows hot rows may still change."""
        hours = await connection.fetch(_ROLLUP["open_hours"])
        limit: int = last_boundary(self._now_us() - self._lateness_us, Resolution.PT1H)
        return min([int(row["hour"]) * HOUR_US for row in hours] + [limit])

    def _superseded_before(self) -> int:
        """No view, of whatever zone, looks back beyond the last boundary of a month: there a newer version holds."""
        month_us: int = last_boundary(self._now_us() - self._lateness_us - _DAY_US, Resolution.P1M)
        return month_us - _DAY_US

    async def _drop(self, connection: Any) -> list[str]:
        longest = await connection.fetchval(_ROLLUP["longest_days"])
        ours = max(self._operator_days.get(one, MAX_RETENTION_DAYS) for one in DataClass)
        days = min(max(longest or 0, DEFAULT_RETENTION_DAYS), ours)
        rows = await connection.fetch(_SERIES["drop_series"], self._now_us() - days * _DAY_US)
        return [row[0] for row in rows]


_KEPT: Final = ("device_key", "field", "rank")


async def _count(connection: Any, name: str, *arguments: Any) -> int:
    done: str = await connection.execute(_SERIES[name], *arguments)
    return int(done.rsplit(maxsplit=1)[-1])
