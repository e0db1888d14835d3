"""Serves the application over HTTP on uvicorn (docs/decisions/0068-http-server.md)."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final

import uvicorn

from telemetry.api.app import build
from telemetry.api.context import Context
from telemetry.config import ApiConfig
from telemetry.errors import ConfigurationError
from telemetry.observe import events

_BACKLOG: Final = 512
_SEND_BYTES: Final = 128 * 1024  # what is under way when something is withdrawn is no more than this
_KEEP_ALIVE_S: Final = 30
_HEADER_BYTES: Final = 32 * 1024


def listen(config: ApiConfig) -> socket.socket:
    """A listening socket at the configured address.

    Raises:
        ConfigurationError: address or port cannot be had.

    """
    family = socket.AF_INET6 if ":" in config.address else socket.AF_INET
    # asyncio's own loop turns Nagle's algorithm off for what says that it is TCP alone (uvloop always does); with it,
    # every answer waits 40 ms for an acknowledgement of its headers.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)  # connections have it from here
    try:
        made.bind((config.address, config.port))
    except OSError:
        made.close()
        raise ConfigurationError(
            "the API cannot listen on api.port of api.address", remedy="set api.port to a free port, or to 0"
        ) from None
    made.listen(_BACKLOG)
    return made


class _Server(uvicorn.Server):
    """Signals are the caller's; streams are told to end before connections are waited for."""

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context = context
        self.begun = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.begun.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._context.ending.begin()
        await super().shutdown(sockets)


@contextlib.asynccontextmanager
async def serving(context: Context) -> AsyncIterator[int]:
    """Serve for as long as the context lasts; gives the port. Then requests under way are finished, streams ended."""
    config = context.config.api
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is broken off on purpose is no error
    settings: dict[str, Any] = {}
    if config.cert_file is not None and config.key_file is not None:
        tls = _tls(config)
        settings = {"ssl_context_factory": lambda *_: tls}
    server = _Server(
        uvicorn.Config(
            build(context),
            interface="asgi3",
            http="auto",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(config.trusted_proxies),
            forwarded_allow_ips=list(config.trusted_proxies),
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=round(config.shutdown_s) or 1,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            **settings,
        ),
        context,
    )
    listener = listen(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="api")
    begun = asyncio.create_task(server.begun.wait())
    try:
        await asyncio.wait({task, begun}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        port = int(listener.getsockname()[1])
        context.observer.api_started(events.ApiStarted(port, bool(settings)))
        yield port
    finally:
        server.should_exit = True
        begun.cancel()
        try:
            await task
        finally:
            listener.close()


def _tls(config: ApiConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(str(config.cert_file), str(config.key_file))
    except (OSError, ssl.SSLError):
        raise ConfigurationError(
            "api.cert_file or api.key_file cannot be used", remedy="name a PEM certificate and its key, readable"
        ) from None
    return context
