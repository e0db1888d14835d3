"""What is new or corrected since an earlier answer: by the versions of windows that took effect in between.

A version takes effect at a boundary of its window's grid (rule 17), so nothing here tells when a late row arrived. The
position of an answer says how far the rollup had come and which settings were seen; what is committed after it takes
effect after it (docs/decisions/0066-changes-since.md).
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import polars as pl

from telemetry.errors import InputError
from telemetry.model.fields import FIELD_INDEX
from telemetry.model.sharing import RESOLUTIONS, Resolution
from telemetry.privacy.combine import newest_visible_us
from telemetry.privacy.resolution import last_boundary, window_ends, window_starts
from telemetry.store.copying import POSTGRES_EPOCH_US, copied
from telemetry.store.sql import queries
from telemetry.views.judging import Subject
from telemetry.views.query import WHOLE, Part, Query, Way
from telemetry.views.sight import Viewer
from telemetry.views.view import Opened, View, Views, subjects_of
from telemetry.views.windows import SHOWN_SCHEMA, Asked, groups_of, longest_us, valued, visible

POSITION_BYTES: Final = 256

_SQL: Final = queries("views")
_FORM: Final = struct.Struct(">BqqH")
_VERSION: Final = 1
_KEY: Final = ["device_key", "field", "resolution", "grid", "start"]
_COLUMNS: Final = (
    *((name, ">i8") for name in ("device_key", "window_start", "effective_at", "covered_ms")),
    *((name, ">i2") for name in ("resolution", "grid", "field")),
)
_DAY_US: Final = 86_400_000_000
_ALL_RANKS: Final = frozenset(range(1, len(RESOLUTIONS)))


Where = tuple[int, int, str]
"""Rank, grid and zone that windows are served on."""


@dataclass(frozen=True, slots=True)
class Changes:
    """One answer.

    ``view``: rows that are new or corrected; one with coverage none and no value says that this window is no more. A
    row takes the place of an earlier one of the same (device, field, resolution, grid, start). ``view.devices``: all
    that are seen; what a reader has of others is to be dropped. ``renewed``: devices of which all rows of the range
    are there, because this is the first answer or settings changed; what a reader had of them is to be dropped before.
    ``position``: of this answer, for the next one. It always has POSITION_BYTES bytes, and is to be sealed before it
    leaves: it counts transactions of the whole service.
    """

    view: View
    renewed: frozenset[str]
    position: bytes


@dataclass(frozen=True, slots=True)
class _Position:
    now_us: int
    done_us: int
    seen: str

    def packed(self) -> bytes:
        seen = self.seen.encode("ascii")
        if len(seen) > POSITION_BYTES - _FORM.size:
            # Too many were under way: all from the oldest on count as unseen, and settings may be told twice.
            oldest = self.seen.partition(":")[0]
            seen = f"{oldest}:{oldest}:".encode("ascii")
        return (_FORM.pack(_VERSION, self.now_us, self.done_us, len(seen)) + seen).ljust(POSITION_BYTES, b"\0")

    @classmethod
    def of(cls, packed: bytes) -> Self:
        if len(packed) != POSITION_BYTES or packed[0] != _VERSION:
            raise InputError("this is not a position", remedy="begin without one")
        _, now_us, done_us, length = _FORM.unpack_from(packed)
        return cls(now_us, done_us, packed[_FORM.size : _FORM.size + length].decode("ascii"))


async def changes(
    views: Views, viewer: Viewer, query: Query, position: bytes | None, *, part: Part = WHOLE, way: Way = Way.VIEW
) -> Changes:
    """What ``query`` shows that it did not at ``position``; everything without one.

    Fields, sites, devices, resolution, grid and part must be those that the position came of. Some rows may be told
    again that did not change. Readings as they are, and windows finer than any are kept, are told while they are fresh.

    Raises:
        InputError: this is not a position.
        NotVisible: a site or device asked for does not exist or is not shared.
        StoreUnavailable: try again.

    """
    before = None if position is None else _Position.of(position)
    async with views.opened(viewer, query, part, way) as seen:
        row = await seen.connection.fetchrow(_SQL["position"])
        here = _Position(seen.now_us, row["done_us"] or 0, row["seen"])
        subjects = subjects_of(seen, query)
        renewed = await _renewed(seen, before)
        whole = [subject for subject in subjects if subject.device_key in renewed]
        asked = Asked(query.resolution, query.range_us, query.range_us, seen.now_us)
        frames = [pl.DataFrame(schema=dict(SHOWN_SCHEMA)), *(await views.windows(seen, whole, asked) if whole else ())]
        if before is not None:
            others = [subject for subject in subjects if subject.device_key not in renewed and subject.levels]
            frames += await _Since(views, seen, query, before).frames(others)
        rows = pl.concat(frames).unique(_KEY, keep="last")
        view = await views.made(seen, query, subjects, rows)
    names = zip(seen.named.devices, seen.named.names, strict=True)
    return Changes(view, frozenset(name for device, name in names if device.device_key in renewed), here.packed())


async def _renewed(seen: Opened, before: _Position | None) -> set[int]:
    """Keys of the devices whose owners' settings count otherwise than before."""
    if before is None or seen.sight.viewer.recipient_key is None:
        return {device.device_key for device in seen.named.devices} if before is None else set()
    rows = await seen.connection.fetch(_SQL["renewed"], before.now_us, before.seen)
    owners = {row["owner_key"] for row in rows}
    return {device.device_key for device in seen.named.devices if device.owner_key in owners}


class _Since:
    """What took effect since a position, of devices whose settings are as they were."""

    def __init__(self, views: Views, seen: Opened, query: Query, before: _Position) -> None:
        self._views, self._seen, self._query, self._before = views, seen, query, before

    async def frames(self, subjects: Sequence[Subject]) -> list[pl.DataFrame]:
        """SHOWN_SCHEMA, one frame a resolution and grid or more."""
        groups = groups_of(subjects, _ALL_RANKS)
        spans = {where: self._span(*where) for where in groups}
        put_together = {where for where, group in groups.items() if _is_put_together(group, where)}
        finer = [rank for rank in sorted(_ALL_RANKS) if rank <= max((where[0] for where in put_together), default=0)]
        as_kept = sorted({where[0] for where in groups.keys() - put_together})
        fine = await self._versions(subjects, finer, [spans[where] for where in put_together])
        kept = await self._versions(subjects, as_kept, [spans[where] for where in groups.keys() - put_together])
        done: list[pl.DataFrame] = []
        for where, group in groups.items():
            versions = (fine if where in put_together else kept).filter(
                pl.col("effective_at") > spans[where][0], pl.col("effective_at") <= spans[where][1]
            )
            touched = self._touched(group, where, versions)
            if touched.height:
                done += await self._told(group, touched)
        return done + await self._fresh(subjects)

    def _span(self, rank: int, grid: int, zone: str) -> tuple[int, int]:
        """Versions that took effect in it may not have been seen, and are in effect now."""
        instants = self._before.now_us, self._seen.now_us
        was, now = (last_boundary(newest_visible_us(us), RESOLUTIONS[rank], grid, zone) for us in instants)
        return min(was, self._before.done_us), now

    def _touched(self, group: Sequence[Subject], where: Where, versions: pl.DataFrame) -> pl.DataFrame:
        """Windows served at one resolution that a version took effect in, or that are served so from now on.

        device_key, field, start, end, resolution, grid, kept (a version of the window itself), emptied.
        """
        rank, grid, zone = where
        resolution, key = RESOLUTIONS[rank], ["device_key", "field", "start"]
        mine = pl.col("device_key").is_in([subject.device_key for subject in group])
        below = pl.col("resolution") < min(rank, Resolution.P1D.rank)
        days = (pl.col("resolution") <= rank) & (pl.col("grid") == grid)
        parts = versions.filter(mine & (below | days))
        starts = window_starts(parts["window_start"].to_numpy(), resolution, grid, zone)
        own = (pl.col("resolution") == rank) & (pl.col("grid") == grid)
        windows = parts.select(
            "device_key",
            "field",
            start=pl.Series(starts, dtype=pl.Int64),
            kept=own,
            emptied=pl.col("covered_ms") == 0,
        )
        windows = pl.concat([windows, *_uncovered(group, where, self._before.now_us, self._seen.now_us)])
        windows = windows.group_by(key).agg(pl.col("kept", "emptied").any())
        ends = window_ends(windows["start"].to_numpy(), resolution, grid, zone)
        since, until = self._query.range_us
        return windows.with_columns(
            end=pl.Series(ends, dtype=pl.Int64), resolution=pl.lit(rank, pl.UInt8), grid=pl.lit(grid, pl.UInt8)
        ).filter(pl.col("start") >= since, pl.col("end") <= until)

    async def _versions(
        self, subjects: Sequence[Subject], ranks: Sequence[int], spans: Sequence[tuple[int, int]]
    ) -> pl.DataFrame:
        """device_key, window_start, effective_at, covered_ms, resolution, grid, field of what took effect in a span."""
        names = sorted({name for subject in subjects for name in subject.levels})
        spans = [(low, high) for low, high in spans if low < high]
        columns: Any = {name: [] for name, _ in _COLUMNS}
        if spans and ranks:
            span = min(low for low, _ in spans), max(high for _, high in spans)
            devices = [subject.device_key for subject in subjects]
            fields = [FIELD_INDEX[name] for name in names]
            arguments = (devices, fields, ranks, *span, *self._query.range_us)
            columns = await copied(self._seen.connection, _SQL["versions"], arguments, _COLUMNS)
        schema = {name: pl.Int64 if form == ">i8" else pl.Int16 for name, form in _COLUMNS}
        frame = pl.DataFrame({name: columns[name] for name in schema}, schema=schema)
        shifted = [pl.col(name) + POSTGRES_EPOCH_US for name in ("window_start", "effective_at")]
        return frame.with_columns(*shifted, pl.col("field").cast(pl.UInt8))

    async def _told(self, group: Sequence[Subject], touched: pl.DataFrame) -> list[pl.DataFrame]:
        """These windows as they are shown now, and those that are no more."""
        done = []
        for (first, last), devices in _spans(touched).items():
            some = [subject for subject in group if subject.device_key in devices]
            asked = Asked(self._query.resolution, self._query.range_us, (first, last), self._seen.now_us)
            done += await self._views.windows(self._seen, some, asked)
        shown = pl.concat([pl.DataFrame(schema=dict(SHOWN_SCHEMA)), *done]).join(touched, on=_KEY, how="semi")
        empty = touched.filter("emptied").join(shown, on=_KEY, how="anti")
        return [shown, self._gone(group, empty)]

    def _gone(self, group: Sequence[Subject], empty: pl.DataFrame) -> pl.DataFrame:
        """Windows that would be shown if they held anything."""
        if empty.is_empty():
            return pl.DataFrame(schema=dict(SHOWN_SCHEMA))
        nothing = [pl.lit(0, pl.Int64).alias(name) for name in ("amount", "covered_ms", "lowest", "highest")]
        windows = empty.rename({"start": "window_start", "end": "window_end"}).with_columns(*nothing)
        rows = valued(visible(windows, group, (empty["resolution"][0], empty["grid"][0]), self._seen.now_us))
        return rows.with_columns(pl.lit(None, pl.Float64).alias(name) for name in ("value", "lowest", "highest"))

    async def _fresh(self, subjects: Sequence[Subject]) -> list[pl.DataFrame]:
        """What is worked out from readings that are whole: what ended since, and a lateness before."""
        fine = [s for s in subjects if any(some[0].rank < Resolution.PT15M.rank for some in s.levels.values())]
        if not fine:
            return []
        since = newest_visible_us(self._before.now_us) - 60_000_000
        asked = Asked(self._query.resolution, self._query.range_us, (since, self._query.range_us[1]), self._seen.now_us)
        return list(await self._views.windows(self._seen, fine, asked))


def _is_put_together(group: Sequence[Subject], where: Where) -> bool:
    """Whether windows of any of them are made of finer ones, and not only shown where they are kept so."""
    return any(
        (level.rank, level.grid) == where[:2] and level.finer != level.allowed
        for subject in group
        for some in subject.levels.values()
        for level in some
    )


def _spans(touched: pl.DataFrame) -> dict[tuple[int, int], set[int]]:
    """Spans of time to be read, and of which devices: by days, neighbours of the same devices joined."""
    days = (
        touched.with_columns(_day=pl.col("start") // _DAY_US)
        .group_by("_day")
        .agg(
            pl.col("start").min().alias("first"),
            (pl.col("start").max() + 1).alias("last"),
            pl.col("device_key").unique(),
        )
    )
    found: dict[tuple[int, int], set[int]] = {}
    previous: tuple[int, int] | None = None
    for day, first, last, devices in days.sort("_day").select("_day", "first", "last", "device_key").iter_rows():
        span, mine = (first, last), set(devices)
        if previous is not None and found[previous] == mine and day - previous[1] // _DAY_US <= 1:
            del found[previous]
            span = previous[0], last
        found[span] = mine
        previous = span
    return found


def _uncovered(group: Iterable[Subject], where: Where, was_us: int, now_us: int) -> list[pl.DataFrame]:
    """Windows that finer ones may have stood for until now, where a finer grant's history has moved on since.

    Which edges move is not known here: each edge is taken to have moved.
    """
    rows = []
    for subject in group:
        longest = longest_us([subject])
        for name, levels in subject.levels.items():
            for level in levels:
                if (level.rank, level.grid) != where[:2] or not level.finer or level.finer == level.allowed:
                    continue
                for start, _ in level.finer:
                    starts = _starts(start - (now_us - was_us) - longest, start + longest, where)
                    rows += [(subject.device_key, FIELD_INDEX[name], each, False, False) for each in starts]
    if not rows:
        return []
    schema = {"device_key": pl.Int64, "field": pl.UInt8, "start": pl.Int64, "kept": pl.Boolean, "emptied": pl.Boolean}
    return [pl.DataFrame(rows, schema=schema, orient="row")]


def _starts(since_us: int, until_us: int, where: Where) -> list[int]:
    rank, grid, zone = where
    found, at = [], window_starts(since_us, RESOLUTIONS[rank], grid, zone)
    while at < until_us:
        found.append(at)
        at = window_ends(at, RESOLUTIONS[rank], grid, zone)
    return found
