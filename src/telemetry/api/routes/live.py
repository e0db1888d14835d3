"""GET /live: what becomes visible, as server-sent events (HTML, 9.2)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from telemetry.access.principal import Principal, Scope
from telemetry.api import formats
from telemetry.api.asked import Narrowed, view_query
from telemetry.api.context import Context, context_of
from telemetry.api.lasting import Lasting, LastingResponse, Patience, Piece, pairs_of
from telemetry.api.limits import Slot
from telemetry.api.principals import recipient
from telemetry.api.problems import responses
from telemetry.errors import NoLongerAvailable, NotVisible
from telemetry.views.aside import aside
from telemetry.views.sight import Viewer
from telemetry.views.stream import stream
from telemetry.views.view import View

router = APIRouter(tags=["recipients"])

EVENT_STREAM: Final = "text/event-stream"
_HEARTBEAT: Final = Piece(b": nothing new\n\n")
_END: Final = Piece(b"event: end\ndata: {}\n\n")
_EXAMPLE: Final = 'event: batch\ndata: {"series":[…],"devices":[…]}\n\nevent: end\ndata: {}\n\n'

_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events `batch` (JSON as /series gives it), comments as heartbeats, and a last event `end` "
        "when nothing is shared any more or the token counts no longer",
        "content": {EVENT_STREAM: {"schema": {"type": "string"}, "example": _EXAMPLE}},
    }
}


@router.get(
    "/live",
    response_class=Response,
    responses=_ANSWER | responses("not-found"),
)
async def read_live(
    request: Request,
    principal: Annotated[Principal, recipient(Scope.LIVE)],
    context: Annotated[Context, Depends(context_of)],
    asked: Annotated[Narrowed, Query()],
) -> Response:
    """What becomes visible, as it becomes visible; the first batch is of the recent past.

    Events have no ids, and Last-Event-ID is not looked at: whoever connects anew is given what is shared then.
    """
    now = context.clock()
    query = view_query(principal, asked, (now - timedelta(hours=1), now))
    state = request.scope["state"]
    lasting = Lasting(context, Viewer(principal.key, query.purpose), query, state["still"])
    await context.visibility.pairs(lasting.viewer, query)
    context.limits.begin_stream(state["slot"])
    pieces = _events(lasting, state["slot"], context.config.api.heartbeat_s)
    return LastingResponse(lasting, pieces, EVENT_STREAM, {"X-Accel-Buffering": "no"})


async def _events(lasting: Lasting, slot: Slot, heartbeat_s: float) -> AsyncIterator[Piece]:
    """One event a batch. The next batch is read while the one before is sent: withdrawal is noticed meanwhile."""
    context, key = lasting.context, lasting.viewer.recipient_key
    assert key is not None  # noqa: S101 - the route is for recipients
    batches = stream(context.views, context.stream_connect, key, lasting.query)
    patience = Patience(lasting, heartbeat_s=heartbeat_s)
    coming: asyncio.Future[View] = asyncio.ensure_future(anext(batches))
    try:
        yield _HEARTBEAT
        while True:
            match await patience.next(coming):
                case "ending":
                    return
                case "revoked":
                    yield _END
                    return
                case "quiet":
                    yield _HEARTBEAT
                case _:
                    view = coming.result()
                    slot.charge(view.rows.height)
                    coming = asyncio.ensure_future(anext(batches))
                    yield Piece(await aside(view.rows.height, _event, view), pairs_of(view.rows))
    except (NoLongerAvailable, NotVisible):
        yield _END
    finally:
        patience.close()
        coming.cancel()
        with contextlib.suppress(BaseException):
            await coming
        await batches.aclose()  # type: ignore[attr-defined]  # it is a generator


def _event(view: View) -> bytes:
    about = set(view.rows["device"])
    devices = [device for device in formats.devices_of(view) if device["device"] in about]
    told = formats.as_json({"series": formats.series_of(view.rows), "devices": devices})
    return b"event: batch\ndata: " + told + b"\n\n"
