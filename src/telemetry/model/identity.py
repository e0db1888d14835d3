"""Who exists, by surrogate key. Nothing here names a person, a serial or a place in clear.

Surrogate keys are random signed 64-bit integers (PostgreSQL's bigint), never 0. Blind indices are 16 bytes of
HMAC-SHA-256 under the blind-index key (privacy.keys.BlindIndex).
"""

import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from telemetry.model.fields import DeviceKind

DAY_US: Final = 86_400 * 1_000_000
DEFAULT_BACKFILL_US: Final = 35 * DAY_US
DEFAULT_DEVICE_LIMIT: Final = 256
MAX_SERIAL_LENGTH: Final = 64


class Enrolment(StrEnum):
    """``auto``: a gateway's new devices are enrolled as they appear; ``known``: only announced ones."""

    AUTO = "auto"
    KNOWN = "known"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A machine in a home that may speak for the devices of its own site."""

    gateway_key: int
    site_key: int
    owner_key: int
    name_blind: bytes
    enrolment: Enrolment = Enrolment.AUTO
    device_limit: int = DEFAULT_DEVICE_LIMIT
    backfill_us: int = DEFAULT_BACKFILL_US
    revoked: bool = False


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


def new_key() -> int:
    """A random surrogate key: signed 64 bits, never 0."""
    while True:
        key = int.from_bytes(secrets.token_bytes(8), signed=True)
        if key:
            return key
