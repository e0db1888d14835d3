"""What holds for every request, around the framework: a request id, headers, sizes, ETags, the access log.

Nothing of a request is logged but its route's template. An answer that was begun and cannot be finished is broken
off, so that nobody takes it for whole.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException

from telemetry.api.keyed import ETags
from telemetry.api.problems import problem_response
from telemetry.observe import Observer, events

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NO_STORE: Final = (b"cache-control", b"no-store")
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"interest-cohort=()"),
)
_NO_CONTENT_POLICY: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000")
_BODILESS: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


class Aborted(Exception):  # noqa: N818 - a state, not a mistake
    """The answer was broken off on purpose: what it was about is no longer shared, or nobody reads it."""


class Boundary:
    """An ASGI application around another. ``routes``: templates by the name of the route, and ``unknown``."""

    def __init__(
        self, app: App, *, etags: ETags, observer: Observer, routes: Mapping[str, StrEnum], body_bytes: int
    ) -> None:
        self._app, self._etags, self._observer, self._body_bytes = app, etags, observer, body_bytes
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["state"] = dict(scope.get("state") or {}) | {"request_id": _request_id()}
        answer = _Answer(scope, send, self._etags)
        started, error = time.perf_counter(), None
        try:
            if refused := _refused(scope, self._body_bytes):
                response = problem_response(scope["state"]["request_id"], refused)
                await response(scope, receive, answer.send)
            else:
                await self._app(scope, _limited(receive, self._body_bytes), answer.send)
        except Aborted:
            answer.abort()
        except asyncio.CancelledError:
            answer.abort()
            raise
        except Exception as caught:
            error = caught
            await self._failed(scope, receive, answer, caught)
        finally:
            if slot := scope["state"].get("slot"):
                slot.release()
            self._tell(scope, answer, time.perf_counter() - started, error)

    async def _failed(self, scope: Scope, receive: Receive, answer: "_Answer", error: Exception) -> None:
        """The framework raises again what it has answered with 500 already."""
        scope["state"]["error"] = error
        if answer.finished:
            return
        if answer.started:
            answer.abort()
            return
        await problem_response(scope["state"]["request_id"], "internal")(scope, receive, answer.send)

    def _tell(self, scope: Scope, answer: "_Answer", seconds: float, error: Exception | None) -> None:
        route = self._routes.get(getattr(scope.get("route"), "name", ""), self._routes["unknown"])
        try:
            method = events.Method(scope["method"])
        except ValueError:
            method = events.Method.OTHER
        self._observer.request_answered(
            events.RequestAnswered(
                int(scope["state"]["request_id"]),
                route,
                method,
                answer.status,
                round(seconds, 4),
                answer.sent_bytes,
                answer.aborted,
                scope["state"].get("error") or error,
            )
        )


class _Answer:
    """One answer on its way. A GET's whole body becomes an ETag before its first byte is sent."""

    def __init__(self, scope: Scope, send: Send, etags: ETags) -> None:
        self._scope, self._send, self._etags = scope, send, etags
        self._held: Message | None = None
        self.started = self.finished = self.aborted = False
        self.status = self.sent_bytes = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body":
            await self._body(message)
        else:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        headers = list(message.get("headers", ()))
        named = {name for name, _ in headers}
        more = [(b"x-request-id", self._scope["state"]["request_id"].encode()), *_HEADERS]
        more += [each for each in (NO_STORE, _NO_CONTENT_POLICY) if each[0] not in named]
        if self._scope.get("scheme") == "https":
            more.append(_HSTS)
        if slot := self._scope["state"].get("slot"):
            more += [(name.lower().encode(), value.encode()) for name, value in slot.headers().items()]
        message = {**message, "headers": [*headers, *more]}
        self.status = message["status"]
        whole = b"content-length" in named and b"etag" not in named
        if self._scope["method"] == "GET" and message["status"] == HTTPStatus.OK and whole:
            self._held = message
            return
        self.started = True
        await self._send(message)

    async def _body(self, message: Message) -> None:
        if self._held is not None:
            message = await self._tagged(self._held, message)
            self._held = None
        self.sent_bytes += len(message.get("body", b""))
        await self._send(message)
        self.finished = not message.get("more_body", False)

    async def _tagged(self, start: Message, body: Message) -> Message:
        headers = start["headers"]
        kind = next((value for name, value in headers if name == b"content-type"), b"")
        tag = self._etags.of(self._scope["state"].get("principal"), body.get("body", b""), kind)
        asked = next((value for name, value in self._scope["headers"] if name == b"if-none-match"), b"").decode(
            "latin-1"
        )
        unchanged = tag in [each.strip().removeprefix("W/") for each in asked.split(",")]
        tagged = [*headers, (b"etag", tag.encode()), (b"vary", b"Accept, Authorization, Cookie")]
        if unchanged:
            self.status = 304
            dropped = {b"content-length", b"content-type"}
            tagged = [each for each in tagged if each[0] not in dropped]
            start, body = {**start, "status": 304}, {"type": "http.response.body", "body": b""}
        self.started = True
        await self._send({**start, "headers": tagged})
        return body

    def abort(self) -> None:
        """Close the connection without an end of the body, and without what still waits to be sent."""
        if self.finished:
            return
        self.aborted = True
        transport = getattr(getattr(self._send, "__self__", None), "transport", None)
        if transport is not None:
            transport.abort()


def _request_id() -> str:
    """Random: 15 digits, a number that logs take (and JSON everywhere)."""
    return str(10**14 + secrets.randbelow(9 * 10**14))


def _refused(scope: Scope, body_bytes: int) -> str | None:
    """The problem of a body that is too large or no JSON, told before it is read."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > body_bytes:
        return "too-large"
    has_body = b"transfer-encoding" in headers or length not in {b"0", b""}
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if has_body and scope["method"] not in _BODILESS and kind != b"application/json":
        return "unsupported-media-type"
    return None


def _limited(receive: Receive, body_bytes: int) -> Receive:
    """Refuses a body of which more comes than was allowed."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > body_bytes:
                raise HTTPException(413)
        return message

    return bounded
