"""A client of the HTTP API, for programs. Needs httpx, msgspec and polars, and nothing of the service.

with Client("https://example.org", token) as api:
    frame = api.series(since, until, resolution="PT15M")
"""

from telemetry.client.clients import AsyncClient, Client
from telemetry.client.errors import (
    ClientError,
    Conflict,
    CursorExpired,
    InvalidRequest,
    NotAnApi,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    Problem,
    RateLimited,
    TooCostly,
    Unavailable,
    Unreachable,
)
from telemetry.client.live import Batch
from telemetry.client.results import Device, SharedField, Site
from telemetry.client.wire import Patience

__all__ = [
    "AsyncClient",
    "Batch",
    "Client",
    "ClientError",
    "Conflict",
    "CursorExpired",
    "Device",
    "InvalidRequest",
    "NotAnApi",
    "NotAuthenticated",
    "NotFound",
    "NotPermitted",
    "Patience",
    "Problem",
    "RateLimited",
    "SharedField",
    "Site",
    "TooCostly",
    "Unavailable",
    "Unreachable",
]
