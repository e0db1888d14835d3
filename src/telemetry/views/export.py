"""A long answer in chunks of bounded size. Each is a snapshot of its own: what was withdrawn meanwhile is not in it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from telemetry.errors import NoLongerAvailable, NotVisible
from telemetry.model.fields import FIELD_NAMES
from telemetry.model.sharing import Resolution
from telemetry.views.query import Part, Query, Way
from telemetry.views.sight import Viewer
from telemetry.views.view import View, Views

DEFAULT_ROWS: Final = 100_000
_DEVICES: Final = 200
_STRETCHED: Final = 16  # where little is reported, slices grow: what is read at once stays bounded
_US: Final = 1_000_000
_SECONDS: Final = {
    Resolution.RAW: 1,  # as fast as a device is taken to report
    Resolution.PT1M: 60,
    Resolution.PT15M: 900,
    Resolution.PT30M: 1800,
    Resolution.PT1H: 3600,
    Resolution.P1D: 82_800,
    Resolution.P1M: 28 * 86_400,
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of the answer. ``number``: from 0 on. ``view.devices``: those that the part is about."""

    number: int
    view: View


async def export(views: Views, who: int | Viewer, query: Query, *, rows: int = DEFAULT_ROWS) -> AsyncIterator[Chunk]:
    """All of an answer, to a recipient (by key) or any viewer: by devices in the order of names, for these by time.

    A chunk has ``rows`` rows at most.

    Parts without rows are left out, but for the first of some devices. Memory is that of one chunk. One export is
    one task; each chunk is recorded as a read.

    Raises:
        NotVisible: a site or device asked for does not exist or is not shared at the beginning.
        NoLongerAvailable: nothing (of what was asked for) is shared, from the beginning or any more.

    """
    viewer, number = Viewer(who, query.purpose) if isinstance(who, int) else who, 0
    after: tuple[str, str] | None = None
    while True:
        through: tuple[str, str] | None = None
        async for view in _devices(views, viewer, query, _Cursor(after, rows), began=number > 0):
            through = through or view.devices.select("site", "device").row(-1)
            yield Chunk(number, view)
            number += 1
        if through is None and number == 0:
            raise NoLongerAvailable
        if through is None:
            return
        after = through


@dataclass(frozen=True, slots=True)
class _Cursor:
    after: tuple[str, str] | None
    rows: int


async def _devices(views: Views, viewer: Viewer, query: Query, cursor: _Cursor, *, began: bool) -> AsyncIterator[View]:
    """The next devices: slice by slice of time."""
    at_most, slice_us = _sizes(query, cursor.rows)
    longest_us = _STRETCHED * slice_us
    start, until = query.range_us
    through: tuple[str, str] | None = None
    while start < until:
        part = Part(cursor.after, through, at_most, (start, min(start + slice_us, until)))
        view = await _read(views, viewer, query, part, began=began or through is not None)
        if view.rows.height > cursor.rows and slice_us > _US:
            slice_us //= 2
            continue
        if through is None:
            if view.devices.is_empty():
                return
            through = view.devices.select("site", "device").row(-1)
            yield view
        elif not view.rows.is_empty():
            yield view
        start += slice_us
        if 4 * view.rows.height < cursor.rows:
            slice_us = min(2 * slice_us, longest_us)  # most fields are not reported, or nothing was then


async def _read(views: Views, viewer: Viewer, query: Query, part: Part, *, began: bool) -> View:
    try:
        view, _ = await views.read(viewer, query, way=Way.EXPORT, part=part)
    except NotVisible:
        if began:
            raise NoLongerAvailable from None
        raise
    if view.is_gone and began:
        await _check(views, viewer, query)
    return view


async def _check(views: Views, viewer: Viewer, query: Query) -> None:
    """Whether anything is still shared, where these devices are not: they were the last, or have been withdrawn."""
    try:
        view, _ = await views.read(viewer, query, way=Way.EXPORT, part=Part(at_most=1, slice_us=(0, 0)))
    except NotVisible:
        raise NoLongerAvailable from None
    if view.is_gone:
        raise NoLongerAvailable


def _sizes(query: Query, rows: int) -> tuple[int, int]:
    """How many devices, and how long a slice of time, make ``rows`` rows at most, if fields are reported whole."""
    fields = len(FIELD_NAMES if query.fields is None else query.fields)
    length_s = _SECONDS[query.resolution]
    # Twice: coarser windows fill in where finer ones are not granted.
    windows = max(1, rows // (2 * fields))
    wanted = -(-(query.range_us[1] - query.range_us[0]) // (length_s * _US))
    return max(1, min(_DEVICES, windows // max(1, wanted))), max(_US, windows * length_s * _US)
