"""Health, problems and documentation: for anybody, and telling nothing of anybody."""

import base64
import hashlib
from typing import Annotated, Final

import orjson
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from telemetry.api.context import Context, context_of
from telemetry.api.openapi import STYLE, docs_page, problem_page
from telemetry.api.problems import PROBLEMS, ProblemError
from telemetry.errors import NotFound, StoreError

router = APIRouter()

_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "public, max-age=300",
}


class Health(BaseModel):
    """Whether the process lives."""

    alive: bool


class Ready(BaseModel):
    """Whether requests can be answered."""

    ready: bool


@router.get("/healthz", tags=["health"])
async def read_health() -> Health:
    """Whether the process answers at all."""
    return Health(alive=True)


@router.get("/readyz", tags=["health"])
async def read_readiness(context: Annotated[Context, Depends(context_of)]) -> Ready:
    """Whether the database answers, and the process is not about to end. 503 otherwise."""
    if context.ending.begun:
        raise ProblemError("unavailable")
    try:
        async with context.pools.views.connection() as connection:
            await connection.fetchval("SELECT 1")
    except (StoreError, OSError) as error:
        raise ProblemError("unavailable") from error
    return Ready(ready=True)


@router.get("/api/openapi.json", include_in_schema=False)
async def read_openapi(request: Request) -> Response:
    """The OpenAPI document."""
    body = orjson.dumps(request.app.openapi())
    return Response(body, media_type="application/json", headers={"Cache-Control": "public, max-age=300"})


@router.get("/api/docs", include_in_schema=False)
async def read_docs(request: Request) -> Response:
    """The same as a page."""
    return Response(docs_page(request.app.openapi()), media_type="text/html", headers=_PAGE_HEADERS)


@router.get("/problems/{slug}", include_in_schema=False)
async def read_problem(slug: str) -> Response:
    """What a kind of problem means."""
    if slug not in PROBLEMS:
        raise NotFound
    return Response(problem_page(slug), media_type="text/html", headers=_PAGE_HEADERS)
