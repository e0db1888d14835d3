"""The pipeline with a format that remembers: plans that change, batches that are halved, commits out of order.

Real batcher, preparation, runtime and delivery; a source and a store that do what each test says.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from telemetry.codecs.state import unpack
from telemetry.errors import PlanOutdated, StoreError, StoreUnavailable
from telemetry.model.batch import RawMessage, Write, Written
from telemetry.model.identity import Device, Enrolled, Gateway, NewDevice
from telemetry.observe import Observer
from telemetry.pipeline.batcher import Batcher
from telemetry.pipeline.delivery import Delivery, Watermarks
from telemetry.pipeline.memories import Memories, Turn
from telemetry.pipeline.preparation import Arrived, Bounds, Preparation
from telemetry.pipeline.requests import Requests
from telemetry.pipeline.runtime import Limits, Pipeline
from telemetry.privacy.binding import Registry
from telemetry.privacy.keys import BlindIndex, new_key_pair
from telemetry.privacy.plan import Plan
from telemetry.privacy.states import StateSealer
from tests.support.registries import no_devices
from tests.support.remembering import NAME, announce, registered, value

NOW_US = 1_780_000_000_000_000
SEALER = StateSealer(bytes(32))
BLIND = BlindIndex(bytes(32))
PAIR = new_key_pair()
GATEWAY = Gateway(gateway_key=7, site_key=70, owner_key=700, name_blind=BLIND.gateway("g"))


@dataclass
class Source:
    """Yields each batch when the one before is being written, and keeps what comes back."""

    lists: Sequence[list[RawMessage]]
    acknowledged: list[int] = field(default_factory=list)
    published: list[tuple[str, bytes]] = field(default_factory=list)

    async def batches(self) -> AsyncIterator[list[RawMessage]]:
        for messages in self.lists:
            yield messages

    def acknowledge(self, tokens: Sequence[int]) -> None:
        self.acknowledged += tokens

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        self.published.append((topic, payload))
        return True


@dataclass
class Store:
    """A registry store and a sink in one. ``script(write, attempt)`` may raise, or wait."""

    script: Callable[[Write, int], object] = lambda write, attempt: None
    version: int = 1
    states: dict[tuple[int, str], tuple[int, bytes]] = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)
    quarantined: list[object] = field(default_factory=list)
    writes: int = 0
    devices: dict[bytes, int] = field(default_factory=dict)
    forgotten: tuple[int, ...] = ()

    async def write(self, write: Write) -> Written:
        self.writes += 1
        waited = self.script(write, self.writes)
        if asyncio.iscoroutine(waited):
            await waited
        if write.plan_version != self.version:
            raise PlanOutdated(self.version)
        for one in write.codec_states:
            place = (one.gateway_key, one.codec)
            if self.states.get(place, (0, b""))[0] <= one.version:
                self.states[place] = (one.version, one.sealed)
        self.rows += write.rows.to_dicts()
        self.quarantined += write.quarantined
        return Written(write.rows.height, 0, forgotten_gateways=self.forgotten)

    async def enrol(self, devices: Sequence[NewDevice]) -> Enrolled:
        found = []
        for one in devices:
            key = self.devices.setdefault(one.serial_blind, len(self.devices) + 1)
            found.append(Device(key, one.site_key, one.gateway_key, one.kind, one.serial_blind, 0))
        return Enrolled(found, 0, 0, self.version)

    async def owner_public_keys(self, owner_keys: Sequence[int]) -> dict[int, bytes]:
        return dict.fromkeys(owner_keys, PAIR.public)

    def entries(self) -> dict:
        version, sealed = self.states[7, NAME]
        known = unpack(SEALER.open(sealed, gateway_key=7, codec=NAME, version=version), 3)
        return dict(known[1].entries)


class Clock:
    def now_us(self) -> int:
        return NOW_US


@dataclass
class World:
    store: Store
    source: Source
    registry: Registry
    requests: Requests
    memories: Memories
    preparation: Preparation

    def watts(self) -> list[tuple[int, float]]:
        return [(row["device_key"], row["ac_power_w"]) for row in self.store.rows]


async def run(store: Store, *lists: list[RawMessage], gateways: Sequence[Gateway] = (GATEWAY,)) -> World:
    token = iter(range(1, 1000))
    lists = tuple(
        [message._replace(token=next(token), received_us=NOW_US + at * 10_000_000) for message in messages]
        for at, messages in enumerate(lists)
    )
    source, memories = Source(lists), Memories(SEALER)
    registry = Registry(BLIND, list(gateways), no_devices(), Plan.default(1))
    requests = Requests(source, registry.speaks)

    async def reload(version: int) -> None:
        registry.update(plan=Plan.default(version), gateways=[GATEWAY])

    preparation = Preparation(
        registry=registry,
        store=store,
        blind=BLIND,
        quarantine_key=PAIR.public,
        memories=memories,
        clock=Clock(),
        bounds=Bounds(),
        reload_plan=reload,
    )
    pipeline = Pipeline(
        batcher=Batcher(source.batches(), Clock(), max_messages=max(map(len, lists)), max_bytes=10**6, max_age_s=0.001),
        preparation=preparation,
        sink=store,
        delivery=Delivery(source),
        watermarks=Watermarks(source),
        requests=requests,
        reload_plan=reload,
        observer=Observer(),
        limits=Limits(writes=2),
        sleep=lambda _: asyncio.sleep(0),
    )
    with registered():
        await pipeline.run()
    assert source.acknowledged == [message.token for messages in lists for message in messages]
    return World(store, source, registry, requests, memories, preparation)


BATCHES = (
    [announce("1", "A"), value("1", 1), announce("2", "B"), value("2", 2)],
    [announce("1", "C"), value("1", 3), value("2", 4)],
    [value("1", 5), announce("2", "")],
)
WATTS = [1, 2, 3, 4, 5]  # of devices A, B, C, B, C


def right(world: World) -> None:
    """All rows, of the right devices, and the state after the last batch."""
    blinds = {BLIND.serial(name): name for name in "ABC"}
    names = {key: blinds[serial_blind] for serial_blind, key in world.store.devices.items()}
    assert sorted((watts, names[key]) for key, watts in world.watts()) == list(zip(WATTS, "ABCBC", strict=True))
    assert world.store.entries() == {"1": "C"}


async def test_batch_after_batch() -> None:
    right(await run(Store(), *BATCHES))


@pytest.mark.parametrize("failing", [1, 2, 3])
async def test_the_plan_changes_while_a_batch_is_on_its_way_and_later_ones_are_prepared(failing: int) -> None:
    store = Store()

    async def change(write: Write, attempt: int) -> None:
        if attempt == failing:
            await asyncio.sleep(0.05)  # the next batch is decoded meanwhile, from what this one left
            store.version += 1

    store.script = change
    right(await run(store, *BATCHES))


@pytest.mark.parametrize("slow", [1, 2])
async def test_commits_out_of_order(slow: int) -> None:
    async def wait(write: Write, attempt: int) -> None:
        if attempt == slow:
            await asyncio.sleep(0.1)

    right(await run(Store(wait), *BATCHES))


@pytest.mark.parametrize("watts", WATTS)
async def test_a_batch_that_the_store_refuses_is_halved_and_reads_as_it_did(watts: int) -> None:
    """The message at fault is alone in the end, and quarantined; all others keep their device."""

    async def refuse(write: Write, attempt: int) -> None:
        await asyncio.sleep(0.02)
        if write.rows.height and (write.rows.get_column("ac_power_w") == watts).any():
            raise StoreError("refused")

    world = await run(Store(refuse), *BATCHES)
    blinds = {BLIND.serial(name): name for name in "ABC"}
    names = {key: blinds[serial_blind] for serial_blind, key in world.store.devices.items()}
    expected = [(w, name) for w, name in zip(WATTS, "ABCBC", strict=True) if w != watts]
    assert sorted((w, names[key]) for key, w in world.watts()) == expected
    assert world.store.entries() == {"1": "C"}


async def test_an_unknown_outcome_is_written_again() -> None:
    def lose(write: Write, attempt: int) -> None:
        if attempt in {1, 3}:
            raise StoreUnavailable("lost")

    right(await run(Store(lose), *BATCHES))


async def test_a_gateway_that_becomes_known_meanwhile_is_remembered_and_asked() -> None:
    store = Store()

    def change(write: Write, attempt: int) -> None:
        if attempt == 1:
            store.version = 2  # with the gateway in it

    store.script = change
    world = await run(store, [announce("1", "A"), value("1", 1)], gateways=())
    assert store.entries() == {"1": "A"}
    await world.requests.publish()
    assert ("gw/g/R/toy/keepalive", b"first") in world.source.published


async def test_a_gateway_that_becomes_known_between_arriving_and_binding_is_no_stranger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plan that the batch is bound under knows the gateway: the store would take the rows, as nobody's."""
    store = Store(version=2)
    arrive = Preparation._arrive

    def then_enrol(self: Preparation, messages: Sequence[RawMessage], again: Turn | None) -> Arrived:
        arrived = arrive(self, messages, again)
        self._registry.update(plan=Plan.default(2), gateways=[GATEWAY])
        return arrived

    monkeypatch.setattr(Preparation, "_arrive", then_enrol)
    world = await run(store, [announce("1", "A"), value("1", 1)], [value("1", 2)], gateways=())
    assert [watts for _, watts in world.watts()] == [1, 2]
    assert store.quarantined == []
    assert store.entries() == {"1": "A"}
    await world.requests.publish()
    assert ("gw/g/R/toy/keepalive", b"first") in world.source.published


@pytest.mark.parametrize("change", [{"revoked": True}, {"erased": True}])
async def test_whoever_leaves_is_forgotten_though_nothing_comes_from_there_any_more(change: dict) -> None:
    world = await run(Store(), [announce("1", "A"), value("1", 1)])
    assert await world.preparation.forget_departed() == []
    world.registry.update(gateways=[replace(GATEWAY, **change)])
    assert await world.preparation.forget_departed() == [("g", NAME)]
    assert world.memories.gateways() == []
    assert not world.registry.speaks("g")
    await world.requests.publish()
    assert world.source.published == []


async def test_what_is_remembered_of_a_home_that_was_sold_is_forgotten() -> None:
    world = await run(Store(), [announce("1", "A"), value("1", 1)])
    world.registry.update(gateways=[replace(GATEWAY, site_key=GATEWAY.site_key + 1)])
    assert await world.preparation.forget_departed() == [("g", NAME)]
    assert world.memories.gateways() == []
    assert world.registry.speaks("g"), "it goes on, for its new owner"
    assert await world.preparation.forget_departed() == []


async def test_what_the_store_forgets_is_forgotten_here() -> None:
    store = Store(forgotten=(7,))
    world = await run(store, [announce("1", "A"), value("1", 1)])
    with registered():
        assert world.memories.standing() == {}
    await world.requests.publish()
    assert world.source.published == []
