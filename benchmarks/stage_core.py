"""The privacy core on one core: 20,000 devices, binding included. Limit: a copy of the values."""

import os
from typing import Any

os.environ["POLARS_MAX_THREADS"] = "1"  # read when polars is imported, which therefore comes later

DEVICES = 20_000
VARIED = 3_000  # plan classes, spread over devices at random: more than distinct settings are likely to be


def run(quick: bool, devices: int = DEVICES) -> dict[str, Any]:
    import time

    from benchmarks import core_load as load
    from benchmarks.measure import CpuMeter, alternate, resident_mb, result
    from telemetry.privacy.binding import Registry
    from telemetry.privacy.plan import Plan

    count, rounds = (8, 5) if quick else (20, 15)
    blind = load.Blind()
    gateways, frame = load.gateways(devices, blind), load.device_frame(devices, blind)
    before_mb = resident_mb()
    started = time.perf_counter()
    registry = Registry(blind, gateways, frame, Plan.default())
    load_seconds = time.perf_counter() - started
    memory_mb = resident_mb() - before_mb
    clean = load.batches(devices, count)
    dirty = load.batches(devices, max(2, count // 4), implausible=0.01)
    mixed = Registry(blind, gateways, load.with_classes(frame, 300), load.plan_of(300))
    varied = Registry(blind, gateways, load.with_classes(frame, VARIED, seed=5), load.plan_of(VARIED, seed=6))
    for known in (registry, mixed, varied):
        assert load.pass_through(known, clean + dirty) == (count + len(dirty)) * load.READINGS
    seconds = alternate(
        rounds,
        {
            "core": lambda: load.pass_through(registry, clean),
            "copy": load.copy_of_values(clean),
            "implausible": lambda: load.pass_through(registry, dirty),
            "classes": lambda: load.pass_through(mixed, dirty),
            "varied": lambda: load.pass_through(varied, clean),
        },
    )
    with CpuMeter({"core": os.getpid()}) as meter:
        readings = sum(load.pass_through(registry, clean) for _ in range(3))
    clean_readings, dirty_readings = count * load.READINGS, len(dirty) * load.READINGS
    return result(
        readings_per_second=clean_readings / seconds["core"],
        limit_per_second=clean_readings / seconds["copy"],
        cpu_us_per_reading=meter.per_reading(readings),
        devices=devices,
        readings_per_cpu_second=round(readings / max(meter.seconds["core"], 0.01)),
        with_1_pct_implausible=round(dirty_readings / seconds["implausible"]),
        with_300_classes_and_1_pct_implausible=round(dirty_readings / seconds["classes"]),
        with_settings_as_varied_as_owners=round(clean_readings / seconds["varied"]),
        varied_over_one_setting=round(seconds["core"] / seconds["varied"], 3),
        registry_load_seconds=round(load_seconds, 3),
        registry_memory_mb=round(memory_mb, 1),
    )
