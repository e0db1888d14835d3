"""Carries plans out over httpx: waiting (``Waiting``) or awaited (``Awaiting``). Nothing of it differs but the waiting.

Tokens go into the Authorization header and nowhere else: not into addresses, texts of errors, or logs.
"""

import asyncio
import inspect
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from typing import Any, BinaryIO, Concatenate, Final, ParamSpec, Self, TypeVar, get_args
from urllib.parse import urlsplit

import httpx
import msgspec

from telemetry.client.errors import ClientError, Unreachable
from telemetry.client.wire import JSON, PREFIX, Patience, Plan, Reply, Request

P = ParamSpec("P")
T = TypeVar("T")
W = TypeVar("W", bound="Waiting")
A = TypeVar("A", bound="Awaiting")

TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
CSRF_HEADER: Final = "X-CSRF-Token"


class _NoCookies(logging.Filter):
    """httpcore tells headers of answers at level DEBUG; a session's cookie is among them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "set-cookie" not in record.getMessage().lower()


_NO_COOKIES: Final = _NoCookies()
for _name in ("httpcore.http11", "httpcore.http2"):
    logging.getLogger(_name).addFilter(_NO_COOKIES)


def checked_base(url: str) -> str:
    """The service's address without a path. Raises ValueError for one over which a token would go in clear."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in {"http", "https"} or not host or parts.username is not None:
        raise ValueError("the service's address is like https://example.org")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError("over http a token would be readable on its way: use https")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Common:
    """``retry``: how often and how long failed safe requests are asked again. Certificates are checked against those
    that come with httpx, or those of $SSL_CERT_FILE.
    """

    def __init__(self, base_url: str, token: str | None = None, *, retry: Patience | None = None) -> None:
        self._base, self._retry = checked_base(base_url), retry or Patience()
        self._headers = {"User-Agent": "telemetry-client/1"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._csrf: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base!r})"

    def _arguments(self, request: Request) -> dict[str, Any]:
        headers = {"Accept": request.accept, **request.headers}
        if self._csrf is not None and not request.is_safe:
            headers[CSRF_HEADER] = self._csrf
        made: dict[str, Any] = {"params": dict(request.params), "headers": headers}
        if request.body is not None:
            made |= {"content": msgspec.json.encode(request.body)}
            headers["Content-Type"] = JSON
        return made | {"method": request.method, "url": f"{PREFIX}{request.path}"}

    def _patience(self, request: Request) -> Patience:
        """Only what is safe is asked again."""
        patience = self._retry.fresh()
        if not request.is_safe:
            patience.retries = 0
        return patience


class Waiting(_Common):
    """The client that waits. One thread at a time, as httpx's; a context manager."""

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        timeout: httpx.Timeout | float = TIMEOUT,
        retry: Patience | None = None,
    ) -> None:
        super().__init__(base_url, token, retry=retry)
        self._http = httpx.Client(base_url=self._base, headers=self._headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def _run(self, plan: Plan[T]) -> T:
        try:
            request = next(plan)
            while True:
                request = plan.send(self._answer(request))
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            plan.close()

    def _answer(self, request: Request) -> Reply:
        patience = self._patience(request)
        while True:
            try:
                return self._once(request).checked()
            except ClientError as error:
                time.sleep(patience.wait_s(error))

    def _once(self, request: Request) -> Reply:
        with self._streamed(request) as response:
            body = _kept(response, request.into)
            for chunk in response.iter_bytes():
                body.write(chunk)
            return _reply(response, body)

    @contextmanager
    def _streamed(self, request: Request) -> Iterator[httpx.Response]:
        begun = False
        try:
            with self._http.stream(**self._arguments(request)) as response:
                begun = request.into is not None and response.is_success
                yield response
        except httpx.HTTPError as error:
            raise Unreachable(type(error).__name__, begun=begun) from None


class Awaiting(_Common):
    """The client that is awaited. One event loop, any number of tasks; an asynchronous context manager."""

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        timeout: httpx.Timeout | float = TIMEOUT,
        retry: Patience | None = None,
    ) -> None:
        super().__init__(base_url, token, retry=retry)
        self._http = httpx.AsyncClient(base_url=self._base, headers=self._headers, timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def _run(self, plan: Plan[T]) -> T:
        try:
            request = next(plan)
            while True:
                request = plan.send(await self._answer(request))
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            plan.close()

    async def _answer(self, request: Request) -> Reply:
        patience = self._patience(request)
        while True:
            try:
                return (await self._once(request)).checked()
            except ClientError as error:
                await asyncio.sleep(patience.wait_s(error))

    async def _once(self, request: Request) -> Reply:
        async with self._streamed(request) as response:
            body = _kept(response, request.into)
            async for chunk in response.aiter_bytes():
                body.write(chunk)
            return _reply(response, body)

    @asynccontextmanager
    async def _streamed(self, request: Request) -> AsyncIterator[httpx.Response]:
        begun = False
        try:
            async with self._http.stream(**self._arguments(request)) as response:
                begun = request.into is not None and response.is_success
                yield response
        except httpx.HTTPError as error:
            raise Unreachable(type(error).__name__, begun=begun) from None


class _Held:
    """A body that is held in memory."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, chunk: bytes) -> None:
        self.parts.append(chunk)


def _kept(response: httpx.Response, into: BinaryIO | None) -> "_Held | BinaryIO":
    """Where a body goes: into the file only if it is what was asked for."""
    return into if into is not None and response.is_success else _Held()


def _reply(response: httpx.Response, body: "_Held | BinaryIO") -> Reply:
    held = b"".join(body.parts) if isinstance(body, _Held) else b""
    headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, held)


def waiting(plan: Callable[P, Plan[T]]) -> Callable[Concatenate[W, P], T]:
    """A method that carries the plan out."""

    @wraps(plan)
    def method(self: W, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(plan(*args, **kwargs))

    return _signed(method, plan)


def awaiting(plan: Callable[P, Plan[T]]) -> Callable[Concatenate[A, P], Coroutine[Any, Any, T]]:
    """The same as a coroutine."""

    @wraps(plan)
    async def method(self: A, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(plan(*args, **kwargs))

    return _signed(method, plan)


def _signed(method: T, plan: Callable[..., Any]) -> T:
    """For help(): what the method gives, and not that it is made from a generator."""
    told = inspect.signature(plan)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    gives = get_args(told.return_annotation)[-1]
    made = told.replace(parameters=[itself, *told.parameters.values()], return_annotation=gives)
    method.__signature__ = made  # type: ignore[attr-defined]  # any function has room for it
    return method
