"""From commit to acknowledgement: tokens go back in the order received, watermarks to the gateways.

Acknowledged ⇒ committed rests on this file: a token leaves it only after ``committed``.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from telemetry.model.batch import RawMessage, Watermark
from telemetry.ports import Source


@dataclass(slots=True, eq=False)
class Ticket:
    """One batch on its way; made by ``Delivery.received``, given back to ``Delivery.committed``."""

    tokens: tuple[int, ...]
    committed: bool = False


class Delivery:
    """Remembers batches in the order received and releases each after its own commit and those before it.

    One event loop. A batch that is never committed holds back all that follow: nothing is acknowledged past it.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._open: deque[Ticket] = deque()

    @property
    def in_flight(self) -> int:
        """Batches received and not released."""
        return len(self._open)

    def received(self, messages: Sequence[RawMessage]) -> Ticket:
        """Remember a batch; call it in the order in which the batcher yields."""
        ticket = Ticket(tuple(message.token for message in messages))
        self._open.append(ticket)
        return ticket

    def committed(self, ticket: Ticket) -> list[Ticket]:
        """The batch's transaction has committed: release every batch whose turn has come, and name them."""
        ticket.committed = True
        released: list[Ticket] = []
        while self._open and self._open[0].committed:
            released.append(self._open.popleft())
        if tokens := [token for one in released for token in one.tokens]:
            self._source.acknowledge(tokens)
        return released


class Watermarks:
    """Tells each gateway how far it is committed: ``gw/<gateway>/committed``, at most once per interval.

    The payload is JSON: ``stream`` (the name the gateway gave its run of numbers), ``sequence`` (every number from
    1 up to it is committed), ``highest`` (the highest that is), ``missing`` (inclusive ranges between the two,
    oldest first, not more than the database names). Published for gateways with a commit since the last time, an
    unchanged one included: a gateway whose commit changes nothing has sent again, so it missed the last one. It is
    retained, so that a gateway that was away learns it when it subscribes.

    Names are held between a commit and the next publication only.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._news: dict[tuple[str, str], Watermark] = {}

    def update(self, gateway: str, stream: str, watermark: Watermark) -> None:
        """Remember ``watermark``; commits that end in another order than they began leave the furthest."""
        key = (gateway, stream)
        known = self._news.get(key)
        if known is None or progress(watermark) >= progress(known):
            self._news.pop(key, None)  # the stream heard of last is published last, and so stays retained
            self._news[key] = watermark

    async def publish(self) -> int:
        """Publish what is new; returns how many. What the source cannot send now stays for the next time."""
        news, self._news = self._news, {}
        sent = 0
        for (gateway, stream), watermark in news.items():
            if await self._source.publish(f"gw/{gateway}/committed", encode(stream, watermark), retain=True):
                sent += 1
            elif (gateway, stream) not in self._news:
                self._news[gateway, stream] = watermark
        return sent

    async def run(self, interval_s: float) -> None:
        """Publish every ``interval_s`` seconds until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await self.publish()


def encode(stream: str, watermark: Watermark) -> bytes:
    """The payload of one watermark."""
    return orjson.dumps(
        {
            "stream": stream,
            "sequence": watermark.sequence,
            "highest": watermark.highest,
            "missing": watermark.missing,
        }
    )


def progress(watermark: Watermark) -> tuple[int, int, int]:
    """Sorts the states of one stream by age: no commit ever takes anything back."""
    return watermark.sequence, watermark.highest, -watermark.missing_count
