"""What many owners settle at the same time: each with a connection of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from telemetry.errors import StoreError, TelemetryError
from telemetry.privacy.receipts import ReceiptSigner
from telemetry.store.requests import Connections
from telemetry.store.sharing import HOT_RETENTION, Sharing

RecompileOn = Callable[[Any, Sequence[int]], Awaitable[object]]
"""Compiles the plan of these owners anew over a connection (telemetry.store.plans.recompile)."""
Behind = Callable[[TelemetryError], None]
"""Told of a change that is in force and not compiled; its owners stay marked, and the next compilation has them."""


class SharingPool:
    """``Sharing`` for any number of callers on one event loop. ``connections``: of the role ``telemetry_rights``."""

    def __init__(
        self,
        connections: Connections,
        signer: ReceiptSigner,
        recompile: RecompileOn,
        *,
        hot_retention: timedelta = HOT_RETENTION,
        behind: Behind | None = None,
    ) -> None:
        self._connections = connections
        self._signer = signer
        self._recompile = recompile
        self._hot_retention = hot_retention
        self._behind = behind

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Sharing]:
        """For the time of the block, one caller's own. Raises StoreUnavailable or StoreError.

        What was refused has been rolled back: its connection is used again, unlike one on which the store failed.
        """
        refusal: TelemetryError | None = None
        async with self._connections.connection() as connection:
            recompile = partial(self._recompile, connection)
            sharing = Sharing(connection, self._signer, recompile, hot_retention=self._hot_retention)
            try:
                yield sharing
            except StoreError:
                raise
            except TelemetryError as error:
                refusal = error
            if sharing.behind is not None and self._behind is not None:
                self._behind(sharing.behind)
        if refusal is not None:
            raise refusal
