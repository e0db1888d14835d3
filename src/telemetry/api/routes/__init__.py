"""All routers in one place. Each file of this package holds routes for one kind of asker."""

from typing import Final

from fastapi import APIRouter

from telemetry.api.routes import (
    account,
    auth,
    exports,
    live,
    meta,
    operators,
    owners,
    owners_data,
    owners_grants,
    owners_requests,
    recipients,
    recipients_requests,
    recipients_told,
    tokens,
    told,
)

PREFIX: Final = "/api/v1"
ROUTERS: Final[tuple[APIRouter, ...]] = (
    recipients.router,
    live.router,
    exports.router,
    auth.router,
    account.router,
    tokens.router,
    recipients_told.router,
    recipients_requests.router,
    told.router,
    owners.router,
    owners_data.router,
    owners_grants.router,
    owners_requests.router,
    operators.router,
)
BARE: Final[tuple[APIRouter, ...]] = (meta.router,)  # without the prefix
