"""Mails are written after the answer was given: how long an answer takes tells nothing of an address."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from telemetry.deliver.mail import Mail, Mailer
from telemetry.errors import AccessBusy, DeliveryUnavailable, NotConfigured

MAX_WAITING: Final = 1_000
_PAUSES_S: Final = (1.0, 5.0, 30.0)

Writing = Callable[[], Awaitable[Mail | None]]
"""Looks up whether there is something to be written, and writes it. Runs after the answer."""


def unheard(_error: Exception) -> None:
    """Nobody is told."""


class Letters:
    """One after another, in one event loop. ``report`` is told why one was given up."""

    def __init__(
        self,
        mailer: Mailer,
        *,
        report: Callable[[Exception], object] = unheard,
        pauses_s: tuple[float, ...] = _PAUSES_S,
    ) -> None:
        self._mailer = mailer
        self._report = report
        self._pauses_s = pauses_s
        self._waiting: asyncio.Queue[Writing] = asyncio.Queue(MAX_WAITING)

    @property
    def link_base(self) -> str:
        """What links in mails begin with."""
        return self._mailer.link_base

    def require(self) -> None:
        """Raises NotConfigured where no mail can be sent."""
        if not self._mailer.configured:
            raise NotConfigured("accounts need e-mail, and no server is configured", remedy="set [mail]")

    def post(self, writing: Writing) -> None:
        """Take it, to be written soon. Raises AccessBusy where too many wait."""
        try:
            self._waiting.put_nowait(writing)
        except asyncio.QueueFull:
            raise AccessBusy from None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write and send while the block lasts."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            while not task.done():
                task.cancel()  # again and again: the SMTP client takes a cancellation for a lost connection
                await asyncio.wait({task}, timeout=0.1)

    async def drained(self) -> None:
        """Return when nothing waits any more."""
        await self._waiting.join()

    async def _run(self) -> None:
        while True:
            writing = await self._waiting.get()
            try:
                await self._write(writing)
            except Exception as error:
                self._report(error)
            finally:
                self._waiting.task_done()

    async def _write(self, writing: Writing) -> None:
        mail = await writing()
        if mail is None:
            return
        for pause_s in self._pauses_s:
            try:
                await self._mailer.send(mail)
            except DeliveryUnavailable:
                await asyncio.sleep(pause_s)
            else:
                return
        await self._mailer.send(mail)
