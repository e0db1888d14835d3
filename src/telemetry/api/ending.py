"""Tells answers that last that the process is about to end."""

import asyncio


class Ending:
    """Set once. One event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def begun(self) -> bool:
        """Whether streams should end."""
        return self._event.is_set()

    def begin(self) -> None:
        """From now on streams end."""
        self._event.set()

    async def wait(self) -> None:
        """Until it begins."""
        await self._event.wait()
