"""The embedded PostgreSQL after SIGKILL: of the server, of its supervisor, of everything at once."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import psutil
import pytest

from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.embedded.postgres_leftovers import gone, servers_in
from telemetry.errors import SupervisorError
from tests.support.postgres import temporary_postgres

SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from telemetry.embedded.postgres import EmbeddedPostgres

async def main():
    async with EmbeddedPostgres(Path(sys.argv[1])) as postgres:
        print(postgres.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def short_dir():
    directory = Path(tempfile.mkdtemp(prefix="tpg-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


async def write(postgres: EmbeddedPostgres, number: int) -> None:
    connection = await asyncpg.connect(**postgres.connect_kwargs())
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (number int PRIMARY KEY)")
        await connection.execute("INSERT INTO kept VALUES ($1)", number)
    finally:
        await connection.close()


async def kept(postgres: EmbeddedPostgres) -> list[int]:
    connection = await asyncpg.connect(**postgres.connect_kwargs())
    try:
        return [row["number"] for row in await connection.fetch("SELECT number FROM kept ORDER BY number")]
    finally:
        await connection.close()


async def test_what_was_committed_is_there_after_stop_crash_and_power_cut():
    async with temporary_postgres(fast=False) as postgres:
        await write(postgres, 1)
        await postgres.stop()
        await postgres.start()
        await write(postgres, 2)
        await postgres.restart_immediate()
        await write(postgres, 3)
        await postgres.kill()
        assert servers_in(postgres.place.cluster) == []
        await postgres.start()
        assert await kept(postgres) == [1, 2, 3]


async def test_sigkill_of_the_postmaster_alone_is_reported_and_healed_by_a_new_start():
    async with temporary_postgres(fast=False) as postgres:
        await write(postgres, 1)
        connection = await asyncpg.connect(**postgres.connect_kwargs())
        busy = asyncio.create_task(connection.execute("SELECT count(*) FROM generate_series(1, 1000000000)"))
        await asyncio.sleep(0.1)  # time to begin; nothing depends on it
        watch = asyncio.create_task(postgres.failed())
        os.kill(postgres.pid, signal.SIGKILL)
        with pytest.raises(SupervisorError, match=r"ended unexpectedly \(killed by SIGKILL\)"):
            await watch
        await postgres.start()
        assert await kept(postgres) == [1]
        with contextlib.suppress(asyncpg.PostgresError, OSError):
            await busy
        connection.terminate()


@pytest.mark.parametrize("blocked", [False, True], ids=["responsive", "stopped"])
async def test_a_server_left_by_a_killed_supervisor_is_ended_and_replaced(short_dir, blocked):
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, short_dir], stdout=subprocess.PIPE)
    try:
        left = psutil.Process(int(await asyncio.to_thread(supervisor.stdout.readline)))
    finally:
        supervisor.kill()
        supervisor.communicate()
    assert left.is_running()
    if blocked:
        left.suspend()  # SIGSTOP: no signal but SIGKILL reaches it
    async with EmbeddedPostgres(short_dir, stop_timeout_s=0.5 if blocked else 30.0) as postgres:
        assert await gone([left], 0)
        assert postgres.pid != left.pid
        await write(postgres, 1)
        assert await kept(postgres) == [1]


@pytest.mark.parametrize("content", ["stranger", "empty", "garbled"])
async def test_a_stale_pid_file_does_not_hinder_the_start(short_dir, content):
    postgres = EmbeddedPostgres(short_dir)
    async with postgres:
        await write(postgres, 1)
        await postgres.kill()
        pid_file = postgres.place.cluster / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        with _stranger(postgres) as stranger:
            first = {"stranger": str(stranger), "garbled": "\x00\x00"}
            pid_file.write_text("" if content == "empty" else "\n".join([first[content], *lines[1:], ""]))
            await postgres.start()
        assert await kept(postgres) == [1]


@contextlib.contextmanager
def _stranger(postgres: EmbeddedPostgres):
    """A process that is no server, under the server's user: PostgreSQL alone would take it for one."""
    account = postgres.place.account
    uid, gid = (account.uid, account.gid) if account else (None, None)
    process = subprocess.Popen(["sleep", "600"], user=uid, group=gid)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
