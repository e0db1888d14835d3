"""The last of each field: the last window shown, or the last reading where readings are shown as they are.

Devices that report are answered from what happened last. What was silent since then is looked for further back, where
the series says that there is something.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import polars as pl

from telemetry.model.fields import FIELD_INDEX
from telemetry.model.sharing import RESOLUTIONS, Resolution
from telemetry.privacy.combine import Level
from telemetry.store.sql import queries
from telemetry.views.judging import Subject
from telemetry.views.query import WHOLE, Part, Query, Way
from telemetry.views.sight import Viewer
from telemetry.views.view import Opened, View, Views, subjects_of
from telemetry.views.windows import SHOWN_SCHEMA, Asked, longest_us

_SQL: Final = queries("views")
_MINUTE_US: Final = 60_000_000
_DAY_US: Final = 1440 * _MINUTE_US
# How long ago what is reported all the time began, at most; readings: for as long as any are whole.
_RECENT_US: Final[Mapping[Resolution, tuple[int, ...]]] = {
    Resolution.RAW: (5 * _MINUTE_US, 49 * 60 * _MINUTE_US),
    Resolution.PT1M: (30 * _MINUTE_US,),
    Resolution.PT15M: (60 * _MINUTE_US,),
    Resolution.PT30M: (120 * _MINUTE_US,),
    Resolution.PT1H: (180 * _MINUTE_US,),
    Resolution.P1D: (3 * _DAY_US,),
    Resolution.P1M: (65 * _DAY_US,),
}
_TRIES: Final = 8  # of going further back, each to where the series has something, and twice as far as the last

Key = tuple[int, ...]
"""(device,) or (device, index of the field)."""


async def latest(views: Views, viewer: Viewer, query: Query, *, part: Part = WHOLE, way: Way = Way.VIEW) -> View:
    """Of each device and field the row of a view of ``query`` that starts last; a field without one has none.

    Raises:
        NotVisible: a site or device asked for does not exist or is not shared.
        StoreUnavailable: try again.

    """
    async with views.opened(viewer, query, part, way) as seen:
        subjects = subjects_of(seen, query)
        rows = await last_windows(views, seen, subjects, query)
        return await views.made(seen, query, subjects, rows)


async def last_windows(
    views: Views, seen: Opened, subjects: Sequence[Subject], query: Query, *, of_devices: bool = False
) -> pl.DataFrame:
    """SHOWN_SCHEMA: of each device and field the row that starts last; ``of_devices``: of each device one alone."""
    search = _Search(views, seen, query, of_devices=of_devices)
    groups: dict[Resolution, list[Subject]] = {}
    for subject in subjects:
        if subject.levels:
            finest = max(some[0].rank for some in subject.levels.values())
            groups.setdefault(RESOLUTIONS[finest], []).append(subject)
    for resolution, group in groups.items():
        left: list[Subject] = group
        for ago in _RECENT_US[resolution]:
            left = await search.at(left, seen.now_us - ago, query.range_us[1])
        if left:
            await search.back(left, seen.now_us - _RECENT_US[resolution][-1] + longest_us(left))
    return search.rows()


class _Search:
    """What has been found so far, for one question."""

    def __init__(self, views: Views, seen: Opened, query: Query, *, of_devices: bool) -> None:
        self._views, self._seen, self._query, self._of_devices = views, seen, query, of_devices
        self._key = ["device_key"] if of_devices else ["device_key", "field"]
        self._found = [pl.DataFrame(schema=dict(SHOWN_SCHEMA))]

    def rows(self) -> pl.DataFrame:
        """The last row of each key."""
        return pl.concat(self._found).sort("start", "end").unique(self._key, keep="last")

    async def at(self, subjects: Sequence[Subject], since_us: int, until_us: int) -> list[Subject]:
        """Look at windows that start in a span; what is left to be found."""
        since = max(since_us, self._query.range_us[0])
        if not subjects or since >= until_us:
            return list(subjects)
        asked = Asked(self._query.resolution, self._query.range_us, (since, until_us), self._seen.now_us)
        some = pl.concat(await self._views.windows(self._seen, subjects, asked) or self._found[:1])
        self._found.append(some.sort("start", "end").unique(self._key, keep="last"))
        return self._without(subjects, set(some.select(self._key).unique().iter_rows()))

    def _without(self, subjects: Sequence[Subject], found: set[Key]) -> list[Subject]:
        if self._of_devices:
            return [subject for subject in subjects if (subject.device_key,) not in found]
        left = []
        for subject in subjects:
            levels = {
                n: some for n, some in subject.levels.items() if (subject.device_key, FIELD_INDEX[n]) not in found
            }
            if levels:
                left.append(replace(subject, levels=levels))
        return left

    async def back(self, subjects: Sequence[Subject], before_us: int) -> None:
        """Go back to where the series has something of these, until it is shown or there is no more."""
        before_us, bounds = min(before_us, self._query.range_us[1]), dict[Key, int]()
        left = list(subjects)
        for number in range(_TRIES):
            following: list[Subject] = []
            starts = await self._newest(left, bounds, before_us)
            for start, group in self._by_start(left, starts).items():
                # All windows with a part from here on begin in what is looked at.
                longest = longest_us(group)
                bound = start - (longest << number)
                following += await self.at(group, bound - longest, start + 1)
                bounds |= {key: bound for subject in group for key in self._keys(subject)}
            left = following
            if not left:
                return

    def _keys(self, subject: Subject) -> list[Key]:
        device = subject.device_key
        return [(device,)] if self._of_devices else [(device, FIELD_INDEX[name]) for name in subject.levels]

    async def _newest(self, subjects: Sequence[Subject], bounds: Mapping[Key, int], before_us: int) -> dict[Key, int]:
        """Where the newest window kept of each that is looked for starts, before its bound."""
        span = self._query.range_us[0], self._seen.now_us
        found: dict[Key, int] = {}
        for names, group in _alike(subjects).items():
            fields = [FIELD_INDEX[name] for name in names]
            keys = [key for subject in group for key in self._keys(subject)]
            before = [bounds.get(key, before_us) for key in keys]
            text, more = (_SQL["newest"], fields) if self._of_devices else (_SQL["newest_field"], [k[1] for k in keys])
            rows = await self._seen.connection.fetch(text, [key[0] for key in keys], before, more, *span)
            found |= {key: row["start"] for key, row in zip(keys, rows, strict=True) if row["start"] is not None}
        return found

    def _by_start(self, subjects: Sequence[Subject], starts: Mapping[Key, int]) -> dict[int, list[Subject]]:
        """Those that something was found of, with the fields it was found of."""
        groups: dict[int, list[Subject]] = {}
        for subject in subjects:
            fields: dict[int, dict[str, tuple[Level, ...]]] = {}
            for name, levels in subject.levels.items():
                key = (subject.device_key,) if self._of_devices else (subject.device_key, FIELD_INDEX[name])
                if key in starts:
                    fields.setdefault(starts[key], {})[name] = levels
            for start, some in fields.items():
                groups.setdefault(start, []).append(replace(subject, levels=some))
        return groups


def _alike(subjects: Iterable[Subject]) -> dict[tuple[str, ...], list[Subject]]:
    """By the fields that are looked for."""
    groups: dict[tuple[str, ...], list[Subject]] = {}
    for subject in subjects:
        groups.setdefault(tuple(subject.levels), []).append(subject)
    return groups
