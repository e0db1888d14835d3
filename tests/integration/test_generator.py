"""The load generator: what it sends is well-formed, unique and counted by the broker's acknowledgements."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from benchmarks.generator import Load, generate, payloads
from telemetry.model.fields import FIELD_BY_NAME
from tests.support.counting_broker import CountingBroker
from tests.support.plain_broker import PlainBroker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[PlainBroker]:
    made = PlainBroker(tmp_path)
    yield made
    made.kill()


def load(**more: int) -> Load:
    now_ms = time.time_ns() // 1_000_000
    base = {"messages": 100, "readings_per_message": 50, "devices": 250, "window": 10, "until_ms": now_ms}
    return Load(gateway="gen-0001", number=3, **(base | more))


@pytest.mark.parametrize("size", [1, 7, 50])
def test_readings_are_unique_recent_and_of_the_catalogue(size: int) -> None:
    made = load(readings_per_message=size, messages=600)
    readings = []
    for payload in payloads(made):
        value = json.loads(payload)
        assert len(value) == size or isinstance(value, dict)
        readings += value if isinstance(value, list) else [value]

    assert len(readings) == 600 * size
    assert len({(r["serial"], r["ts"]) for r in readings}) == len(readings)
    assert len({r["serial"] for r in readings}) == 250 // size * size
    times = [datetime.fromisoformat(r["ts"]).timestamp() for r in readings]
    assert max(times) <= made.until_ms / 1000
    assert min(times) > made.until_ms / 1000 - 60
    for name, value in readings[0].items():
        if name not in {"serial", "kind", "ts"}:
            assert FIELD_BY_NAME[name].minimum <= value <= FIELD_BY_NAME[name].maximum


def test_every_device_reports_with_several_values() -> None:
    values = {json.loads(p)[0]["ac_power_w"] for p in payloads(load())}

    assert len(values) == 20  # five chunks of devices, four variants


def test_gateways_do_not_share_serials() -> None:
    one, other = ({json.loads(p)["serial"] for p in payloads(load(readings_per_message=1))} for _ in range(2))
    third = Load("gen-0002", 4, 100, 1, 250, 10, load().until_ms)

    assert one == other
    assert one.isdisjoint({json.loads(p)["serial"] for p in payloads(third)})


async def test_all_is_acknowledged_over_several_connections(broker: PlainBroker) -> None:
    result = await generate(
        host="127.0.0.1",
        port=broker.port,
        credentials=[("gen-1", None), ("gen-2", None), ("gen-3", None)],
        anonymous=True,
        messages=1000,
        readings_per_message=50,
        devices=200,
        window=100,
    )

    assert (result["sent"], result["acknowledged"], result["refused"]) == (1000, 1000, 0)
    assert result["readings"] == 50_000
    assert result["error"] == ""


async def test_the_broker_s_receive_maximum_is_respected() -> None:
    async with CountingBroker(receive_maximum=5) as counting:
        result = await generate(
            host="127.0.0.1",
            port=counting.port,
            credentials=[("gen-1", None)],
            anonymous=True,
            messages=50,
            readings_per_message=1,
            devices=10,
            window=1000,
        )

    assert result["acknowledged"] == 50
    assert counting.most_unacknowledged == 5


async def test_a_broker_that_refuses_is_an_error_not_a_hang(tmp_path: Path) -> None:
    broker = PlainBroker(tmp_path, "allow_anonymous false\n")
    try:
        result = await asyncio.wait_for(
            generate(
                host="127.0.0.1",
                port=broker.port,
                credentials=[("gen-1", None)],
                anonymous=True,
                messages=5,
                readings_per_message=1,
                devices=1,
                window=10,
            ),
            20,
        )
    finally:
        broker.kill()

    assert result["acknowledged"] == 0
    assert "refused" in str(result["error"])


async def test_it_runs_as_a_process_and_prints_json(broker: PlainBroker) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.generator", "--port", str(broker.port), "--messages", "200",
        "--readings-per-message", "10", "--gateways", "2",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 60)

    printed = json.loads(output)
    assert process.returncode == 0
    assert printed["acknowledged"] == 200
    assert printed["cpu_seconds"] > 0
