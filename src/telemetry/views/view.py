"""What a recipient is shown: grants, names and data of one snapshot, recorded for the owner before it is returned.

Everything shown is a function of what is granted and of data that is granted: rows are ordered by tokens, times are
windows' edges, and nothing says how much there is that is not shown (rules 17 to 25).
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import polars as pl

from telemetry.model.fields import FIELD_NAMES, Field
from telemetry.model.series import GAP_MAX_US, SITE_GRID, UTC_GRID
from telemetry.model.sharing import RESOLUTIONS
from telemetry.privacy.combine import instant_us, not_shared
from telemetry.store.series import read_hot, read_series
from telemetry.store.sql import queries
from telemetry.views.aside import aside
from telemetry.views.judging import Subject
from telemetry.views.naming import Named, Names
from telemetry.views.pool import Pool
from telemetry.views.query import WHOLE, DayGrid, Part, Query, Way
from telemetry.views.resolve import Sought, guessed, resolved
from telemetry.views.sight import Place, Proposal, SeenDevice, Sight, Viewer, look, look_as_if, snapshot
from telemetry.views.windows import (
    SHOWN_SCHEMA,
    Asked,
    alignment,
    lacking,
    levels_of,
    longest_us,
    shown_readings,
    shown_windows,
    unkept,
)

_SQL: Final = queries("views")
_HOUR_US: Final = 3_600_000_000
_EVER: Final = 2**62
_FIELDS: Final = pl.Series(FIELD_NAMES, dtype=pl.String)
_PLACE_OF_FIELD: Final = np.argsort(np.argsort(np.array(FIELD_NAMES)))
_NEVER_US: Final = -(2**62)
_GRIDS: Final = pl.Series([{UTC_GRID: DayGrid.UTC, SITE_GRID: DayGrid.SITE}[grid].value for grid in range(2)])
_RANK_NAMES: Final = pl.Series([resolution.value for resolution in RESOLUTIONS])  # in the order of ranks


@dataclass(frozen=True, slots=True)
class View:
    """One answer.

    ``rows``: site, device, field, resolution, grid, start, end (of the window; of a raw reading its instant), value
    in catalogue units (a state's mean, a counter's increment, a status' or charge's last value), coverage (none,
    partial, full; null for raw), lowest, highest. ``devices``: naming.DEVICE_SCHEMA and last_seen, the end of the
    last window in ``rows``. ``shared``: device, field, resolution served at its finest. ``not_shared``: device,
    field.
    """

    rows: pl.DataFrame
    devices: pl.DataFrame
    shared: pl.DataFrame
    not_shared: pl.DataFrame

    @property
    def is_gone(self) -> bool:
        """Whether nothing at all is shared."""
        return self.devices.is_empty()


@dataclass(frozen=True, slots=True)
class Opened:
    """What one snapshot shows of settings, for one question; the snapshot is open."""

    connection: Any
    sight: Sight
    named: Named

    @property
    def now_us(self) -> int:
        """The instant that everything is as of."""
        return instant_us(self.sight.now)


class Views:
    """Answers queries. One event loop, any number of callers; each read has a connection of its own.

    ``pool``: of the role ``telemetry_views``. ``hot_hours``: how long readings stay whole (rule 7). ``clock``: for
    tests, in place of the database's.
    """

    def __init__(
        self, pool: Pool, names: Names, *, hot_hours: int = 2, clock: Callable[[], datetime] | None = None
    ) -> None:
        self._pool = pool
        self._hot_us = (hot_hours + 1) * _HOUR_US
        self._names = names
        self._clock = clock

    def now(self) -> datetime:
        """About the instant that the next answer is as of: where a question's range follows the clock."""
        return self._clock() if self._clock else datetime.now(UTC)

    async def view(self, recipient_key: int, query: Query, *, way: Way = Way.VIEW) -> View:
        """What is shown to a recipient.

        Raises:
            NotVisible: a site or device asked for does not exist or is not shared.
            StoreUnavailable: try again.

        """
        return (await self.read(Viewer(recipient_key, query.purpose), query, way=way))[0]

    async def own(self, owner_key: int, query: Query) -> View:
        """What the owner is shown: everything of the own tenure at the kept resolution (rule 25)."""
        return (await self.read(Viewer(owner_key=owner_key), query))[0]

    @contextlib.asynccontextmanager
    async def seeing(self, viewer: Viewer) -> AsyncIterator[tuple[Any, Sight, Named]]:
        """One snapshot, and what is seen in it with its names: for what is shown beside windows."""
        keyed = await self._names.keyed(viewer.recipient_key)
        async with self._pool.connection() as connection, snapshot(connection, viewer) as database_now:
            now = self._clock() if self._clock else database_now
            sight = await look(connection, viewer, now)
            yield connection, sight, await self._names.of(sight, keyed)

    async def read(
        self, viewer: Viewer, query: Query, *, way: Way = Way.VIEW, part: Part = WHOLE
    ) -> tuple[View, Named]:
        """One part of an answer from one snapshot, and the devices it is about."""
        async with self.opened(viewer, query, part, way) as seen:
            view = await self._answered(seen, query, part)
        return view, seen.named

    async def as_if(self, proposal: Proposal, query: Query) -> View:
        """What a recipient would see by grants that need not be made. It is the owner who looks: nothing is recorded.

        Raises as ``view``.
        """
        keyed = await self._names.keyed(proposal.recipient_key)
        own = Viewer(owner_key=proposal.owner_key)
        async with self._pool.connection() as connection, snapshot(connection, own) as database_now:
            now = self._clock() if self._clock else database_now
            sight = await look_as_if(connection, proposal, now)
            named = (await self._names.of(sight, keyed)).asked(query)
            return await self._answered(Opened(connection, sight, named), query, WHOLE)

    async def _answered(self, seen: Opened, query: Query, part: Part) -> View:
        ask = Asked(query.resolution, query.range_us, part.slice_us or query.range_us, seen.now_us)
        subjects = subjects_of(seen, query)
        frames = [pl.DataFrame(schema=dict(SHOWN_SCHEMA))]
        if subjects:
            frames += await self.windows(seen, subjects, ask)
        return await self.made(seen, query, subjects, pl.concat(frames))

    @contextlib.asynccontextmanager
    async def opened(self, viewer: Viewer, query: Query, part: Part, way: Way) -> AsyncIterator[Opened]:
        """One snapshot with the devices of ``part`` looked up and named; the read is recorded when the block ends.

        Raises:
            NotVisible: a site or device asked for does not exist or is not shared.
            StoreUnavailable: try again.

        """
        keyed = await self._names.keyed(viewer.recipient_key)
        narrowed = guessed(keyed, viewer, query)
        async with self._pool.connection() as connection, snapshot(connection, narrowed) as database_now:
            now = self._clock() if self._clock else database_now
            sought = Sought(viewer, narrowed, query, part)
            sight, named = await resolved(connection, self._names, keyed, sought, now)
            yield Opened(connection, sight, named)
            await _record(connection, viewer, named, query, way)

    async def windows(self, seen: Opened, subjects: Sequence[Subject], ask: Asked) -> list[pl.DataFrame]:
        """Windows and raw readings that are shown, SHOWN_SCHEMA."""
        return await _read_windows(seen.connection, subjects, ask, self._hot_us)

    async def made(self, seen: Opened, query: Query, subjects: Sequence[Subject], shown: pl.DataFrame) -> View:
        """The answer of what is shown (SHOWN_SCHEMA), with names."""
        devices = await self._names.frame(seen.named, seen.sight.places)
        return await aside(shown.height, _view, devices, shown, subjects, seen.named, query)


def _fields(query: Query) -> list[str]:
    return [name for name in FIELD_NAMES if query.fields is None or name in query.fields]


def subjects_of(seen: Opened, query: Query) -> list[Subject]:
    """The devices of an answer as windows see them, in the order of names."""
    fields = frozenset(_fields(query))
    return [_subject(device, seen.sight.places, query, fields) for device in seen.named.devices]


def _subject(device: SeenDevice, places: Mapping[int, Place], query: Query, fields: frozenset[str]) -> Subject:
    zone = places[device.site_key].timezone if device.site_key in places else "UTC"
    grid = {None: None, DayGrid.UTC: UTC_GRID, DayGrid.SITE: SITE_GRID}[query.grid]
    tenure = device.tenure
    served = levels_of(
        device.view, fields, query.resolution, grid=grid, day_grid=device.day_grid, align_min=alignment(zone)
    )
    return Subject(
        device.device_key,
        zone,
        -_EVER if tenure.from_us is None else tenure.from_us,
        _EVER if tenure.until_us is None else tenure.until_us,
        served,
    )


async def _read_windows(connection: Any, subjects: Sequence[Subject], ask: Asked, hot_us: int) -> list[pl.DataFrame]:
    served = [subject for subject in subjects if subject.levels]
    if not served:
        return []
    devices = [subject.device_key for subject in served]
    names = sorted({name for subject in served for name in subject.levels})
    since = max(ask.range_us[0], ask.slice_us[0])
    until = min(ask.range_us[1], ask.now_us, ask.slice_us[1] + longest_us(served))
    series = await read_series(
        connection, devices=devices, fields=names, from_us=since, to_us=until, effective_us=ask.now_us
    )
    fresh_from = max(since, ask.now_us - hot_us)
    missing = lacking(served, series, fresh_from) if until > fresh_from else {}
    if missing:
        missing = unkept(served, missing, await _kept(connection, list(missing), fresh_from))
    readings = pl.DataFrame(schema={"ts": pl.Int64, "device_key": pl.Int64})
    if missing:
        wanted = [name for name in FIELD_NAMES if any(name in some for some in missing.values())]
        readings = await read_hot(connection, list(missing), wanted, fresh_from - GAP_MAX_US, until + GAP_MAX_US)
    return [
        await aside(series.height + readings.height, shown_windows, served, ask, series, readings),
        await aside(readings.height, shown_readings, served, ask, readings),
    ]


async def _kept(connection: Any, devices: Sequence[int], since_us: int) -> dict[int, bytes]:
    """Device → kept rank by field, of those that the rollup has been at since then under the plan they have now."""
    rows = await connection.fetch(_SQL["kept"], devices, since_us)
    return {row["device_key"]: row["kept_resolution"] for row in rows}


def _view(devices: pl.DataFrame, shown: pl.DataFrame, subjects: Sequence[Subject], named: Named, query: Query) -> View:
    rows, last_us = _named_rows(shown, named, query.timezone)
    seen = devices.hstack([_instants(pl.Series("last_seen", last_us, dtype=pl.Int64), query.timezone)])
    return View(rows, seen, _shared(subjects, named), _withheld(named, _fields(query)))


def _named_rows(shown: pl.DataFrame, named: Named, timezone: str) -> tuple[pl.DataFrame, list[int | None]]:
    """Rows by site, device, field (all by name), start and resolution; and the last end of each device's."""
    keys = np.array([device.device_key for device in named.devices], dtype=np.int64)
    names = [(named.sites[device.site_key], name) for device, name in zip(named.devices, named.names, strict=True)]
    by_name = np.argsort(np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64))
    by_key = np.argsort(keys)
    of = by_key[np.searchsorted(keys[by_key], shown["device_key"].to_numpy())]
    field, start = shown["field"].to_numpy(), shown["start"].to_numpy()
    order = np.lexsort((shown["resolution"].to_numpy(), start, _PLACE_OF_FIELD[field], by_name[of]))
    last = np.full(len(names), _NEVER_US, dtype=np.int64)
    np.maximum.at(last, of, shown["end"].to_numpy())
    rows = shown[order]
    columns = {
        "site": pl.Series([site for site, _ in names], dtype=pl.String).gather(of[order]),
        "device": pl.Series([device for _, device in names], dtype=pl.String).gather(of[order]),
        "field": _FIELDS.gather(rows["field"]),
        "resolution": _RANK_NAMES.gather(rows["resolution"]),
        "grid": _GRIDS.gather(rows["grid"]),
        "start": _instants(rows["start"], timezone),
        "end": _instants(rows["end"], timezone),
    } | {name: rows[name] for name in ("value", "coverage", "lowest", "highest")}
    return pl.DataFrame(columns), [None if end == _NEVER_US else end for end in last.tolist()]


def _instants(us: pl.Series, timezone: str) -> pl.Series:
    return us.cast(pl.Datetime("us", timezone))


def _shared(subjects: Sequence[Subject], named: Named) -> pl.DataFrame:
    devices: list[str] = []
    fields: list[str] = []
    finest: list[int] = []
    for subject, name in zip(subjects, named.names, strict=True):
        devices += [name] * len(subject.levels)
        fields += subject.levels
        finest += [served[0].rank for served in subject.levels.values()]
    texts = pl.Series(devices, dtype=pl.String), pl.Series(fields, dtype=pl.String)
    resolutions = _RANK_NAMES.gather(pl.Series(finest, dtype=pl.UInt8))
    return pl.DataFrame({"device": texts[0], "field": texts[1], "resolution": resolutions})


def _withheld(named: Named, fields: Sequence[str]) -> pl.DataFrame:
    wanted = set(fields)
    known: dict[int, tuple[tuple[Field, ...], list[str]]] = {}  # by identity: those alike are mostly one object
    devices: list[str] = []
    missing: list[str] = []
    for device, name in zip(named.devices, named.names, strict=True):
        found = not_shared(device.kind, device.view)
        if id(found) not in known:
            known[id(found)] = found, [field.name for field in found if field.name in wanted]
        some = known[id(found)][1]
        devices += [name] * len(some)
        missing += some
    return pl.DataFrame({"device": devices, "field": missing}, schema={"device": pl.String, "field": pl.String})


async def _record(connection: Any, viewer: Viewer, named: Named, query: Query, way: Way) -> None:
    """Who looked at what, for each owner concerned; an owner's own look is not recorded."""
    if viewer.recipient_key is None or viewer.purpose is None:
        return
    fields: dict[int, set[str]] = {}
    for device in named.devices:
        names = fields.setdefault(device.owner_key, set())
        names |= {name for name in device.view.fields if query.fields is None or name in query.fields}
    by_fields: dict[tuple[str, ...], list[int]] = {}
    for owner, names in sorted(fields.items()):
        by_fields.setdefault(tuple(sorted(names)), []).append(owner)
    for together, owners in by_fields.items():
        await connection.execute(
            _SQL["record"],
            viewer.recipient_key,
            owners,
            viewer.purpose.value,
            way.value,
            list(together),
            query.resolution.rank,
            query.since,
            query.until,
        )
