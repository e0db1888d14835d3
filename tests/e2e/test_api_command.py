"""`telemetry api` as a process of its own: real keys, real names, and an orderly end."""

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest
import pytest_asyncio

from telemetry.access.principal import ALL_SCOPES, Role
from telemetry.access.records import Holder
from telemetry.access.tokens import MachineTokens
from telemetry.embedded.broker_probe import free_port
from telemetry.store.connection import connector
from telemetry.store.keystore import role_password
from telemetry.views.pool import Pool
from tests.e2e.test_preview_command import START, done, shared_home
from tests.support.installation import installation

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATIENCE_S = 60.0


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def installed():
    async with installation() as here:
        port, metrics = free_port("127.0.0.1"), free_port("127.0.0.1")
        text = await asyncio.to_thread(here.config.read_text)
        await asyncio.to_thread(
            here.config.write_text,
            f"{text}\n[api]\nport = {port}\nmetrics_port = {metrics}\ncookie_secure = false\nshutdown_s = 5\n",
        )
        await done(here, "recipient", "add", "example-installer", "--kind", "installer")
        yield here, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics}"


async def token(here) -> str:
    """As the operator would issue one."""
    password = role_password(here.keystore, "telemetry_access")
    pool = Pool(connector(here.postgres.dsn("telemetry", "telemetry_access", password)))
    admin = await asyncpg.connect(here.postgres.dsn("telemetry"))
    try:
        key = await admin.fetchval("SELECT recipient_key FROM consent.recipient WHERE handle = 'example-installer'")
        issued = await MachineTokens(pool).issue(Holder(Role.RECIPIENT, recipient_key=key), ALL_SCOPES)
    finally:
        await admin.close()
        await pool.close()
    return issued.secret


async def run(here) -> asyncio.subprocess.Process:
    """The process."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "telemetry", "api", "--config", str(here.config),
        env=os.environ | {"POLARS_MAX_THREADS": "1"}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def started(here, base: str) -> asyncio.subprocess.Process:
    """The process, once it answers."""
    process = await run(here)
    async with asyncio.timeout(PATIENCE_S), httpx.AsyncClient(base_url=base) as client:
        while True:
            try:
                assert (await client.get("/readyz")).status_code == 200
            except httpx.ConnectError:
                assert process.returncode is None
                await asyncio.sleep(0.1)
            else:
                return process


async def test_real_names_and_places_where_they_are_granted_and_an_end_that_waits_for_nobody(installed):
    here, base, beside = installed
    await shared_home(here, "--serial", "real", "--place", "exact")
    bearer = await token(here)
    process = await started(here, base)
    until = datetime.now(UTC) + timedelta(hours=1)
    asked = {"purpose": "maintenance", "from": f"{START:%Y-%m-%dT%H:%M:%SZ}", "to": f"{until:%Y-%m-%dT%H:%M:%SZ}"}
    async with (
        asyncio.timeout(PATIENCE_S),
        httpx.AsyncClient(base_url=base, headers={"Authorization": f"Bearer {bearer}"}, timeout=PATIENCE_S) as client,
    ):
        answers = await asyncio.gather(*(client.get("/api/v1/series", params=asked) for _ in range(6)))
        for answer in answers:
            assert answer.status_code == 200, answer.text
            (device,) = answer.json()["devices"]
            assert (device["serial"], device["latitude"], device["longitude"]) == ("MADEUP-7", 52.5, 13.4)
            assert answer.json()["series"][0]["value"] == [123.0]
        assert 'route="/api/v1/series",status="200"} 6.0' in (await client.get(f"{beside}/metrics")).text
        assert (await client.get(f"{beside}/readyz")).json() == {"ready": True, "parts": {"database": "ok"}}
        async with client.stream("GET", "/api/v1/live", params={"purpose": "maintenance"}) as live:
            lines = live.aiter_lines()
            await anext(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line async for line in lines]
        assert "event: end" not in rest
        assert await process.wait() == 0
    _, told = await process.communicate()
    for secret in (bearer, "MADEUP-7", device["device"], "127.0.0.1"):
        assert secret not in told.decode()
    assert b"request_answered" in told


async def test_a_port_that_is_taken_is_one_line(installed):
    here, base, _ = installed
    process = await started(here, base)
    try:
        second = await run(here)
        _, told = await second.communicate()
        assert second.returncode == 2
        assert b"api.port" in told
        assert told.count(b"\n") == 1
    finally:
        process.terminate()
        await process.communicate()
