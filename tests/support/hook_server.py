"""A real HTTP server on loopback that a webhook points to: keeps what it is sent, and answers as told."""

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import Any, Self

import orjson

from telemetry.deliver.webhook import signature
from tests.support.certificates import Certificates


@dataclass(frozen=True)
class Call:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    def signed_by(self, secret: bytes) -> bool:
        given = self.headers
        made = signature(secret, given["webhook-id"], int(given["webhook-timestamp"]), self.body)
        return given["webhook-signature"] == made


@dataclass
class HookServer:
    """``answers``: statuses of the next calls, None to hang up without one; then 204. ``delay_s`` before each."""

    certificates: Certificates | None = None
    answers: list[int | None] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    headers: str = ""
    delay_s: float = 0.0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        context = None
        if self.certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificates.server_cert, self.certificates.server_key)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'http' if context is None else 'https'}://localhost:{self.port}/hook?a=1"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.calls.append(Call(first.split()[1], headers, body))
            self.arrived.set()
            status = self.answers.pop(0) if self.answers else 204
            await asyncio.sleep(self.delay_s)
            if status is not None:
                writer.write(
                    f"HTTP/1.1 {status} X\r\n{self.headers}content-length: 0\r\nconnection: close\r\n\r\n".encode()
                )
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()
