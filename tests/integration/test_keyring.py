"""Owners' keys: wrapped, apart from the data, and gone for good when deleted."""

import pytest
import pytest_asyncio

from telemetry.errors import RegistryError, UnsealError
from telemetry.privacy.keys import TOKEN_SECRET_BYTES, Kek, Purpose
from telemetry.store.administration import Administration
from telemetry.store.keyring import KeyRing
from telemetry.store.registration import NewOwner, NewSite
from tests.support.postgres import temporary_postgres
from tests.support.registry import RegistryWorld, registry_world

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory):
    async with (
        temporary_postgres() as postgres,
        registry_world(postgres, tmp_path_factory.mktemp("keys") / "keys") as opened,
    ):
        yield opened


async def test_each_owner_has_a_token_secret_of_its_own(world: RegistryWorld):
    secrets = [
        await world.ring.token_secret(await world.administration.add_owner(NewOwner("Example"))) for _ in range(2)
    ]
    assert [len(secret) for secret in secrets] == [TOKEN_SECRET_BYTES] * 2
    assert secrets[0] != secrets[1]


async def test_nothing_opens_under_another_key_encryption_key(world: RegistryWorld):
    home = await world.home()
    connection = await world.connect("telemetry_keys", "keys")
    try:
        with pytest.raises(UnsealError):
            await KeyRing(connection, Kek(bytes(32))).opener(home.owner_key)
    finally:
        await connection.close()


async def test_one_owners_wrapped_key_does_not_serve_another(world: RegistryWorld):
    mine, other = await world.home(), await world.home()
    admin = await world.admin("keys")
    try:
        await admin.execute(
            "UPDATE keys.owner_key AS k SET wrapped_private = o.wrapped_private"
            " FROM keys.owner_key AS o WHERE k.owner_key = $1 AND o.owner_key = $2",
            mine.owner_key,
            other.owner_key,
        )
    finally:
        await admin.close()
    with pytest.raises(UnsealError):
        await world.ring.opener(mine.owner_key)


async def test_without_its_key_an_owners_vault_stays_closed(world: RegistryWorld):
    home, subject = await world.home(), Purpose.OWNER_NAME
    pairs = [(home.owner_key, home.owner_key)]
    assert await world.administration.reveal(subject, pairs) == {home.owner_key: "Example Owner"}
    connection = await world.connect("telemetry_keys", "keys")
    try:
        await connection.execute("DELETE FROM keys.owner_key WHERE owner_key = $1", home.owner_key)
    finally:
        await connection.close()
    with pytest.raises(RegistryError, match="no key"):
        await world.administration.reveal(subject, pairs)


async def test_an_entry_moved_to_another_row_does_not_open(world: RegistryWorld):
    owner = await world.administration.add_owner(NewOwner("Example"))
    sites = [await world.administration.add_site(owner, NewSite(name)) for name in ("One", "Two")]
    admin = await world.admin()
    try:
        await admin.execute(
            "UPDATE vault.entry AS e SET sealed = o.sealed FROM vault.entry AS o"
            " WHERE e.subject_key = $1 AND o.subject_key = $2 AND e.attribute = 'name' AND o.attribute = 'name'",
            *sites,
        )
    finally:
        await admin.close()
    assert await world.administration.reveal(Purpose.SITE_NAME, [(owner, sites[1])]) == {sites[1]: "Two"}
    with pytest.raises(UnsealError):
        await world.administration.reveal(Purpose.SITE_NAME, [(owner, sites[0])])


async def test_an_owner_is_not_added_where_the_keys_cannot_be_stored(world: RegistryWorld):
    connection = await world.connect("telemetry_operator")
    try:
        before = await connection.fetchval("SELECT count(*) FROM consent.owner")
        with pytest.raises(RegistryError, match="owners' keys"):
            await Administration(connection, world.blind).add_owner(NewOwner("Example"))
        assert await connection.fetchval("SELECT count(*) FROM consent.owner") == before
    finally:
        await connection.close()
