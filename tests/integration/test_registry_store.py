"""The registry as the ingest role sees it, on a real PostgreSQL."""

import asyncio
import contextlib

import asyncpg
import numpy as np
import polars as pl
import pytest
import pytest_asyncio

from telemetry.errors import StoreError, StoreUnavailable
from telemetry.model.fields import DeviceKind
from telemetry.model.identity import DEVICE_SCHEMA, Enrolment, NewDevice, new_key
from telemetry.ports import RegistryStore
from telemetry.privacy.keys import Purpose, Sealer
from telemetry.store.migrate import ROLES
from telemetry.store.registry import devices_from_copy
from tests.support.postgres import temporary_postgres
from tests.support.registry import RegistryWorld, new_device, random_serial, registry_world

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory):
    async with (
        temporary_postgres() as postgres,
        registry_world(postgres, tmp_path_factory.mktemp("keys") / "keys") as opened,
    ):
        yield opened


async def test_it_is_the_port(world: RegistryWorld):
    assert isinstance(world.store, RegistryStore)


async def test_load_returns_gateways_and_devices_as_columns(world: RegistryWorld):
    home = await world.home(device_limit=7, enrolment=Enrolment.AUTO)
    proposed = [await world.device(home, random_serial(), kind) for kind in DeviceKind]
    await world.store.enrol(proposed)
    gateways, devices, plan = await world.store.load()

    gateway = next(one for one in gateways if one.gateway_key == home.gateway_key)
    assert (gateway.site_key, gateway.owner_key, gateway.device_limit) == (home.site_key, home.owner_key, 7)
    assert gateway.name_blind == world.blind.gateway(home.gateway_name)
    assert not gateway.revoked
    assert dict(devices.schema) == dict(DEVICE_SCHEMA)
    mine = devices.filter(pl.col("site_key") == home.site_key).sort("kind")
    assert mine["device_key"].to_list() == [one.device_key for one in proposed]
    assert mine["kind"].to_list() == [int(kind) for kind in DeviceKind]
    blinds = mine["serial_blind"].to_numpy()
    assert blinds.dtype == np.uint8
    assert [bytes(row) for row in blinds] == [one.serial_blind for one in proposed]
    assert plan.version == await world.ingest.fetchval("SELECT version FROM consent.state")


async def test_the_first_enrolment_of_a_serial_at_a_site_wins(world: RegistryWorld):
    home = await world.home()
    first, second = [await world.device(home, "INV00000042") for _ in range(2)]
    assert [one.device_key for one in (await world.store.enrol([first])).devices] == [first.device_key]
    again = await world.store.enrol([second])
    assert [one.device_key for one in again.devices] == [first.device_key]
    assert (again.refused, again.elsewhere) == (0, 0)


async def test_a_serial_twice_in_one_call_is_one_device(world: RegistryWorld):
    home = await world.home()
    serial = random_serial()
    enrolled = await world.store.enrol([await world.device(home, serial) for _ in range(3)])
    assert len(enrolled.devices) == 1
    assert enrolled.refused == 0


async def test_the_same_serial_at_another_site_is_another_device_and_the_operator_is_told(world: RegistryWorld):
    mine, theirs = await world.home(), await world.home()
    serial = random_serial()
    own = await world.store.enrol([await world.device(mine, serial)])
    other = await world.store.enrol([await world.device(theirs, serial)])
    assert own.devices[0].device_key != other.devices[0].device_key
    assert (own.elsewhere, other.elsewhere) == (0, 1)
    listed = await world.administration.devices(site_key=mine.site_key)
    assert [row["elsewhere"] for row in listed] == [True]


async def test_a_gateway_enrols_no_more_than_its_limit(world: RegistryWorld):
    home = await world.home(device_limit=3)
    enrolled = await world.store.enrol([await world.device(home, random_serial()) for _ in range(5)])
    assert (len(enrolled.devices), enrolled.refused) == (3, 2)


async def test_the_limit_holds_under_concurrency(world: RegistryWorld):
    home = await world.home(device_limit=20)
    serials = [random_serial() for _ in range(40)]
    proposals = [[await world.device(home, serial) for serial in serials[start::2]] for start in (0, 1)] * 2
    answers = await asyncio.gather(*(world.worker().enrol(devices) for devices in proposals))
    stored = {row["device_key"] for row in await world.administration.devices(site_key=home.site_key)}
    assert len(stored) == 20
    assert {device.device_key for answer in answers for device in answer.devices} <= stored


async def test_workers_that_meet_the_same_device_at_once_agree_on_its_key(world: RegistryWorld):
    home = await world.home()
    serials = [random_serial() for _ in range(30)]
    orders = [serials, serials[::-1], serials[10:] + serials[:10]]
    proposals = [[await world.device(home, serial) for serial in order] for order in orders]
    answers = await asyncio.gather(*(world.worker().enrol(devices) for devices in proposals))
    keys = [{device.serial_blind: device.device_key for device in answer.devices} for answer in answers]
    assert keys[0] == keys[1] == keys[2]
    assert len(keys[0]) == 30


@pytest.mark.parametrize("case", ["revoked", "known", "other_site"])
async def test_devices_of_gateways_that_may_not_enrol_are_refused(world: RegistryWorld, case: str):
    home = await world.home(enrolment=Enrolment.KNOWN if case == "known" else Enrolment.AUTO)
    if case == "revoked":
        await world.administration.revoke_gateway(home.gateway_key)
    if case == "other_site":
        home.site_key = (await world.home()).site_key
    enrolled = await world.store.enrol([await world.device(home, random_serial())])
    assert (list(enrolled.devices), enrolled.refused) == ([], 1)


async def test_enrolment_does_not_outdate_batches_in_flight(world: RegistryWorld):
    home = await world.home()
    version = (await world.store.load())[2].version
    await world.store.enrol([await world.device(home, random_serial())])
    assert (await world.store.load())[2].version == version
    await world.administration.set_gateway(home.gateway_key, device_limit=9)
    assert (await world.store.load())[2].version == version + 1


async def test_what_ingest_sealed_opens_for_the_owner_alone(world: RegistryWorld):
    home, stranger = await world.home(), await world.home()
    serial = random_serial()
    (device,) = (await world.store.enrol([await world.device(home, serial)])).devices
    revealed = await world.administration.reveal(Purpose.DEVICE_SERIAL, [(home.owner_key, device.device_key)])
    assert revealed == {device.device_key: serial}
    assert not await world.administration.reveal(Purpose.DEVICE_SERIAL, [(stranger.owner_key, device.device_key)])


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT sealed FROM vault.entry",
        "SELECT count(*) FROM vault.entry",
        "DELETE FROM vault.entry",
        "UPDATE vault.entry SET sealed = sealed",
        "SELECT * FROM audit.event",
        "UPDATE consent.device SET site_key = 1",
        "DELETE FROM consent.device",
        "UPDATE consent.gateway SET revoked_at = NULL",
        "INSERT INTO consent.owner (owner_key, region, public_key) VALUES (1, 'x', '')",
        "SET ROLE telemetry_owner",
        "ALTER TABLE vault.entry DISABLE ROW LEVEL SECURITY",
    ],
)
async def test_ingest_may_not(world: RegistryWorld, statement: str):
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await world.ingest.execute(statement)


async def test_ingest_seals_nothing_but_serials_of_devices(world: RegistryWorld):
    home = await world.home()
    statement = "INSERT INTO vault.entry VALUES ($1, $2, 1, $3, $4)"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await world.ingest.execute(statement, home.owner_key, "owner", "name", bytes(1200))
    await world.ingest.execute(statement, home.owner_key, "device", "serial", bytes(1200))


@pytest.mark.parametrize("role", sorted(set(ROLES) - {"telemetry_keys", "telemetry_views"}))
async def test_only_its_own_role_and_the_views_connect_to_the_keys(world: RegistryWorld, role: str):
    with pytest.raises(StoreError, match="42501"):
        await world.connect(role, "keys")


async def test_the_keys_role_does_not_reach_the_data(world: RegistryWorld):
    with pytest.raises(StoreError, match="42501"):
        await world.connect("telemetry_keys", "telemetry")


async def test_views_see_no_row_before_a_policy_says_so(world: RegistryWorld):
    connection = await world.connect("telemetry_views")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM consent.device")
    finally:
        await connection.close()


async def test_erased_owners_have_no_public_key_and_enrol_nothing(world: RegistryWorld):
    home = await world.home()
    device = await world.device(home, random_serial())
    admin = await world.admin()
    try:
        await admin.execute("UPDATE consent.owner SET erased_at = now() WHERE owner_key = $1", home.owner_key)
    finally:
        await admin.close()
    assert await world.store.owner_public_keys([home.owner_key]) == {}
    assert (await world.store.enrol([device])).refused == 1


async def test_a_statement_that_fails_names_no_value(world: RegistryWorld):
    home = await world.home()
    device = await world.device(home, random_serial())
    broken = NewDevice(new_key(), device.site_key, device.gateway_key, device.kind, b"CANARY", device.sealed_serial)
    with pytest.raises(StoreError) as caught:
        await world.store.enrol([broken])
    assert "CANARY" not in repr(caught.value) + str(caught.value)
    assert "23514" in str(caught.value)
    assert caught.value.__suppress_context__


async def test_a_lost_connection_is_reported_and_replaced(world: RegistryWorld):
    store = world.worker()
    await store.load()
    admin = await world.admin()
    try:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1",
            store._connection.get_server_pid(),
        )
    finally:
        await admin.close()
    with contextlib.suppress(StoreUnavailable):  # the end of the connection may be seen before the statement
        await store.owner_public_keys([1])
    assert await store.owner_public_keys([1]) == {}


async def test_a_stream_of_another_shape_is_refused():
    with pytest.raises(StoreError):
        devices_from_copy(b"PGCOPY\n\xff\r\n\0" + bytes(8) + bytes(71) + b"\xff\xff")
    with pytest.raises(StoreError):
        devices_from_copy(b"")


@pytest.mark.long
async def test_a_hundred_thousand_devices_load_as_they_were_enrolled(world: RegistryWorld):
    home = await world.home(device_limit=1_000_000)
    sealer = Sealer((await world.store.owner_public_keys([home.owner_key]))[home.owner_key])
    one = new_device(world.blind, sealer, home, random_serial())
    proposed = [
        NewDevice(new_key(), one.site_key, one.gateway_key, one.kind, number.to_bytes(16), one.sealed_serial)
        for number in range(100_000)
    ]
    assert len((await world.store.enrol(proposed)).devices) == 100_000
    devices = (await world.store.load())[1].filter(pl.col("site_key") == home.site_key)
    loaded = dict(zip(devices["device_key"], devices["serial_blind"].to_numpy().view(">u8")[:, 1], strict=True))
    assert loaded == {device.device_key: number for number, device in enumerate(proposed)}
