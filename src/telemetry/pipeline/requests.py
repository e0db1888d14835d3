"""What codecs ask gateways for, published at QoS 0 below their own prefix: once, or again and again.

Requests repair themselves (a codec that still lacks something asks again), so what cannot be sent now is not worth
much: it is tried again within a second while there is room, and one gateway is asked for the same thing at most
every ten seconds, whatever it sends. Nothing goes to other topics than the registry lists: what a gateway sends may
be part of a topic that a codec asks for.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from telemetry.codecs.registry import is_request
from telemetry.codecs.state import Request, Standing
from telemetry.ports import Source

_INTERVAL_S: Final = 1.0
_SAME_AGAIN_S: Final = 10.0
_LONGEST_TOPIC: Final = 512
_LARGEST: Final = 10_000  # requests waiting, and requests remembered so as not to repeat them

Key = tuple[str, str]


@dataclass(slots=True)
class _Repeated:
    standing: Standing
    due_s: float
    payload: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.payload = self.standing.first


class Requests:
    """One event loop. Names are held in memory only. ``speaks``: whether this gateway may still be spoken to."""

    def __init__(
        self, source: Source, speaks: Callable[[str], bool], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._speaks = speaks
        self._monotonic = monotonic
        self._waiting: dict[Key, Request] = {}
        self._sent: dict[Key, float] = {}
        self._standing: dict[Key, dict[str, _Repeated]] = {}

    def ask(self, requests: Iterable[Request]) -> None:
        """Have these published once, unless the same was a moment ago or too much is waiting."""
        now = self._monotonic()
        for request in requests:
            key = (request.gateway, request.topic)
            if not _may(request.topic):
                continue
            if now - self._sent.get(key, -_SAME_AGAIN_S) >= _SAME_AGAIN_S and len(self._waiting) < _LARGEST:
                self._waiting[key] = request

    def stand(self, wanted: Mapping[Key, Sequence[Standing]]) -> None:
        """From now on publish these, by (gateway, codec), in place of what was wanted there before."""
        now = self._monotonic()
        for key, requests in wanted.items():
            before = self._standing.pop(key, {})
            known = {topic: one for topic, one in before.items() if one.standing in requests}
            if requests:
                self._standing[key] = {
                    one.topic: known.get(one.topic) or _Repeated(one, now) for one in requests if _may(one.topic)
                }

    async def publish(self) -> int:
        """Publish what is due; how many were sent."""
        waiting, self._waiting = self._waiting, {}
        sent = 0
        for key, request in waiting.items():
            if not self._speaks(request.gateway):
                continue
            if await self._send(request.gateway, request.topic, request.payload):
                self._remember(key)
                sent += 1
            elif key not in self._waiting and len(self._waiting) < _LARGEST:
                self._waiting[key] = request
        return sent + await self._repeat()

    async def _repeat(self) -> int:
        now, sent = self._monotonic(), 0
        for key, repeated in list(self._standing.items()):
            due = [one for one in repeated.values() if one.due_s <= now]
            if due and not self._speaks(key[0]):
                self._standing.pop(key, None)
                continue
            for one in due:
                if await self._send(key[0], one.standing.topic, one.payload):
                    one.due_s, one.payload = now + one.standing.every_s, one.standing.payload
                    sent += 1
        return sent

    async def run(self) -> None:
        """Publish every second until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            await self.publish()

    async def _send(self, gateway: str, topic: str, payload: bytes) -> bool:
        return await self._source.publish(f"gw/{gateway}/{topic}", payload)

    def _remember(self, key: Key) -> None:
        self._sent.pop(key, None)
        self._sent[key] = self._monotonic()
        while len(self._sent) > _LARGEST:
            del self._sent[next(iter(self._sent))]


def _may(topic: str) -> bool:
    """Whether codecs may have something published there: an MQTT client must not fail for what a gateway sends."""
    return len(topic) <= _LONGEST_TOPIC and is_request(topic) and not set(topic) & {"+", "#", "\0"}
