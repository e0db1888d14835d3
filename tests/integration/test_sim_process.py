"""`python -m device_sim` as a process: killed and interrupted."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_sim import ledger
from tests.support.committing_service import CommittingService
from tests.support.plain_broker import PlainBroker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[PlainBroker]:
    made = PlainBroker(tmp_path)
    yield made
    made.kill()


async def command(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "device_sim",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def test_a_killed_simulator_s_ledger_holds_all_that_the_broker_got(broker: PlainBroker, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    async with CommittingService(broker.port).running() as service:
        process = await command(
            "fleet", "--port", str(broker.port), "--gateways", "2", "--messages-per-second", "300",
            "--readings-per-message", "10", "--ledger", str(path),
        )  # fmt: skip
        async with asyncio.timeout(60):
            while len(service.order["gw-0001"]) < 60:
                await asyncio.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        await process.communicate()
        await asyncio.sleep(0.2)

    book = ledger.read(path)
    noted = {(g, q) for g, q in book.messages.select("gateway", "sequence").rows()}
    acknowledged = book.messages.filter(acknowledged=True).select("gateway", "sequence").rows()
    received = {(gateway, sequence) for gateway, have in service.got.items() for sequence in have}
    assert received <= noted
    assert set(acknowledged) <= received
    assert len(acknowledged) > 50


@pytest.mark.long
async def test_the_command_ends_cleanly_on_ctrl_c_with_its_summary(broker: PlainBroker, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    process = await command("fleet", "--port", str(broker.port), "--speed", "600", "--json", "--ledger", str(path))
    async with asyncio.timeout(60):
        while not path.exists() or path.stat().st_size < 5000:
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = await asyncio.wait_for(process.communicate(), 30)

    summary = json.loads(output)
    assert process.returncode == 0
    assert summary["complete"] is True
    assert summary["published"] == summary["acknowledged"] == ledger.read(path).messages["readings"].sum()
