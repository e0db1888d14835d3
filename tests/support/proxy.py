"""A proxy between a client and a server that can delay, cut, stall, hold and swallow; TCP or Unix sockets.

    async with Proxy(upstream, listen) as proxy:
        proxy.swallow_reply_to(POSTGRES_COMMIT)   # let it through, lose the answer and the connection
        held = proxy.hold_request(POSTGRES_COMMIT)   # it has left the client and does not reach the server
        proxy.delay_s = 0.05                   # every chunk, both ways
        proxy.stall(); proxy.resume()          # nothing moves, connections stay
        proxy.cut()                            # all connections end at once

An address is a path (Unix socket) or a (host, port); port 0 asks the kernel for one, see ``address``.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

Address = Path | tuple[str, int]
Request = bytes | Callable[[bytes], bool]
_CHUNK = 64 * 1024
POSTGRES_COMMIT = b"Q\0\0\0\x0bCOMMIT\0"  # the simple query, whole: "ON COMMIT" stands in other statements
POSTGRES_COPY_DATA = b"PGCOPY\n\xff\r\n\0"  # the signature with which the data of a binary COPY begins


def mqtt_puback(data: bytes) -> bool:
    """Whether a client's chunk begins with PUBACK: type 4, remaining length 2 (MQTT 5.0, 3.4.2.1)."""
    return data[:2] == b"\x40\x02"


@dataclass
class _Trap:
    """Armed once: recognises a request, and says what becomes of its reply."""

    matches: Callable[[bytes], bool]
    cut: bool
    sprung: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Link:
    """One client's connection and its own one to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    trap: _Trap | None = None  # the one that its request sprang
    tail: bytes = b""

    def abort(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


@dataclass
class Held:
    """A request that is caught on its way to the server. ``share`` of its chunk was let through."""

    matches: Callable[[bytes], bool]
    share: float
    skip: int
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let the rest go on."""
        self._released.set()

    async def released(self) -> None:
        await self._released.wait()


class Proxy:
    """See the module. ``connections`` counts those accepted so far; ``swallowed`` the replies that were lost."""

    def __init__(self, upstream: Address, listen: Address = ("127.0.0.1", 0)) -> None:
        self._upstream = upstream
        self._listen = listen
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._moving = asyncio.Event()
        self._moving.set()
        self._refusing = False
        self._trap: _Trap | None = None
        self._hold: Held | None = None
        self._holds: list[Held] = []
        self.delay_s = 0.0
        self.connections = 0
        self.swallowed = 0

    async def __aenter__(self) -> Self:
        if isinstance(self._listen, Path):
            self._server = await asyncio.start_unix_server(self._accept, self._listen)
        else:
            self._server = await asyncio.start_server(self._accept, *self._listen)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.resume()
        for held in self._holds:
            held.release()
        self.cut()
        if self._tasks:  # they end by themselves: asyncio reports a cancelled one as a defect
            await asyncio.wait(self._tasks, timeout=5.0)

    @property
    def address(self) -> Address:
        """Where it listens, with the real port."""
        if isinstance(self._listen, Path):
            return self._listen
        host, port = self._server.sockets[0].getsockname()[:2]
        return (host, port)

    def cut(self) -> None:
        """Abort all connections there are."""
        for link in list(self._links):
            link.abort()

    def refuse(self, refusing: bool = True) -> None:
        """Abort new connections as soon as they arrive, as a server that is gone."""
        self._refusing = refusing

    def stall(self) -> None:
        """Move nothing until ``resume``."""
        self._moving.clear()

    def resume(self) -> None:
        self._moving.set()

    def swallow_reply_to(self, request: Request, *, cut: bool = True) -> asyncio.Event:
        """Forward the next request that contains or matches this, but not its reply.

        The reply is awaited first, so the server has done what was asked; then the connection ends (``cut``) or
        stays silent. The event is set when that has happened.
        """
        self._trap = _Trap(_matcher(request), cut)
        return self._trap.sprung

    def hold_request(self, request: Request, *, share: float = 0.0, skip: int = 0) -> Held:
        """Catch the next chunk of a client that contains or matches this, after letting ``skip`` such pass.

        ``share`` (0 to 1) of its bytes go on to the server, the rest and what follows wait for ``release``.
        """
        self._hold = Held(_matcher(request), share, skip)
        self._holds.append(self._hold)
        return self._hold

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if self._refusing:
                return
            upstream_reader, upstream = await self._connect()
        except OSError:
            return
        finally:
            if self._refusing or "upstream" not in locals():
                writer.transport.abort()
        link = _Link(writer, upstream)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(link, reader, upstream, self._request))
                group.create_task(self._pump(link, upstream_reader, writer, self._reply))
        finally:
            self._links.discard(link)
            link.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._upstream, Path):
            return await asyncio.open_unix_connection(self._upstream)
        return await asyncio.open_connection(*self._upstream)

    async def _pump(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        inspect: Callable[[_Link, bytes, asyncio.StreamWriter], Awaitable[bytes]],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._moving.wait()
                if passed := await inspect(link, data, writer):
                    writer.write(passed)
                    await writer.drain()
        link.abort()

    async def _request(self, link: _Link, data: bytes, writer: asyncio.StreamWriter) -> bytes:
        link.tail = (link.tail + data)[-_CHUNK:]  # a request may come in two chunks
        if self._trap is not None and self._trap.matches(link.tail):
            link.trap, self._trap = self._trap, None
        hold = self._hold
        if hold is None or not (hold.matches(data) or hold.matches(link.tail)):
            return data
        link.tail = b""
        if hold.skip:
            hold.skip -= 1
            return data
        self._hold = None
        at = round(hold.share * len(data))
        writer.write(data[:at])
        await writer.drain()
        hold.reached.set()
        await hold.released()
        return data[at:]

    async def _reply(self, link: _Link, data: bytes, _: asyncio.StreamWriter) -> bytes:
        link.tail = b""
        trap = link.trap
        if trap is None:
            return data
        if not trap.sprung.is_set():
            self.swallowed += 1
            if trap.cut:
                link.abort()
            trap.sprung.set()
        return b""


def _matcher(request: Request) -> Callable[[bytes], bool]:
    return request if callable(request) else lambda data: request in data
