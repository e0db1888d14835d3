"""An owner's own data with real serials, and what a recipient sees of it: by the code that serves the recipient."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, cast

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from telemetry.access.principal import Principal, Scope
from telemetry.api import formats
from telemetry.api.asked import Cursor, FieldList, Instant, NameList, TimeZone, rfc3339, said, zone_of
from telemetry.api.context import Context, context_of
from telemetry.api.formats import Form, json_response, tables
from telemetry.api.own_models import Latest, PreviewAsked
from telemetry.api.paging import Paging, link
from telemetry.api.principals import owner
from telemetry.api.problems import responses
from telemetry.api.routes.exports import EXPORT_ANSWER, ExportForm, exported
from telemetry.api.routes.recipients import series_answer
from telemetry.api.schemas import DeviceShown, SeriesPage, SeriesShown
from telemetry.api.settled import open_recipient, situation
from telemetry.errors import InvalidRequest, SolarUnconfirmed
from telemetry.model.fields import FIELD_BY_NAME, FIELD_NAMES
from telemetry.model.sharing import Grant, MemberRight, Resolution, SharingPurpose
from telemetry.model.shown import key_shown
from telemetry.privacy.explain import Situation, explain
from telemetry.store.settling import Recipient
from telemetry.store.sharing import Sharing
from telemetry.views import query as views_query
from telemetry.views.aside import aside
from telemetry.views.latest import latest
from telemetry.views.query import DayGrid, Part, Way
from telemetry.views.sight import Proposal, Viewer
from telemetry.views.view import View

router = APIRouter(prefix="/me", tags=["owners"])

Ctx = Annotated[Context, Depends(context_of)]
Seeing = Annotated[Principal, owner(MemberRight.SEE)]
_AT_MOST: Final = 200
_LATELY: Final = timedelta(hours=3)
_NOTHING: Final = (0, 0)  # a slice of time without windows
_OWN: Final = SharingPurpose.MONITORING  # an owner's own look is for no purpose; a query names one


class OwnAsked(BaseModel):
    """What to look at."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    since: Instant = Field(alias="from", description="from this instant on (RFC 3339)")
    until: Instant = Field(alias="to", description="up to this instant, which is not in it")
    resolution: Resolution = Field(Resolution.PT15M, description="as fine as this; what is kept may be coarser")
    fields: FieldList | None = Field(None, description="fields of the catalogue with commas between; all without")
    sites: NameList | None = Field(None, description="only these sites")
    devices: NameList | None = Field(None, description="only these devices")
    grid: DayGrid | None = Field(None, description="days of UTC or of the site; without, the site's own")
    tz: TimeZone = Field("UTC", description="IANA time zone in which times are written; it changes nothing else")

    def query(self) -> views_query.Query:
        """What a view is asked. Raises InvalidRequest or InputError."""
        fields = _listed(self.fields)
        if fields is not None and not fields <= set(FIELD_BY_NAME):
            raise InvalidRequest("the catalogue has no such field", where="query.fields")
        if not self.since < self.until:
            raise InvalidRequest("the range is empty", where="query.to", remedy="it lies after `from`")
        return views_query.Query(
            _OWN,
            self.since,
            self.until,
            self.resolution,
            fields,
            _listed(self.sites),
            _listed(self.devices),
            self.grid,
            zone_of(self.tz),
        )


class OwnSeriesAsked(OwnAsked):
    """A page of series."""

    format: Form | None = Field(None, description="wins over Accept")
    limit: int | None = Field(None, ge=1, le=_AT_MOST, description="devices on a page, at most")
    cursor: Cursor | None = Field(None, description="`next` of the page before")


class OwnExportAsked(OwnAsked):
    """What to export."""

    format: ExportForm | None = Field(None, description="wins over Accept")


class Preview(BaseModel):
    """What the recipient sees, or would see: its very rows and names, and the same in sentences."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    purpose: SharingPurpose
    resolution: Resolution
    since: datetime = Field(alias="from")
    until: datetime = Field(alias="to")
    devices: list[DeviceShown]
    series: list[SeriesShown]
    sees: list[str]
    error_km: float | None = Field(description="to be confirmed before this can be granted; null where nothing is")


@router.get(
    "/series",
    response_model=SeriesPage,
    response_model_exclude_none=True,
    responses=tables(formats.MEDIA_TYPES)
    | responses("not-found", "not-acceptable", "gone", "invalid-request", "too-costly"),
)
async def read_own_series(
    request: Request, principal: Seeing, context: Ctx, asked: Annotated[OwnSeriesAsked, Query()]
) -> Response:
    """The home's own windows, as fine as they are kept, page by page of devices."""
    query = asked.query()
    form = formats.negotiated(request.headers.get("accept"), asked.format, formats.MEDIA_TYPES)
    at_most = context.limits.devices(_count(query), query.range_us, query.resolution, at_most=asked.limit or _AT_MOST)
    paging = Paging(context.cursors, principal, ("own series", said(query), asked.limit), asked.cursor)
    place = cast("list[str] | None", paging.place())
    after = None if place is None else (place[0], place[1])
    view, _ = await context.views.read(_own(principal), query, part=Part(after, None, at_most))
    request.scope["state"]["slot"].charge(view.rows.height)
    full = view.devices.height == at_most
    cursor = paging.sealed(view.devices.select("site", "device").row(-1)) if full else None
    answer = aside(view.rows.height, series_answer, view, query, form, cursor, link(request, cursor), own=True)
    return await answer


@router.get("/latest", response_model=Latest)
async def read_own_latest(request: Request, principal: Seeing, context: Ctx) -> Response:
    """The last window of every field, of the last three hours."""
    now = context.clock()
    view = await latest(context.views, _own(principal), views_query.Query(_OWN, now - _LATELY, now))
    request.scope["state"]["slot"].charge(view.rows.height)
    names = ("site", "device", "field", "start", "end", "value", "coverage")
    return json_response({"values": formats.rows_of(view.rows.select(*names))})


@router.get(
    "/export",
    response_class=Response,
    responses=EXPORT_ANSWER | responses("not-found", "not-acceptable", "invalid-request"),
)
async def read_own_export(
    request: Request,
    principal: Annotated[Principal, owner(MemberRight.SEE, Scope.EXPORT)],
    context: Ctx,
    asked: Annotated[OwnExportAsked, Query()],
) -> Response:
    """All of the home's own data in a range, as CSV, JSON lines, Parquet or an Arrow stream."""
    return await exported(request, context, _own(principal), asked.query(), asked.format)


@router.post("/preview", response_model=Preview, responses=responses("not-found", "conflict", "too-costly"))
async def preview(
    request: Request, principal: Seeing, context: Ctx, asked: Annotated[PreviewAsked, Body()]
) -> Response:
    """What a recipient sees of the home now, or would see with proposed terms, by the code that serves it.

    What it sees now is recorded as a preview. Proposed terms are told as if they had been in force since before the
    range; a place of a cell has no label before it is granted.
    """
    fields = None if asked.fields is None else frozenset(asked.fields)
    query = views_query.Query(asked.purpose, asked.since, asked.until, asked.resolution, fields)
    at_most = context.limits.devices(_count(query), query.range_us, query.resolution, at_most=_AT_MOST)
    made, error_km = None, None
    async with context.sharing.open() as sharing:
        recipient = await open_recipient(sharing, asked.recipient)
        now = await situation(sharing, principal.key, recipient)
        if asked.terms is not None:
            grants, made, error_km = await _proposed(sharing, principal.key, recipient, asked)
            now = replace(now, now=max(now.now, made.recorded_at), grants=grants, proposed=True)
    if made is None:
        viewer = Viewer(recipient.recipient_key, asked.purpose, scope=(principal.key,))
        view, _ = await context.views.read(viewer, query, way=Way.PREVIEW, part=Part(at_most=at_most))
    else:
        view = await context.views.as_if(_proposal(now, made, asked), query)
    request.scope["state"]["slot"].charge(view.rows.height)
    return json_response(_previewed(view, query) | {"sees": explain(now), "error_km": error_km})


async def _proposed(
    sharing: Sharing, owner_key: int, recipient: Recipient, asked: PreviewAsked
) -> tuple[list[Grant], Grant, float | None]:
    """All grants to the recipient as they would be, the proposed one, and what would have to be confirmed."""
    try:
        return *await _rehearsed(sharing, owner_key, recipient, asked, None), None
    except SolarUnconfirmed as error:
        return *await _rehearsed(sharing, owner_key, recipient, asked, error.error_km), error.error_km


async def _rehearsed(
    sharing: Sharing, owner_key: int, recipient: Recipient, asked: PreviewAsked, confirmed_km: float | None
) -> tuple[list[Grant], Grant]:
    """Nothing is changed, and what would be refused is refused."""
    assert asked.terms is not None  # noqa: S101 - the caller looked
    changed = None if asked.grant is None else key_shown("grant", asked.grant)
    async with sharing.rehearsing() as settlement:
        grant = await settlement.set_grant(
            owner_key, recipient.recipient_key, asked.terms.terms, confirmed_km=confirmed_km, grant_key=changed
        )
        return await settlement.active(owner_key, recipient.recipient_key), grant


def _proposal(now: Situation, made: Grant, asked: PreviewAsked) -> Proposal:
    """The grants of the purpose, the proposed one as if it had been in force since before the range."""
    assert asked.terms is not None  # noqa: S101 - the caller looked
    begun = {"start": min(asked.since, made.recorded_at), "data_from": asked.terms.data_from or asked.since}
    as_if = made.model_copy(update={"terms": made.terms.model_copy(update=begun)})
    grants = (as_if if one.grant_key == made.grant_key else one for one in now.grants)
    of_purpose = tuple(one for one in grants if one.terms.purpose is asked.purpose)
    return Proposal(made.owner_key, made.recipient_key, asked.purpose, of_purpose, now.standing, made.epoch)


def _previewed(view: View, query: views_query.Query) -> dict[str, Any]:
    return {
        "purpose": query.purpose,
        "resolution": query.resolution,
        "from": rfc3339(query.since),
        "to": rfc3339(query.until),
        "devices": formats.devices_of(view),
        "series": formats.series_of(view.rows),
    }


async def own_settings(context: Context, principal: Principal) -> View:
    """The owner's devices, without any window."""
    now = context.clock()
    query = views_query.Query(_OWN, now - timedelta(minutes=1), now)
    view, _ = await context.views.read(_own(principal), query, part=Part(slice_us=_NOTHING))
    return view


def _own(principal: Principal) -> Viewer:
    return Viewer(owner_key=principal.key)


def _count(query: views_query.Query) -> int:
    return len(FIELD_NAMES if query.fields is None else query.fields)


def _listed(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(text.split(","))
