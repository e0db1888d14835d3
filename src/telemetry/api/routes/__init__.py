"""All routers in one place. Each file of this package holds routes for one kind of asker."""

from typing import Final

from fastapi import APIRouter

from telemetry.api.routes import exports, live, meta, recipients

PREFIX: Final = "/api/v1"
ROUTERS: Final[tuple[APIRouter, ...]] = (recipients.router, live.router, exports.router)
BARE: Final[tuple[APIRouter, ...]] = (meta.router,)  # without the prefix
