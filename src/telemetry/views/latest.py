"""The last of each field: the last window shown, or the last reading where readings are shown as they are."""

from dataclasses import replace

import polars as pl

from telemetry.views.query import WHOLE, Part, Query, Way
from telemetry.views.sight import Viewer
from telemetry.views.view import View, Views


async def latest(views: Views, viewer: Viewer, query: Query, *, part: Part = WHOLE, way: Way = Way.VIEW) -> View:
    """Of each device and field the last row that a view of ``query`` would show; a field without one has none.

    The cost is that of what happened last, if devices report, and never more than that of the view. Where windows
    of several resolutions end together the finest is taken.

    Raises:
        NotVisible: a site or device asked for does not exist or is not shared.
        StoreUnavailable: try again.

    """
    view, _ = await views.read(viewer, query, way=way, part=part)
    return replace(view, rows=last_rows(view.rows))


def last_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Of the rows of a view the last one of each device and field, in the same order."""
    return (
        rows.sort("end", "start", maintain_order=True)
        .unique(["device", "field"], keep="last")
        .sort("site", "device", "field")
    )
