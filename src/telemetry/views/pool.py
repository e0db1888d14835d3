"""A few connections of one role, opened when needed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from telemetry.errors import ViewError
from telemetry.store.connection import Connect


class Pool:
    """At most ``size`` connections; who finds none free waits. One event loop.

    A connection on which something failed is thrown away: what a session holds is not guessed.
    """

    def __init__(self, connect: Connect, *, size: int = 4) -> None:
        self._connect = connect
        self._free: list[Any] = []
        self._slots = asyncio.Semaphore(size)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """One connection, for the time of the block. Raises StoreUnavailable or StoreError."""
        async with self._slots:
            connection = self._free.pop() if self._free else None
            if connection is None or connection.is_closed():
                connection = await self._connect()
            try:
                yield connection
            except ViewError:  # an answer, and no failure of the connection
                self._free.append(connection)
                raise
            except BaseException:
                connection.terminate()
                raise
            self._free.append(connection)

    async def close(self) -> None:
        """Close those that are free; the others close themselves when they come back."""
        while self._free:
            await self._free.pop().close()
