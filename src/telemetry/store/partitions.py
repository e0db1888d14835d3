"""Hourly partitions: which exist, making them ahead of time, dropping those that are done."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from telemetry.errors import StoreError
from telemetry.store.sql import queries

AHEAD_HOURS: Final = 3
MAX_AHEAD_HOURS: Final = 48  # what readings.ensure_partitions allows
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOT_NAME: Final = re.compile(r"hot_(\d{4})(\d{2})(\d{2})(\d{2})")
_QUERIES: Final = queries("readings")


def hot_name(hour: int) -> str:
    """The partition of ``hour`` (hours since 1970 UTC), as ``hot_2026112205``."""
    return f"hot_{_EPOCH + timedelta(hours=hour):%Y%m%d%H}"


def hour_of(name: str) -> int:
    """The hour of a hot partition (hours since 1970 UTC)."""
    match = _HOT_NAME.fullmatch(name)
    if match is None:
        raise StoreError("readings.hot has a partition with a foreign name", remedy="detach it")
    start = datetime(*(int(part) for part in match.groups()), tzinfo=UTC)  # type: ignore[misc,arg-type]
    return (start - _EPOCH) // timedelta(hours=1)


async def ensure(connection: Any, hot_hours: int, ahead_hours: int = AHEAD_HOURS) -> int:
    """Make what partitions are missing from now - hot_hours - 1 h to now + ahead_hours; how many were made."""
    return int(await connection.fetchval(_QUERIES["ensure_partitions"], hot_hours, ahead_hours))


async def drop_expired(connection: Any, hot_hours: int) -> list[str]:
    """Drop the expired partitions that the rollup has marked done; their names. For role telemetry_rollup."""
    return [row[0] for row in await connection.fetch(_QUERIES["drop_expired_partitions"], hot_hours)]


class PartitionMap:
    """Which hours are hot, as far as known. One event loop; shared by the connections of a sink.

    What it says about an hour without a partition is final, because the database never makes one for an hour that
    was late once. That a partition exists is not: it may have been dropped since (``forget``).
    """

    def __init__(self, hot_hours: int) -> None:
        self._hot_hours = hot_hours
        self._hot: set[int] = set()
        self._late: set[int] = set()
        self._late_below = 0

    def is_hot(self, hour: int) -> bool:
        """Whether the hour has a hot partition; ask ``learn`` about it first."""
        return hour in self._hot

    def forget(self) -> None:
        """Something contradicted what is known: ask the database again."""
        self._hot.clear()
        self._late.clear()
        self._late_below = 0

    async def learn(self, connection: Any, hours: Iterable[int]) -> None:
        """Make sure that ``is_hot`` is right about ``hours``; makes partitions that are missing and may exist.

        Raises:
            StoreError: an hour lies so far ahead that no partition may be made for it.

        """
        unknown = {hour for hour in hours if hour >= self._late_below} - self._hot - self._late
        if not unknown:
            return
        this_hour = await self._refresh(connection)
        ahead = max(AHEAD_HOURS, max(unknown) - this_hour)
        if ahead > MAX_AHEAD_HOURS:
            raise StoreError(
                "a reading lies days ahead of the database's clock",
                remedy="set the clocks; see `telemetry doctor`",
            )
        if unknown - self._hot:
            await ensure(connection, self._hot_hours, ahead)
            this_hour = await self._refresh(connection)
        self._late_below = this_hour - self._hot_hours - 1
        self._late = {hour for hour in (self._late | unknown) - self._hot if hour >= self._late_below}

    async def _refresh(self, connection: Any) -> int:
        row = await connection.fetchrow(_QUERIES["hot_partitions"])
        self._hot = {hour_of(name) for name in row["names"]}
        return int(row["this_hour"])
