"""The small contracts between the pipeline and its adapters. Each states its concurrency.

Source ──RawMessage──▶ pipeline ──Write──▶ Sink
   ▲                      │                  │
   └──────acknowledge─────┘◀────Written──────┘
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import polars as pl

from telemetry.model.batch import Decoded, RawMessage, Write, Written
from telemetry.model.identity import Enrolled, Gateway, NewDevice
from telemetry.privacy.keys import Bound
from telemetry.privacy.plan import Plan


@runtime_checkable
class Clock(Protocol):
    """Time. Safe to call from any thread."""

    def now_us(self) -> int:
        """Microseconds since 1970 UTC."""
        ...


@runtime_checkable
class Source(Protocol):
    """Receives messages and acknowledges them when told. One event loop, one consumer.

    ``run`` connects, reconnects and returns only when cancelled (or raises SourceRefused). ``batches`` yields
    lists of messages in the order received; it stops reading the network while more than the configured
    messages or bytes are unacknowledged. ``acknowledge`` takes tokens in any order, sends PUBACKs in the order
    received, and ignores tokens of an earlier connection epoch.
    """

    async def run(self) -> None: ...

    def batches(self) -> AsyncIterator[list[RawMessage]]: ...

    def acknowledge(self, tokens: Sequence[int]) -> None: ...

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Publish at QoS 0 (watermarks, keep-alives); False, and a count, when it cannot be sent now."""
        ...


@runtime_checkable
class Codec(Protocol):
    """A pure function from messages to rows: no clock, no I/O, no logger. Safe to call from any thread.

    Never raises for what a message holds: that becomes a Rejection. ``messages[i]`` gets row index
    ``indices[i]`` in the result, so that results of several codecs join.
    """

    name: str

    def decode(self, messages: Sequence[RawMessage], indices: Sequence[int]) -> Decoded: ...


@runtime_checkable
class Sink(Protocol):
    """Writes one batch in one transaction. Several writes may be in flight; each is all or nothing.

    Raises PlanOutdated (nothing written), StoreUnavailable (outcome unknown: write again, it is idempotent).
    """

    async def write(self, batch: Write) -> Written: ...


@dataclass(frozen=True, slots=True)
class RegistryChanges:
    """What changed in the registry since an earlier plan, of one snapshot.

    ``plan``: the current one. ``gateways``: added or changed; ``gone_gateways``: no longer there. ``devices``
    (DEVICE_SCHEMA): all devices of ``sites``.
    """

    plan: Plan
    gateways: Sequence[Gateway]
    devices: pl.DataFrame
    sites: Sequence[int]
    gone_gateways: Sequence[int] = ()


@runtime_checkable
class RegistryStore(Protocol):
    """Reads and extends the registry of owners, sites, gateways and devices. One event loop."""

    async def load(self) -> tuple[Sequence[Gateway], pl.DataFrame, Plan]:
        """All gateways, all devices (DEVICE_SCHEMA) and the current plan, of one snapshot."""
        ...

    async def changes(self, plan: Plan) -> RegistryChanges | None:
        """What changed since ``plan``; None where it is too old, or too much has changed: load everything then.

        Devices that enrolled meanwhile are not among the changes: a worker that meets one enrols it and is given it.
        """
        ...

    async def enrol(self, devices: Sequence[NewDevice]) -> Enrolled:
        """Insert devices and their sealed serials; where (site, blind index) exists already, the existing one.

        ``Enrolled.version`` is that of the plan their classes belong to: under another they may be out of date.
        """
        ...

    async def owner_public_keys(self, owner_keys: Sequence[int]) -> Mapping[int, bytes]:
        """The public key of each owner, to seal to; owners who are unknown or erased are left out."""
        ...


@runtime_checkable
class Keystore(Protocol):
    """Named secrets. Reads may block for a short time; results are cached by the caller, never logged.

    Raises KeystoreError, which names the remedy; nothing falls back to an empty or new key.
    """

    def secret(self, name: str) -> bytes: ...


@runtime_checkable
class KeyWrapper(Protocol):
    """Wraps owners' and recipients' secrets under one key-encryption key. Safe from any thread; may block.

    privacy.keys.Kek holds the key in memory; store.kek_command.CommandKek asks a KMS, which keeps it.
    """

    @property
    def kek_id(self) -> bytes:
        """Names the key that wraps, 8 bytes, and tells nothing about it."""
        ...

    def wrap_all(self, secrets: Sequence[Bound]) -> list[bytes]: ...

    def unwrap_all(self, wrapped: Sequence[Bound]) -> list[bytes]:
        """The secrets. Raises UnsealError for another key, purpose or owner, KeystoreError where it cannot ask."""
        ...


@runtime_checkable
class Keks(Protocol):
    """The key-encryption keys that a process may use: two while one replaces the other. Any thread; may block."""

    def named(self, kek_id: bytes) -> KeyWrapper:
        """The key of this name, looked for again where it is kept. Raises UnsealError where there is none."""
        ...

    def newest(self) -> KeyWrapper:
        """The key that rows should be under: the staged one while a rotation is under way."""
        ...
