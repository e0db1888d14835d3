"""Hear of plan and registry changes: LISTEN, with a poll beside it, since a notification can be lost with its
connection and a write is refused only after work was done for it.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg

from telemetry.errors import StoreUnavailable
from telemetry.store.connection import UNAVAILABLE, Connect, translated
from telemetry.store.sql import queries

CHANNEL: Final = "telemetry_change"
_QUERIES: Final = queries("changes")
_RETRY_MIN_S: Final = 0.2
_RETRY_MAX_S: Final = 10.0


class ChangeListener:
    """Calls ``on_change(version)`` once for every version that is newer than all before, on one event loop.

    Versions in between may be skipped; the first one read counts as a change. The next is awaited only when the
    call has returned. What ``on_change`` raises ends ``run``.
    """

    def __init__(self, connect: Connect, on_change: Callable[[int], Awaitable[None]], *, poll_s: float = 5.0) -> None:
        self._connect = connect
        self._on_change = on_change
        self._poll_s = poll_s
        self._known = 0
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Listen, reconnecting, until cancelled.

        Raises:
            StoreError: the database refuses role, password or statement for good.

        """
        delay = _RETRY_MIN_S
        while True:
            try:
                connection = await self._connect()
                delay = _RETRY_MIN_S
                try:
                    await self._follow(connection)
                finally:
                    connection.terminate()
            except StoreUnavailable:
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(2 * delay, _RETRY_MAX_S)

    async def _follow(self, connection: Any) -> None:
        connection.add_termination_listener(lambda _: self._woken.set())
        await self._database(connection.add_listener(CHANNEL, lambda *_: self._woken.set()))
        while True:
            self._woken.clear()
            version = await self._database(connection.fetchval(_QUERIES["version"], timeout=self._poll_s + 5))
            if version > self._known:
                await self._on_change(version)
                self._known = version
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._woken.wait()
            except TimeoutError:
                continue

    @staticmethod
    async def _database(action: Awaitable[Any]) -> Any:
        try:
            return await action
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            raise translated(error) from None
