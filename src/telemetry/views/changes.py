"""What is new or corrected since an earlier answer."""

from dataclasses import dataclass

from telemetry.views.query import WHOLE, Part, Query, Way
from telemetry.views.sight import Viewer
from telemetry.views.view import View, Views

POSITION_BYTES = 256


@dataclass(frozen=True, slots=True)
class Changes:
    """One answer.

    ``view``: rows that are new or corrected; one with coverage none says that this window is no more. A row takes
    the place of an earlier one of the same (device, field, resolution, grid, start). ``view.devices``: all that are
    seen; what a reader has of others is to be dropped. ``renewed``: devices whose settings changed: of these all
    rows of the range are there, and what a reader had is to be dropped before. ``position``: of this answer, for the
    next one; it is to be sealed before it leaves, and always has POSITION_BYTES bytes.
    """

    view: View
    renewed: frozenset[str]
    position: bytes


async def changes(
    views: Views, viewer: Viewer, query: Query, position: bytes | None, *, part: Part = WHOLE, way: Way = Way.VIEW
) -> Changes:
    """What ``query`` shows that it did not at ``position``; everything without one.

    ``query.since`` may move on between answers; ``until`` should lie ahead. The same query and part must be given
    with the position that came of it.

    Raises:
        InputError: this is not a position.
        NotVisible: a site or device asked for does not exist or is not shared.
        StoreUnavailable: try again.

    """
    view, named = await views.read(viewer, query, way=way, part=part)
    return Changes(view, frozenset(named.names), bytes(POSITION_BYTES))
