"""A device enrols while its owner settles something: what a worker knows of it belongs to the plan it applies."""

import json
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest
import pytest_asyncio

from telemetry.model.batch import RawMessage, Withheld
from telemetry.model.identity import Enrolled, NewDevice
from telemetry.model.sharing import Keeping
from telemetry.observe import Observer
from telemetry.pipeline.memories import Memories
from telemetry.pipeline.preparation import Bounds, Preparation, Prepared
from telemetry.pipeline.reload import RegistryReloader
from telemetry.privacy.binding import Registry
from telemetry.privacy.states import StateSealer
from telemetry.store.keystore import QUARANTINE_PUBLIC
from telemetry.store.registry import PostgresRegistryStore
from tests.support.plans import PlanWorld, plan_world
from tests.support.postgres import temporary_postgres
from tests.support.registry import Home, random_serial, registry_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTHING = Keeping(classes=frozenset())
Meanwhile = Callable[[], Awaitable[object]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory):
    async with (
        temporary_postgres() as postgres,
        registry_world(postgres, tmp_path_factory.mktemp("keys") / "keys") as registry,
        plan_world(registry) as opened,
    ):
        yield opened


class Interrupted(PostgresRegistryStore):
    """The real store, with something that happens right before or after the first enrolment commits."""

    before: Meanwhile | None = None
    after: Meanwhile | None = None

    async def enrol(self, devices: Sequence[NewDevice]) -> Enrolled:
        if self.before:
            happening, self.before = self.before, None
            await happening()
        enrolled = await super().enrol(devices)
        if self.after:
            happening, self.after = self.after, None
            await happening()
        return enrolled


class SystemClock:
    def now_us(self) -> int:
        return time.time_ns() // 1000


async def prepare(
    world: PlanWorld,
    home: Home,
    *,
    payload: str | None = None,
    **interruptions: Callable[[RegistryReloader], Meanwhile],
) -> Prepared:
    """One message of a device that nobody has seen, prepared while ``interruptions`` happen."""
    store = Interrupted(world.registry.connector("telemetry_ingest"))
    gateways, devices, plan = await store.load()
    registry = Registry(world.registry.blind, gateways, devices, plan)
    reload_plan = RegistryReloader(registry, store, Observer())
    for moment, make in interruptions.items():
        setattr(store, moment, make(reload_plan))
    preparation = Preparation(
        registry=registry,
        store=store,
        blind=world.registry.blind,
        quarantine_key=world.registry.keystore.secret(QUARANTINE_PUBLIC),
        memories=Memories(StateSealer(bytes(32))),
        clock=SystemClock(),
        bounds=Bounds(),
        reload_plan=reload_plan,
    )
    now_us = SystemClock().now_us()
    payload = (
        payload or f'{{"serial": "{random_serial()}", "kind": "inverter", "ts": {now_us // 1000}, "ac_power_w": 5.0}}'
    )
    message = RawMessage(home.gateway_name, "readings", payload.encode(), 1, now_us)
    try:
        prepared = await preparation.prepare(await preparation.arrive([message]))
        assert prepared.write.plan_version == await world.version()
        return prepared
    finally:
        preparation.close()
        await store.close()


async def test_undisturbed_the_first_reading_is_kept(world: PlanWorld):
    prepared = await prepare(world, await world.registry.home())
    assert prepared.write.rows["ac_power_w"].to_list() == [5.0], prepared.rejections


async def test_a_plan_that_this_worker_does_not_have_yet_is_loaded_first(world: PlanWorld):
    home = await world.registry.home()
    prepared = await prepare(world, home, before=lambda _: lambda: world.sharing.set_keeping(home.owner_key, NOTHING))
    assert prepared.write.rows.is_empty()
    assert not prepared.rejections


async def test_classes_that_are_out_of_date_when_they_arrive_are_asked_for_again(world: PlanWorld):
    """The owner withdraws, and this worker applies that, between the enrolment's commit and its answer."""
    home = await world.registry.home()

    def withdrawn(reload_plan: RegistryReloader) -> Meanwhile:
        async def meanwhile() -> None:
            await world.sharing.set_keeping(home.owner_key, NOTHING)
            await reload_plan(await world.version())

        return meanwhile

    prepared = await prepare(world, home, after=withdrawn)
    assert prepared.write.rows.is_empty()
    assert not prepared.rejections


class TestMessagesOfTwoTenures:
    """Decision 0030: readings of who left are not for who came, in quarantine neither."""

    @pytest.mark.parametrize(("age_days", "sealed_to_owner"), [(1, False), (34, False), (36, True)])
    async def test_what_a_site_sends_soon_after_it_changed_hands_is_not_sealed_to_who_came(
        self, world: PlanWorld, age_days: int, sealed_to_owner: bool
    ):
        home = await world.registry.home()
        began = await world.admin.fetchval(
            "UPDATE consent.site SET tenure_from = now() - make_interval(days => $1) WHERE site_key = $2"
            " RETURNING (extract(epoch FROM tenure_from) * 1000)::bigint",
            age_days,
            home.site_key,
        )
        rows = [
            {"serial": "INV-TENURE", "kind": "inverter", "ts": began - 1, "ac_power_w": 5.0},
            {"serial": "INV-TENURE", "kind": "inverter", "ts": time.time_ns() // 1_000_000, "ac_power_w": 1e9},
        ]
        prepared = await prepare(world, home, payload=json.dumps(rows))
        assert prepared.write.rows.is_empty()
        assert prepared.withheld == {Withheld.OTHER_TENURE: 1}
        (held,) = prepared.write.quarantined
        assert (held.gateway_key, held.owner_key) == (home.gateway_key, home.owner_key if sealed_to_owner else None)

    async def test_a_site_that_never_changed_hands_seals_to_its_owner(self, world: PlanWorld):
        home = await world.registry.home()
        prepared = await prepare(world, home, payload="not a message")
        assert [held.owner_key for held in prepared.write.quarantined] == [home.owner_key]
