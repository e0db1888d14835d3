"""The owner's permission to listen to Bluetooth: set for a site, followed by whoever listens there."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg

from telemetry.errors import RegistryError, StoreUnavailable
from telemetry.store.connection import UNAVAILABLE, Connect, closed_is_lost, translated
from telemetry.store.failures import reported
from telemetry.store.sql import queries

CHANNELS: Final = ("telemetry_bluetooth", "telemetry_change")  # a permission, a gateway or its owner changed
_SQL: Final = queries("bluetooth")
_RETRY_MIN_S: Final = 0.2
_RETRY_MAX_S: Final = 10.0
_ASK_TIMEOUT_S: Final = 10.0


async def set_permission(connection: Any, site_key: int, *, permitted: bool) -> None:
    """Permit or forbid, audited, committed on return. ``connection``: telemetry_operator or telemetry_rights.

    Raises:
        RegistryError: the site is unknown, or its owner erased.

    """
    with reported("changing a Bluetooth permission"):
        async with connection.transaction():
            owner_key = await connection.fetchval(_SQL["set"], site_key, permitted)
            if owner_key is None:
                raise RegistryError("the site is unknown or its owner erased", remedy="`telemetry site list`")
            action = "bluetooth.permit" if permitted else "bluetooth.forbid"
            await connection.execute(_SQL["record"], action, owner_key, site_key)


class SitePermission:
    """Tells ``told`` whether listening is permitted where a gateway stands; None while nobody can say.

    ``name_blind``: the blind index of the gateway's name. As telemetry_ingest. One event loop.
    """

    def __init__(
        self,
        connect: Connect,
        name_blind: bytes,
        told: Callable[[bool | None], Awaitable[None]],
        *,
        poll_s: float = 2.0,
    ) -> None:
        self._connect, self._name_blind, self._told, self._poll_s = connect, name_blind, told, poll_s
        self._woken = asyncio.Event()
        self._connection: Any = None
        self._one_at_a_time = asyncio.Lock()

    async def confirm(self) -> bool:
        """Ask now, and tell; False as well while nobody can say."""
        try:
            return await self._ask()
        except StoreUnavailable:
            return False

    async def run(self) -> None:
        """Follow it, reconnecting, until cancelled.

        Raises:
            StoreError: the database refuses role, password or statement for good.

        """
        delay = _RETRY_MIN_S
        while True:
            try:
                connection = await self._connect()
                delay = _RETRY_MIN_S
                try:
                    self._connection = connection
                    await self._follow(connection)
                finally:
                    self._connection = None
                    connection.terminate()
            except StoreUnavailable:
                await self._told(None)
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(2 * delay, _RETRY_MAX_S)

    async def _follow(self, connection: Any) -> None:
        connection.add_termination_listener(lambda _: self._woken.set())
        for channel in CHANNELS:
            await self._database(connection.add_listener(channel, lambda *_: self._woken.set()))
        while True:
            self._woken.clear()
            await self._ask()
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _ask(self) -> bool:
        async with self._one_at_a_time:
            if self._connection is None:
                raise StoreUnavailable("the database is away")
            asked = self._connection.fetchval(_SQL["permitted"], self._name_blind, timeout=_ASK_TIMEOUT_S)
            found = bool(await self._database(asked))
        await self._told(found)
        return found

    @staticmethod
    async def _database(action: Awaitable[Any]) -> Any:
        try:
            with closed_is_lost():
                return await action
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            raise translated(error) from None
