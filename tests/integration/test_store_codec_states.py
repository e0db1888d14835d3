"""What codecs remember, in PostgreSQL: the newest version wins, whoever is gone leaves nothing, rights are few."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
import pytest_asyncio

from telemetry.model.batch import CodecState
from telemetry.pipeline.memories import Memories
from telemetry.privacy.states import StateSealer
from telemetry.store import codec_states
from telemetry.store.keystore import CODEC_STATE
from telemetry.store.readings import PostgresSink
from tests.support.postgres import temporary_postgres
from tests.support.registry import Home, RegistryWorld, registry_world
from tests.support.remembering import LIMITS, NAME, announce, registered, value
from tests.support.store import batch


@dataclass
class World:
    registry: RegistryWorld
    sink: PostgresSink
    home: Home

    async def version(self) -> int:
        return await self.registry.ingest.fetchval("SELECT version FROM consent.state")

    async def write(self, *states: CodecState, version: int = 0) -> tuple[int, ...]:
        version = version or await self.version()
        return tuple((await self.sink.write(batch(plan_version=version, codec_states=states))).forgotten_gateways)

    async def stored(self) -> list[CodecState]:
        return await codec_states.load(self.registry.connector("telemetry_ingest"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def registry(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RegistryWorld]:
    async with (
        temporary_postgres() as postgres,
        registry_world(postgres, tmp_path_factory.mktemp("keys") / "keys") as found,
    ):
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def world(registry: RegistryWorld) -> AsyncIterator[World]:
    sink = PostgresSink(registry.connector("telemetry_ingest"))
    admin = await registry.admin()
    await admin.execute("TRUNCATE readings.codec_state")
    await admin.close()
    yield World(registry, sink, await registry.home())
    await sink.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


def state(home: Home, version: int, content: str = "", codec: str = "toy") -> CodecState:
    return CodecState(home.gateway_key, codec, version, bytes(30) + content.encode())


async def test_whatever_order_writes_commit_in_the_newest_version_stays(world: World):
    for order in itertools.permutations((1, 2, 3)):
        home = await world.registry.home()
        for version in order:
            await world.write(state(home, version, f"v{version}"))
        assert state(home, 3, "v3") in await world.stored()


async def test_writes_in_flight_together(world: World):
    states = [state(world.home, version, f"v{version}") for version in range(1, 21)]
    version = await world.version()
    await asyncio.gather(*(world.write(one, version=version) for one in states))
    assert await world.stored() == [states[-1]]


async def test_the_same_version_is_written_again_for_the_parts_of_a_batch(world: World):
    await world.write(state(world.home, 5, "first half"))
    await world.write(state(world.home, 5, "both halves"))
    assert await world.stored() == [state(world.home, 5, "both halves")]


async def test_it_is_stored_with_its_batch_or_not_at_all(world: World):
    with pytest.raises(Exception, match="plan"):
        await world.sink.write(batch(plan_version=1_000_000, codec_states=[state(world.home, 1)]))
    assert await world.stored() == []


async def test_formats_and_gateways_are_apart(world: World):
    other = await world.registry.home()
    states = [state(world.home, 1, "a"), state(world.home, 1, "b", "other"), state(other, 1, "c")]
    await world.write(*states)
    assert sorted(one.sealed[30:] for one in await world.stored()) == [b"a", b"b", b"c"]


async def test_a_revoked_gateway_leaves_nothing_and_gets_nothing(world: World):
    other = await world.registry.home()
    assert await world.write(state(world.home, 1), state(other, 1)) == ()
    await world.registry.administration.revoke_gateway(world.home.gateway_key)
    assert [one.gateway_key for one in await world.stored()] == [other.gateway_key]
    assert await world.write(state(world.home, 2), state(other, 2, "kept")) == (world.home.gateway_key,)
    assert await world.stored() == [state(other, 2, "kept")]


async def test_a_gateway_that_goes_to_another_home_leaves_what_was_remembered_behind(world: World):
    other = await world.registry.home()
    await world.write(state(world.home, 1), state(other, 1))
    operator = await world.registry.connect("telemetry_operator")
    try:
        await operator.execute(
            "UPDATE consent.gateway SET site_key = $2 WHERE gateway_key = $1", world.home.gateway_key, other.site_key
        )
    finally:
        await operator.close()
    assert [one.gateway_key for one in await world.stored()] == [other.gateway_key]


async def test_an_erased_owners_gateways_leave_nothing_and_get_nothing(world: World):
    await world.write(state(world.home, 1))
    rights = await world.registry.connect("telemetry_rights")
    try:
        await rights.execute("UPDATE consent.owner SET erased_at = now() WHERE owner_key = $1", world.home.owner_key)
    finally:
        await rights.close()
    assert await world.stored() == []
    assert await world.write(state(world.home, 2)) == (world.home.gateway_key,)
    assert await world.stored() == []
    gateways, _, _ = await world.registry.store.load()
    erased = {gateway.gateway_key for gateway in gateways if gateway.erased}
    assert erased == {world.home.gateway_key}


async def test_a_gateway_nobody_enrolled_gets_nothing(world: World):
    assert await world.write(CodecState(12345, "toy", 1, bytes(30))) == (12345,)
    assert await world.stored() == []


@pytest.mark.parametrize("role", ["telemetry_rollup", "telemetry_views", "telemetry_operator", "telemetry_rights"])
async def test_nobody_but_ingest_reads_it(world: World, role: str):
    connection = await world.registry.connect(role)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM readings.codec_state")
    finally:
        await connection.close()


async def test_ingest_neither_deletes_nor_moves_it(world: World):
    await world.write(state(world.home, 1))
    for statement in ("DELETE FROM readings.codec_state", "UPDATE readings.codec_state SET gateway_key = 1"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await world.registry.ingest.execute(statement)


async def test_what_a_worker_stored_the_next_one_decodes_with_and_nobody_reads(world: World):
    with registered():
        sealer = StateSealer(world.registry.keystore.secret(CODEC_STATE))
        key = world.home.gateway_key
        first = Memories(sealer)
        messages = [announce("alias-canary", "INV-canary", gateway="name-canary")]
        _, turn = first.decode(messages, [key], LIMITS)
        await world.write(*first.seal(turn, [key]))
        admin = await world.registry.admin()
        try:
            row = await admin.fetchrow("SELECT * FROM readings.codec_state")
        finally:
            await admin.close()
        assert b"canary" not in row["sealed"]
        assert row["codec"] == NAME
        second = Memories(sealer)
        assert second.load(await world.stored()) == 0
        given, _ = second.decode([value("alias-canary", 5, gateway="name-canary")], [key], LIMITS)
        assert given.decoded.rows["serial"].to_list() == ["INV-canary"]
