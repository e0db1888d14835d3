"""One pass over all devices: what began and what ended. May be killed at any moment and done again.

    subjects → alarms (from hot readings) → silence (from rhythms) → production (every few hours) → commit by chunk

A pass looks at what is stored and at nothing that it remembers, so that repeating it changes nothing: an alert is one
by device, kind and begin, and a device has one open alert of a kind. Processes exclude each other.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import h3.api.basic_int as h3

from telemetry.alerts import book
from telemetry.alerts.alarms import Changes, Known, alarm_changes
from telemetry.alerts.book import SQL, Subject
from telemetry.alerts.made import OPEN_DAYS, judged, read_sums
from telemetry.alerts.production import DARK, Low, Shares, find_end, find_low, shares_of
from telemetry.alerts.rhythm import LEARN_DAYS, usual_silence_s
from telemetry.alerts.sun import DAY_US, place_of
from telemetry.model.alert import ERROR, WARNING, AlertKind
from telemetry.model.sharing import RESOLUTIONS
from telemetry.store.alone import ALERTS, alone
from telemetry.store.connection import Connect
from telemetry.store.failures import reported

_HOUR_US: Final = 3_600_000_000
_SECOND_US: Final = 1_000_000
_DAY_MINUTES: Final = 1440
_NEIGHBOUR_CELL: Final = 4  # H3: about 24 km around
# Devices at once: of two hours of readings, of two weeks of windows, of six weeks of up to four fields.
_AT_ONCE: Final = 100
_JUDGED_AT_ONCE: Final = 60


@dataclass(slots=True)
class Found:
    """What a pass did. ``ran``: False where another process was at it. ``devices``: looked at."""

    ran: bool = False
    devices: int = 0
    begun: int = 0
    ended: int = 0

    def count(self, changes: Changes) -> None:
        self.begun += len(changes.begins)
        self.ended += len(changes.ends) + sum(end is not None for _, _, end, _ in changes.begins)


class AlertFinder:
    """Runs passes as telemetry_rollup. ``k``: neighbours that say together how dark a day was, at least.
    ``most_days``: alerts are kept no longer.
    """

    def __init__(
        self, connect: Connect, now_us: Callable[[], int], *, hot_hours: int, k: int = 15, most_days: int = 3660
    ) -> None:
        self._connect, self._now_us = connect, now_us
        self._whole_us = hot_hours * _HOUR_US
        self._k, self._most_days = k, most_days

    async def run(self, *, production: bool = True) -> Found:
        """One pass; ``production``: judge what devices made too, which reads six weeks of windows.

        Raises:
            StoreUnavailable: the database is away; run it again.
            StoreError: the database refused.

        """
        found = Found()
        with reported("looking for alerts"):
            async with alone(self._connect, ALERTS) as connection:
                if connection is None:
                    return found
                now_us = self._now_us()
                subjects = await book.subjects(connection, now_us, self._most_days)
                found.ran, found.devices = True, len(subjects)
                await self._alarms(connection, [one.device_key for one in subjects], now_us, found)
                for part in _chunks([one.device_key for one in subjects]):
                    await self._learn(connection, part, now_us)
                    await self._silence(connection, part, now_us, found)
                if production:
                    for group in _neighbours([one for one in subjects if judged(one)]):
                        await self._production(connection, group, now_us, found)
        return found

    async def _alarms(self, connection: Any, devices: Sequence[int], now_us: int, found: Found) -> None:
        since = now_us - self._whole_us
        about = {row["device_key"] for row in await connection.fetch(SQL["alarming"], since)}
        about |= {row["device_key"] for row in await connection.fetch(SQL["open_devices"], AlertKind.DEVICE_ALARM)}
        for part in _chunks([device for device in devices if device in about]):
            rows = await connection.fetch(SQL["alarm_rows"], since, now_us, part)
            known = await book.newest(connection, AlertKind.DEVICE_ALARM, part)
            await self._store(connection, AlertKind.DEVICE_ALARM, alarm_changes(rows, known, now_us), now_us, found)

    async def _learn(self, connection: Any, devices: Sequence[int], now_us: int) -> None:
        """Rhythms that are a day old, from two weeks of windows."""
        due = [row["device_key"] for row in await connection.fetch(SQL["rhythm_due"], devices, now_us - DAY_US)]
        if not due:
            return
        rows = await connection.fetch(SQL["heard"], due, now_us - LEARN_DAYS * DAY_US, now_us)
        learnt = await asyncio.to_thread(_rhythms, rows, now_us)
        learnt += [(device, 0, None) for device in set(due) - {device for device, *_ in learnt}]
        await connection.execute(SQL["learn"], *(list(column) for column in zip(*learnt, strict=True)), now_us)

    async def _silence(self, connection: Any, devices: Sequence[int], now_us: int, found: Found) -> None:
        known = await book.newest(connection, AlertKind.STALE, devices)
        heard = {row["device_key"]: row for row in await connection.fetch(SQL["perhaps_silent"], devices, now_us)}
        opened = {device: one.opened_us for device, one in known.items() if one.closed_us is None}
        # What is open is asked for from its begin on, even where it has no rhythm any more.
        since = {device: row["heard"] for device, row in heard.items()} | opened
        if not since:
            return
        rows = await connection.fetch(SQL["heard_since"], list(since), list(since.values()))
        spoke = {row["device_key"]: row for row in rows if row["last"] is not None}
        changes = Changes(ends=[(device, spoke[device]["first"]) for device in opened if device in spoke])
        last = {device: spoke[device]["last"] if device in spoke else row["heard"] for device, row in heard.items()}
        for device, row in heard.items():
            due = last[device] + row["silence_s"] * _SECOND_US
            if device not in opened and due < now_us:
                changes.begins.append((device, due, None, WARNING))
        await self._store(connection, AlertKind.STALE, changes, now_us, found)
        if spoke:
            noted = {device: row["last"] for device, row in spoke.items()}
            await connection.execute(SQL["note_heard"], list(noted), list(noted.values()))

    async def _production(self, connection: Any, group: Sequence[Subject], now_us: int, found: Found) -> None:
        keys = [one.device_key for one in group]
        known = await book.newest(connection, AlertKind.LOW_PRODUCTION, keys)
        still = {device: one for device, one in known.items() if one.closed_us is None}
        usual = [key for key in keys if key not in still]
        sums = await read_sums(connection, usual, now_us)
        if still:
            sums |= await read_sums(connection, list(still), now_us, more_days=OPEN_DAYS)
        changes = await asyncio.to_thread(self._judge, group, sums, known, now_us)
        await self._store(connection, AlertKind.LOW_PRODUCTION, changes, now_us, found)

    def _judge(self, group: Sequence[Subject], sums: Any, known: dict[int, Known], now_us: int) -> Changes:
        shares: dict[int, Shares] = {}
        low: dict[int, Low] = {}
        for one in group:
            before = known.get(one.device_key)
            if before is not None and before.closed_us is None and now_us - before.opened_us < OPEN_DAYS * DAY_US:
                low[one.device_key] = Low(before.opened_us, off=before.severity == ERROR)
            place = place_of(one.cell7, one.timezone)
            since = low[one.device_key].since_us if one.device_key in low else None
            if one.device_key in sums and (made := shares_of(sums[one.device_key], place, since)) is not None:
                shares[one.device_key] = made
        changes = Changes()
        placed = {one.device_key for one in group if one.cell7 is not None}
        tops = {device: made.tops if device in placed else {} for device, made in shares.items()}
        for device, made in shares.items():
            before = known.get(device)
            if device in low:
                if (end := find_end(made, low[device])) is not None:
                    changes.ends.append((device, end))
            elif before is not None and before.closed_us is None:
                changes.ends.append((device, now_us))  # for so long: it is usual by now
            else:
                begun = find_low(made, self._dark(device, tops))
                if begun is not None and begun.since_us >= (0 if before is None else before.closed_us or 0):
                    changes.begins.append((device, begun.since_us, None, ERROR if begun.off else WARNING))
        return changes

    def _dark(self, device: int, tops: dict[int, dict[int, float]]) -> frozenset[int]:
        """The days on which most of enough neighbours were far behind."""
        dark = set()
        for day in tops[device]:
            others = [of[day] for other, of in tops.items() if other != device and day in of]
            if len(others) >= self._k and median(others) < DARK:
                dark.add(day)
        return frozenset(dark)

    async def _store(self, connection: Any, kind: AlertKind, changes: Changes, now_us: int, found: Found) -> None:
        await book.store(connection, kind, changes, now_us)
        found.count(changes)


def _rhythms(rows: Sequence[Mapping[str, Any]], now_us: int) -> list[tuple[int, int, int | None]]:
    """Of each device: when it was heard last (µs), and its usual silence (s)."""
    found = []
    for device, of_device in book.by_device(rows).items():
        heard = [(row["start"], _length_us(row["resolution"])) for row in of_device]
        found.append((device, heard[-1][0], usual_silence_s(heard, now_us)))
    return found


def _length_us(rank: int) -> int:
    return (RESOLUTIONS[rank].minutes or 31 * _DAY_MINUTES) * 60 * _SECOND_US


def _chunks(devices: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(devices), _AT_ONCE):
        yield list(devices[start : start + _AT_ONCE])


def _neighbours(subjects: Sequence[Subject]) -> Iterator[list[Subject]]:
    """Subjects of one cell together, at most so many at once; those without a cell are neighbours of nobody."""
    groups: dict[int, list[Subject]] = defaultdict(list)
    for one in subjects:
        groups[0 if one.cell7 is None else h3.cell_to_parent(one.cell7, _NEIGHBOUR_CELL)].append(one)
    for group in groups.values():
        for start in range(0, len(group), _JUDGED_AT_ONCE):
            yield group[start : start + _JUDGED_AT_ONCE]
