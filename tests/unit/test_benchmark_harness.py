"""The harness: stages by file name, each in a process of its own, failures reported and not contagious."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.__main__ import median_round

BENCHMARKS = Path(measure.__file__).parent
GOOD = """
import os
from benchmarks.measure import CpuMeter, result

def run(quick):
    with CpuMeter({"stage": os.getpid()}) as meter:
        sum(range(1000))
    return result(
        readings_per_second=500.4, limit_per_second=1000, cpu_us_per_reading=meter.per_reading(1000), quick=quick
    )
"""
STAGES = {
    "good": GOOD,
    "raises": "def run(quick):\n    raise RuntimeError('on purpose')\n",
    "dies": "import os\ndef run(quick):\n    os._exit(3)\n",
    "silent": "def run(quick):\n    return {'readings_per_second': 1}\n",
}


@pytest.fixture
def harness(tmp_path: Path) -> Path:
    """A copy of the harness with made-up stages."""
    package = tmp_path / "benchmarks"
    package.mkdir()
    for name in ("__init__.py", "__main__.py", "measure.py"):
        shutil.copy(BENCHMARKS / name, package / name)
    for name, source in STAGES.items():
        (package / f"stage_{name}.py").write_text(source)
    return tmp_path


def run(harness: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=harness,
        env=os.environ | {"PYTHONPATH": str(harness)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_stage_is_run_and_the_failing_ones_are_named(harness: Path) -> None:
    process = run(harness, "--quick")
    results = json.loads((harness / "benchmarks/out/quick.json").read_text())
    assert process.returncode == 1
    assert set(results) == {*STAGES, "_machine"}
    assert results["good"]["ratio"] == 0.5004
    assert results["good"]["quick"] is True
    assert set(results["good"]["cpu_us_per_reading"]) == {"stage"}
    assert "exit code 1" in results["raises"]["error"]
    assert "exit code 3" in results["dies"]["error"]
    assert "limit_per_second" in results["silent"]["error"]
    assert "on purpose" in process.stderr
    assert [line.split("\t")[0] for line in process.stdout.splitlines()] == ["stage", *sorted(STAGES)]


def test_machine_facts_name_neither_host_nor_path(harness: Path) -> None:
    run(harness, "--quick", "--only", "good")
    text = (harness / "benchmarks/out/quick.json").read_text()
    assert "/" not in text
    assert os.uname().nodename not in text
    assert json.loads(text)["_machine"]["cores"] >= 1


def test_the_full_mode_runs_rounds_and_writes_elsewhere(harness: Path) -> None:
    process = run(harness, "--only", "good", "--rounds", "2")
    results = json.loads((harness / "benchmarks/out/full.json").read_text())
    assert process.returncode == 0
    assert results["good"]["ratios"] == [0.5004, 0.5004]
    assert not (harness / "benchmarks/out/quick.json").exists()


def test_an_unknown_stage_is_refused_with_the_known_ones_named(harness: Path) -> None:
    process = run(harness, "--only", "god")
    assert process.returncode == 2
    assert "good" in process.stderr


def test_the_median_round_is_a_round_that_was() -> None:
    rounds = [{"ratio": ratio, "round": number} for number, ratio in enumerate((0.5, 0.9, 0.7, 0.6))]
    assert median_round(rounds) == {"ratio": 0.6, "round": 3, "ratios": [0.5, 0.9, 0.7, 0.6]}
    assert median_round([{"error": "x"}, *rounds]) == {"error": "x"}


def test_cpu_time_is_that_of_the_process_and_its_children() -> None:
    burn = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    with measure.CpuMeter({"me": os.getpid(), "gone": [2**22 - 1]}) as meter:
        subprocess.run([sys.executable, "-c", burn], check=True)
    assert meter.seconds["me"] >= 0.2
    assert meter.seconds["gone"] == 0.0
    assert meter.per_reading(1000)["me"] >= 200.0
