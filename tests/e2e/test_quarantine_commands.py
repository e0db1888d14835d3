"""`telemetry quarantine`: what was held comes back, once, and nothing else is touched."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import numpy as np
import pytest
import pytest_asyncio

from telemetry.model.batch import RawMessage, Reason, Rejection, Write, empty_readings
from telemetry.pipeline.sealing import SERVICE, QuarantineSealer, Senders
from telemetry.privacy.keys import BlindIndex, Sealer
from telemetry.store.connection import connector
from telemetry.store.keystore import BLIND_INDEX, QUARANTINE_PUBLIC, role_password
from telemetry.store.readings import PostgresSink
from telemetry.store.registry import PostgresRegistryStore
from tests.support.installation import Installation, installation
from tests.support.postgres import FAST

pytest.importorskip("telemetry.codecs.registry")
pytestmark = pytest.mark.asyncio(loop_scope="module")
SERIAL = "INV00000042"
NOW_US = time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Held:
    """An installation with one home whose gateway sent what nobody could read then."""

    installed: Installation
    home: dict[str, Any]

    async def quarantined(self, *payloads: bytes, reason=Reason.MALFORMED, owner: int | None = None) -> list[int]:
        """Hold messages as the worker does; their numbers."""
        owner = self.home["owner_key"] if owner is None else owner
        gateway = self.home["gateway_key"] if owner else 0
        messages = [
            RawMessage(self.home["name"], "readings", payload, token, NOW_US, "application/json")
            for token, payload in enumerate(payloads)
        ]
        many = len(messages)
        senders = Senders(np.full(many, gateway, np.int64), np.full(many, owner, np.int64))
        rejections = [Rejection(index, reason) for index in range(many)]
        sealed = (await self.sealer()).seal(messages, rejections, senders, {})
        keystore, role = self.installed.keystore, "telemetry_ingest"
        connect = connector(self.installed.postgres.dsn("telemetry", role, role_password(keystore, role)))
        sink = PostgresSink(connect)
        version = await self.sql("SELECT version FROM consent.state")
        await sink.write(Write(empty_readings(), version, quarantined=sealed))
        await sink.close()
        digests = [one.digest for one in sealed]
        return await self.sql(
            "SELECT array_agg(quarantine_key ORDER BY quarantine_key) FROM readings.quarantine WHERE digest = ANY($1)",
            digests,
        )

    async def sealer(self) -> QuarantineSealer:
        keystore, role = self.installed.keystore, "telemetry_ingest"
        store = PostgresRegistryStore(
            connector(self.installed.postgres.dsn("telemetry", role, role_password(keystore, role)))
        )
        publics = await store.owner_public_keys([self.home["owner_key"]])
        await store.close()
        sealers = {key: Sealer(public) for key, public in publics.items()}
        sealers[SERVICE] = Sealer(keystore.secret(QUARANTINE_PUBLIC))
        return QuarantineSealer(sealers, BlindIndex(keystore.secret(BLIND_INDEX)))

    async def sql(self, statement: str, *arguments: object, database: str = "telemetry") -> Any:
        connection = await asyncpg.connect(self.installed.postgres.dsn(database))
        try:
            return await connection.fetchval(statement, *arguments)
        finally:
            await connection.close()

    async def stored(self) -> int:
        return await self.sql("SELECT (SELECT count(*) FROM readings.hot) + (SELECT count(*) FROM readings.late)")

    async def state(self, number: int) -> tuple[str, int]:
        return await self.sql("SELECT (state, seen) FROM readings.quarantine WHERE quarantine_key = $1", number)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def held() -> AsyncIterator[Held]:
    async with installation(FAST) as found:
        owner = (await found.telemetry("owner", "add", "--name", "Example Owner", "--json")).json
        site = (await found.telemetry("site", "add", owner["owner"], "--name", "Home", "--json")).json
        gateway = (await found.telemetry("gateway", "enrol", site["site"], "--json")).json
        yield Held(found, owner | site | gateway)


def reading(ac_power_w: float, seconds_ago: float = 0.0) -> bytes:
    ts = NOW_US // 1000 - round(seconds_ago * 1000)
    return f'{{"serial":"{SERIAL}","kind":"inverter","ts":{ts},"ac_power_w":{ac_power_w}}}'.encode()


async def test_what_can_be_read_now_is_stored_once(held: Held):
    numbers = await held.quarantined(reading(100.0, 10), reading(200.0, 20))
    before = await held.stored()
    told = (await held.installed.telemetry("quarantine", "retry", *map(str, numbers), "--json")).json
    assert told == {"tried": 2, "recovered": 2, "stored": 2, "duplicate": 0, "unopened": 0, "held": {}}
    assert await held.stored() == before + 2
    assert [await held.state(number) for number in numbers] == [("recovered", 1)] * 2
    assert await held.sql("SELECT sum(length(sealed)) FROM readings.quarantine WHERE state = 'recovered'") == 0
    again = (await held.installed.telemetry("quarantine", "retry", *map(str, numbers), "--json")).json
    assert (again["tried"], again["stored"]) == (0, 0)


async def test_what_still_cannot_be_read_stays_as_it_was(held: Held):
    (number,) = await held.quarantined(b"{broken")
    told = (await held.installed.telemetry("quarantine", "retry", str(number), "--json")).json
    assert (told["tried"], told["recovered"], told["held"]) == (1, 0, {"malformed": 1})
    assert await held.state(number) == ("held", 1)


async def test_what_fails_for_another_reason_is_held_for_that_one(held: Held):
    (number,) = await held.quarantined(reading(1.0, -86_400))
    told = (await held.installed.telemetry("quarantine", "retry", str(number), "--json")).json
    assert (told["recovered"], told["stored"]) == (1, 0)
    listed = (
        await held.installed.telemetry("quarantine", "list", "--messages", "--reason", "in_the_future", "--json")
    ).json
    assert [row["state"] for row in listed] == ["held"]


async def test_a_message_of_nobody_opens_with_the_service_s_key_and_its_gateway_is_found(held: Held):
    (number,) = await held.quarantined(reading(300.0, 30), reason=Reason.UNKNOWN_GATEWAY, owner=SERVICE)
    told = (await held.installed.telemetry("quarantine", "retry", "--reason", "unknown_gateway", "--json")).json
    assert (told["recovered"], told["stored"]) == (1, 1)
    assert await held.state(number) == ("recovered", 1)


async def test_what_no_key_opens_is_counted_and_stays(held: Held):
    numbers = await held.quarantined(reading(400.0, 40), reason=Reason.TOO_DEEP)
    await held.sql("UPDATE readings.quarantine SET sealed = sealed || '\\x00' WHERE quarantine_key = $1", numbers[0])
    told = (await held.installed.telemetry("quarantine", "retry", "--reason", "too_deep", "--json")).json
    assert (told["tried"], told["unopened"]) == (0, 1)
    assert await held.state(numbers[0]) == ("held", 1)


async def test_list_and_show_tell_all_but_the_content(held: Held):
    numbers = await held.quarantined(b"{broken too", b"{and this", reason=Reason.DUPLICATE_KEY)
    summary = (await held.installed.telemetry("quarantine", "list", "--json")).json
    assert {"reason": "duplicate_key", "codec": "native-json", "state": "held", "messages": 2} in [
        {key: row[key] for key in ("reason", "codec", "state", "messages")} for row in summary
    ]
    listed = await held.installed.telemetry("quarantine", "list", "--reason", "duplicate_key", "--json")
    assert [row["number"] for row in listed.json] == numbers
    assert {row["gateway"] for row in listed.json} == {held.home["gateway"]}
    plain = await held.installed.telemetry("quarantine", "show", str(numbers[0]))
    assert "reason: duplicate_key" in plain.out
    assert held.home["name"] not in listed.out + plain.out
    missing = await held.installed.telemetry("quarantine", "show", "999999")
    assert missing.code == 2


async def test_discard_deletes_the_content_and_keeps_the_count(held: Held):
    numbers = await held.quarantined(b"{poison", reason=Reason.UNEQUAL_COLUMNS)
    told = await held.installed.telemetry("quarantine", "discard", "--reason", "unequal_columns", "--yes", "--json")
    assert told.json == {"discarded": 1}
    assert await held.state(numbers[0]) == ("discarded", 1)
    assert await held.sql("SELECT length(sealed) FROM readings.quarantine WHERE quarantine_key = $1", numbers[0]) == 0


@pytest.mark.parametrize("arguments", [[], ["7", "--all"], ["7", "--reason", "malformed"]])
@pytest.mark.parametrize("command", ["retry", "discard"])
async def test_naming_none_is_not_naming_all(held: Held, command, arguments):
    assert (await held.installed.telemetry("quarantine", command, *arguments)).code == 2
