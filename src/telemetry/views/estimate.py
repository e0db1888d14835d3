"""How many rows an answer can have at most, from settings alone: before anything is read."""

from typing import Final

from telemetry.model.sharing import RESOLUTIONS, Resolution
from telemetry.views.judging import Subject
from telemetry.views.query import WHOLE, Part, Query, Way
from telemetry.views.sight import Viewer
from telemetry.views.view import Views, subjects_of

_US: Final = 1_000_000
# The shortest that a row of each resolution can be apart; a device is taken to report raw every five seconds.
APART_US: Final = {
    Resolution.RAW: 5 * _US,
    Resolution.PT1M: 60 * _US,
    Resolution.PT15M: 900 * _US,
    Resolution.PT30M: 1800 * _US,
    Resolution.PT1H: 3600 * _US,
    Resolution.P1D: 82_800 * _US,
    Resolution.P1M: 28 * 86_400 * _US,
}


async def estimate(views: Views, viewer: Viewer, query: Query, *, part: Part = WHOLE, way: Way = Way.VIEW) -> int:
    """An upper bound of the rows of a view: granted fields of devices that are seen, times windows granted in range.

    It is a function of what is granted and of the clock alone, so it tells nothing of data that is not shown. No
    reading is touched; the look is recorded like any other.

    Raises:
        NotVisible: a site or device asked for does not exist or is not shared.

    """
    async with views.opened(viewer, query, part, way) as seen:
        span = max(query.range_us[0], (part.slice_us or query.range_us)[0]), min(query.range_us[1], seen.now_us)
        return sum(_rows(subject, span) for subject in subjects_of(seen, query))


def _rows(subject: Subject, span: tuple[int, int]) -> int:
    total = 0
    for served in subject.levels.values():
        for level in served:
            if level.finer == level.allowed:
                continue  # only where windows are kept coarser than granted, in place of finer ones
            apart = APART_US[RESOLUTIONS[level.rank]]
            for start, end in level.allowed:
                length = min(end, span[1]) - max(start, span[0])
                total += -(-length // apart) if length > 0 else 0
    return total
