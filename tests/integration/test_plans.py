"""Compiled plans in the database: what changes, when workers hear of it, and what waits for whom."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import pytest_asyncio

from telemetry.errors import PlanError
from telemetry.maintenance.replan import PlanKeeper, check_plans, compile_pending
from telemetry.model.batch import Withheld
from telemetry.model.fields import CATALOGUE, FIELD_NAMES, DataClass, DeviceKind
from telemetry.model.identity import new_key
from telemetry.model.sharing import Keeping
from telemetry.observe import Observer
from telemetry.privacy.plan import DEFAULT_CLASS
from telemetry.store import plans
from telemetry.store.plans import pending, recompile
from telemetry.store.registration import NewGateway, NewSite
from telemetry.store.registry import plan_class_of
from tests.support.plans import PlanWorld, plan_world
from tests.support.postgres import temporary_postgres
from tests.support.registry import Home, registry_world
from tests.support.sharing import terms

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTHING = Keeping(classes=frozenset())
PRODUCTION = {index for index, field in enumerate(CATALOGUE) if field.data_class is DataClass.PRODUCTION}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory):
    async with (
        temporary_postgres() as postgres,
        registry_world(postgres, tmp_path_factory.mktemp("keys") / "keys") as registry,
        plan_world(registry) as opened,
    ):
        yield opened


async def test_class_0_is_what_is_compiled_from_the_defaults(world: PlanWorld):
    row = await world.admin.fetchrow("SELECT * FROM consent.plan_class WHERE plan_class = 0")
    assert plan_class_of(row) == DEFAULT_CLASS
    assert row["digest"] == DEFAULT_CLASS.digest


async def test_what_an_owner_settles_is_what_devices_keep(world: PlanWorld):
    home, recipient = await world.registry.home(), await world.recipient()
    device = await world.device(home)
    assert await world.kept(device) == set(range(len(FIELD_NAMES)))
    await world.sharing.set_keeping(home.owner_key, NOTHING)
    assert await world.kept(device) == set()
    grant = await world.sharing.set_grant(home.owner_key, recipient, terms())
    assert await world.kept(device) == PRODUCTION
    assert not await world.marked(home.owner_key)
    await world.sharing.withdraw(home.owner_key, grant_key=grant.grant_key)
    assert await world.kept(device) == set()


async def test_nobody_elses_devices_change(world: PlanWorld):
    home, other = await world.registry.home(), await world.registry.home()
    device = await world.device(other)
    await world.sharing.set_keeping(home.owner_key, NOTHING)
    assert await world.kept(device) == set(range(len(FIELD_NAMES)))


async def test_a_device_enrols_under_the_class_of_its_kind(world: PlanWorld):
    home, recipient = await world.registry.home(), await world.recipient()
    await world.sharing.set_keeping(home.owner_key, NOTHING)
    await world.sharing.set_grant(home.owner_key, recipient, terms(kinds=[DeviceKind.INVERTER]))
    kinds = {kind: await world.kept(await world.device(home, kind=kind)) for kind in DeviceKind}
    assert kinds.pop(DeviceKind.INVERTER) == PRODUCTION
    assert all(kept == set() for kept in kinds.values())


async def test_a_site_added_later_starts_under_what_was_settled(world: PlanWorld):
    home = await world.registry.home()
    await world.sharing.set_keeping(home.owner_key, NOTHING)
    site = await world.registry.administration.add_site(home.owner_key, NewSite("Another Home"))
    gateway = await world.registry.administration.enrol_gateway(site, NewGateway())
    device = await world.device(Home(home.owner_key, site, gateway.gateway_key, gateway.name))
    assert await world.kept(device) == set()


async def test_a_site_added_while_its_owner_is_compiled_waits_and_starts_under_the_new_plan(world: PlanWorld):
    home = await world.registry.home()
    await world.settling.set_keeping(home.owner_key, NOTHING)
    writer = await world.registry.connect("telemetry_ingest")
    async with writer.transaction():
        await writer.fetchval("SELECT consent.hold_version()")
        compiling = asyncio.create_task(recompile(world.rights, [home.owner_key]))
        await _waits_for(world, "bump_version")
        adding = asyncio.create_task(world.registry.administration.add_site(home.owner_key, NewSite("Another Home")))
        await asyncio.sleep(0.2)
        assert not adding.done()
    await compiling
    site = await adding
    classes = await world.admin.fetchval("SELECT plan_classes FROM consent.site WHERE site_key = $1", site)
    assert 0 not in classes
    await writer.close()


async def test_the_version_moves_only_if_a_class_changed_somewhere(world: PlanWorld):
    home, recipient = await world.registry.home(), await world.recipient()
    before = await world.version()
    assert await recompile(world.rights, [home.owner_key]) == before
    # The default keeps all of it finer already: this changes what is shown and nothing of what is kept.
    grant = await world.sharing.set_grant(home.owner_key, recipient, terms())
    assert await world.version() == before
    await world.sharing.set_keeping(home.owner_key, NOTHING)
    assert await world.version() == before + 1
    await world.sharing.withdraw(home.owner_key, grant_key=grant.grant_key)
    assert await world.version() == before + 2


async def test_equal_settings_share_a_class(world: PlanWorld):
    homes = [await world.registry.home() for _ in range(3)]
    keeping = Keeping(never=frozenset({"load_power_w", "ev_soc_pct"}))
    for home in homes:
        await world.sharing.set_keeping(home.owner_key, keeping)
    rows = await world.admin.fetch(
        "SELECT DISTINCT plan_classes FROM consent.site WHERE owner_key = ANY ($1)", [home.owner_key for home in homes]
    )
    assert len({number for row in rows for number in row["plan_classes"]}) == 1


async def test_classes_made_at_once_get_numbers_of_their_own(world: PlanWorld):
    homes = [await world.registry.home() for _ in range(4)]
    for number, home in enumerate(homes):
        await world.settling.set_keeping(
            home.owner_key, Keeping(never=frozenset({FIELD_NAMES[10 + number], "rssi_dbm"}))
        )
    connections = [await world.registry.connect("telemetry_rights") for _ in homes]
    await asyncio.gather(
        *(recompile(connection, [home.owner_key]) for connection, home in zip(connections, homes, strict=True))
    )
    for connection in connections:
        await connection.close()
    assert (await check_plans(world.rights)).failures == []
    numbers = [row[0] for row in await world.admin.fetch("SELECT plan_class FROM consent.plan_class ORDER BY 1")]
    assert numbers == list(range(len(numbers)))


async def test_rule_5_an_erased_owners_devices_are_withheld(world: PlanWorld):
    home = await world.registry.home()
    await world.device(home)
    await world.admin.execute("UPDATE consent.owner SET erased_at = now() WHERE owner_key = $1", home.owner_key)
    await recompile(world.rights, [home.owner_key])
    worker = await world.worker()
    assert [each[3] for (site, _), each in worker.devices().items() if site == home.site_key] == [Withheld.ERASED]


async def test_unknown_owners_are_passed_over(world: PlanWorld):
    before = await world.version()
    assert await recompile(world.rights, [new_key()]) == before


class TestSettlingWaitsForNobody:
    async def test_a_withdrawal_commits_while_a_recompilation_waits_for_ingest(self, world: PlanWorld):
        """A write in flight holds the plan's version; whoever bumps it waits, and whoever withdraws must not."""
        home, recipient = await world.registry.home(), await world.recipient()
        device = await world.device(home)
        grant = await world.sharing.set_grant(home.owner_key, recipient, terms())
        await world.settling.set_keeping(home.owner_key, NOTHING)
        writer, compiler = [await world.registry.connect(f"telemetry_{role}") for role in ("ingest", "rights")]
        async with writer.transaction():
            await writer.fetchval("SELECT consent.hold_version()")
            compiling = asyncio.create_task(recompile(compiler, [home.owner_key]))
            await _waits_for(world, "bump_version")
            async with asyncio.timeout(5):
                await world.settling.withdraw(home.owner_key, grant_key=grant.grant_key)
            assert not compiling.done()
        await compiling
        # It was compiled from the settings before, and the mark made meanwhile says so.
        assert await world.kept(device) == PRODUCTION
        assert await world.marked(home.owner_key)
        assert await pending(world.rights) == [home.owner_key]
        await compile_pending(world.rights)
        assert await world.kept(device) == set()
        assert not await world.marked(home.owner_key)
        for connection in (writer, compiler):
            await connection.close()

    async def test_a_mark_made_again_in_a_transaction_still_open_stays(self, world: PlanWorld):
        """Its settings were not visible when they were read: deleting the mark would lose them."""
        home = await world.registry.home()
        await world.settling.set_keeping(home.owner_key, NOTHING)
        settler = await world.registry.connect("telemetry_operator")
        transaction = settler.transaction()
        await transaction.start()
        await settler.execute(
            "INSERT INTO consent.dirty_owner AS d (owner_key) VALUES ($1)"
            " ON CONFLICT (owner_key) DO UPDATE SET since = d.since",
            home.owner_key,
        )
        compiling = asyncio.create_task(recompile(world.rights, [home.owner_key]))
        await _waits_for(world, "DELETE FROM consent.dirty_owner")
        await transaction.commit()
        await compiling
        assert await world.marked(home.owner_key)
        await compile_pending(world.rights)
        assert not await world.marked(home.owner_key)
        await settler.close()


class TestEnrolmentMeanwhile:
    async def test_a_device_that_enrols_while_its_owner_is_compiled_has_the_new_class(self, world: PlanWorld):
        home = await world.registry.home()
        await world.settling.set_keeping(home.owner_key, NOTHING)
        proposed = await world.registry.device(home, "INV-MEANWHILE")
        store = world.registry.worker()
        async with store._connected("enrolling") as connection, connection.transaction():
            await connection.execute(store._sql["lock_enrolment"], [home.gateway_key])
            added = await store._insert(connection, [proposed])
            compiling = asyncio.create_task(recompile(world.rights, [home.owner_key]))
            await _waits_for(world, "pg_advisory_xact_lock(7311")
            assert not compiling.done()
        await compiling
        assert await world.kept(added[0]) == set()

    async def test_what_enrolment_answers_says_which_plan_its_classes_belong_to(self, world: PlanWorld):
        home = await world.registry.home()
        enrolled = await world.registry.store.enrol([await world.registry.device(home, "INV-VERSION")])
        assert enrolled.version == await world.version()


class TestByTime:
    async def test_a_grant_that_begins_or_ends_by_time_makes_its_owner_due(self, world: PlanWorld):
        home, recipient = await world.registry.home(), await world.recipient()
        device = await world.device(home)
        await world.sharing.set_keeping(home.owner_key, NOTHING)
        start = datetime.now(UTC) + timedelta(seconds=0.6)
        until = start + timedelta(seconds=0.8)
        await world.sharing.set_grant(home.owner_key, recipient, terms(start=start, until=until))
        assert await world.kept(device) == set()
        assert await plans.next_due(world.rights) == start
        assert home.owner_key not in await pending(world.rights)
        await _until(start)
        assert (await compile_pending(world.rights)).owners >= 1
        assert await world.kept(device) == PRODUCTION
        assert await plans.next_due(world.rights) == until
        await _until(until)
        await compile_pending(world.rights)
        assert await world.kept(device) == set()
        assert await plans.next_due(world.rights) is None


class TestChecking:
    async def test_what_was_settled_and_not_compiled_is_pending_and_not_wrong(self, world: PlanWorld):
        await compile_pending(world.rights)
        home = await world.registry.home()
        await world.settling.set_keeping(home.owner_key, NOTHING)
        checked = await check_plans(world.rights)
        assert (checked.pending, checked.failures) == (1, [])
        await compile_pending(world.rights)
        assert (await check_plans(world.rights)).pending == 0

    @pytest.mark.parametrize(
        ("tampering", "problem"),
        [
            ("UPDATE consent.site SET plan_classes[1] = 0 WHERE site_key = $2", "1 of the owner's sites"),
            ("UPDATE consent.device SET plan_class = 0 WHERE site_key = $2", "1 devices"),
            ("DELETE FROM consent.owner_plan WHERE owner_key = $1", "a site that is added"),
            ("UPDATE consent.owner_plan SET due_at = '2999-01-01' WHERE owner_key = $1", "compiled again"),
        ],
        ids=["site", "device", "later", "due"],
    )
    async def test_what_workers_go_by_is_compared_with_what_was_settled(self, world, tampering: str, problem: str):
        home = await world.registry.home()
        await world.device(home)
        await world.sharing.set_keeping(home.owner_key, NOTHING)
        await world.admin.execute(
            f"WITH home (owner, site) AS (SELECT $1::bigint, $2::bigint) {tampering}", home.owner_key, home.site_key
        )
        ((owner, told),) = (await check_plans(world.rights)).failures
        assert owner == home.owner_key
        assert problem in told
        await recompile(world.rights, [home.owner_key])
        assert (await check_plans(world.rights)).failures == []

    async def test_a_plan_that_breaks_its_promise_is_not_used_and_holds_nobody_up(self, world: PlanWorld, monkeypatch):
        broken, sound = await world.registry.home(), await world.registry.home()
        device = await world.device(sound)
        for home in (broken, sound):
            await world.settling.set_keeping(home.owner_key, NOTHING)
        compile_owner = plans.compile_owner

        def sabotaged(settings, now):
            if settings.owner_key == broken.owner_key:
                raise PlanError("on purpose")
            return compile_owner(settings, now)

        monkeypatch.setattr(plans, "compile_owner", sabotaged)
        drained = await compile_pending(world.rights)
        assert set(drained.broken) == {broken.owner_key}
        assert await world.marked(broken.owner_key)
        assert await world.kept(device) == set()
        monkeypatch.undo()
        assert not (await compile_pending(world.rights)).broken


class TestKeeping:
    async def test_what_was_left_over_is_compiled_and_lost_connections_are_replaced(self, world: PlanWorld):
        home = await world.registry.home()
        device = await world.device(home)
        keeper = PlanKeeper(world.registry.connector("telemetry_rights"), Observer(), poll_s=0.05)
        running = asyncio.create_task(keeper.run())
        try:
            for keeping, kept in ((NOTHING, 0), (Keeping(), len(FIELD_NAMES)), (NOTHING, 0)):
                await world.settling.set_keeping(home.owner_key, keeping)
                async with asyncio.timeout(20):
                    while len(await world.kept(device)) != kept:
                        await asyncio.sleep(0.02)
                await world.admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE usename = 'telemetry_rights' AND pid <> $1",
                    world.rights.get_server_pid(),
                )
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def test_old_changes_are_forgotten_and_it_is_known_how_far_back_they_go(self, world: PlanWorld):
        await world.rights.execute("SELECT consent.prune_changes('1 day')")
        home = await world.registry.home()
        version = await world.version()
        before = await world.admin.fetchval("SELECT feed_from FROM consent.state")
        assert before < version
        await world.admin.execute(
            "UPDATE consent.change SET at = now() - interval '2 days' WHERE version < $1", version
        )
        await plans.prune_changes(world.rights, timedelta(days=1))
        assert await world.admin.fetchval("SELECT min(version) FROM consent.change") == version
        assert await world.admin.fetchval("SELECT feed_from FROM consent.state") == version - 1
        assert home.gateway_key in {
            row["key"] for row in await world.admin.fetch("SELECT key FROM consent.change WHERE kind = 'gateway'")
        }


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("ingest", "INSERT INTO consent.plan_class SELECT * FROM consent.plan_class"),
        ("ingest", "UPDATE consent.plan_class SET keep = keep"),
        ("ingest", "UPDATE consent.device SET plan_class = 0"),
        ("ingest", "UPDATE consent.site SET plan_classes = plan_classes"),
        ("ingest", "INSERT INTO consent.change VALUES (1, 'all', 0)"),
        ("ingest", "SELECT * FROM consent.owner_plan"),
        ("rights", "UPDATE consent.plan_class SET keep = keep"),
        ("rights", "DELETE FROM consent.plan_class"),
        ("rights", "DELETE FROM consent.change"),
        ("rights", "UPDATE consent.state SET feed_from = 0"),
        ("operator", "INSERT INTO consent.plan_class SELECT * FROM consent.plan_class"),
        ("operator", "UPDATE consent.site SET plan_classes = plan_classes"),
        ("operator", "UPDATE consent.device SET plan_class = 0"),
        ("rollup", "UPDATE consent.plan_class SET keep = keep"),
        ("views", "UPDATE consent.plan_class SET keep = keep"),
        ("views", "SELECT * FROM consent.change"),
    ],
)
async def test_who_may_not_touch_the_plan(world: PlanWorld, role: str, statement: str):
    connection = await world.registry.connect(f"telemetry_{role}")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def _waits_for(world: PlanWorld, statement: str) -> None:
    """Until some session waits for a lock in a statement that holds this text."""
    async with asyncio.timeout(20):
        while not await world.admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND position($1 IN query) > 0",
            statement,
        ):
            await asyncio.sleep(0.02)


async def _until(instant: datetime) -> None:
    while datetime.now(UTC) < instant + timedelta(milliseconds=20):
        await asyncio.sleep(0.02)
