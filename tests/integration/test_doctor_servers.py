"""The doctor against real servers: a healthy installation has nothing to mend, and each fault is found."""

import asyncio

import asyncpg
import pytest_asyncio

from telemetry.config import BrokerConfig
from telemetry.embedded.broker import EmbeddedBroker
from telemetry.maintenance.doctor import Status, healthy
from telemetry.maintenance.doctor_broker import check_broker
from telemetry.maintenance.doctor_database import check_roles, check_schema, check_server
from telemetry.store.connection import connector
from telemetry.store.migrate import ROLES, migrate
from tests.support.postgres import temporary_postgres

PASSWORD = "made-up-password"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def durable():
    """A migrated server with the settings the service runs with."""
    async with temporary_postgres(fast=False) as postgres:
        await migrate(lambda name: asyncpg.connect(postgres.dsn(name)), dict.fromkeys(ROLES, PASSWORD))
        yield postgres


def connect_as(postgres, role, password=PASSWORD):
    return connector(postgres.dsn("telemetry", role, password))


def admin_of(postgres):
    return lambda name: asyncpg.connect(postgres.dsn(name))


def failures(findings):
    return [finding for finding in findings if finding.status is Status.FAIL]


async def test_a_healthy_server(durable):
    roles = {role: connect_as(durable, role) for role in ROLES if role != "telemetry_keys"}
    found = [
        *await check_roles(roles),
        *await check_server(connect_as(durable, "telemetry_operator")),
        *await check_schema(admin_of(durable), connect_as(durable, "telemetry_operator")),
    ]
    assert healthy(found)
    told = {finding.check for finding in found if finding.status is Status.OK}
    assert {"database roles", "database", "durability", "database clock", "plan", "migrations"} <= told


async def test_a_wrong_password_and_a_role_with_too_much(durable):
    admin = await asyncpg.connect(durable.dsn("telemetry"))
    await admin.execute("alter role telemetry_views bypassrls")
    try:
        found = await check_roles(
            {
                "telemetry_ingest": connect_as(durable, "telemetry_ingest", "wrong-password-0"),
                "telemetry_views": connect_as(durable, "telemetry_views"),
                "telemetry_operator": connect_as(durable, "telemetry_operator"),
            }
        )
    finally:
        await admin.execute("alter role telemetry_views nobypassrls")
        await admin.close()
    assert [finding.told.split()[0].rstrip(":") for finding in failures(found)] == [
        "telemetry_ingest",
        "telemetry_views",
    ]
    assert all(finding.remedy for finding in failures(found))


async def test_missing_migrations(durable):
    admin = await asyncpg.connect(durable.dsn("telemetry"))
    last = await admin.fetchrow(
        "delete from migrations.applied where position = (select max(position) from migrations.applied) returning *"
    )
    try:
        found = await check_schema(admin_of(durable), connect_as(durable, "telemetry_operator"))
    finally:
        await admin.execute("insert into migrations.applied values ($1, $2, $3, $4)", *last.values())
        await admin.close()
    assert [finding.check for finding in failures(found)] == ["migrations"]


async def test_a_server_that_does_not_keep_its_commits():
    async with temporary_postgres() as hasty:
        found = await check_server(connector(hasty.dsn()))
    told = " ".join(finding.told for finding in failures(found))
    assert "fsync is off" in told
    assert "full_page_writes is off" in told


def broker_config(port, **more):
    return BrokerConfig.model_validate({"port": port, **more})


async def test_a_broker_and_credentials(tmp_path):
    async with EmbeddedBroker(tmp_path, "auto") as broker:
        password = broker.password_file.read_text().strip()
        config = broker_config(broker.port, username=broker.username, client_id=broker.username)
        found = await check_broker(config, password, worker_runs=False)
        assert healthy(found)
        assert "accepts the worker's credentials" in " ".join(finding.told for finding in found)
        if broker.kind == "mosquitto":
            refused = await check_broker(config, "wrong-password", worker_runs=False)
            assert "password" in failures(refused)[0].remedy
    gone = await check_broker(config, password, worker_runs=False)
    assert [finding.told for finding in failures(gone)] == ["cannot be reached"]


async def test_a_working_connection_is_not_taken_over():
    found = await check_broker(broker_config(1), None, worker_runs=True)
    assert healthy(found)
    assert Status.SKIPPED in {finding.status for finding in found}


async def test_a_peer_that_is_no_broker():
    async def answer(reader, writer):
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        found = await check_broker(broker_config(port), None, worker_runs=False)
    assert "did not answer CONNECT" in failures(found)[0].told
