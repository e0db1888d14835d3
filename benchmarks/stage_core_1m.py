"""The privacy core on one core with 1,000,000 devices. Limit: a copy of the values."""

from typing import Any

from benchmarks import stage_core

DEVICES = 1_000_000


def run(quick: bool) -> dict[str, Any]:
    return stage_core.run(quick, devices=DEVICES)
