"""Close a batch by messages, by bytes or by age. What the source hands over is cut, never reordered."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, Final, cast

from telemetry.model.batch import RawMessage
from telemetry.ports import Clock

_US_PER_S: Final = 1e6


class Batcher:
    """Makes batches of one source's messages. One event loop, one consumer.

    A batch closes when it holds ``max_messages``, when the next message would bring it above ``max_bytes`` of
    payload (a larger message travels alone), or when its first message was received ``max_age_s`` ago: time spent
    waiting in the source while the consumer was busy counts. ``arrivals`` is asked for more only while a batch is
    being filled, so a slow consumer fills the source, and the source stops reading.
    """

    def __init__(
        self,
        arrivals: AsyncIterator[list[RawMessage]],
        clock: Clock,
        *,
        max_messages: int,
        max_bytes: int,
        max_age_s: float,
    ) -> None:
        self._arrivals = arrivals
        self._clock = clock
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._waiting: list[RawMessage] = []
        self._counted = self._counted_bytes = 0  # of the waiting messages: those that fit
        self._next: asyncio.Task[list[RawMessage]] | None = None

    async def batches(self) -> AsyncGenerator[list[RawMessage], None]:
        """Batches, none empty, in the order received; ends after the source's iterator has ended.

        Cancelling it loses nothing that would not come again: no message was acknowledged.
        """
        more = True
        try:
            while more or self._waiting:
                size = self._fits()
                while more and size == len(self._waiting) < self._max_messages:
                    arrived = await self._arrived(self._patience())
                    if arrived is None:
                        break
                    more = bool(arrived)
                    self._waiting += arrived
                    size = self._fits()
                if size:
                    batch, self._waiting = self._waiting[:size], self._waiting[size:]
                    self._counted = self._counted_bytes = 0
                    yield batch
        finally:
            await self._end()

    def _fits(self) -> int:
        """How many of the waiting messages make a batch: all of them, or fewer because of a limit.

        Counts on from the last call, so that many small arrivals cost no more than one large one.
        """
        waiting, last = self._waiting, min(len(self._waiting), self._max_messages)
        while self._counted < last:
            size = len(waiting[self._counted].payload)
            if self._counted and self._counted_bytes + size > self._max_bytes:
                break
            self._counted += 1
            self._counted_bytes += size
        return self._counted

    def _patience(self) -> float | None:
        """Seconds until the first waiting message is too old; None while there is none."""
        if not self._waiting:
            return None
        age = (self._clock.now_us() - self._waiting[0].received_us) / _US_PER_S
        return min(max(0.0, self._max_age_s - age), self._max_age_s)  # a clock set back must not stall a batch

    async def _arrived(self, timeout_s: float | None) -> list[RawMessage] | None:
        """What the source hands over next; empty at its end, None when nothing came in time."""
        if self._next is None:
            step = cast("Coroutine[Any, Any, list[RawMessage]]", anext(self._arrivals, []))
            self._next = asyncio.ensure_future(step)
        done, _ = await asyncio.wait({self._next}, timeout=timeout_s)
        if not done:
            return None
        arrived, self._next = self._next.result(), None
        return arrived

    async def _end(self) -> None:
        if self._next is not None:
            self._next.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._next
