"""From a list of messages to one Write: decode, bind, enrol, protect, seal.

The computing happens in one worker thread, so that it overlaps with the commit of the batch before; only the
questions to the store (new devices, public keys) go back to the event loop.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.state import Request, Standing
from telemetry.model.batch import (
    CodecState,
    Decoded,
    Protected,
    RawMessage,
    Rejection,
    Withheld,
    Write,
    empty_decoded,
    empty_readings,
)
from telemetry.model.fields import DeviceKind
from telemetry.model.identity import Enrolled, NewDevice, device_frame, new_key
from telemetry.pipeline.memories import Memories, Turn
from telemetry.pipeline.sealing import DEFAULT_QUOTA_BYTES, SERVICE, QuarantineSealer, Senders
from telemetry.pipeline.sequences import Numbered, numbered
from telemetry.ports import Clock, RegistryStore
from telemetry.privacy.binding import Registry
from telemetry.privacy.bound import Bound, Unknown
from telemetry.privacy.core import protect
from telemetry.privacy.keys import BlindIndex, Purpose, Sealer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits that preparing applies. Units in the names."""

    codec: CodecLimits = field(default_factory=CodecLimits)
    future_limit_us: int = 300_000_000
    tick_us: int = 5_000_000
    quarantine_bytes_per_hour: int = DEFAULT_QUOTA_BYTES


@dataclass(frozen=True, slots=True)
class Arrived:
    """Messages decoded and attributed, but not yet bound: what a change of plan starts again from.

    ``turn``: what codecs remembered before and after. ``requests`` and ``standing`` (by gateway and codec): what
    they want published to gateways. ``evicted``: entries of memories forgotten for lack of room.
    """

    messages: Sequence[RawMessage]
    decoded: Decoded
    slots: npt.NDArray[np.int32]
    received_us: npt.NDArray[np.int64]
    received: int
    decode_s: float
    turn: Turn
    requests: Sequence[Request] = ()
    standing: Mapping[tuple[str, str], Sequence[Standing]] = field(default_factory=dict)
    evicted: int = 0

    @property
    def payload_bytes(self) -> int:
        """Bytes of all payloads."""
        return sum(len(message.payload) for message in self.messages)


@dataclass(frozen=True, slots=True)
class Prepared:
    """One batch, ready to be written, and the account of what will not be in it."""

    arrived: Arrived
    protected: Protected
    rejections: tuple[Rejection, ...]
    write: Write
    numbered: Numbered
    protect_s: float

    def slim(self) -> "Prepared":
        """Without the decoded rows, which only another preparation would need."""
        decoded = replace(self.arrived.decoded, rows=empty_decoded())
        return replace(self, arrived=replace(self.arrived, decoded=decoded))

    @property
    def withheld(self) -> dict[Withheld, int]:
        """Readings withheld, by reason, by codecs and core together."""
        total = dict(self.arrived.decoded.withheld_rows)
        for reason, count in self.protected.withheld_rows.items():
            total[reason] = total.get(reason, 0) + count
        return total


class Preparation:
    """Prepares batches, one at a time. ``reload_plan`` brings the registry up to a version; ``told`` hears what
    became of enrolments.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        store: RegistryStore,
        blind: BlindIndex,
        quarantine_key: bytes,
        memories: Memories,
        clock: Clock,
        bounds: Bounds,
        reload_plan: Callable[[int], Awaitable[None]],
        told: Callable[[Enrolled], None] = lambda _: None,
    ) -> None:
        self._registry = registry
        self._store = store
        self._blind = blind
        self._memories = memories
        self._clock = clock
        self._bounds = bounds
        self._reload_plan = reload_plan
        self._told = told
        self._sealers: dict[int, Sealer] = {SERVICE: Sealer(quarantine_key)}
        self._quarantine = QuarantineSealer(self._sealers, blind, quota_bytes=bounds.quarantine_bytes_per_hour)
        self._streams: dict[str, int] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prepare")

    def close(self) -> None:
        """End the worker thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def arrive(self, messages: Sequence[RawMessage], again: Turn | None = None) -> Arrived:
        """Decode ``messages`` and find their gateways; ``again``: as they were decoded in that turn."""
        return await self._in_thread(self._arrive, messages, again)

    async def prepare(self, arrived: Arrived) -> Prepared:
        """Bind, enrol what is new, protect and seal, under the plan of this moment.

        What has arrived arrives again if one of its gateways became known after that: the plan that the rows are bound
        under has that gateway in it, so the store would take them as a stranger's.
        """
        while True:
            bound = await self._in_thread(self._bind, arrived, True)
            if bound.unknown:
                await self._enrol(bound.unknown)
                bound = await self._in_thread(self._bind, arrived, False)
            if not self._now_known(arrived):
                break
            arrived = await self.arrive(arrived.messages, arrived.turn)
        protected, spent_s = await self._in_thread(self._protect, arrived, bound)
        rejections = (*arrived.decoded.rejections, *protected.rejections)
        senders = Senders(*self._registry.gateway_keys(arrived.slots, self._clock.now_us()))
        if rejections:
            await self._fetch_sealers({int(senders.owner_key[item.message]) for item in rejections})
        write, found = await self._in_thread(self._write, arrived, senders, protected, rejections, bound.plan.version)
        return Prepared(arrived, protected, rejections, write, found, spent_s)

    async def refuse(self, arrived: Arrived, rejection: Rejection, plan_version: int) -> Prepared:
        """A batch of one message that the store does not take: all of it goes to quarantine."""
        senders = Senders(*self._registry.gateway_keys(arrived.slots, self._clock.now_us()))
        await self._fetch_sealers({int(senders.owner_key[0])})
        protected = Protected(rows=empty_readings())
        write, found = await self._in_thread(self._write, arrived, senders, protected, (rejection,), plan_version)
        return Prepared(arrived, protected, (rejection,), write, found, 0.0)

    async def forget(self, gateway_keys: Iterable[int]) -> list[tuple[str, str]]:
        """Forget what codecs remember of these gateways; of which (gateway, codec) that was anything."""
        return await self._in_thread(self._memories.forget, tuple(gateway_keys))

    async def forget_departed(self) -> list[tuple[str, str]]:
        """Forget what codecs remember of gateways that were revoked or sold, or whose owner was erased; of which."""
        return await self._in_thread(self._forget_departed)

    def _forget_departed(self) -> list[tuple[str, str]]:
        remembered = self._memories.gateways()
        return self._memories.forget(self._registry.departed(remembered)) if remembered else []

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _arrive(self, messages: Sequence[RawMessage], again: Turn | None) -> Arrived:
        started = time.perf_counter()
        slots = self._registry.gateway_slots([message.gateway for message in messages])
        speaking = self._registry.speaking(slots).tolist()
        keys = [key if slot else None for key, slot in zip(speaking, slots.tolist(), strict=True)]
        batch, turn = self._memories.decode(messages, keys, self._bounds.codec, again)
        decoded = batch.decoded
        received = (
            decoded.rows.height
            + sum(rejection.readings for rejection in decoded.rejections)
            + sum(decoded.withheld_rows.values())
        )
        received_us = np.fromiter((message.received_us for message in messages), np.int64, len(messages))
        return Arrived(
            messages=messages,
            decoded=decoded,
            slots=slots,
            received_us=received_us,
            received=received,
            decode_s=time.perf_counter() - started,
            turn=turn,
            requests=batch.requests,
            standing=self._memories.standing(turn),
            evicted=batch.evicted,
        )

    def _now_known(self, arrived: Arrived) -> bool:
        """Whether a gateway that was unknown when its message arrived no longer is."""
        unknown = [arrived.messages[at].gateway for at in np.flatnonzero(arrived.slots == 0).tolist()]
        return bool(unknown) and bool(self._registry.gateway_slots(unknown).any())

    def _bind(self, arrived: Arrived, enrol: bool) -> Bound:
        return self._registry.bind(arrived.decoded.rows, arrived.slots, enrol=enrol)

    def _protect(self, arrived: Arrived, bound: Bound) -> tuple[Protected, float]:
        started = time.perf_counter()
        protected = protect(
            bound,
            received_us=arrived.received_us,
            now_us=self._clock.now_us(),
            future_limit_us=self._bounds.future_limit_us,
            tick_us=self._bounds.tick_us,
        )
        return protected, time.perf_counter() - started

    def _write(
        self,
        arrived: Arrived,
        senders: Senders,
        protected: Protected,
        rejections: Sequence[Rejection],
        plan_version: int,
    ) -> tuple[Write, Numbered]:
        codecs = arrived.decoded.codec_of_message
        quarantined = self._quarantine.seal(arrived.messages, rejections, senders, codecs) if rejections else ()
        found = numbered(arrived.messages, lambda index: int(senders.gateway_key[index]), self.stream_digest)
        states: Sequence[CodecState] = ()
        if arrived.turn.left:
            states = self._memories.seal(arrived.turn, self._registry.speaking(arrived.slots).tolist())
        return Write(protected.rows, plan_version, quarantined, found.sequences, states), found

    def stream_digest(self, stream: str) -> int:
        """The keyed digest of a stream's name, remembered for as many as there are live ones."""
        digest = self._streams.get(stream)
        if digest is None:
            if len(self._streams) >= 100_000:
                self._streams.clear()
            digest = self._streams[stream] = self._blind.digest63("stream", stream.encode())
        return digest

    async def _fetch_sealers(self, owner_keys: set[int]) -> None:
        missing = [key for key in owner_keys if key not in self._sealers]
        if missing:
            found = await self._store.owner_public_keys(missing)
            self._sealers.update({key: Sealer(public) for key, public in found.items()})

    async def _enrol(self, unknown: Sequence[Unknown]) -> None:
        await self._fetch_sealers({item.owner_key for item in unknown})
        proposed = await self._in_thread(self._seal_serials, unknown)
        enrolled = await self._store.enrol(proposed)
        # Their classes belong to one version. Under an older plan they may not be known yet, under a newer one be out
        # of date: what the owner withdrew in between would be kept of them.
        while enrolled.devices and not self._registry.update(
            devices=device_frame(enrolled.devices), only_at=enrolled.version
        ):
            await self._reload_plan(enrolled.version)
            if self._registry.plan.version != enrolled.version:
                enrolled = await self._store.enrol(proposed)
        self._told(enrolled)

    def _seal_serials(self, unknown: Sequence[Unknown]) -> list[NewDevice]:
        devices = []
        for item in unknown:
            if (sealer := self._sealers.get(item.owner_key)) is None:
                continue  # erased a moment ago: binding refuses the device
            key = new_key()
            devices.append(
                NewDevice(
                    device_key=key,
                    site_key=item.site_key,
                    gateway_key=item.gateway_key,
                    # a format that does not say what it measures is a meter's
                    kind=item.kind or DeviceKind.METER,
                    serial_blind=item.serial_blind,
                    sealed_serial=sealer.seal(item.serial.encode(), purpose=Purpose.DEVICE_SERIAL, subject_key=key),
                )
            )
        return devices
