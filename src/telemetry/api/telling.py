"""Alerts are told by the process that serves the API: it has the names that messages hold."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from telemetry.alerts.tell import Teller
from telemetry.api.context import Context
from telemetry.deliver.outbox import Outbox
from telemetry.deliver.sealing import WebhookSealer


@contextlib.asynccontextmanager
async def telling(context: Context, access_key: bytes) -> AsyncIterator[None]:
    """Tell webhooks and accounts while the block lasts; nothing, where neither is configured."""
    teller = Teller(
        context.config,
        context.views,
        Outbox(context.pools.access),
        WebhookSealer(access_key),
        context.observer,
        addresses=context.access.people,
    )
    task = asyncio.create_task(teller.run(), name="telling")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
