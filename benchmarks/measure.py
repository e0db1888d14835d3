"""What stages share: the CPU time of processes, paired timing, medians.

Absolute figures of a shared machine say little; ratios of things timed in turn do. `alternate` times its functions
one after another in every round, so that a neighbour's load meets all of them.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import psutil


def alternate(rounds: int, functions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The median seconds of each function over ``rounds``, called in turn; forwards, then backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    for _ in range(rounds):
        for name in order:
            started = time.perf_counter()
            functions[name]()
            seconds[name].append(time.perf_counter() - started)
        order.reverse()
    return {name: statistics.median(values) for name, values in seconds.items()}


class CpuMeter:
    """CPU time (user and system) that named processes and their children use while it runs.

    ``processes``: name → pid, or several pids. Children that are over are counted once their parent has reaped
    them. Use as a context manager, then ask `per_reading`.
    """

    def __init__(self, processes: Mapping[str, int | Iterable[int]]) -> None:
        self._pids = {name: (pids,) if isinstance(pids, int) else tuple(pids) for name, pids in processes.items()}
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        after = self._read()
        self.seconds = {name: max(0.0, after[name] - self._before[name]) for name in after}

    def per_reading(self, readings: int) -> dict[str, float]:
        """Microseconds of CPU a reading, by process."""
        return {name: round(seconds * 1e6 / max(readings, 1), 4) for name, seconds in self.seconds.items()}

    def _read(self) -> dict[str, float]:
        return {name: sum(map(_cpu_seconds, pids)) for name, pids in self._pids.items()}


def _cpu_seconds(pid: int) -> float:
    try:
        process = psutil.Process(pid)
        own = process.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system
        return total + sum(_own_seconds(child) for child in process.children(recursive=True))
    except psutil.NoSuchProcess:
        return 0.0


def _own_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def resident_mb() -> float:
    """Memory that this process holds now, in MB of 2^20 bytes."""
    return float(psutil.Process().memory_info().rss) / 2**20


def result(
    *, readings_per_second: float, limit_per_second: float, cpu_us_per_reading: Mapping[str, float], **extras: Any
) -> dict[str, Any]:
    """A stage's answer: what was reached, the limit of the same run, their ratio, whatever else it measured."""
    return {
        "readings_per_second": round(readings_per_second),
        "limit_per_second": round(limit_per_second),
        "ratio": round(readings_per_second / limit_per_second, 4),
        "cpu_us_per_reading": dict(cpu_us_per_reading),
        **extras,
    }
