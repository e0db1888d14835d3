"""What recipients read: sites, devices, series. Every answer is one snapshot of grants and data."""

from datetime import timedelta
from typing import Annotated, Any, Final, cast

import polars as pl
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import Field

from telemetry.access.principal import Principal, Scope
from telemetry.api import formats
from telemetry.api.asked import Cursor, Formatted, Ranged, field_count, purpose_of, query_of, rfc3339, said, zone_of
from telemetry.api.context import Context, context_of
from telemetry.api.formats import Form, tables
from telemetry.api.paging import Paging, link
from telemetry.api.principals import recipient
from telemetry.api.problems import responses
from telemetry.api.schemas import DevicePage, DeviceShown, SeriesPage, SitePage, SiteShown
from telemetry.model.sharing import SharingPurpose
from telemetry.views import query as views_query
from telemetry.views.query import Part
from telemetry.views.sight import Viewer
from telemetry.views.view import View

router = APIRouter(tags=["recipients"])

_AT_MOST: Final = 200
_NOTHING: Final = (0, 0)  # a slice of time without windows
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
    limit: int | None = Field(None, ge=1, le=_AT_MOST, description="devices on a page, at most; as many as fit without")
    cursor: Cursor | None = Field(None, description="`next` of the page before")


@router.get("/sites", response_model=SitePage, responses=responses("gone"))
async def list_sites(
    request: Request, principal: Reader, context: Ctx, asked: Annotated[PageAsked, Query()]
) -> Response:
    """Sites of which anything is shared, in the order of their names."""
    purpose = purpose_of(principal, asked.purpose)
    view = await _settings(context, principal, asked)
    sites = view.devices.group_by("site", maintain_order=True).agg(
        pl.col("place", "latitude", "longitude").first(), pl.col("kind").unique().sort().alias("kinds")
    )
    paging = Paging(context.cursors, principal, ("sites", purpose, asked.limit), asked.cursor)
    shown, cursor = paging.of(sites, asked.limit)
    return formats.json_response({"purpose": purpose, "sites": shown.to_dicts(), "next": cursor}, link(request, cursor))


@router.get("/sites/{site}", response_model=SiteShown, responses=responses("not-found"))
async def read_site(site: Site, principal: Reader, context: Ctx, asked: Annotated[Formatted, Query()]) -> Response:
    """One site."""
    view = await _settings(context, principal, asked, sites=frozenset({site}))
    first = view.devices.row(0, named=True)
    told = {name: first[name] for name in ("site", "place", "latitude", "longitude")}
    return formats.json_response(told | {"kinds": sorted(set(view.devices["kind"]))})


@router.get("/sites/{site}/devices", response_model=DevicePage, responses=responses("not-found", "gone"))
async def list_devices(
    request: Request, site: Site, principal: Reader, context: Ctx, asked: Annotated[PageAsked, Query()]
) -> Response:
    """Devices of a site, with what is shared of each."""
    purpose = purpose_of(principal, asked.purpose)
    view = await _settings(context, principal, asked, sites=frozenset({site}))
    devices = pl.DataFrame({"device": view.devices["device"]})
    paging = Paging(context.cursors, principal, ("devices", site, purpose, asked.limit), asked.cursor)
    shown, cursor = paging.of(devices, asked.limit)
    kept = set(shown["device"])
    told = [device for device in formats.devices_of(view) if device["device"] in kept]
    return formats.json_response({"purpose": purpose, "devices": told, "next": cursor}, link(request, cursor))


@router.get("/devices/{device:path}", response_model=DeviceShown, responses=responses("not-found"))
async def read_device(
    device: Device, principal: Reader, context: Ctx, asked: Annotated[Formatted, Query()]
) -> Response:
    """One device, with what is shared of it."""
    view = await _settings(context, principal, asked, devices=frozenset({device}))
    return formats.json_response(formats.devices_of(view)[0])


@router.get(
    "/series",
    response_model=SeriesPage,
    response_model_exclude_none=True,
    responses=tables(formats.MEDIA_TYPES)
    | responses("not-found", "not-acceptable", "gone", "invalid-request", "too-costly"),
)
async def read_series(
    request: Request, principal: Reader, context: Ctx, asked: Annotated[SeriesAsked, Query()]
) -> Response:
    """Windows of fields, page by page of devices. JSON by column or by row, CSV, Parquet or an Arrow stream."""
    query = query_of(principal, asked)
    form = formats.negotiated(request.headers.get("accept"), asked.format, formats.MEDIA_TYPES)
    at_most = context.limits.devices(
        field_count(query), query.range_us, query.resolution, at_most=asked.limit or _AT_MOST
    )
    paging = Paging(context.cursors, principal, ("series", said(query), asked.limit), asked.cursor)
    place = cast("list[str] | None", paging.place())
    after = None if place is None else (place[0], place[1])
    view, _ = await context.views.read(_viewer(principal, query.purpose), query, part=Part(after, None, at_most))
    request.scope["state"]["slot"].charge(view.rows.height)
    cursor = None
    if view.devices.height == at_most:
        cursor = paging.sealed(view.devices.select("site", "device").row(-1))
    return series_answer(view, query, form, cursor, link(request, cursor))


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
    told: dict[str, Any] = {
        "purpose": None if own else query.purpose,
        "resolution": query.resolution,
        "from": rfc3339(query.since),
        "to": rfc3339(query.until),
        "tz": query.timezone,
        "devices": formats.devices_of(view),
    }
    if form is Form.ROWS:
        told["rows"] = formats.rows_of(view.rows)
    else:
        told["series"] = formats.series_of(view.rows)
    return formats.json_response(told | {"next": cursor}, headers)


def _viewer(principal: Principal, purpose: SharingPurpose) -> Viewer:
    return Viewer(principal.key, purpose)


async def _settings(
    context: Context,
    principal: Principal,
    asked: Formatted,
    *,
    sites: frozenset[str] | None = None,
    devices: frozenset[str] | None = None,
) -> View:
    """What is shared, without any window. Raises NotVisible for names that are not."""
    now = context.clock()
    purpose = purpose_of(principal, asked.purpose)
    query = views_query.Query(
        purpose, now - timedelta(minutes=1), now, sites=sites, devices=devices, timezone=zone_of(asked.tz)
    )
    view, _ = await context.views.read(_viewer(principal, purpose), query, part=Part(slice_us=_NOTHING))
    return view
