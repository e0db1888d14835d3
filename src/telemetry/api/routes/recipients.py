"""What recipients read: fleet, sites, devices, series, the latest values, changes, and their grants.

Every answer is one snapshot of grants and data.
"""

import base64
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, cast

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import Field

from telemetry.access.principal import Principal, Scope
from telemetry.api import formats
from telemetry.api.asked import (
    Cursor,
    Formatted,
    Instant,
    Narrowed,
    Ranged,
    field_count,
    purpose_of,
    query_of,
    rfc3339,
    said,
    view_query,
    zone_of,
)
from telemetry.api.context import Context, context_of
from telemetry.api.formats import Form, tables
from telemetry.api.paging import Paging, link
from telemetry.api.principals import recipient
from telemetry.api.problems import responses
from telemetry.api.schemas import ChangesPage, DevicePage, DeviceShown, FleetPage, GrantPage, SeriesPage, SiteShown
from telemetry.errors import TooCostly
from telemetry.views import query as views_query
from telemetry.views.aside import aside
from telemetry.views.changes import changes
from telemetry.views.estimate import estimate
from telemetry.views.fleet import LOOK_BACK, FleetQuery, fleet, roster, roster_query
from telemetry.views.latest import latest
from telemetry.views.query import WHOLE, Part
from telemetry.views.sight import Viewer
from telemetry.views.view import View

router = APIRouter(tags=["recipients"])

_AT_MOST: Final = 200  # devices on a page
_AHEAD: Final = timedelta(hours=1)
Reader = Annotated[Principal, recipient(Scope.READ)]
Site = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="as lists name it")]
Device = Annotated[str, Path(pattern=r"^[A-Za-z0-9_/-]{1,100}$", description="as lists name it; may hold a slash")]
Ctx = Annotated[Context, Depends(context_of)]


class PageAsked(Formatted):
    """A page of a list."""

    limit: int = Field(100, ge=1, le=1000, description="entries on a page, at most")
    cursor: Cursor | None = Field(None, description="`next` of the page before")


class SeriesAsked(Ranged):
    """A page of series."""

    format: Form | None = Field(None, description="wins over Accept")
    limit: int | None = Field(None, ge=1, le=_AT_MOST, description="devices on a page; as many as fit without")
    cursor: Cursor | None = Field(None, description="`next` of the page before")


class LatestAsked(Narrowed):
    """A page of the latest values."""

    format: Form | None = Field(None, description="wins over Accept")
    limit: int = Field(_AT_MOST, ge=1, le=_AT_MOST, description="devices on a page, at most")
    cursor: Cursor | None = Field(None, description="`next` of the page before")


class ChangesAsked(Narrowed):
    """What changed since an answer before."""

    since: Instant = Field(alias="from", description="windows from this instant on", examples=["2026-11-24T00:00:00Z"])
    cursor: Cursor | None = Field(None, description="`next` of the answer before; everything without")


@router.get("/fleet", response_model=FleetPage, responses=responses("gone"))
async def read_fleet(
    request: Request, principal: Reader, context: Ctx, asked: Annotated[PageAsked, Query()]
) -> Response:
    """Sites of which anything is shared, with what is shared of each kind of device there."""
    purpose = purpose_of(principal, asked.purpose)
    paging = Paging(context.cursors, principal, ("fleet", purpose, asked.limit), asked.cursor)
    after = cast("str | None", paging.place())
    query = FleetQuery(purpose, asked.limit, after, timezone=zone_of(asked.tz))
    page = await fleet(context.views, Viewer(principal.key, purpose), query)
    cursor = None if page.after is None else paging.sealed(page.after)
    return formats.json_response(
        {"purpose": purpose, "sites": formats.sites_of(page), "next": cursor}, link(request, cursor)
    )


@router.get("/sites/{site}", response_model=SiteShown, responses=responses("not-found"))
async def read_site(site: Site, principal: Reader, context: Ctx, asked: Annotated[Formatted, Query()]) -> Response:
    """One site."""
    purpose = purpose_of(principal, asked.purpose)
    query = FleetQuery(purpose, 1, sites=frozenset({site}), timezone=zone_of(asked.tz))
    return formats.json_response(formats.sites_of(await fleet(context.views, Viewer(principal.key, purpose), query))[0])


@router.get("/sites/{site}/devices", response_model=DevicePage, responses=responses("not-found", "gone"))
async def list_devices(
    request: Request, site: Site, principal: Reader, context: Ctx, asked: Annotated[PageAsked, Query()]
) -> Response:
    """Devices of a site, with what is shared of each."""
    purpose = purpose_of(principal, asked.purpose)
    paging = Paging(context.cursors, principal, ("devices", site, purpose, asked.limit), asked.cursor)
    query = roster_query(purpose, sites=frozenset({site}), timezone=zone_of(asked.tz))
    part = Part(_after(paging), at_most=asked.limit + 1)
    view = await roster(context.views, Viewer(principal.key, purpose), query, part=part)
    told = formats.devices_of(view)
    cursor = None
    if len(told) > asked.limit:
        told = told[: asked.limit]
        cursor = paging.sealed((told[-1]["site"], told[-1]["device"]))
    return formats.json_response({"purpose": purpose, "devices": told, "next": cursor}, link(request, cursor))


@router.get("/devices/{device:path}", response_model=DeviceShown, responses=responses("not-found"))
async def read_device(
    device: Device, principal: Reader, context: Ctx, asked: Annotated[Formatted, Query()]
) -> Response:
    """One device, with what is shared of it."""
    purpose = purpose_of(principal, asked.purpose)
    query = roster_query(purpose, devices=frozenset({device}), timezone=zone_of(asked.tz))
    view = await roster(context.views, Viewer(principal.key, purpose), query, part=WHOLE)
    return formats.json_response(formats.devices_of(view)[0])


@router.get(
    "/series",
    response_model=SeriesPage,
    responses=tables(formats.MEDIA_TYPES)
    | responses("not-found", "not-acceptable", "gone", "invalid-request", "too-costly"),
)
async def read_series(
    request: Request, principal: Reader, context: Ctx, asked: Annotated[SeriesAsked, Query()]
) -> Response:
    """Windows of fields, page by page of devices. JSON by column or by row, CSV, Parquet or an Arrow stream."""
    query = query_of(principal, asked)
    form = formats.negotiated(request.headers.get("accept"), asked.format, formats.MEDIA_TYPES)
    many = asked.limit or _AT_MOST
    at_most = context.limits.devices(field_count(query), query.range_us, query.resolution, at_most=many)
    paging = Paging(context.cursors, principal, ("series", said(query), asked.limit), asked.cursor)
    viewer, part = Viewer(principal.key, query.purpose), Part(_after(paging), None, at_most)
    view, _ = await context.views.read(viewer, query, part=part)
    return await _answered(request, query, view, form, _next(paging, view, at_most))


@router.get(
    "/latest",
    response_model=SeriesPage,
    responses=tables(formats.MEDIA_TYPES) | responses("not-found", "not-acceptable", "gone", "invalid-request"),
)
async def read_latest(
    request: Request, principal: Reader, context: Ctx, asked: Annotated[LatestAsked, Query()]
) -> Response:
    """The last window of each field that is shown, if it ended in the last 35 days; the last reading where granted."""
    hour = _hour(context.clock())
    query = view_query(principal, asked, (hour - LOOK_BACK, hour + 2 * _AHEAD))
    form = formats.negotiated(request.headers.get("accept"), asked.format, formats.MEDIA_TYPES)
    paging = Paging(context.cursors, principal, ("latest", said(query, ranged=False), asked.limit), asked.cursor)
    viewer, part = Viewer(principal.key, query.purpose), Part(_after(paging), None, asked.limit)
    view = await latest(context.views, viewer, query, part=part)
    return await _answered(request, query, view, form, _next(paging, view, asked.limit))


@router.get(
    "/changes", response_model=ChangesPage, responses=responses("not-found", "gone", "invalid-request", "too-costly")
)
async def read_changes(
    request: Request, principal: Reader, context: Ctx, asked: Annotated[ChangesAsked, Query()]
) -> Response:
    """Windows that are new or corrected since the answer that `cursor` is of; everything without one.

    A row takes the place of an earlier one of the same device, field, resolution, grid and start; coverage `none` says
    that the window is no more. Of `renewed` devices what was there before is to be dropped, and so is what is of
    devices that are not listed.
    """
    query = view_query(principal, asked, (asked.since, _hour(max(context.clock(), asked.since)) + 2 * _AHEAD))
    viewer = Viewer(principal.key, query.purpose)
    paging = Paging(context.cursors, principal, ("changes", said(query, ranged=False)), asked.cursor)
    place = cast("str | None", paging.place())
    if await estimate(context.views, viewer, query) > context.config.api.rows_per_request:
        raise TooCostly("these could be too many values", remedy="name sites or devices, or a later `from`")
    position = None if place is None else base64.b85decode(place)
    found = await changes(context.views, viewer, query, position)
    told = _told(query, found.view) | {
        "series": await aside(found.view.rows.height, formats.series_of, found.view.rows),
        "renewed": sorted(found.renewed),
        "next": paging.sealed(base64.b85encode(found.position).decode()),
    }
    request.scope["state"]["slot"].charge(found.view.rows.height)
    return formats.json_response(told)


@router.get("/grants", response_model=GrantPage, responses=responses("gone"))
async def list_grants(
    request: Request, principal: Reader, context: Ctx, asked: Annotated[PageAsked, Query()]
) -> Response:
    """Grants under which something is seen, as the recipient may know them: by their terms, and sites by name."""
    purpose = purpose_of(principal, asked.purpose)
    paging = Paging(context.cursors, principal, ("grants", purpose, asked.limit), asked.cursor)
    found = await context.visibility.grants(Viewer(principal.key, purpose), roster_query(purpose))
    zone_of(asked.tz)
    told = sorted(
        (formats.grant_of(context.grant_names.of(principal, each.grant.grant_key), each, asked.tz) for each in found),
        key=lambda grant: str(grant["grant"]),
    )
    place, cursor = paging.place(), None
    if place is not None:
        told = [grant for grant in told if grant["grant"] > place]
    if len(told) > asked.limit:
        told = told[: asked.limit]
        cursor = paging.sealed(told[-1]["grant"])
    return formats.json_response({"purpose": purpose, "grants": told, "next": cursor}, link(request, cursor))


def _hour(now: datetime) -> datetime:
    """So that an answer that holds its own range stays the same for an hour, and its ETag with it."""
    return now.replace(minute=0, second=0, microsecond=0)


def _after(paging: Paging) -> tuple[str, str] | None:
    place = cast("list[str] | None", paging.place())
    return None if place is None else (place[0], place[1])


def _next(paging: Paging, view: View, at_most: int) -> str | None:
    if view.devices.height < at_most:
        return None
    return paging.sealed(view.devices.select("site", "device").row(-1))


def _told(query: views_query.Query, view: View, *, own: bool = False) -> dict[str, Any]:
    return {
        "purpose": None if own else query.purpose,
        "resolution": query.resolution,
        "from": rfc3339(query.since),
        "to": rfc3339(query.until),
        "tz": query.timezone,
        "devices": formats.devices_of(view),
    }


async def _answered(request: Request, query: views_query.Query, view: View, form: Form, cursor: str | None) -> Response:
    request.scope["state"]["slot"].charge(view.rows.height)
    return await aside(view.rows.height, series_answer, view, query, form, cursor, link(request, cursor))


def series_answer(
    view: View,
    query: views_query.Query,
    form: Form,
    cursor: str | None,
    headers: dict[str, str],
    *,
    own: bool = False,
) -> Response:
    """A page of series in the form asked for. ``own``: an owner's, which is for no purpose."""
    if formats.MEDIA_TYPES[form] != formats.JSON:
        return Response(formats.as_table(view.rows, form), media_type=formats.MEDIA_TYPES[form], headers=headers)
    rows = {"rows": formats.rows_of(view.rows)} if form is Form.ROWS else {"series": formats.series_of(view.rows)}
    return formats.json_response(_told(query, view, own=own) | rows | {"next": cursor}, headers)
