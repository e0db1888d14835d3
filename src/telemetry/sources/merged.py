"""Several sources as one: the broker's, and Bluetooth where the service listens itself.

A token is that of its source with the source's number in its lowest bits. Publishing and counters are those of the
first source, which is the broker's.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from telemetry.errors import SourceError
from telemetry.model.batch import RawMessage

_BITS: Final = 2
_MASK: Final = (1 << _BITS) - 1


class Sources:
    """``telemetry.ports.Source`` over up to four. One event loop, one consumer."""

    def __init__(self, first: Any, *others: Any) -> None:
        self._sources: tuple[Any, ...] = (first, *others)
        assert len(self._sources) <= _MASK + 1  # noqa: S101 - an invariant, not input

    async def run(self) -> None:
        """Run all of them; the first that fails ends all."""
        try:
            async with asyncio.TaskGroup() as group:
                for source in self._sources:
                    group.create_task(source.run())
        except* SourceError as errors:
            raise errors.exceptions[0] from None

    async def batches(self) -> AsyncIterator[list[RawMessage]]:
        """Lists of each source, as they come; nothing is taken from a source before it can be handed over."""
        iterators = [source.batches() for source in self._sources]
        waiting: dict[asyncio.Task[list[RawMessage]], int] = {}
        try:
            while True:
                for number, iterator in enumerate(iterators):
                    if number not in waiting.values():
                        waiting[asyncio.create_task(anext(iterator))] = number
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    number = waiting.pop(task)
                    yield [message._replace(token=message.token << _BITS | number) for message in task.result()]
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            for iterator in iterators:
                with contextlib.suppress(RuntimeError):
                    await iterator.aclose()

    def acknowledge(self, tokens: Sequence[int]) -> None:
        """Give each source its own tokens back, in their order."""
        for number, source in enumerate(self._sources):
            if mine := [token >> _BITS for token in tokens if token & _MASK == number]:
                source.acknowledge(mine)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Publish through the first source."""
        return bool(await self._sources[0].publish(topic, payload, retain=retain))

    @property
    def connected(self) -> bool:
        """Whether the broker delivers."""
        return bool(self._sources[0].connected)

    @property
    def counters(self) -> Any:
        """The broker's."""
        return self._sources[0].counters

    @property
    def last_error(self) -> SourceError | None:
        """The broker's."""
        found: SourceError | None = self._sources[0].last_error
        return found

    @property
    def pending_messages(self) -> int:
        """Over all sources."""
        return sum(source.pending_messages for source in self._sources)

    @property
    def pending_bytes(self) -> int:
        """Over all sources."""
        return sum(source.pending_bytes for source in self._sources)
