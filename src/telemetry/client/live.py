"""GET /live followed over lost connections: batches as they come, until the service says that it is over."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final, Unpack

import msgspec
import polars as pl

from telemetry.client.drive import Awaiting, Waiting
from telemetry.client.errors import ClientError, NotAnApi, NotFound, Unreachable
from telemetry.client.events import EventParser, ServerEvent
from telemetry.client.reading import What
from telemetry.client.results import Device, rows_of_series
from telemetry.client.wire import Patience, Reply, Request, parameters

EVENT_STREAM: Final = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Batch:
    """What became visible at one instant. ``rows`` as ``series`` gives them; ``devices``: those that they are about."""

    rows: pl.DataFrame
    devices: tuple[Device, ...]


class Following:
    """One stream without I/O: what to ask, what came, and when to connect again.

    After a lost connection the recent past comes again: rows that were given already are left out.
    """

    def __init__(self, patience: Patience, asked: What) -> None:
        self.request = Request("GET", "/live", parameters(asked), accept=EVENT_STREAM)
        self._over = False
        self._patience = patience.fresh()
        self._lasting = replace(patience, retries=_EVER, patience_s=float("inf"), _tried=0)
        self._parser = EventParser()
        self._began = self._again = False
        self._known: pl.DataFrame | None = None

    def ended(self) -> bool:
        """Whether the service said that it is over."""
        return self._over

    def connected(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """An answer began. Raises the Problem that it tells."""
        if status != HTTPStatus.OK:
            Reply(status, headers, body).checked()
        if not headers.get("content-type", "").startswith(EVENT_STREAM):
            raise NotAnApi("an answer that is no stream of events")
        self._parser, self._again, self._began = EventParser(), self._began, True

    def feed(self, chunk: bytes) -> list[Batch]:
        """Batches that are whole with this chunk."""
        self._patience = self._lasting.fresh()  # it works: the next loss is the first of any number
        found = [batch for event in self._parser.feed(chunk) if (batch := self._batch(event))]
        return [batch for batch in found if not batch.rows.is_empty()]

    def wait_s(self, error: ClientError | None) -> float:
        """How long to wait before connecting again. Raises ``error`` where that is of no use.

        ``error``: None where the service closed the connection, as it does when it ends itself.
        """
        if self._began and isinstance(error, NotFound):
            self._over = True  # withdrawn while we were not connected
            return 0.0
        return self._patience.wait_s(error or Unreachable("the stream was closed"))

    def _batch(self, event: ServerEvent) -> Batch | None:
        if event.name == "end":
            self._over = True
        if event.name != "batch":
            return None
        try:
            told = msgspec.json.decode(event.data, type=_Told)
        except msgspec.MsgspecError as error:
            raise NotAnApi(f"an event of another form: {error}") from None
        rows = rows_of_series(told.series)
        if self._again and self._known is not None:
            rows = rows.join(self._known, on=rows.columns, how="anti", nulls_equal=True)
            self._again = False
        known = rows if self._known is None else pl.concat([self._known, rows])
        self._known = known.tail(_REMEMBERED)
        return Batch(rows, told.devices)


_REMEMBERED: Final = 200_000
_EVER: Final = 10**9


@dataclass(frozen=True, slots=True)
class _Told:
    series: list[dict[str, object]] = field(default_factory=list)
    devices: tuple[Device, ...] = ()


class LiveWaiting(Waiting):
    """``live`` for the client that waits."""

    def live(self, **what: Unpack[What]) -> Iterator[Batch]:
        """What becomes visible, as it becomes visible; the first batch is of the recent past.

        Reconnects after a loss, waiting longer each time, and leaves out what it has given already. Ends when the
        service says that nothing is shared any more.

        Raises:
            NotFound: nothing is shared at the beginning, or not what was named.
            NotAuthenticated: the token was revoked while the connection was lost.

        """
        follow = Following(self._retry, what)
        while not follow.ended():
            error: ClientError | None = None
            try:
                with self._streamed(follow.request) as response:
                    problem = b"" if response.is_success else response.read()
                    follow.connected(response.status_code, dict(response.headers), problem)
                    for chunk in response.iter_bytes():
                        yield from follow.feed(chunk)
                        if follow.ended():
                            return
            except ClientError as caught:
                error = caught
            time.sleep(follow.wait_s(error))


class LiveAwaiting(Awaiting):
    """``live`` for the client that is awaited."""

    async def live(self, **what: Unpack[What]) -> AsyncIterator[Batch]:
        """As ``Client.live``."""
        follow = Following(self._retry, what)
        while not follow.ended():
            error: ClientError | None = None
            try:
                async with self._streamed(follow.request) as response:
                    problem = b"" if response.is_success else await response.aread()
                    follow.connected(response.status_code, dict(response.headers), problem)
                    async for chunk in response.aiter_bytes():
                        for batch in follow.feed(chunk):
                            yield batch
                        if follow.ended():
                            return
            except ClientError as caught:
                error = caught
            await asyncio.sleep(follow.wait_s(error))
