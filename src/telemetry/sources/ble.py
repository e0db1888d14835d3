"""The Bluetooth source: what registered devices tell, as messages that are acknowledged when they are committed.

    radio, batteries ─▶ Reception ─▶ counters on disk ─▶ spool on disk ─▶ batches() ─▶ pipeline
                                                             ▲                            │
                                                             └────── acknowledge() ◀──────┘

Every frame becomes a native reading (``readings``, JSON) of the instant of its receipt, so it is stored exactly once.
An advertisement that nobody received is lost by nature; what was received survives a restart in the spool.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from telemetry.errors import SourceError
from telemetry.model.batch import RawMessage
from telemetry.model.bluetooth import Heard
from telemetry.ports import Clock
from telemetry.sources.ble_counters import Counters
from telemetry.sources.ble_permission import Permission
from telemetry.sources.ble_receive import Reception
from telemetry.sources.ble_spool import Spool

TOPIC: Final = "readings"
_AT_ONCE: Final = 500
_MAX_WAITING: Final = 10_000  # readings that wait for the disk


class BleSource:
    """``telemetry.ports.Source`` without a broker. One event loop, one consumer of ``batches``.

    ``gateway``: the name under which the service knows the place where this listens.
    """

    def __init__(
        self,
        gateway: str,
        *,
        reception: Reception,
        counters: Counters,
        spool: Spool,
        permission: Permission,
        clock: Clock,
    ) -> None:
        self._gateway = gateway
        self._reception, self._counters, self._spool = reception, counters, spool
        self._permission, self._clock = permission, clock
        self._waiting: list[bytes] = []
        self._received, self._stored = asyncio.Event(), asyncio.Event()
        self._sizes: dict[int, int] = {}
        self.dropped = 0
        self.last_error: SourceError | None = None
        if len(spool):
            self._stored.set()

    @property
    def heard(self) -> Heard:
        """What became of advertisements since the start."""
        return self._reception.heard

    @property
    def permitted(self) -> bool:
        """Whether the owner lets this listen, and send what it heard."""
        return self._permission.granted

    @property
    def spool(self) -> Spool:
        """Where readings wait."""
        return self._spool

    @property
    def pending_messages(self) -> int:
        """Messages handed over whose token has not come back."""
        return len(self._sizes)

    @property
    def pending_bytes(self) -> int:
        """Their payload bytes."""
        return sum(self._sizes.values())

    # ---- in

    def hear(self, address: str, manufacturer: Mapping[int, bytes], services: Mapping[str, bytes]) -> None:
        """An advertisement arrived."""
        if not self._permission.granted:
            return
        found = self._reception.hear(address, manufacturer, services, self._clock.now_us())
        if found is not None:
            self.put(found)

    def put(self, reading: bytes) -> None:
        """A reading in native JSON, from an advertisement or from a battery."""
        if len(self._waiting) >= _MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append(reading)
        self._received.set()

    # ---- the port

    async def run(self) -> None:
        """Bring what arrives to disk, until cancelled. Where listening is forbidden, what waits is thrown away."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._store())
            group.create_task(self._obey())
            group.create_task(self._resume())

    async def batches(self) -> AsyncIterator[list[RawMessage]]:
        """What is on disk and was not handed over by this process; ends only by cancellation."""
        while True:
            self._stored.clear()
            heard_so_far = self._spool.next_number
            permitted = heard_so_far > self._spool.read_number and await self._permission.confirmed()
            records = self._spool.take(_AT_ONCE, before=heard_so_far) if permitted else []
            if not records:
                await self._stored.wait()
                continue
            self._stored.set()  # there may be more
            now_us = self._clock.now_us()
            self._sizes.update({number: len(value) for number, value in records})
            yield [RawMessage(self._gateway, TOPIC, value, number, now_us) for number, value in records]

    def acknowledge(self, tokens: Sequence[int]) -> None:
        """Forget what is committed; any order, unknown tokens are ignored."""
        for token in tokens:
            self._sizes.pop(token, None)
        self._spool.acknowledge(tokens)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:  # noqa: ARG002
        """There is nobody to tell: True, so that nothing is kept to be told later."""
        return True

    # ---- at work

    async def _store(self) -> None:
        while True:
            await self._received.wait()
            self._received.clear()
            values, self._waiting = self._waiting, []
            # The counter first: a crash in between loses a frame, the other way it could be played again.
            await asyncio.to_thread(self._counters.save)
            if self._permission.granted:
                self._spool.append(values)
                self._stored.set()

    async def _obey(self) -> None:
        while True:
            await self._permission.until_forbidden()
            self._waiting.clear()
            self._spool.clear()
            await self._permission.until_granted()

    async def _resume(self) -> None:
        """What waits on disk is looked at again when it may be handed on again."""
        while True:
            await self._permission.until_granted()
            self._stored.set()
            await self._permission.until_not_granted()
