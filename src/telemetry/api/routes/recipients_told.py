"""What recipients are told beside values: alerts, and their own reads."""

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from telemetry.access.principal import Principal, Scope
from telemetry.api import formats
from telemetry.api.asked import Cursor, Formatted, Instant, NameList, TimeZone, names_of, purpose_of, zone_of
from telemetry.api.asking_models import AlertList, OwnReads
from telemetry.api.context import Context, context_of
from telemetry.api.paging import Paging, link
from telemetry.api.principals import recipient
from telemetry.api.problems import responses
from telemetry.errors import InvalidRequest
from telemetry.model.sharing import RESOLUTIONS
from telemetry.store.own_reads import own_reads
from telemetry.views import query as views_query
from telemetry.views.alerts import alerts
from telemetry.views.sight import Viewer

router = APIRouter(tags=["recipients"])

Ctx = Annotated[Context, Depends(context_of)]
Reader = Annotated[Principal, recipient(Scope.READ)]


class AlertsAsked(Formatted):
    """Which alerts."""

    since: Instant = Field(alias="from", description="open at this instant or later", examples=["2026-11-24T00:00:00Z"])
    until: Instant = Field(alias="to", description="begun before this instant", examples=["2026-11-25T00:00:00Z"])
    sites: NameList | None = Field(None, description="only of these sites")
    devices: NameList | None = Field(None, description="only of these devices")
    open: bool = Field(default=False, description="only those that are open")


class ReadsAsked(BaseModel):
    """A page of reads, for whatever purpose."""

    model_config = ConfigDict(extra="forbid")
    tz: TimeZone = Field("UTC", description="IANA time zone in which times are written")
    limit: int = Field(100, ge=1, le=1000, description="entries on a page, at most")
    cursor: Cursor | None = Field(None, description="`next` of the page before")


@router.get("/alerts", response_model=AlertList, responses=responses("not-found"))
async def list_alerts(principal: Reader, context: Ctx, asked: Annotated[AlertsAsked, Query()]) -> Response:
    """Alerts of devices of which the class `alert` is granted, as far as they lie in the range."""
    purpose = purpose_of(principal, asked.purpose)
    if not asked.since < asked.until:
        raise InvalidRequest("the range is empty", where="query.to", remedy="it lies after `from`")
    query = views_query.Query(
        purpose,
        asked.since,
        asked.until,
        sites=names_of(asked.sites),
        devices=names_of(asked.devices),
        timezone=zone_of(asked.tz),
    )
    found = await alerts(context.views, Viewer(principal.key, purpose), query, open_only=asked.open)
    return formats.json_response({"purpose": purpose, "alerts": formats.rows_of(found)})


@router.get("/reads", response_model=OwnReads, responses=responses("gone"))
async def list_own_reads(
    request: Request, principal: Reader, context: Ctx, asked: Annotated[ReadsAsked, Query()]
) -> Response:
    """What was read with this recipient's tokens and accounts, newest first, as owners see it recorded."""
    zone_of(asked.tz)
    paging = Paging(context.cursors, principal, ("own-reads", asked.limit), asked.cursor)
    before = cast("int | None", paging.place())
    async with context.pools.sharing.connection() as connection:
        rows = await own_reads(connection, principal.key, before=before, limit=asked.limit + 1)
    cursor = paging.sealed(rows[asked.limit - 1]["read_key"]) if len(rows) > asked.limit else None
    told = [
        {
            "at": formats.written(row["at"], asked.tz),
            "purpose": row["purpose"],
            "way": row["way"],
            "fields": row["fields"],
            "resolution": RESOLUTIONS[row["resolution"]],
            "from": formats.written(row["from_at"], asked.tz),
            "to": formats.written(row["to_at"], asked.tz),
        }
        for row in rows[: asked.limit]
    ]
    return formats.json_response({"reads": told, "next": cursor}, link(request, cursor))
