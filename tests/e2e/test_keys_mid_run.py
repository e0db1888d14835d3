"""The key-encryption key is missing, open to others, wrong and replaced while a worker runs: ingest loses nothing."""

import asyncpg

from device_sim.faults import Faults
from telemetry.errors import KeystoreError, UnsealError
from telemetry.maintenance.rotation import rotate_kek
from telemetry.privacy.keys import Purpose
from telemetry.store.keks import KeystoreKeks
from telemetry.store.keyring import KeyRing
from telemetry.store.keystore import KEK, role_password
from tests.support.system import System, system

FAULTS = Faults(poison_share=0.05)


async def keys_connection(found: System):
    arguments = found.postgres.connect_kwargs("keys", "telemetry_keys", role_password(found.keystore, "telemetry_keys"))
    return await asyncpg.connect(**arguments)


async def refused(found: System) -> type[Exception] | None:
    """What adding an owner ends with, as an operator does it now."""
    connection = await keys_connection(found)
    try:
        ring = KeyRing(connection, KeystoreKeks(found.keystore))
        await ring.add([])
        owner = await connection.fetchval("SELECT owner_key FROM keys.owner_key LIMIT 1")
        await ring.opener(owner)
    except KeystoreError as error:
        return type(error) if error.remedy else None
    finally:
        await connection.close()
    return None


async def test_a_worker_needs_no_key_encryption_key(seed: int) -> None:
    async with system(kind="rumqttd", seed=seed) as found:
        gateways = await found.enrol(4)
        path = found.keystore._directory / KEK
        right = path.read_bytes()
        feed = found.fleet(gateways, messages_per_second=100, faults=FAULTS)
        await found.worker.until_committing(20)

        path.chmod(0o644)
        assert await refused(found) is KeystoreError
        path.chmod(0o600)
        path.write_bytes(bytes(32))
        assert await refused(found) is UnsealError
        path.unlink()
        assert await refused(found) is KeystoreError
        late = found.fleet(gateways[:2], messages_per_second=50)  # new devices, enrolled without it
        await late.until(100)
        path.write_bytes(right)
        path.chmod(0o600)
        assert await refused(found) is None

        connection = await keys_connection(found)
        done = await rotate_kek(connection, KeystoreKeks(found.keystore), found.keystore, batch=2)
        assert (done.unopened, done.adopted) == (0, True)
        assert path.read_bytes() != right
        await feed.until(poison=1)
        for each in (feed, late):
            await each.finish()
        await found.settle()
        report = await found.check(feed, late)  # opens what was quarantined, under the new key
        assert report.exact, report
        assert report.poison_messages > 0
        admin = await found.admin()
        ring = KeyRing(connection, KeystoreKeks(found.keystore))
        serials = await admin.fetch("SELECT owner_key, subject_key, sealed FROM vault.entry WHERE attribute = 'serial'")
        assert len(serials) > 4
        for row in serials:
            opener = await ring.opener(row["owner_key"])
            assert opener.open(row["sealed"], purpose=Purpose.DEVICE_SERIAL, subject_key=row["subject_key"])
        await connection.close()
        await admin.close()
