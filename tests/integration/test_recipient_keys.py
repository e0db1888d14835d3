"""Recipients' keys (rule 23): made once, announced, replaced at an instant, destroyed; and who may do what."""

import asyncio
import secrets
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import pytest_asyncio

from telemetry.errors import KeystoreError
from telemetry.maintenance.recipient_keys import announce, cancel, check_keys, key_status, settle
from telemetry.privacy.tokens import OwnerSecret, Tokenizer, TokenKind
from telemetry.store.keks import KeystoreKeks
from telemetry.store.keyring import KeyRing
from telemetry.store.registration import NewOwner
from tests.support.postgres import temporary_postgres
from tests.support.registry import RegistryWorld, registry_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

DAY = timedelta(days=1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory):
    async with (
        temporary_postgres() as postgres,
        registry_world(postgres, tmp_path_factory.mktemp("keys") / "keys") as opened,
    ):
        await opened.administration.add_owner(NewOwner("Example"))  # the first key-encryption key is known by this
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def keys(world: RegistryWorld):
    connection = await world.connect("telemetry_keys", "keys")
    yield connection
    await connection.close()


@pytest_asyncio.fixture(loop_scope="module")
async def views(world: RegistryWorld):
    connection = await world.connect("telemetry_views", "keys")
    yield connection
    await connection.close()


@pytest.fixture
def keks(world: RegistryWorld):
    return KeystoreKeks(world.keystore)


@pytest.fixture
def recipient():
    return secrets.randbelow(2**62) + 1


async def in_the_past(world: RegistryWorld, recipient: int) -> None:
    """Let time pass until the announced key is in effect."""
    admin = await world.admin("keys")
    await admin.execute(
        "UPDATE keys.recipient_key SET activates_at = now() - interval '1 s'"
        " WHERE recipient_key = $1 AND state = 'announced'",
        recipient,
    )
    await admin.close()


async def test_whoever_needs_the_first_key_at_once_gets_the_same(world, keks, recipient):
    connections = [await world.connect(role, "keys") for role in ("telemetry_views", "telemetry_keys") * 3]
    try:
        rings = [KeyRing(connection, keks) for connection in connections]
        found = await asyncio.gather(*(ring.recipient_secret(recipient) for ring in rings))
        assert len({one.secret for one in found}) == 1
        assert {one.version for one in found} == {1}
    finally:
        for connection in connections:
            await connection.close()


async def test_rule_23_an_announced_key_gives_other_tokens_from_its_instant_on(world, keys, keks, views, recipient):
    ring = KeyRing(views, keks)
    owner = OwnerSecret(1, secrets.token_bytes(32))

    async def token() -> str:
        return Tokenizer((await ring.recipient_secret(recipient)).secret).token(TokenKind.DEVICE, 7, owner)

    before = await token()
    at = datetime.now(UTC) + DAY
    made = await announce(keys, keks, recipient, at)
    assert (made.version, made.activates_at) == (2, at)
    assert await token() == before
    assert (await ring.recipient_secret(recipient)).next_at == at
    await in_the_past(world, recipient)
    after = await token()
    assert after != before
    assert (await ring.recipient_secret(recipient)).version == 2
    assert await settle(keys, recipient) == [(recipient, 1)]
    assert await settle(keys, recipient) == []
    assert await token() == after
    assert (await check_keys(keys, keks)).unopened == 0


async def test_a_destroyed_key_leaves_its_version_behind(world, keys, keks, recipient):
    ring = KeyRing(keys, keks)
    first = (await ring.recipient_secret(recipient)).secret
    for version in (2, 3):
        assert (await announce(keys, keks, recipient, datetime.now(UTC) - DAY)).version == version
    rows = await keys.fetch(
        "SELECT version, state, wrapped FROM keys.recipient_key WHERE recipient_key = $1", recipient
    )
    assert sorted((row["version"], row["state"], row["wrapped"] is None) for row in rows) == [
        (1, "retired", True),
        (2, "retired", True),
        (3, "active", False),
    ]
    assert (await ring.recipient_secret(recipient)).secret != first


async def test_one_announcement_at_a_time_and_it_can_be_taken_back(keys, keks, recipient):
    ring = KeyRing(keys, keks)
    secret = (await ring.recipient_secret(recipient)).secret
    await announce(keys, keks, recipient, datetime.now(UTC) + DAY)
    with pytest.raises(KeystoreError, match="announced already") as caught:
        await announce(keys, keks, recipient, datetime.now(UTC) + 2 * DAY)
    assert "telemetry keys cancel" in caught.value.remedy
    assert await cancel(keys, recipient) == 2
    with pytest.raises(KeystoreError, match="waits"):
        await cancel(keys, recipient)
    assert (await ring.recipient_secret(recipient)).secret == secret
    assert (await ring.recipient_secret(recipient)).next_at is None


async def test_status_opens_nothing_and_tells_no_secret(keys, keks, recipient):
    await announce(keys, keks, recipient, datetime.now(UTC) + DAY)
    status = await key_status(keys)
    mine = [row for row in status["recipients"] if row["recipient_key"] == recipient]
    assert [(row["version"], row["state"], row["in_effect"]) for row in mine] == [
        (1, "active", True),
        (2, "announced", False),
    ]
    assert [set(row) for row in status["keks"]] == [{"kek_id", "state", "since", "owners", "recipients"}]
    assert not any("wrapped" in row for row in mine)


async def test_whoever_remembers_a_key_is_told_of_another(world, keys, keks, views, recipient):
    heard: asyncio.Queue[str] = asyncio.Queue()
    await views.add_listener("telemetry_keys", lambda *args: heard.put_nowait(args[-1]))
    await announce(keys, keks, recipient, datetime.now(UTC))
    assert int(await asyncio.wait_for(heard.get(), 30)) == recipient


DENIED = [
    "SELECT wrapped_private FROM keys.owner_key",
    "SELECT * FROM keys.owner_key",
    "UPDATE keys.owner_key SET kek_id = kek_id",
    "DELETE FROM keys.owner_key",
    "INSERT INTO keys.kek (kek_id, state) VALUES ('12345678', 'active')",
    "UPDATE keys.kek SET state = 'retiring'",
    "UPDATE keys.recipient_key SET state = 'active'",
    "DELETE FROM keys.recipient_key",
    (
        "INSERT INTO keys.recipient_key (recipient_key, version, wrapped, kek_id, state)"
        " SELECT 77, 2, '', kek_id, 'active' FROM keys.kek"
    ),
    (
        "INSERT INTO keys.recipient_key (recipient_key, version, wrapped, kek_id, state)"
        " SELECT 77, 1, '', kek_id, 'announced' FROM keys.kek"
    ),
    (
        "INSERT INTO keys.recipient_key (recipient_key, version, wrapped, kek_id, state, activates_at)"
        " SELECT 77, 1, '', kek_id, 'active', now() FROM keys.kek"
    ),
    "CREATE TABLE keys.mine ()",
    "CREATE TEMPORARY TABLE mine ()",
    "TRUNCATE keys.recipient_key",
    "SELECT keys.refuse_retiring_kek()",
]


@pytest.mark.parametrize("statement", DENIED)
async def test_the_role_of_the_views_makes_tokens_and_opens_no_vault(views, statement):
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await views.execute(statement)


async def test_the_role_of_the_views_reads_what_tokens_are_made_from(world, views, keks, recipient):
    owner = await world.administration.add_owner(NewOwner("Example"))
    ring = KeyRing(views, keks)
    assert await ring.token_secrets([owner, 12345]) == {owner: await world.ring.token_secret(owner)}
    assert len((await ring.recipient_secret(recipient)).secret) == 32


async def test_a_retired_key_is_not_seen_by_the_views(keys, views, keks, recipient):
    await announce(keys, keks, recipient, datetime.now(UTC) - DAY)
    versions = await views.fetch("SELECT version FROM keys.recipient_key WHERE recipient_key = $1", recipient)
    assert [row["version"] for row in versions] == [2]
