"""Answers that last: live streams and exports.

While a part is being sent to somebody who reads slowly, it is looked at again whether all of it is still shared, at
least twice a second. Where it is not, or the token or session counts no longer, the connection is broken off.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import polars as pl
from starlette.responses import Response

from telemetry.api.boundary import Aborted, Receive, Scope, Send
from telemetry.api.context import Context
from telemetry.errors import NoLongerAvailable, NotVisible, StoreUnavailable
from telemetry.views.query import Query
from telemetry.views.sight import Viewer
from telemetry.views.visible import Pair

LOOK_S: Final = 0.5
_TOKEN_S: Final = 2.0  # the token or session is asked for again at least as often


@dataclass(frozen=True, slots=True)
class Lasting:
    """One such answer: what is shown to whom, and how to ask whether they may still ask at all."""

    context: Context
    viewer: Viewer
    query: Query
    still: Callable[[], Awaitable[bool]]

    async def check(self, pairs: frozenset[Pair]) -> None:
        """Raises Aborted where one of the (device, field) is not shared any more, or the token is revoked."""
        try:
            if not await self.still():
                raise Aborted
            if not pairs <= await self.context.visibility.pairs(self.viewer, self.query):
                raise Aborted
        except (NotVisible, NoLongerAvailable, StoreUnavailable):
            raise Aborted from None


def pairs_of(rows: pl.DataFrame) -> frozenset[Pair]:
    """The devices and fields that rows are about."""
    return frozenset(rows.select("device", "field").unique().iter_rows())


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes to be sent, and what they are about."""

    body: bytes
    pairs: frozenset[Pair] = frozenset()


class LastingResponse(Response):
    """Sends pieces as they come. ``pieces`` ends: the answer is whole. It raises Aborted: it is broken off.

    Where nobody listens any more, and when the process ends, ``pieces`` is closed.
    """

    def __init__(
        self, lasting: Lasting, pieces: AsyncIterator[Piece], media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._lasting, self._pieces = lasting, pieces
        self.status_code, self.media_type, self.background = 200, media_type, None
        self.init_headers(headers)

    async def __call__(
        self,
        scope: Scope,  # noqa: ARG002 - ASGI's
        receive: Receive,
        send: Send,
    ) -> None:
        """As an ASGI application."""
        gauge = self._lasting.context.observer.metrics.api_streams
        gone = asyncio.ensure_future(_disconnected(receive))
        gauge.inc()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while (piece := await self._next(gone)) is not None:
                await self._sent(send, piece, gone)
            await self._sent(send, Piece(b""), gone, last=True)
        finally:
            gauge.dec()
            gone.cancel()
            await _closed(self._pieces)

    async def _next(self, gone: "asyncio.Future[None]") -> Piece | None:
        """The next piece, None at the end. Raises Aborted where nobody waits for it any more."""
        coming: asyncio.Future[Piece | None] = asyncio.ensure_future(anext(self._pieces, None))
        try:
            both: list[asyncio.Future[Any]] = [coming, gone]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise Aborted
            return await coming
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.wait({coming})

    async def _sent(self, send: Send, piece: Piece, gone: "asyncio.Future[None]", *, last: bool = False) -> None:
        message = {"type": "http.response.body", "body": piece.body, "more_body": not last}
        sending = asyncio.ensure_future(send(message))
        try:
            while not sending.done():
                await asyncio.wait({sending, gone}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if gone.done() and not sending.done():
                    raise Aborted
                if not sending.done():
                    await self._lasting.check(piece.pairs)
            await sending
        finally:
            sending.cancel()


class Patience:
    """Waits for what comes next, and asks now and then whether the token still counts."""

    def __init__(self, lasting: Lasting, *, heartbeat_s: float) -> None:
        self._lasting, self._heartbeat_s = lasting, heartbeat_s
        self._ending = asyncio.ensure_future(lasting.context.ending.wait())

    async def next(self, coming: "asyncio.Future[Any]") -> str:
        """``come``, ``ending`` (the process ends), ``revoked`` (whoever asked may not any more) or ``quiet``."""
        since = time.monotonic()
        while True:
            left = self._heartbeat_s - (time.monotonic() - since)
            await asyncio.wait(
                {coming, self._ending}, timeout=max(0.0, min(left, _TOKEN_S)), return_when=asyncio.FIRST_COMPLETED
            )
            if self._ending.done():
                return "ending"
            if not await self._counts():
                return "revoked"
            if coming.done():
                return "come"
            if left <= _TOKEN_S:
                return "quiet"

    async def _counts(self) -> bool:
        try:
            return await self._lasting.still()
        except StoreUnavailable:
            return True  # the next read fails as well, and waits

    def close(self) -> None:
        """Stop waiting."""
        self._ending.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _closed(pieces: AsyncIterator[Piece]) -> None:
    close = getattr(pieces, "aclose", None)
    if close is not None:
        await close()
