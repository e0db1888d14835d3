"""Small registries and batches for tests of the privacy core. Serials and names are made up."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from telemetry.model.batch import DECODED_SCHEMA, Protected
from telemetry.model.fields import FIELD_NAMES, FIELD_SCHEMA, DeviceKind
from telemetry.model.identity import DEVICE_SCHEMA, Device, Enrolment, Gateway
from telemetry.privacy.binding import Registry
from telemetry.privacy.core import protect
from telemetry.privacy.plan import Plan

NOW_US = 1_780_000_000_000_000
MINUTE_US = 60_000_000
TICK_US = 5_000_000
FUTURE_LIMIT_US = 5 * MINUTE_US


class CountingBlind:
    """A stand-in for the keyed digest that counts how often it is asked."""

    def __init__(self) -> None:
        self.gateways = self.serials = 0

    def gateway(self, name: str) -> bytes:
        self.gateways += 1
        return blind("gateway", name)

    def serial(self, serial: str) -> bytes:
        self.serials += 1
        return blind("serial", serial)


def blind(kind: str, value: str) -> bytes:
    return hashlib.blake2b(value.encode(), digest_size=16, person=kind.encode()).digest()


def gateway(number: int, site_key: int | None = None, **changes: Any) -> Gateway:
    """Gateway ``gw-<number>``, alone at site 100 + number unless told otherwise."""
    return Gateway(
        gateway_key=1000 + number,
        site_key=100 + number if site_key is None else site_key,
        owner_key=10 + number,
        name_blind=blind("gateway", f"gw-{number}"),
        **changes,
    )


def device(serial: str, of: Gateway, device_key: int, plan_class: int = 0) -> Device:
    return Device(device_key, of.site_key, of.gateway_key, DeviceKind.INVERTER, blind("serial", serial), plan_class)


def device_frame(devices: Sequence[Device]) -> pl.DataFrame:
    blinds = np.frombuffer(b"".join(each.serial_blind for each in devices), np.uint8).reshape(-1, 16)
    columns: dict[str, Any] = {
        name: [getattr(each, name) for each in devices] for name in DEVICE_SCHEMA if name != "serial_blind"
    }
    return pl.DataFrame(columns | {"serial_blind": pl.Series(blinds)}, schema=dict(DEVICE_SCHEMA))


def no_devices() -> pl.DataFrame:
    return pl.DataFrame(schema=dict(DEVICE_SCHEMA))


def plan_of(
    keep: Sequence[Mapping[str, bool]] = ({},), withhold: Sequence[Any] | None = None, version: int = 7
) -> Plan:
    """Fields are kept unless the class says False."""
    masks = np.array([[kept.get(name, True) for name in FIELD_NAMES] for kept in keep], dtype=np.bool_)
    return Plan(version, masks, tuple(withhold) if withhold else (None,) * len(keep))


def decoded(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A decoded frame; each row may lack any column. Message 0, kind inverter and ts NOW_US by default."""
    filled = [{"message": 0, "kind": int(DeviceKind.INVERTER), "ts": NOW_US} | dict(row) for row in rows]
    names = {name for row in filled for name in row}
    schema = dict(DECODED_SCHEMA) | {name: FIELD_SCHEMA[name] for name in FIELD_NAMES if name in names}
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in filled], schema=schema)


def run(
    registry: Registry,
    rows: pl.DataFrame,
    names: Sequence[str],
    *,
    received_us: Sequence[int] | None = None,
    now_us: int = NOW_US,
) -> Protected:
    """Bind (without enrolling) and protect."""
    bound = registry.bind(rows, registry.gateway_slots(names), enrol=False)
    received = np.array([now_us] * len(names) if received_us is None else received_us, np.int64)
    return protect(bound, received_us=received, now_us=now_us, future_limit_us=FUTURE_LIMIT_US, tick_us=TICK_US)


__all__ = ["Enrolment"]
