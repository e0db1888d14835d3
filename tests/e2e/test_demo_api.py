"""`telemetry demo`: the commands it prints work as they stand, and their tokens are nowhere in what was written."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from telemetry.maintenance.scan import scan
from telemetry.maintenance.scan_places import FilePlace

PATIENCE_S = 240.0


@pytest_asyncio.fixture
async def directory() -> AsyncIterator[Path]:
    """One that the database's own user can pass through."""
    with tempfile.TemporaryDirectory(prefix="telemetry-demo-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


async def printed(stream: asyncio.StreamReader) -> list[str]:
    """The commands, as they are printed."""
    commands: list[str] = []
    while len(commands) < 3:
        line = (await stream.readline()).decode()
        assert line, "the demonstration ended"
        if line.startswith("curl "):
            commands.append(line.rstrip("\n"))
    return commands


async def shell(command: str) -> str:
    process = await asyncio.create_subprocess_exec("sh", "-c", command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def ended(process: asyncio.subprocess.Process) -> None:
    """By SIGINT, so that it ends its servers; they would keep the pipe open."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            await process.wait()


async def drained(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass


@pytest.mark.long
async def test_the_printed_commands_work_as_they_stand(directory: Path) -> None:
    arguments = ["-m", "telemetry", "demo", "--keep", str(directory / "data"), "--json", str(directory / "out.json")]
    environment = os.environ | {"TELEMETRY_SHARED": str(directory / "none")}  # the fleet alone
    async with asyncio.timeout(PATIENCE_S):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        assert process.stderr is not None
        reading: asyncio.Task[None] | None = None
        try:
            latest, series, reads = await printed(process.stderr)
            reading = asyncio.create_task(drained(process.stderr))
            while len(rows := (await shell(latest)).splitlines()) < 2:
                await asyncio.sleep(0.2)
            assert rows[0].startswith("site,device,field,resolution,")
            rows += (await shell(series)).splitlines()[-1:]
            assert {tuple(row.split(",")[2:4]) for row in rows[1:]} == {("ac_power_w", "raw")}
            told: dict[str, Any] = json.loads(await shell(reads))
            assert {read["recipient"] for read in told["reads"]} == {"demo-installer"}
            assert told["reads"][0]["fields"] == ["ac_power_w"]
            process.send_signal(signal.SIGINT)
            await reading
            assert await process.wait() == 0, "the balance does not hold, or something was found"
        finally:
            if reading is not None:
                reading.cancel()
            if process.returncode is None:
                await ended(process)
    outcome = json.loads((directory / "out.json").read_text())
    assert (outcome["balanced"], outcome["identifiers_found"], outcome["scan_complete"]) == (True, 0, True)
    tokens = re.findall(r"tlm_[\w-]{43}", latest + series + reads)
    assert len(set(tokens)) == 2
    report = await scan([FilePlace("data directory", directory / "data")], tokens)
    assert (report.identifiers_found, report.complete) == (0, True)
