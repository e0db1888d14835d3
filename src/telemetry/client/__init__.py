"""A client of the HTTP API, for programs. Needs httpx, msgspec and polars, and nothing of the service.

with Client("https://example.org", token) as api:
    frame = api.series(since, until, resolution="PT15M")
"""

from telemetry.client.asking import AccessRequest, Invitation, NewInvitation
from telemetry.client.clients import AsyncClient, AsyncOwnerClient, Client, OwnerClient
from telemetry.client.errors import (
    Changed,
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
    SecondFactorNeeded,
    SolarUnconfirmed,
    TooCostly,
    Unavailable,
    Unreachable,
)
from telemetry.client.live import Batch
from telemetry.client.owning import Preview
from telemetry.client.results import Alert, Changes, Device, GrantSeen, Kind, SharedField, Site
from telemetry.client.settled import OwnGrant, OwnGrants, Proposed, Settled, Terms
from telemetry.client.wire import Patience

__all__ = [
    "AccessRequest",
    "Alert",
    "AsyncClient",
    "AsyncOwnerClient",
    "Batch",
    "Changed",
    "Changes",
    "Client",
    "ClientError",
    "Conflict",
    "CursorExpired",
    "Device",
    "GrantSeen",
    "InvalidRequest",
    "Invitation",
    "Kind",
    "NewInvitation",
    "NotAnApi",
    "NotAuthenticated",
    "NotFound",
    "NotPermitted",
    "OwnGrant",
    "OwnGrants",
    "OwnerClient",
    "Patience",
    "Preview",
    "Problem",
    "Proposed",
    "RateLimited",
    "SecondFactorNeeded",
    "Settled",
    "SharedField",
    "Site",
    "SolarUnconfirmed",
    "Terms",
    "TooCostly",
    "Unavailable",
    "Unreachable",
]
