"""Whether the owner lets Bluetooth be listened to here (COLL-2). Unknown is no.

Inside the service the database says it, for the site (store/bluetooth.py). A gateway of its own has no database: there
a file says it, made by `telemetry ble permit` on that machine and removed by `telemetry ble forbid`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.1
FILE_NAME: Final = "permitted"


class Permission:
    """One event loop. Whoever collects asks ``granted`` for every frame, and awaits changes.

    Unknown (at the start, or while the database is away) stops collecting; forbidden also throws away what waits.
    """

    def __init__(self, *, granted: bool | None = None) -> None:
        self._granted = granted
        self._changed = asyncio.Condition()
        self._confirm: Callable[[], Awaitable[bool]] | None = None

    def asks(self, confirm: Callable[[], Awaitable[bool]]) -> None:
        """Name what knows it for certain at the moment of asking."""
        self._confirm = confirm

    async def confirmed(self) -> bool:
        """Whether it is permitted, asked after now: what was heard before may be handed on then.

        News of a change takes a moment; a frame heard in that moment must not slip through.
        """
        if self._granted is not True:
            return False
        if self._confirm is not None and not await self._confirm():
            return False
        return self.granted

    @property
    def granted(self) -> bool:
        """Whether it is permitted now."""
        return self._granted is True

    async def set(self, granted: bool | None) -> None:
        """Change it, None: unknown; whoever awaits the change runs at once."""
        if granted is not self._granted:
            self._granted = granted
            async with self._changed:
                self._changed.notify_all()

    async def until_granted(self) -> None:
        """Return when it is permitted."""
        await self._until(lambda: self._granted is True)

    async def until_not_granted(self) -> None:
        """Return when it is forbidden or unknown."""
        await self._until(lambda: self._granted is not True)

    async def until_forbidden(self) -> None:
        """Return when it is known to be forbidden."""
        await self._until(lambda: self._granted is False)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)


async def follow_file(permission: Permission, directory: Path) -> None:
    """Keep ``permission`` what the file in ``directory`` says, until cancelled."""

    async def confirm() -> bool:
        return (directory / FILE_NAME).is_file()

    permission.asks(confirm)
    while True:
        await permission.set((directory / FILE_NAME).is_file())
        await asyncio.sleep(_POLL_S)
