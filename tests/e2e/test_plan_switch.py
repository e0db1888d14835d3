"""An owner withdraws and grants while devices publish: a running worker follows mid-stream, without a restart."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg
import pytest

from telemetry.model.fields import DataClass
from telemetry.model.sharing import Keeping, RecipientKind
from telemetry.privacy.receipts import ReceiptSigner
from telemetry.store.keystore import RECEIPT_SIGNING, role_password
from telemetry.store.plans import recompile
from telemetry.store.recipients import Recipients
from telemetry.store.sharing import Sharing
from tests.support.sharing import terms
from tests.support.system import System, system

FIELD = "ac_power_w"
NOT_PRODUCTION = Keeping(classes=frozenset(DataClass) - {DataClass.PRODUCTION})


@asynccontextmanager
async def sharing(found: System, *, compiling: bool = True) -> AsyncIterator[tuple[Sharing, int]]:
    """What owners settle with, and a recipient."""
    connections = [
        await asyncpg.connect(
            **found.postgres.connect_kwargs(
                "telemetry", f"telemetry_{role}", role_password(found.keystore, f"telemetry_{role}")
            )
        )
        for role in ("rights", "operator")
    ]
    rights, operator = connections
    signer = ReceiptSigner(found.keystore.secret(RECEIPT_SIGNING))
    try:
        recipient = await Recipients(operator, None).add("example-installer", RecipientKind.INSTALLER)
        yield Sharing(rights, signer, partial(recompile, rights) if compiling else None), recipient
    finally:
        for connection in connections:
            await connection.close()


async def counts(found: System, owner_key: int, since_version: int, until_version: int = 2**62) -> tuple[int, int]:
    """Rows of the owner's devices under these versions of the plan, and those of them that hold the field."""
    (row,) = await found.fetch(
        f"SELECT count(*) AS rows, count({FIELD}) AS held FROM readings.hot JOIN consent.device USING (device_key)"
        " JOIN consent.site USING (site_key)"
        " WHERE owner_key = $1 AND plan_version >= $2 AND plan_version < $3",
        owner_key,
        since_version,
        until_version,
    )
    return row["rows"], row["held"]


async def until_held(found: System, owner_key: int, since_version: int, *, held: bool) -> None:
    """Wait until rows were stored under that version, with the field or of any kind."""
    async with asyncio.timeout(60):
        while not (await counts(found, owner_key, since_version))[held]:
            await asyncio.sleep(0.05)


async def owner_of(found: System, gateway_name: str) -> int:
    async with found.administration() as admin:
        key = await admin.gateway_named(gateway_name)
    return await found.fetchval(
        "SELECT owner_key FROM consent.gateway JOIN consent.site USING (site_key) WHERE gateway_key = $1", key
    )


async def devices_of(found: System, owner_key: int) -> int:
    return await found.fetchval(
        "SELECT count(*) FROM consent.device JOIN consent.site USING (site_key) WHERE owner_key = $1", owner_key
    )


async def version(found: System) -> int:
    return await found.fetchval("SELECT version FROM consent.state")


async def test_a_field_that_was_withdrawn_is_not_stored_under_the_new_plan(seed: int) -> None:
    async with system(seed=seed) as found, sharing(found) as (settling, recipient):
        mine, other = await found.enrol(2)
        owner, bystander = [await owner_of(found, each.username) for each in (mine, other)]
        await settling.set_keeping(owner, NOT_PRODUCTION)
        grant = await settling.set_grant(owner, recipient, terms(fields=[FIELD], classes=[]))
        granted = await version(found)
        feeds = [found.fleet([each], messages_per_second=50) for each in (mine, other)]
        await until_held(found, owner, granted, held=True)

        await settling.withdraw(owner, grant_key=grant.grant_key)
        withdrawn = await version(found)
        assert withdrawn == granted + 1
        before = await counts(found, owner, 0, withdrawn)  # no transaction may commit under the old plan any more
        known = await devices_of(found, owner)
        feeds.append(found.fleet([mine], messages_per_second=20))  # and devices that nobody has seen before
        await until_held(found, owner, withdrawn, held=False)
        await until_held(found, bystander, withdrawn, held=True)
        async with asyncio.timeout(60):
            while await devices_of(found, owner) == known:
                await asyncio.sleep(0.05)

        again = await settling.set_grant(owner, recipient, terms(fields=[FIELD], classes=[]))
        restored = await version(found)
        await until_held(found, owner, restored, held=True)
        for feed in feeds:
            await feed.finish()
        await found.settle()

        assert found.worker.starts == 1
        assert await counts(found, owner, 0, withdrawn) == before
        rows, held = await counts(found, owner, withdrawn, restored)
        assert rows > 0
        assert held == 0
        assert again.epoch == grant.epoch + 1


async def test_a_grant_that_ends_by_time_is_followed_without_anybody_saying_so(seed: int) -> None:
    async with system(seed=seed) as found, sharing(found, compiling=False) as (settling, recipient):
        (mine,) = await found.enrol(1)
        owner = await owner_of(found, mine.username)
        until = datetime.now(UTC) + timedelta(seconds=12)
        await settling.set_keeping(owner, NOT_PRODUCTION)
        await settling.set_grant(owner, recipient, terms(fields=[FIELD], classes=[], until=until))
        async with asyncio.timeout(30):  # compiled by the service alone
            while await found.fetchval("SELECT count(*) FROM consent.dirty_owner"):
                await asyncio.sleep(0.05)
        granted = await version(found)
        feed = found.fleet([mine], messages_per_second=50)
        await until_held(found, owner, granted, held=True)
        async with asyncio.timeout(60):
            while await version(found) == granted:
                await asyncio.sleep(0.05)
        ended = await version(found)
        assert datetime.now(UTC) >= until
        await until_held(found, owner, ended, held=False)
        await feed.finish()
        await found.settle()
        assert (await counts(found, owner, ended))[1] == 0
        assert found.worker.starts == 1


pytestmark = pytest.mark.long
