"""The embedded PostgreSQL: from nothing to accepting, private in every respect, nothing of a row in its log."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import tempfile
from pathlib import Path

import asyncpg
import psutil
import pytest
import pytest_asyncio

from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.embedded.postgres_leftovers import servers_in
from telemetry.errors import AlreadyRunning, KeystoreError, SupervisorError
from tests.support.postgres import FAST, temporary_postgres

SERIAL = "INV00000042"


@pytest.fixture
def short_dir():
    directory = Path(tempfile.mkdtemp(prefix="tpg-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared():
    """One server for the tests that only ask it something."""
    async with temporary_postgres(fast=False) as postgres:
        yield postgres


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def value(postgres: EmbeddedPostgres, query: str, *arguments):
    connection = await asyncpg.connect(**postgres.connect_kwargs())
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()


class TestStart:
    async def test_from_nothing_it_answers_with_the_settings_the_service_needs(self, shared):
        expected = {
            "data_checksums": "on",
            "server_encoding": "UTF8",
            "synchronous_commit": "on",
            "fsync": "on",
            "full_page_writes": "on",
            "password_encryption": "scram-sha-256",
            "wal_compression": "pglz",
            "max_wal_size": "8GB",
            "TimeZone": "UTC",
        }
        shown = {name: await value(shared, "SELECT current_setting($1)", name) for name in expected}
        collation = await value(shared, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'")
        assert shown == expected
        assert collation == "C"

    async def test_dsn_and_connect_kwargs_name_the_same_server(self, shared):
        await value(shared, "SELECT 1")
        connection = await asyncpg.connect(shared.dsn())
        assert await connection.fetchval("SELECT current_user") == "postgres"
        await connection.close()

    async def test_settings_of_the_caller_win_whatever_characters_they_hold(self):
        name = "it's \\ here"
        async with temporary_postgres(settings={"cluster_name": name, "work_mem": "7MB"}) as postgres:
            assert await value(postgres, "SHOW work_mem") == "7MB"
            assert await value(postgres, "SHOW cluster_name") == name

    async def test_a_server_that_cannot_start_is_reported_at_once_and_leaves_no_lock(self, short_dir):
        broken = EmbeddedPostgres(short_dir, settings={"shared_buffers": "a lot"}, start_timeout_s=3600)
        with pytest.raises(SupervisorError, match=r"ended while starting.*postgres\.log"):
            async with asyncio.timeout(120):
                await broken.start()
        async with EmbeddedPostgres(short_dir, settings=FAST) as postgres:
            assert await value(postgres, "SELECT 1") == 1

    async def test_a_start_that_is_cancelled_leaves_no_process_and_no_lock(self, short_dir):
        starting = asyncio.create_task(EmbeddedPostgres(short_dir, settings=FAST).start())
        while not (short_dir / "cluster" / "postgresql.conf").exists():
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert servers_in(short_dir / "cluster") == []
        async with EmbeddedPostgres(short_dir, settings=FAST):
            pass

    async def test_a_first_start_broken_off_in_initdb_is_begun_anew(self, short_dir):
        (short_dir / "cluster.new").mkdir(mode=0o700)
        (short_dir / "cluster.new" / "PG_VERSION").write_text("18\n")
        (short_dir / "initdb-password").write_text("old\n")
        async with EmbeddedPostgres(short_dir, settings=FAST) as postgres:
            assert await value(postgres, "SELECT 1") == 1
        assert sorted(path.name for path in short_dir.iterdir()) == [
            *("cluster", "keys", "lock", "postgres.log", "socket"),
        ]

    async def test_a_cluster_of_another_version_is_named_as_such(self, short_dir):
        async with EmbeddedPostgres(short_dir, settings=FAST):
            pass
        (short_dir / "cluster" / "PG_VERSION").write_text("15\n")
        with pytest.raises(SupervisorError, match="made by PostgreSQL 15, the binaries are of version 18"):
            await EmbeddedPostgres(short_dir).start()

    async def test_a_lost_password_fails_closed(self, short_dir):
        async with EmbeddedPostgres(short_dir, settings=FAST):
            pass
        (short_dir / "keys" / "postgres-admin").unlink()
        with pytest.raises(KeystoreError, match="restore that file"):
            await EmbeddedPostgres(short_dir).start()

    async def test_a_path_too_long_for_a_socket_still_works(self, short_dir):
        deep = short_dir / ("d" * 60) / ("e" * 60)
        deep.mkdir(parents=True, mode=0o711)
        deep.parent.chmod(0o711)
        deep.chmod(0o711)
        postgres = EmbeddedPostgres(deep, settings=FAST, shared_places=[short_dir])
        async with postgres:
            assert await value(postgres, "SELECT 1") == 1
            sockets = postgres.place.socket_dir
            assert len(os.fsencode(sockets)) < 80
        assert sockets.parent == postgres.place.home or not sockets.exists()


class TestTwoInstances:
    async def test_the_second_is_refused_and_the_first_goes_on(self, short_dir):
        async with EmbeddedPostgres(short_dir, settings=FAST) as first:
            with pytest.raises(AlreadyRunning) as caught:
                await EmbeddedPostgres(short_dir).start()
            assert f"process {os.getpid()} already uses" in str(caught.value)
            assert "another data_dir" in str(caught.value)
            assert await value(first, "SELECT 1") == 1

    async def test_starting_one_object_twice_is_refused_and_does_not_stop_it(self, short_dir):
        async with EmbeddedPostgres(short_dir, settings=FAST) as postgres:
            with pytest.raises(SupervisorError, match="already runs"):
                await postgres.start()
            assert await value(postgres, "SELECT 1") == 1


class TestPrivacy:
    async def test_directories_and_files_are_closed_to_others(self, short_dir):
        async with EmbeddedPostgres(short_dir / "db" if os.geteuid() else short_dir, settings=FAST) as postgres:
            place = postgres.place
            found = [place.cluster, place.socket_dir, place.password_file.parent, place.password_file, place.log]
            assert [oct(mode(path)) for path in found] == ["0o700", "0o700", "0o700", "0o600", "0o600"]
            assert [mode(path) & 0o077 for path in place.cluster.rglob("*") if path.exists()].count(0) > 900

    async def test_no_tcp_by_default(self, shared):
        processes = servers_in(shared.place.cluster)
        assert len(processes) > 1
        assert [found for process in processes for found in process.net_connections("inet")] == []

    async def test_a_port_opens_loopback_only_and_asks_for_the_password_too(self, short_dir):
        port = free_port()
        postgres = EmbeddedPostgres(short_dir, settings=FAST, port=port)
        async with postgres:
            listening = psutil.Process(postgres.pid).net_connections("inet")
            assert {tuple(found.laddr) for found in listening} == {("127.0.0.1", port)}
            over_tcp = {"host": "127.0.0.1", "port": port, "user": "postgres", "database": "postgres"}
            connection = await asyncpg.connect(**over_tcp, password=postgres.admin_password)
            await connection.close()
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(**over_tcp, password="wrong")
            assert await value(postgres, "SELECT 1") == 1

    async def test_a_wrong_or_missing_password_is_refused(self, shared, tmp_path):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(**shared.connect_kwargs(password="wrong"))
        without = shared.connect_kwargs() | {"password": None, "passfile": tmp_path / "absent"}
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(**without)

    async def test_each_cluster_has_a_password_of_its_own(self, shared, short_dir):
        async with EmbeddedPostgres(short_dir, settings=FAST) as one:
            assert one.admin_password != shared.admin_password
            assert len(one.admin_password) >= 43

    async def test_settings_cannot_be_changed_past_the_file(self, shared):
        with pytest.raises(asyncpg.PostgresError, match="ALTER SYSTEM"):
            await value(shared, "ALTER SYSTEM SET log_statement = 'all'")


class TestLog:
    """Everything below holds the serial in a place that PostgreSQL writes into its log by default."""

    async def test_no_value_of_a_row_reaches_it(self, shared):
        connection = await asyncpg.connect(**shared.connect_kwargs())
        await connection.execute("CREATE TABLE devices (serial text PRIMARY KEY, power int CHECK (power > 0))")
        insert = "INSERT INTO devices VALUES ($1, $2)"
        await connection.execute(insert, SERIAL, 1)
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(insert, SERIAL, 1)
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(insert, SERIAL + "9", -1)
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute(f"INSERT INTO devices VALUES ('{SERIAL}', '{SERIAL}')")
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute(f"SELEC '{SERIAL}'")
        with pytest.raises(asyncpg.PostgresError):
            await connection.copy_to_table("devices", source=_bytes(f"X\t{SERIAL}\n".encode()), format="text")
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute(f"DO $$ BEGIN RAISE WARNING '{SERIAL}'; RAISE '{SERIAL}'; END $$")
        await connection.close()
        log = shared.place.log.read_text()
        assert "ready to accept connections" in log
        assert SERIAL not in log

    async def test_nor_does_the_statement_of_a_server_process_that_crashed(self, shared):
        connection = await asyncpg.connect(**shared.connect_kwargs())
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        running = asyncio.create_task(connection.execute(f"SELECT pg_sleep(600), '{SERIAL}'"))
        while await value(shared, "SELECT state FROM pg_stat_activity WHERE pid = $1", pid) != "active":
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await running
        while shared.place.log.read_text().count("ready to accept connections") < 2:
            await asyncio.sleep(0.01)
        assert "was terminated by signal 9" in shared.place.log.read_text()
        assert SERIAL not in shared.place.log.read_text()


async def _bytes(data: bytes):
    yield data
