"""The whole system for a stage: servers of its own, enrolled gateways, and the service as a process."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from telemetry.config import load_config
from telemetry.demo import administration
from telemetry.embedded.broker import EmbeddedBroker, Kind
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.servers import broker_config, prepare_database
from telemetry.store.keystore import FileKeystore
from telemetry.store.registration import NewGateway, NewOwner, NewSite


@dataclass
class System:
    """Servers that run, and how to start a worker beside them."""

    directory: Path
    postgres: EmbeddedPostgres
    broker: EmbeddedBroker
    credentials: Path
    metrics_port: int = 0
    worker: asyncio.subprocess.Process | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    async def start_worker(self, **pipeline: Any) -> None:
        """Start `telemetry run` on these servers and wait until it is ready."""
        self.metrics_port = _free_port()
        broker = broker_config(load_config(data_dir=self.directory), self.broker)
        if self.broker.max_in_flight is not None:
            pipeline["batch_messages"] = self.broker.max_in_flight
        environment = os.environ | {
            "TELEMETRY_DATA_DIR": str(self.directory),
            "TELEMETRY_EMBEDDED": "false",
            "TELEMETRY_DATABASE__DSN": self.postgres.dsn("telemetry", ""),
            "TELEMETRY_BROKER__PORT": str(broker.port),
            "TELEMETRY_BROKER__USERNAME": str(broker.username),
            "TELEMETRY_BROKER__CLIENT_ID": broker.client_id,
            "TELEMETRY_BROKER__PASSWORD_FILE": str(broker.password_file),
            "TELEMETRY_OBSERVE__PORT": str(self.metrics_port),
            "TELEMETRY_OBSERVE__LOG_LEVEL": "warning",
        }
        for name, value in pipeline.items():
            environment[f"TELEMETRY_PIPELINE__{name.upper()}"] = str(value)
        self.worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "telemetry", "run", env=environment, stdout=asyncio.subprocess.DEVNULL
        )
        for _ in range(300):
            if self.worker.returncode is not None:
                raise RuntimeError(f"the worker ended with status {self.worker.returncode}")
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._get, "readyz")
                return
            await asyncio.sleep(0.1)
        raise RuntimeError("the worker did not become ready")

    async def stop_worker(self) -> None:
        """Stop it and wait."""
        if self.worker is not None and self.worker.returncode is None:
            self.worker.send_signal(signal.SIGTERM)
            await self.worker.wait()
        self.worker = None

    async def metrics(self) -> dict[str, float]:
        """The worker's metrics by name and labels."""
        text = await asyncio.to_thread(self._get, "metrics")
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/{path}", timeout=5) as answer:
            return str(answer.read().decode())


@contextlib.asynccontextmanager
async def system(directory: Path, kind: Kind, gateways: int) -> AsyncIterator[System]:
    """Servers in ``directory`` and ``gateways`` enrolled gateways; nothing runs afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        (directory / "postgres").mkdir()
        (directory / "postgres").chmod(0o711)  # its files stay here, and go with the rest
        postgres = await stack.enter_async_context(EmbeddedPostgres(directory / "postgres"))
        keystore = FileKeystore(directory / "keys")
        await prepare_database(postgres, keystore)
        broker = await stack.enter_async_context(EmbeddedBroker(directory, kind))
        async with administration(postgres, keystore) as admin, admin.registering() as registration:
            issued = []
            for number in range(gateways):
                owner = registration.owner(NewOwner(name=f"Benchmark {number}"))
                site_key = registration.site(owner, NewSite(name="Home"))
                issued.append(registration.gateway(owner, site_key, NewGateway()))
        for gateway in issued:
            broker.set_user(gateway.name, gateway.credential)
        credentials = directory / "credentials.json"
        credentials.touch(mode=0o600)
        credentials.write_text(json.dumps([{"username": one.name, "password": one.credential} for one in issued]))
        running = System(directory, postgres, broker, credentials)
        stack.push_async_callback(running.stop_worker)
        yield running


async def empty(postgres: EmbeddedPostgres) -> None:
    """Throw all readings away and write a checkpoint, so that every round begins alike."""
    connection = await asyncpg.connect(**postgres.connect_kwargs("telemetry"))
    try:
        await connection.execute("TRUNCATE readings.hot, readings.late; CHECKPOINT")
    finally:
        await connection.close()


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
