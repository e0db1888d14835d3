"""`telemetry api` as a process of its own, of an installation."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from telemetry.embedded.broker_probe import free_port
from tests.support.installation import Installation

PATIENCE_S = 60.0


@dataclass(frozen=True)
class ApiProcess:
    """``log``: what it wrote to standard error."""

    base: str
    log: Path
    environment: Mapping[str, str]


@asynccontextmanager
async def api_process(installed: Installation, **sections: Mapping[str, object]) -> AsyncIterator[ApiProcess]:
    """Serve with these sections added to the configuration; ``environment`` makes commands find it and this Python."""
    port, log = free_port("127.0.0.1"), installed.data_dir / "api.log"
    settings = {"api": {"port": port, "cookie_secure": False}} | sections
    with installed.config.open("a") as file:
        for name, section in settings.items():
            file.write(f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in section.items()))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "TELEMETRY_CONFIG": str(installed.config), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as written:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "telemetry", "api", stdout=written, stderr=written, env=os.environ | environment
        )
    base = f"http://127.0.0.1:{port}"
    try:
        await _ready(base, process)
        yield ApiProcess(base, log, environment)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.wait()


async def _ready(base: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(PATIENCE_S), httpx.AsyncClient(base_url=base) as client:
        while True:
            assert process.returncode is None, "the API ended"
            try:
                if (await client.get("/readyz")).is_success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else f'"{value}"'
