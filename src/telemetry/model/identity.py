"""Who exists, by surrogate key. Nothing here names a person, a serial or a place in clear.

Surrogate keys are random signed 64-bit integers (PostgreSQL's bigint), never 0. Blind indices are 16 bytes of
HMAC-SHA-256 under the blind-index key (privacy.keys.BlindIndex).
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import polars as pl

from telemetry.model.fields import DeviceKind

DAY_US: Final = 86_400 * 1_000_000
DEFAULT_BACKFILL_US: Final = 35 * DAY_US
DEFAULT_DEVICE_LIMIT: Final = 256
MAX_SERIAL_LENGTH: Final = 64
BLIND_BYTES: Final = 16
FROM_EVER_US: Final = -(2**63)

# The registry's devices as columns, without nulls: a million Device objects would take five times the memory.
# `serial_blind` converts to numpy without a copy, as uint8 of shape (n, 16); .view(">u8") makes it (n, 2).
DEVICE_SCHEMA: Final[Mapping[str, pl.DataType]] = {
    "device_key": pl.Int64(),
    "site_key": pl.Int64(),
    "gateway_key": pl.Int64(),
    "kind": pl.UInt8(),  # DeviceKind
    "serial_blind": pl.Array(pl.UInt8, BLIND_BYTES),
    "plan_class": pl.Int32(),
}


class Enrolment(StrEnum):
    """``auto``: a gateway's new devices are enrolled as they appear; ``known``: only announced ones."""

    AUTO = "auto"
    KNOWN = "known"


class ChangeKind(StrEnum):
    """What a version changed for workers (consent.change)."""

    ALL = "all"  # not told: load everything
    OWNER = "owner"  # gateways and devices of all sites of an owner
    SITE = "site"  # gateways and devices of a site
    GATEWAY = "gateway"  # one gateway


@dataclass(frozen=True, slots=True)
class Gateway:
    """A machine in a home that may speak for the devices of its own site.

    ``tenure_from_us``: since when the site is its owner's; what is older belongs to somebody else. ``erased``: its
    owner was erased; nothing may be remembered of it.
    """

    gateway_key: int
    site_key: int
    owner_key: int
    name_blind: bytes
    enrolment: Enrolment = Enrolment.AUTO
    device_limit: int = DEFAULT_DEVICE_LIMIT
    backfill_us: int = DEFAULT_BACKFILL_US
    revoked: bool = False
    tenure_from_us: int = FROM_EVER_US
    erased: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    """A serial at a site, for one tenure. ``plan_class`` indexes the plan's masks."""

    device_key: int
    site_key: int
    gateway_key: int
    kind: DeviceKind
    serial_blind: bytes
    plan_class: int = 0


@dataclass(frozen=True, slots=True)
class NewDevice:
    """A device seen for the first time, ready to be written: the serial only sealed and as blind index."""

    device_key: int
    site_key: int
    gateway_key: int
    kind: DeviceKind
    serial_blind: bytes
    sealed_serial: bytes


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What became of a list of NewDevice.

    ``devices``: those that exist now, each either new or the one that was there first (its ``device_key`` then
    differs from the one proposed). Those that were refused, because their gateway has reached its limit, is
    revoked or takes announced devices only, are left out and counted in ``refused``. ``elsewhere``: how many new
    ones carry a serial that another site has as well; the operator is told, nobody is refused. ``version``: the plan
    that the devices' classes belong to.
    """

    devices: Sequence[Device]
    refused: int = 0
    elsewhere: int = 0
    version: int = 0


def device_frame(devices: Sequence[Device]) -> pl.DataFrame:
    """Devices as columns (DEVICE_SCHEMA)."""
    blinds = np.frombuffer(b"".join(device.serial_blind for device in devices), np.uint8)
    return pl.DataFrame(
        {
            "device_key": [device.device_key for device in devices],
            "site_key": [device.site_key for device in devices],
            "gateway_key": [device.gateway_key for device in devices],
            "kind": [int(device.kind) for device in devices],
            "serial_blind": pl.Series(blinds.reshape(-1, BLIND_BYTES), dtype=DEVICE_SCHEMA["serial_blind"]),
            "plan_class": [device.plan_class for device in devices],
        },
        schema=dict(DEVICE_SCHEMA),
    )


def new_key() -> int:
    """A random surrogate key: signed 64 bits, never 0."""
    while True:
        key = int.from_bytes(secrets.token_bytes(8), signed=True)
        if key:
            return key
