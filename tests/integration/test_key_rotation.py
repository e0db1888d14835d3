"""Replacing the key-encryption key: killed at every step, raced, with the wrong key. Nothing is ever lost."""

import asyncio
import base64
import random
import secrets
import signal
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import pytest_asyncio

from telemetry.errors import KeystoreError, UnsealError
from telemetry.maintenance.recipient_keys import announce, check_keys
from telemetry.maintenance.rotation import Step, rotate_kek
from telemetry.privacy.keys import PRIVATE_KEY_BYTES, TOKEN_SECRET_BYTES, Kek
from telemetry.store.kek_command import CommandKeks
from telemetry.store.keks import KeystoreKeks
from telemetry.store.keyring import KeyRing, OwnerSecrets
from telemetry.store.keystore import KEK, KEK_NEXT, EnvironmentKeystore, FileKeystore, role_password
from tests.support.key_bridge import new_version
from tests.support.postgres import temporary_postgres
from tests.support.registry import RegistryWorld, registry_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWNERS, RECIPIENTS, BATCH = 50, 5, 20


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory):
    async with (
        temporary_postgres() as postgres,
        registry_world(postgres, tmp_path_factory.mktemp("keys") / "keys") as opened,
    ):
        yield opened


class Kept:
    """What was stored, and whether it can all be read again."""

    def __init__(self, world: RegistryWorld, keystore: FileKeystore, connection) -> None:
        self.world, self.keystore, self.connection = world, keystore, connection
        self.tokens: dict[int, bytes] = {}
        self.recipients: dict[int, bytes] = {}

    async def fill(self, ring: KeyRing) -> None:
        await self.add(ring, OWNERS)
        for _ in range(RECIPIENTS):
            key = secrets.randbelow(2**62) + 1
            self.recipients[key] = (await ring.recipient_secret(key)).secret

    async def add(self, ring: KeyRing, count: int) -> None:
        new = [
            OwnerSecrets(
                secrets.randbelow(2**62),
                secrets.token_bytes(PRIVATE_KEY_BYTES),
                secrets.token_bytes(TOKEN_SECRET_BYTES),
            )
            for _ in range(count)
        ]
        await ring.add(new)
        self.tokens |= {one.owner_key: one.token_secret for one in new}

    async def check(self, ring: KeyRing) -> None:
        assert await ring.token_secrets(list(self.tokens)) == self.tokens
        for key, secret in self.recipients.items():
            assert (await ring.recipient_secret(key)).secret == secret

    def fresh(self) -> KeyRing:
        """As a process that starts now."""
        return KeyRing(self.connection, KeystoreKeks(self.keystore))

    async def states(self) -> list[str]:
        return [row["state"] for row in await self.connection.fetch("SELECT state FROM keys.kek ORDER BY 1")]

    def names(self) -> set[str]:
        return {name for name in (KEK, KEK_NEXT) if self.keystore.has(name)}

    async def child(self, steps: int) -> tuple[int, list[str]]:
        dsn = self.world.postgres.dsn("keys", "telemetry_keys", role_password(self.world.keystore, "telemetry_keys"))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.rotating", dsn, str(self.keystore._directory), str(steps)),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        return process.returncode, out.decode().split()


@asynccontextmanager
async def kept(world: RegistryWorld, directory, fill=True):
    admin = await world.admin("keys")
    await admin.execute("TRUNCATE keys.owner_key, keys.recipient_key, keys.kek")
    await admin.close()
    keystore = FileKeystore(directory)
    keystore.create()
    connection = await world.connect("telemetry_keys", "keys")
    try:
        found = Kept(world, keystore, connection)
        if fill:
            await found.fill(found.fresh())
        yield found
    finally:
        await connection.close()


STEPS = ["staged", "switched", *["rewrapped"] * 4, "removed", "adopted"]


@pytest.mark.parametrize("steps", range(1, len(STEPS) + 1), ids=[f"{i}-{s}" for i, s in enumerate(STEPS, 1)])
async def test_killed_after_any_step_nothing_is_lost_and_it_goes_on(world, tmp_path, steps):
    async with kept(world, tmp_path / "keys") as stored:
        running = stored.fresh()  # a process that started before, and knows the old key alone
        before = stored.keystore.secret(KEK)
        code, told = await stored.child(steps)
        assert (code, told) == (-signal.SIGKILL, STEPS[:steps])
        for ring in (running, stored.fresh()):
            await stored.check(ring)
            await stored.add(ring, 1)
        done = await rotate_kek(
            stored.connection, KeystoreKeks(stored.keystore), stored.keystore, resume=True, batch=BATCH
        )
        for ring in (running, stored.fresh()):
            await stored.check(ring)
        assert done.unopened == 0
        assert await stored.states() == ["active"]
        assert stored.names() == {KEK}
        assert stored.keystore.secret(KEK) != before
        with pytest.raises(UnsealError):
            await stored.check(KeyRing(stored.connection, Kek(before)))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
async def test_killed_at_seeded_moments_again_and_again_nothing_is_lost(world, tmp_path, seed):
    async with kept(world, tmp_path / "keys") as stored:
        await stored.add(stored.fresh(), 2_000)
        running, ends = stored.fresh(), []
        rng = random.Random(seed)
        for moment in [rng.uniform(0.3, 1.2) for _ in range(6)]:
            dsn = world.postgres.dsn("keys", "telemetry_keys", role_password(world.keystore, "telemetry_keys"))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.support.rotating", dsn, str(stored.keystore._directory), "0"),
                stdout=asyncio.subprocess.DEVNULL,
            )
            await asyncio.sleep(moment)
            if process.returncode is None:
                process.kill()
            ends.append(await process.wait())
            await stored.check(running)
            await stored.check(stored.fresh())
        await rotate_kek(stored.connection, KeystoreKeks(stored.keystore), stored.keystore, resume=True)
        await stored.check(running)
        assert await stored.states() == ["active"]
        assert -signal.SIGKILL in ends


async def test_owners_and_recipients_added_meanwhile_are_kept(world, tmp_path):
    async with kept(world, tmp_path / "keys") as stored:
        other = await world.connect("telemetry_keys", "keys")
        try:
            adding = KeyRing(other, KeystoreKeks(stored.keystore))
            stop = asyncio.Event()

            async def keep_adding() -> None:
                while not stop.is_set():
                    await stored.add(adding, 3)
                    key = secrets.randbelow(2**62) + 1
                    stored.recipients[key] = (await adding.recipient_secret(key)).secret

            task = asyncio.create_task(keep_adding())
            for _ in range(3):
                done = await rotate_kek(stored.connection, KeystoreKeks(stored.keystore), stored.keystore, batch=BATCH)
                assert done.adopted
            stop.set()
            await task
            assert len(stored.tokens) > OWNERS
            await stored.check(stored.fresh())
        finally:
            await other.close()


async def test_a_process_that_cannot_find_the_new_key_stores_nothing_under_the_old(world, tmp_path):
    async with kept(world, tmp_path / "keys") as stored:
        alone = KeyRing(stored.connection, Kek(stored.keystore.secret(KEK)))  # in memory, never read again
        await rotate_kek(stored.connection, KeystoreKeks(stored.keystore), stored.keystore)
        before = await stored.connection.fetchval("SELECT count(*) FROM keys.owner_key")
        with pytest.raises(UnsealError, match="rotated"):
            await alone.add([OwnerSecrets(1, bytes(PRIVATE_KEY_BYTES), bytes(TOKEN_SECRET_BYTES))])
        assert await stored.connection.fetchval("SELECT count(*) FROM keys.owner_key") == before


async def test_the_database_itself_refuses_a_row_under_a_key_that_retires(world, tmp_path):
    async with kept(world, tmp_path / "keys") as stored:
        old = KeystoreKeks(stored.keystore).newest().kek_id
        await rotate_kek(stored.connection, KeystoreKeks(stored.keystore), stored.keystore)
        for statement in (
            (
                "INSERT INTO keys.owner_key (owner_key, wrapped_private, wrapped_token_secret, kek_id)"
                " VALUES (1, '', '', $1)"
            ),
            "UPDATE keys.owner_key SET kek_id = $1",
            "UPDATE keys.recipient_key SET kek_id = $1",
        ):
            with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
                await stored.connection.execute(statement, old)


@pytest.mark.parametrize("others", ["owner_key", "recipient_key"])
async def test_the_old_key_cannot_be_forgotten_while_a_row_is_under_it(world, tmp_path, others):
    async with kept(world, tmp_path / "keys") as stored:
        await stored.connection.execute(f"DELETE FROM keys.{others}")
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await stored.connection.execute("DELETE FROM keys.kek")


async def test_a_wrong_key_is_refused_before_anything_changes(world, tmp_path):
    async with kept(world, tmp_path / "keys") as stored:
        path, right = tmp_path / "keys" / KEK, stored.keystore.secret(KEK)
        path.write_bytes(bytes(32))
        for attempt in (
            lambda: rotate_kek(stored.connection, KeystoreKeks(stored.keystore), stored.keystore),
            lambda: stored.add(stored.fresh(), 1),
            lambda: stored.check(stored.fresh()),
        ):
            with pytest.raises(UnsealError) as caught:
                await attempt()
            assert "restore that key" in caught.value.remedy
        assert stored.names() == {KEK}
        path.write_bytes(right)
        await stored.check(stored.fresh())


@pytest.mark.parametrize(("mode", "said"), [(0o644, "open to other users"), (0o640, "open to other users")])
async def test_a_key_that_others_can_read_is_refused(world, tmp_path, mode, said):
    async with kept(world, tmp_path / "keys") as stored:
        await asyncio.to_thread((tmp_path / "keys" / KEK).chmod, mode)
        with pytest.raises(KeystoreError, match=said) as caught:
            stored.fresh()
        assert "chmod 600" in caught.value.remedy


async def test_a_missing_key_is_refused_and_none_is_made(world, tmp_path):
    async with kept(world, tmp_path / "keys") as stored:
        (tmp_path / "keys" / KEK).rename(tmp_path / "elsewhere")
        with pytest.raises(KeystoreError, match="missing") as caught:
            stored.fresh()
        assert "backup" in caught.value.remedy
        assert stored.names() == set()
        (tmp_path / "elsewhere").rename(tmp_path / "keys" / KEK)
        await stored.check(stored.fresh())


async def test_a_row_that_does_not_open_keeps_the_old_key(world, tmp_path):
    async with kept(world, tmp_path / "keys") as stored:
        damaged = next(iter(stored.tokens))
        await stored.connection.execute(
            "UPDATE keys.owner_key SET wrapped_token_secret = '\\x01' WHERE owner_key = $1", damaged
        )
        del stored.tokens[damaged]
        assert (await check_keys(stored.connection, KeystoreKeks(stored.keystore))).unopened == 1
        done = await rotate_kek(stored.connection, KeystoreKeks(stored.keystore), stored.keystore, batch=BATCH)
        assert (done.unopened, done.adopted) == (1, False)
        assert done.rewrapped == OWNERS + RECIPIENTS - 1
        assert await stored.states() == ["active", "retiring"]
        assert stored.names() == {KEK, KEK_NEXT}
        await stored.check(stored.fresh())
        await stored.connection.execute("DELETE FROM keys.owner_key WHERE owner_key = $1", damaged)
        assert (await rotate_kek(stored.connection, KeystoreKeks(stored.keystore), stored.keystore)).adopted
        assert (await check_keys(stored.connection, KeystoreKeks(stored.keystore))).unopened == 0
        await stored.check(stored.fresh())


async def test_two_rotations_do_not_run_at_once(world, tmp_path, monkeypatch):
    monkeypatch.setattr("telemetry.maintenance.rotation._LOCK_ATTEMPTS", 1)
    async with kept(world, tmp_path / "keys") as stored:
        other = await world.connect("telemetry_keys", "keys")
        try:
            refused = []

            def also(step: Step, _count: int) -> None:
                if step is Step.SWITCHED:
                    refused.append(asyncio.ensure_future(rotate_kek(other, KeystoreKeks(stored.keystore), None)))

            await rotate_kek(stored.connection, KeystoreKeks(stored.keystore), stored.keystore, batch=1, tell=also)
            with pytest.raises(KeystoreError, match="another rotation"):
                await refused[0]
        finally:
            await other.close()


async def test_from_the_environment_the_next_key_must_be_given_everywhere_first(world, tmp_path):
    async with kept(world, tmp_path / "keys") as stored:
        variables = {"TELEMETRY_SECRET_KEK": base64.b64encode(stored.keystore.secret(KEK)).decode()}
        places = EnvironmentKeystore(variables)
        with pytest.raises(KeystoreError, match="no newer") as caught:
            await rotate_kek(stored.connection, KeystoreKeks(places), places)
        assert "KEK_NEXT" in caught.value.remedy
        variables["TELEMETRY_SECRET_KEK_NEXT"] = base64.b64encode(secrets.token_bytes(32)).decode()
        done = await rotate_kek(stored.connection, KeystoreKeks(places), places)
        assert (done.rewrapped, done.adopted) == (OWNERS + RECIPIENTS, False)
        variables["TELEMETRY_SECRET_KEK"] = variables.pop("TELEMETRY_SECRET_KEK_NEXT")
        await stored.check(KeyRing(stored.connection, KeystoreKeks(EnvironmentKeystore(variables))))


async def test_a_kms_is_rotated_to_its_newer_key(world, tmp_path):
    bridge = tmp_path / "bridge"
    bridge.mkdir()
    new_version(bridge)
    argv = (sys.executable, "-m", "tests.support.key_bridge", str(bridge))
    keks = CommandKeks(argv, timeout_s=20)
    async with kept(world, tmp_path / "keys", fill=False) as stored:
        ring = KeyRing(stored.connection, keks)
        await stored.fill(ring)
        with pytest.raises(KeystoreError, match="no newer key"):
            await rotate_kek(stored.connection, keks, None)
        old = (bridge / "current").read_text()
        new_version(bridge)
        done = await rotate_kek(stored.connection, keks, None, batch=BATCH)
        assert (done.rewrapped, done.adopted) == (OWNERS + RECIPIENTS, True)
        (bridge / old).unlink()
        await stored.check(ring)


async def test_an_announced_key_is_wrapped_anew_too(world, tmp_path):
    async with kept(world, tmp_path / "keys") as stored:
        recipient = next(iter(stored.recipients))
        at = datetime.now(UTC) + timedelta(days=1)
        await announce(stored.connection, KeystoreKeks(stored.keystore), recipient, at)
        done = await rotate_kek(stored.connection, KeystoreKeks(stored.keystore), stored.keystore)
        assert done.rewrapped == OWNERS + RECIPIENTS + 1
        await stored.check(stored.fresh())
