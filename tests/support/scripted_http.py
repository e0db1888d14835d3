"""A real HTTP server that answers what a test says, one answer a request; it keeps the requests it was sent."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """``cut``: the connection is closed after so many bytes of the body, without an end. 0: before the status."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class ScriptedHttp:
    base: str
    answers: list[Answer]
    asked: list[Asked] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        script: ScriptedHttp = self.server.script  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        script.asked.append(Asked(self.command, self.path, headers, body))
        answer = script.answers.pop(0)
        self.close_connection = answer.cut is not None
        if answer.cut == 0:
            return
        self.send_response(answer.status)
        for name, value in ({"Content-Type": "application/json"} | dict(answer.headers)).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[: answer.cut])

    do_GET = do_POST = do_DELETE = do_PUT = _answer  # noqa: N815 - names of the library

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def scripted_http(*answers: Answer) -> Iterator[ScriptedHttp]:
    """Serve the answers in turn. The test fails where some are left."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    script = ScriptedHttp(f"http://127.0.0.1:{server.server_port}", list(answers))
    server.script = script  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield script
        assert script.answers == [], "requests that were expected did not come"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
