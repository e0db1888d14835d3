"""One TCP or TLS connection under the state machine: asyncio moves its bytes and its time, nothing else."""

import asyncio
from collections.abc import Callable
from typing import Final, cast

from telemetry.ports import Clock
from telemetry.sources.mqtt_session import Session, State

_TICKS_PER_INTERVAL: Final = 8
_MAX_TICK_S: Final = 1.0
_CLOSE_PATIENCE_S: Final = 1.0


class Connection(asyncio.BufferedProtocol):
    """Feeds ``session`` and calls ``arrived`` when it has messages. ``closed`` is set at the end.

    The network is read straight into the session's buffer. Reading stops while the session is full; the timer
    runs on, so that the broker's keep-alive does not end the connection meanwhile.
    """

    def __init__(self, session: Session, clock: Clock, arrived: Callable[[], None]) -> None:
        self._session = session
        self._clock = clock
        self._arrived = arrived
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._epoch = 0
        self._reading = True
        self._writable = True
        self._leaving = False
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.reason: Exception | None = None

    # ---- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected, and the TLS handshake is over."""
        self._transport = cast("asyncio.Transport", transport)
        self._session.connect(self._loop.time())
        self._epoch = self._session.queue.epoch
        self.flush()
        self._tick()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the session's buffer has its own size
        """Where the next bytes go."""
        return self._session.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        self._session.received(nbytes, self._loop.time(), self._clock.now_us())
        if self._session.has_messages:
            self._arrived()
        self.flush()

    def eof_received(self) -> bool:
        """The broker is done: close our side too."""
        return False

    def pause_writing(self) -> None:
        """The broker does not take what we write."""
        self._writable = False

    def resume_writing(self) -> None:
        """The broker takes it again."""
        self._writable = True

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever wanted it."""
        if self._timer is not None:
            self._timer.cancel()
        self.reason = exc
        self._transport = None
        if self._epoch == self._session.queue.epoch:  # not when a slow end overlaps the next beginning
            self._session.connection_lost()
        if not self.closed.done():
            self.closed.set_result(None)

    # ---- called by the source

    @property
    def writable(self) -> bool:
        """Whether what is optional may be written."""
        return self._writable and self._transport is not None

    def flush(self) -> None:
        """Write what the session has, read or not as it wants, close after a failure."""
        transport, session = self._transport, self._session
        if transport is None or transport.is_closing():
            return
        outgoing = session.take_outgoing()
        if outgoing:
            transport.write(outgoing)
        if session.state is State.CLOSED:
            if not self._leaving:
                self._close(transport)
            return
        wanted = session.wants_data(self._loop.time())
        if wanted is not self._reading:
            self._reading = wanted
            if wanted:
                transport.resume_reading()
            else:
                transport.pause_reading()

    async def disconnect(self) -> None:
        """Say goodbye, and let the broker close (3.14.4): then it has read every PUBACK before the next client.

        One that does not close within a second is closed from here.
        """
        transport, session = self._transport, self._session
        if transport is None or transport.is_closing():
            await asyncio.wait({self.closed}, timeout=2 * _CLOSE_PATIENCE_S)
            return
        self._leaving = True
        session.disconnect()
        transport.write(session.take_outgoing())
        transport.resume_reading()  # or its end would not be seen
        await asyncio.wait({self.closed}, timeout=_CLOSE_PATIENCE_S)
        if not self.closed.done():
            transport.abort()
            await asyncio.wait({self.closed}, timeout=_CLOSE_PATIENCE_S)

    def _close(self, transport: asyncio.Transport) -> None:
        """Close after what is written; a peer that takes nothing may not keep us waiting for long."""
        transport.close()
        self._loop.call_later(_CLOSE_PATIENCE_S, transport.abort)

    def _tick(self) -> None:
        self._session.tick(self._loop.time())
        self.flush()
        if self._transport is not None and self._session.state is not State.CLOSED:
            interval = self._session.keep_alive.interval_s / _TICKS_PER_INTERVAL
            self._timer = self._loop.call_later(min(interval or _MAX_TICK_S, _MAX_TICK_S), self._tick)
