"""Metrics and health over HTTP, for one scraper and one supervisor: /metrics, /healthz, /readyz.

It runs in threads of its own (the standard library's server, prometheus_client's encoders), because its most
important answer is that the event loop has stopped running, and an endpoint on that loop could not give it. It
is bounded: few requests at once, each with a time limit; more are closed unanswered. It speaks plain HTTP and
listens on loopback unless told otherwise; nothing in it names a device, a site or a person.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder

from telemetry.errors import ConfigurationError
from telemetry.observe import Observer, events

Probe = Callable[[], Awaitable[None]]
_Answer = tuple[HTTPStatus, str, bytes]

_BEAT_S: Final = 0.5
_STALL_S: Final = 10.0  # the event loop counts as stalled after this; a restart is due
_NOTED_STALL_S: Final = 1.0  # told as an event from here on
_CLOCK_JUMP_S: Final = 2.0
_PROBE_LIMIT_S: Final = 2.0
_REMEMBERED_S: Final = 1.0  # an answer of /readyz is given again for so long, whoever asks how often
_REQUEST_LIMIT_S: Final = 5.0
_REQUESTS_AT_ONCE: Final = 8


class Heartbeat:
    """Notes that the event loop runs; ``run`` belongs into the service's task group."""

    def __init__(self, observer: Observer | None = None) -> None:
        self._observer = observer
        self._last = time.monotonic()

    def silence_s(self) -> float:
        """How long the event loop has not run. Safe from any thread."""
        return time.monotonic() - self._last

    async def run(self) -> None:
        """Beat until cancelled; tells of stalls and of jumps of the wall clock."""
        self._last = time.monotonic()
        wall = time.time()
        while True:
            await asyncio.sleep(_BEAT_S)
            now, passed = time.time(), self.silence_s()
            self._last = time.monotonic()
            if self._observer is not None:
                if passed - _BEAT_S > _NOTED_STALL_S:
                    self._observer.loop_stalled(events.LoopStalled(round(passed - _BEAT_S, 3)))
                if abs(jump := now - wall - passed) > _CLOCK_JUMP_S:
                    self._observer.clock_jumped(events.ClockJumped(round(jump, 3)))
            wall = now


class Readiness:
    """Asks each probe whether its part is usable now. A probe raises, or takes too long, where it is not."""

    def __init__(self, probes: Mapping[str, Probe], loop: asyncio.AbstractEventLoop) -> None:
        self._probes, self._loop = dict(probes), loop
        self._lock = threading.Lock()
        self._answer: tuple[float, dict[str, str]] | None = None

    def check(self) -> dict[str, str]:
        """``ok`` or a reason for each part, at most a second old. Blocks: call from threads of the server."""
        with self._lock:
            if self._answer is None or time.monotonic() - self._answer[0] > _REMEMBERED_S:
                self._answer = (time.monotonic(), self._ask())
            return self._answer[1]

    def _ask(self) -> dict[str, str]:
        asked = asyncio.run_coroutine_threadsafe(self._all(), self._loop)
        try:
            return asked.result(_PROBE_LIMIT_S + 1)
        except TimeoutError:
            asked.cancel()
            return dict.fromkeys(self._probes, "the event loop does not answer")

    async def _all(self) -> dict[str, str]:
        return dict(zip(self._probes, await asyncio.gather(*map(self._one, self._probes.values())), strict=True))

    @staticmethod
    async def _one(probe: Probe) -> str:
        try:
            async with asyncio.timeout(_PROBE_LIMIT_S):
                await probe()
        except TimeoutError:
            return "no answer in time"
        except Exception:  # the reason may quote values; logs say more
            return "not usable"
        return "ok"


class _Server(ThreadingMixIn, TCPServer):
    """Threads for a few requests at once. ``answer`` maps a path to status, content type and content."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = _REQUESTS_AT_ONCE

    def __init__(self, address: tuple[str, int], answer: Callable[[str, str], _Answer]) -> None:
        self.answer = answer
        self._places = threading.BoundedSemaphore(_REQUESTS_AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a scraper that went away or was too slow."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_LIMIT_S
    server_version = "telemetry"
    sys_version = ""

    def do_GET(self) -> None:
        status, kind, content = self.server.answer(self.path.partition("?")[0], self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_args: Any) -> None:
        """No access log: only this machine's own scraper asks."""


class HealthServer:
    """Serves /metrics, /healthz and /readyz from its own threads until closed.

    /healthz answers 200 while the event loop beats, else 503: restart the process. /readyz answers 200 while
    every probe passes, else 503, with a reason for each part; do not restart for it.

    Raises:
        ConfigurationError: the address or port cannot be had.

    """

    def __init__(
        self,
        registry: CollectorRegistry,
        heartbeat: Heartbeat,
        readiness: Readiness,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._registry, self._heartbeat, self._readiness = registry, heartbeat, readiness
        try:
            self._server = _Server((address, port), self._answer)
        except OSError as error:
            raise ConfigurationError(
                f"metrics and health cannot listen on port {port} of observe.address",
                remedy="set observe.port to a free port, or to 0",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="health", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def metrics_page(self) -> bytes:
        """What /metrics answers, without asking over HTTP."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """Stop listening. Blocks for up to a tenth of a second."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str, accept: str) -> _Answer:
        match path:
            case "/metrics":
                encode, kind = choose_encoder(accept)
                return HTTPStatus.OK, kind, encode(self._registry)
            case "/healthz":
                silence = self._heartbeat.silence_s()
                alive = silence < _STALL_S
                return _json(alive, {"alive": alive, "event_loop_silent_s": round(silence, 1)})
            case "/readyz":
                parts = self._readiness.check()
                ready = all(answer == "ok" for answer in parts.values())
                return _json(ready, {"ready": ready, "parts": parts})
        return HTTPStatus.NOT_FOUND, "text/plain", b"/metrics /healthz /readyz\n"


def _json(good: bool, told: Mapping[str, Any]) -> _Answer:
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return status, "application/json", json.dumps(told).encode() + b"\n"
