"""What a worker has after following changes is what it would have after loading everything, whatever happened."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry.model.fields import FIELD_NAMES, DataClass, DeviceKind
from telemetry.model.identity import Enrolment, device_frame, new_key
from telemetry.model.sharing import Keeping
from telemetry.privacy.binding import Registry
from telemetry.store.registration import NewGateway, NewSite
from tests.support.plans import FollowingWorker, PlanWorld, findable, known_devices, known_gateways, plan_world
from tests.support.postgres import temporary_postgres
from tests.support.registry import Home, random_serial, registry_world
from tests.support.sharing import terms


@dataclass
class Running:
    runner: asyncio.Runner
    world: PlanWorld


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def opened() -> PlanWorld:
            postgres = await stack.enter_async_context(temporary_postgres())
            keys = tmp_path_factory.mktemp("keys") / "keys"
            registry = await stack.enter_async_context(registry_world(postgres, keys))
            return await stack.enter_async_context(plan_world(registry))

        try:
            yield Running(runner, runner.run(opened()))
        finally:
            runner.run(stack.aclose())


@dataclass
class Story:
    """Everything that happens to some homes while a worker follows."""

    world: PlanWorld
    follower: FollowingWorker
    homes: list[Home]
    recipient: int
    grants: list[tuple[int, int]] = field(default_factory=list)

    async def settle(self, home: Home, number: int) -> None:
        choices = [
            Keeping(),
            Keeping(classes=frozenset()),
            Keeping(classes=frozenset({DataClass.GRID}), never=frozenset({FIELD_NAMES[number]})),
        ]
        await self.world.sharing.set_keeping(home.owner_key, choices[number % 3])

    async def settle_without_compiling(self, home: Home, number: int) -> None:
        await self.world.settling.set_keeping(home.owner_key, Keeping(never=frozenset({FIELD_NAMES[number]})))

    async def grant(self, home: Home, number: int) -> None:
        kinds = [tuple(DeviceKind)[number % 6]] if number % 2 else None
        sites = [home.site_key] if number % 3 else None
        grant = await self.world.sharing.set_grant(home.owner_key, self.recipient, terms(kinds=kinds, sites=sites))
        self.grants.append((home.owner_key, grant.grant_key))

    async def withdraw(self, _home: Home, number: int) -> None:
        if self.grants:
            owner, grant = self.grants.pop(number % len(self.grants))
            await self.world.sharing.withdraw(owner, grant_key=grant)

    async def enrol(self, home: Home, number: int) -> None:
        kind = tuple(DeviceKind)[number % 6]
        proposed = [await self.world.registry.device(home, random_serial(), kind) for _ in range(2)]
        enrolled = await self.follower.store.enrol(proposed)
        while enrolled.devices and not self.follower.registry.update(
            devices=device_frame(enrolled.devices), only_at=enrolled.version
        ):
            await self.follower.reload(enrolled.version)
            enrolled = await self.follower.store.enrol(proposed)

    async def add_gateway(self, home: Home, _number: int) -> None:
        await self.world.registry.administration.enrol_gateway(home.site_key, NewGateway())

    async def add_site(self, home: Home, _number: int) -> None:
        site = await self.world.registry.administration.add_site(home.owner_key, NewSite("Example"))
        gateway = await self.world.registry.administration.enrol_gateway(site, NewGateway())
        self.homes.append(Home(home.owner_key, site, gateway.gateway_key, gateway.name))

    async def set_gateway(self, home: Home, number: int) -> None:
        await self.world.registry.administration.set_gateway(
            home.gateway_key,
            device_limit=300 + number,
            enrolment=Enrolment.KNOWN if number % 4 == 0 else Enrolment.AUTO,
        )

    async def hand_over(self, home: Home, number: int) -> None:
        """A gateway moves to another site, whose tenure begins."""
        target = self.homes[number % len(self.homes)]
        await self.change(
            "UPDATE consent.gateway SET site_key = $1 WHERE gateway_key = $2", target.site_key, home.gateway_key
        )
        await self.change("UPDATE consent.site SET tenure_from = now() WHERE site_key = $1", target.site_key)
        await self.bump("gateway", home.gateway_key)
        await self.bump("site", target.site_key)

    async def replace_device(self, home: Home, _number: int) -> None:
        """Other hardware under the same device key: the old serial leads nowhere."""
        await self.change(
            "UPDATE consent.device SET serial_blind = $1 WHERE device_key ="
            " (SELECT min(device_key) FROM consent.device WHERE site_key = $2)",
            self.world.registry.blind.serial(random_serial()),
            home.site_key,
        )
        await self.bump("site", home.site_key)

    async def delete_device(self, home: Home, _number: int) -> None:
        await self.change(
            "DELETE FROM consent.device WHERE device_key ="
            " (SELECT max(device_key) FROM consent.device WHERE site_key = $1)",
            home.site_key,
        )
        await self.bump("owner", home.owner_key)

    async def delete_gateway(self, home: Home, _number: int) -> None:
        gateway = await self.world.registry.administration.enrol_gateway(home.site_key, NewGateway())
        if _number % 2:
            await self.follower.reload(await self.world.version())
        await self.change("DELETE FROM consent.gateway WHERE gateway_key = $1", gateway.gateway_key)
        await self.bump("gateway", gateway.gateway_key)

    async def erase(self, home: Home, number: int) -> None:
        if number % 5 == 0:
            await self.change("UPDATE consent.owner SET erased_at = now() WHERE owner_key = $1", home.owner_key)
            await self.change(
                "INSERT INTO consent.dirty_owner AS d (owner_key) VALUES ($1)"
                " ON CONFLICT (owner_key) DO UPDATE SET since = d.since",
                home.owner_key,
            )
            await self.compile(home, number)
            self.homes = [each for each in self.homes if each.owner_key != home.owner_key] or [
                await self.world.registry.home()
            ]
            self.grants = [each for each in self.grants if each[0] != home.owner_key]

    async def compile(self, _home: Home, _number: int) -> None:
        from telemetry.maintenance.replan import compile_pending

        await compile_pending(self.world.rights)

    async def unknown_change(self, _home: Home, _number: int) -> None:
        await self.world.admin.execute("SELECT consent.bump_version()")

    async def forget_feed(self, _home: Home, _number: int) -> None:
        await self.world.rights.execute("SELECT consent.prune_changes('0 s')")

    async def follow(self, _home: Home, _number: int) -> None:
        await self.follower.reload(await self.world.version())

    async def change(self, statement: str, *arguments: object) -> None:
        await self.world.admin.execute(statement, *arguments)

    async def bump(self, kind: str, key: int) -> None:
        await self.world.admin.execute("SELECT consent.bump_version(ARRAY[$1], ARRAY[$2::bigint])", kind, key)


STEPS = [name for name in vars(Story) if not name.startswith("_") and name not in {"change", "bump"}]
STEPS = [name for name in STEPS if callable(getattr(Story, name))]


async def play(world: PlanWorld, steps: list[tuple[str, int, int]]) -> None:
    homes = [await world.registry.home() for _ in range(2)]
    worker = await world.worker()
    story = Story(world, worker, homes, await world.recipient())
    try:
        for name, which, number in steps:
            await getattr(story, name)(story.homes[which % len(story.homes)], number)
        await story.follow(story.homes[0], 0)
        gateways, devices, plan = await worker.store.load()
        follower, full = worker.registry, Registry(world.registry.blind, gateways, devices, plan)
        assert follower.plan.version == plan.version == await world.version()
        assert known_devices(follower) == known_devices(full)
        assert known_gateways(follower) == known_gateways(full)
        assert findable(follower, devices).tolist() == devices["device_key"].to_list()
        assert len(follower) == devices.height
    finally:
        await worker.store.close()


@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=14),
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_following_changes_equals_loading_everything(running: Running, steps: list[tuple[str, int, int]]) -> None:
    running.runner.run(play(running.world, steps))


def test_a_change_is_followed_without_loading_everything(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def follow() -> None:
        world = running.world
        home = await world.registry.home()
        await world.device(home)
        worker = await world.worker()

        async def refused() -> Any:
            raise AssertionError("everything was loaded")

        monkeypatch.setattr(worker.store, "load", refused)
        await world.sharing.set_keeping(home.owner_key, Keeping(classes=frozenset()))
        await world.registry.administration.set_gateway(home.gateway_key, device_limit=new_key() % 100)
        await worker.reload(await world.version())
        changes = await worker.store.changes(worker.registry.plan)
        assert changes is not None
        assert (changes.gateways, changes.sites, changes.devices.height) == ([], [], 0)
        await worker.store.close()

    running.runner.run(follow())


def test_a_worker_too_far_behind_loads_everything(running: Running) -> None:
    async def follow() -> None:
        world = running.world
        home = await world.registry.home()
        worker = await world.worker()
        await world.sharing.set_keeping(home.owner_key, Keeping(classes=frozenset({DataClass.LOG})))
        await world.rights.execute("SELECT consent.prune_changes('0 s')")
        assert await worker.store.changes(worker.registry.plan) is None
        await worker.reload(await world.version())
        assert (await worker.store.changes(worker.registry.plan)) is not None
        await worker.store.close()

    running.runner.run(follow())


def test_a_change_that_nobody_described_makes_workers_load_everything(running: Running) -> None:
    async def follow() -> None:
        worker = await running.world.worker()
        await running.world.admin.execute("SELECT consent.bump_version()")
        assert await worker.store.changes(worker.registry.plan) is None
        await worker.store.close()

    running.runner.run(follow())


def test_what_is_whole_forgets_what_is_absent(running: Running) -> None:
    """A full load too: a device that is gone from the database is gone from the worker."""

    async def follow() -> None:
        world = running.world
        home = await world.registry.home()
        device = await world.device(home)
        worker = await world.worker()
        await world.admin.execute("DELETE FROM consent.device WHERE device_key = $1", device)
        await world.admin.execute("SELECT consent.bump_version()")
        await worker.reload(await world.version())
        assert (home.site_key, device) not in known_devices(worker.registry)
        assert isinstance((await worker.store.load())[1], pl.DataFrame)
        await worker.store.close()

    running.runner.run(follow())
