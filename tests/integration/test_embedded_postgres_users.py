"""The embedded PostgreSQL as root and as an ordinary user; what it leaves alone on the machine."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import psutil
import pytest

from telemetry.embedded import postgres_files
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.embedded.postgres_files import SHARED_NAME
from telemetry.errors import SupervisorError
from tests.support.postgres import FAST

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as several users")

NOBODY = 65_534

AS_USER = """
import asyncio, os, sys
from pathlib import Path
import asyncpg, psutil
from telemetry.embedded.postgres import EmbeddedPostgres

async def main():
    postgres = EmbeddedPostgres(Path(sys.argv[1]), settings={"fsync": "off"})
    for _ in range(2):
        async with postgres:
            connection = await asyncpg.connect(**postgres.connect_kwargs())
            assert await connection.fetchval("SELECT 1") == 1
            await connection.close()
            assert len(os.fsencode(postgres.place.socket_dir)) < 80
            print(os.geteuid(), psutil.Process(postgres.pid).uids().effective, postgres.place.home)
        own = postgres.place.socket_dir.parent == postgres.place.home
        assert postgres.place.socket_dir.exists() == own, "a directory in the place for temporary files is left"

asyncio.run(main())
"""


@pytest.fixture
def closed_dir():
    """`…/open/closed/var`: below a directory that only root may enter, beside `…/shared`."""
    top = Path(tempfile.mkdtemp(prefix="tpg-"))
    top.chmod(0o711)
    (top / "shared").mkdir(mode=0o711)
    closed = top / "open" / "closed"
    closed.mkdir(parents=True)
    closed.parent.chmod(0o755)
    closed.chmod(0o700)
    yield closed
    shutil.rmtree(top)


@pytest.fixture
def shared(closed_dir):
    return closed_dir.parent.parent / "shared"


def states(path: Path) -> list[tuple[str, int, int, int]]:
    """Mode and owner of a directory and of all above it."""
    return [
        (str(each), found.st_mode, found.st_uid, found.st_gid)
        for each in (path, *path.parents)
        for found in [each.stat()]
    ]


async def answers(postgres: EmbeddedPostgres) -> bool:
    connection = await asyncpg.connect(**postgres.connect_kwargs())
    try:
        return await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close()


async def test_below_a_closed_directory_the_cluster_lies_elsewhere_and_nothing_is_opened(closed_dir, shared):
    users = Path("/etc/passwd").read_bytes()
    before = states(closed_dir) + states(shared)
    postgres = EmbeddedPostgres(closed_dir / "var" / "postgres", settings=FAST, shared_places=[shared])
    async with postgres:
        home = postgres.place.home
        assert home.parent == shared / SHARED_NAME
        assert (closed_dir / "var" / "postgres" / "location").read_text().strip() == str(home)
        assert (home / "belongs-to").read_text().strip() == str(closed_dir / "var" / "postgres")
        assert psutil.Process(postgres.pid).uids().effective == postgres.place.account.uid != 0
        assert psutil.Process(postgres.pid).gids().effective != 0
        assert await answers(postgres)
    assert states(closed_dir) + states(shared) == before
    assert Path("/etc/passwd").read_bytes() == users
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (home.parent, home, home / "cluster", home / "socket")]
    assert [oct(found) for found in modes] == ["0o711", "0o711", "0o700", "0o700"]
    assert stat.S_IMODE((closed_dir / "var" / "postgres").stat().st_mode) == 0o700


async def test_it_is_found_again_even_after_the_data_directory_moved(closed_dir, shared):
    first = EmbeddedPostgres(closed_dir / "one", settings=FAST, shared_places=[shared])
    async with first:
        pass
    (closed_dir / "one").rename(closed_dir / "two")
    async with EmbeddedPostgres(closed_dir / "two", settings=FAST, shared_places=[shared]) as moved:
        assert moved.place.home == first.place.home
        assert await answers(moved)


async def test_a_cluster_that_is_gone_is_not_silently_replaced_by_an_empty_one(closed_dir, shared):
    postgres = EmbeddedPostgres(closed_dir / "db", settings=FAST, shared_places=[shared])
    async with postgres:
        pass
    shutil.rmtree(postgres.place.home)
    with pytest.raises(SupervisorError, match="names a cluster that is gone"):
        await postgres.start()


async def test_a_place_prepared_by_somebody_else_is_refused(closed_dir, shared):
    (shared / SHARED_NAME).mkdir()
    os.chown(shared / SHARED_NAME, NOBODY, NOBODY)
    with pytest.raises(SupervisorError, match="not a private directory"):
        await EmbeddedPostgres(closed_dir / "db", shared_places=[shared]).start()


async def test_a_cluster_keeps_its_user_when_a_better_one_appears(closed_dir, shared, monkeypatch):
    postgres = EmbeddedPostgres(closed_dir / "db", settings=FAST, shared_places=[shared])
    monkeypatch.setattr("telemetry.embedded.process.UNPRIVILEGED", ("nobody",))
    async with postgres:
        pass
    monkeypatch.undo()
    async with postgres:
        assert psutil.Process(postgres.pid).uids().effective == NOBODY


async def test_a_copied_data_directory_does_not_share_the_cluster_of_the_original(closed_dir, shared):
    async with EmbeddedPostgres(closed_dir / "db", settings=FAST, shared_places=[shared]):
        pass
    shutil.copytree(closed_dir / "db", closed_dir / "copy")
    with pytest.raises(SupervisorError, match="one is a copy of the other"):
        await EmbeddedPostgres(closed_dir / "copy", shared_places=[shared]).start()


async def test_binaries_that_the_server_cannot_reach_are_copied_and_run_from_the_copy(closed_dir, shared, monkeypatch):
    monkeypatch.setattr(postgres_files, "can_traverse", lambda *_: False)
    postgres = EmbeddedPostgres(closed_dir / "db", settings=FAST, shared_places=[shared])
    for _ in range(2):
        async with postgres:
            program = Path(psutil.Process(postgres.pid).exe())
            assert program.is_relative_to(shared / SHARED_NAME)
            assert await answers(postgres)
    copied = program.parents[3]
    assert not [path for path in copied.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert sorted(path.name for path in copied.parent.iterdir()) == sorted([copied.name, postgres.place.home.name])


async def test_another_user_reaches_neither_the_socket_nor_the_files(closed_dir, shared):
    async with EmbeddedPostgres(closed_dir / "db", settings=FAST, shared_places=[shared]) as postgres:
        place = postgres.place
        wanted = [place.socket_dir / ".s.PGSQL.5432", place.cluster / "PG_VERSION", place.password_file, place.log]
        assert all(path.exists() for path in wanted)
        # neither root nor the server's user, even where that is `nobody`
        stranger = {"user": 65_533, "group": 65_533, "extra_groups": []}
        any_readable = ["sh", "-c", 'for file; do test -r "$file" && exit 0; done; exit 1', "sh"]
        assert subprocess.run([*any_readable, "/etc/passwd"], check=False, **stranger).returncode == 0
        assert subprocess.run([*any_readable, *wanted], check=False, **stranger).returncode == 1


def interpreter_for(account: dict[str, object], environment: dict[str, str]) -> str | None:
    """A Python that the user may run and that finds this checkout and its libraries; often not our own."""
    for python in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        probe = [python, "-c", "import telemetry.embedded.postgres, asyncpg, sys; print(sys.version_info[:2])"]
        try:
            found = subprocess.run(
                probe, capture_output=True, text=True, check=False, env=environment, cwd="/", **account
            )
        except OSError:
            continue
        if found.stdout.strip() == str(sys.version_info[:2]):
            return python
    return None


@pytest.mark.parametrize("below", ["var/postgres", f"{'d' * 60}/{'e' * 60}"], ids=["short", "too_long_for_a_socket"])
def test_an_ordinary_user_needs_nothing_but_a_directory_of_its_own(below):
    directory = Path(tempfile.mkdtemp(prefix="tpg-"))
    try:
        os.chown(directory, NOBODY, NOBODY)
        account = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.defpath}
        python = interpreter_for(account, environment)
        if python is None:
            pytest.skip("no Python of this version, or this checkout, can be reached by other users")
        home = directory / below
        command = [python, "-c", AS_USER, home]
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd="/", **account
        )
        assert ended.stderr == ""
        assert ended.stdout.splitlines() == [f"{NOBODY} {NOBODY} {home}"] * 2
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(directory)
