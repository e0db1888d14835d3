"""Registries and decoded batches for the core's stages.

The hard case for binding: every message carries one reading of each of its gateway's 50 devices, gateways drawn at
random: every row of a message another device, and at a million devices every row of a batch. Ten field columns,
readings of the last quarter of an hour. All of it made up, deterministic by seed.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from telemetry.model.batch import DECODED_SCHEMA, Decoded
from telemetry.model.fields import FIELD_BY_NAME, FIELD_NAMES, FIELD_SCHEMA, DeviceKind
from telemetry.model.identity import BLIND_BYTES, DEVICE_SCHEMA, Gateway
from telemetry.privacy.binding import Registry
from telemetry.privacy.core import protect
from telemetry.privacy.plan import Plan

FIELDS = (
    "ac_power_w",
    "ac_voltage_v",
    "ac_current_a",
    "ac_frequency_hz",
    "energy_total_wh",
    "dc_power_w",
    "grid_power_w",
    "load_power_w",
    "battery_soc_pct",
    "temperature_c",
)
DEVICES_PER_GATEWAY = 50
MESSAGES = 2000
READINGS = MESSAGES * DEVICES_PER_GATEWAY
NOW_US = 1_780_000_000_000_000
QUARTER_HOUR_US = 900_000_000


class Blind:
    """Keyed digests under a key of this run; as dear as the real ones."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def gateway(self, name: str) -> bytes:
        return self._digest(b"gateway", name)

    def serial(self, serial: str) -> bytes:
        return self._digest(b"serial", serial)

    def _digest(self, kind: bytes, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), key=self._key, digest_size=BLIND_BYTES, person=kind).digest()


@dataclass(frozen=True)
class Batch:
    decoded: Decoded
    names: list[str]
    received_us: np.ndarray[Any, np.dtype[np.int64]]


def serial(number: int) -> str:
    return f"INV{number:08d}"


def device_frame(devices: int, blind: Blind, seed: int = 1) -> pl.DataFrame:
    """All devices, DEVICE_SCHEMA, of plan class 0."""
    generator = np.random.default_rng(seed)
    gateway = np.arange(devices, dtype=np.int64) // DEVICES_PER_GATEWAY
    blinds = np.frombuffer(b"".join(blind.serial(serial(number)) for number in range(devices)), np.uint8)
    return pl.DataFrame(
        {
            "device_key": generator.integers(1, 2**63 - 1, devices),
            "site_key": _site_key(gateway),
            "gateway_key": gateway + 1,
            "kind": np.full(devices, DeviceKind.INVERTER, np.uint8),
            "serial_blind": pl.Series(blinds.reshape(-1, BLIND_BYTES)),
            "plan_class": np.zeros(devices, np.int32),
        },
        schema=dict(DEVICE_SCHEMA),
    )


def with_classes(frame: pl.DataFrame, classes: int, seed: int = 4) -> pl.DataFrame:
    """The same devices, their plan classes spread at random."""
    plan_class = np.random.default_rng(seed).integers(0, classes, frame.height, dtype=np.int32)
    return frame.with_columns(pl.Series("plan_class", plan_class))


def gateways(devices: int, blind: Blind) -> list[Gateway]:
    count = -(-devices // DEVICES_PER_GATEWAY)
    sites = _site_key(np.arange(count, dtype=np.int64)).tolist()
    return [Gateway(number + 1, sites[number], number + 1, blind.gateway(name(number))) for number in range(count)]


def name(number: int) -> str:
    return f"gw-{number:06d}"


def _site_key(number: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return (number + 1) * np.int64(0x1E3779B97F4A7C15)  # wraps: looks as random as the real ones


def batches(devices: int, count: int, *, implausible: float = 0.0, seed: int = 2) -> list[Batch]:
    """``count`` batches; ``implausible`` is the share of each column's values that are out of range or NaN."""
    generator = np.random.default_rng(seed)
    gateway_count = devices // DEVICES_PER_GATEWAY
    serials = np.array([serial(number) for number in range(devices)], dtype=object)
    return [_batch(generator, serials, gateway_count, implausible) for _ in range(count)]


def _batch(generator: np.random.Generator, serials: Any, gateway_count: int, implausible: float) -> Batch:
    gateway = generator.choice(gateway_count, MESSAGES, replace=gateway_count < MESSAGES)
    of_gateway = np.tile(np.arange(DEVICES_PER_GATEWAY), MESSAGES)
    device = np.repeat(gateway, DEVICES_PER_GATEWAY) * DEVICES_PER_GATEWAY + of_gateway
    columns: dict[str, Any] = {
        "message": np.repeat(np.arange(MESSAGES, dtype=np.uint32), DEVICES_PER_GATEWAY),
        "serial": pl.Series(serials[device].tolist(), dtype=pl.String),
        "kind": np.full(READINGS, DeviceKind.INVERTER, np.uint8),
        "ts": NOW_US - generator.integers(0, QUARTER_HOUR_US, READINGS),
    }
    for field in FIELDS:
        entry = FIELD_BY_NAME[field]
        values = generator.uniform(entry.minimum, entry.maximum, READINGS)
        if implausible:
            values[generator.random(READINGS) < implausible / 2] = np.nan
            values[generator.random(READINGS) < implausible / 2] = 2 * entry.maximum + 1
        columns[field] = values
    schema = dict(DECODED_SCHEMA) | {field: FIELD_SCHEMA[field] for field in FIELDS}
    return Batch(
        Decoded(pl.DataFrame(columns, schema=schema)),
        [name(number) for number in gateway.tolist()],
        np.full(MESSAGES, NOW_US, np.int64),
    )


def plan_of(classes: int, seed: int = 3) -> Plan:
    """Every class keeps about three fields in four; class 0 all."""
    keep = np.random.default_rng(seed).random((classes, len(FIELD_NAMES))) < 0.75
    keep[0] = True
    return Plan(1, keep, (None,) * classes)


def pass_through(registry: Registry, load: list[Batch]) -> int:
    """Bind and protect every batch; how many rows came out."""
    rows = 0
    for batch in load:
        bound = registry.bind(batch.decoded.rows, registry.gateway_slots(batch.names))
        result = protect(
            bound,
            received_us=batch.received_us,
            now_us=NOW_US,
            future_limit_us=300_000_000,
            tick_us=5_000_000,
        )
        rows += result.rows.height
    return rows


def copy_of_values(load: list[Batch]) -> Any:
    """The limit: copying each batch's times and values once, and nothing else."""
    sources = [[batch.decoded.rows[column].to_numpy() for column in ("ts", *FIELDS)] for batch in load]
    target = np.empty((1 + len(FIELDS), READINGS), np.float64)

    def copy() -> None:
        for columns in sources:
            for row, column in zip(target, columns, strict=True):
                np.copyto(row.view(column.dtype), column)

    return copy
