"""What embedded servers stand on: accounts, private directories, the instance lock, the child process."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from telemetry.embedded import process
from telemetry.embedded.process import (
    Account,
    InstanceLock,
    ServerProcess,
    can_traverse,
    describe,
    private_directory,
    unprivileged_account,
)
from telemetry.errors import AlreadyRunning, SupervisorError

STRANGER = Account("stranger", 65_533, 65_533)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


class TestAccounts:
    def test_an_ordinary_user_runs_servers_under_its_own_name(self, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert unprivileged_account() is None

    def test_root_takes_the_first_listed_user_that_exists(self, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        account = unprivileged_account(("no-such-user-here", "daemon"))
        assert account is not None
        assert (account.name, account.uid != 0) == ("daemon", True)

    def test_root_is_never_chosen_even_when_asked_for(self, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        account = unprivileged_account(("root",))
        assert account is not None
        assert account.uid != 0

    def test_no_user_at_all_is_an_error_with_a_remedy(self, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(process, "UNPRIVILEGED", ("no-such-user-here",))
        with pytest.raises(SupervisorError, match="start as an ordinary user"):
            unprivileged_account()


class TestPrivateDirectory:
    def test_it_and_its_missing_parents_are_0700_whatever_the_umask(self, tmp_path):
        before = os.umask(0)
        try:
            made = private_directory(tmp_path / "a" / "b")
        finally:
            os.umask(before)
        assert (mode(made), mode(made.parent)) == (0o700, 0o700)

    def test_a_directory_open_to_others_is_refused_and_left_as_it_is(self, tmp_path):
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o755)
        with pytest.raises(SupervisorError, match="not a private directory"):
            private_directory(tmp_path / "open")
        assert mode(tmp_path / "open") == 0o755

    def test_a_symbolic_link_is_refused(self, tmp_path):
        (tmp_path / "real").mkdir(mode=0o700)
        (tmp_path / "link").symlink_to(tmp_path / "real")
        with pytest.raises(SupervisorError, match="not a private directory"):
            private_directory(tmp_path / "link")

    @needs_root
    def test_somebody_elses_directory_is_refused(self, tmp_path):
        (tmp_path / "theirs").mkdir(mode=0o700)
        os.chown(tmp_path / "theirs", STRANGER.uid, STRANGER.gid)
        with pytest.raises(SupervisorError, match="not a private directory"):
            private_directory(tmp_path / "theirs")

    @needs_root
    def test_an_empty_one_of_ours_is_what_a_broken_off_start_left(self, tmp_path):
        (tmp_path / "socket").mkdir(mode=0o700)
        assert private_directory(tmp_path / "socket", STRANGER).stat().st_uid == STRANGER.uid

    @needs_root
    def test_one_of_ours_that_holds_something_is_not_given_away(self, tmp_path):
        (tmp_path / "socket").mkdir(mode=0o700)
        (tmp_path / "socket" / "key").touch()
        with pytest.raises(SupervisorError, match="not a private directory"):
            private_directory(tmp_path / "socket", STRANGER)


def test_one_closed_directory_above_closes_the_path():
    with tempfile.TemporaryDirectory() as name:
        inner = Path(name) / "open" / "inner"
        inner.mkdir(parents=True)
        for directory in (Path(name), inner.parent, inner):
            directory.chmod(0o711)
        assert can_traverse(inner, STRANGER)
        inner.parent.chmod(0o700)
        assert not can_traverse(inner, STRANGER)


class TestInstanceLock:
    def test_the_second_is_told_who_holds_it_and_what_to_do(self, tmp_path):
        with InstanceLock(tmp_path / "lock"), pytest.raises(AlreadyRunning) as caught:
            InstanceLock(tmp_path / "lock").acquire()
        assert f"process {os.getpid()} " in str(caught.value)
        assert "another data_dir" in str(caught.value)

    def test_it_is_free_after_release(self, tmp_path):
        with InstanceLock(tmp_path / "lock"):
            pass
        with InstanceLock(tmp_path / "lock") as lock:
            assert lock.held

    def test_sigkill_frees_it_although_a_server_it_started_lives_on(self, tmp_path):
        code = (
            "import pathlib, subprocess, sys; from telemetry.embedded.process import InstanceLock\n"
            "InstanceLock(pathlib.Path(sys.argv[1])).acquire()\n"
            "subprocess.Popen(['sh', '-c', 'echo $$; exec sleep 600'], close_fds=False).wait()"
        )
        holder = subprocess.Popen([sys.executable, "-c", code, tmp_path / "lock"], stdout=subprocess.PIPE)
        server = int(holder.stdout.readline())
        try:
            with pytest.raises(AlreadyRunning, match=f"process {holder.pid} "):
                InstanceLock(tmp_path / "lock").acquire()
            holder.kill()
            holder.wait()
            with InstanceLock(tmp_path / "lock") as lock:
                assert lock.held
        finally:
            os.kill(server, signal.SIGKILL)
            holder.communicate()


@contextlib.asynccontextmanager
async def running(tmp_path, code):
    server = ServerProcess("the test server")
    server.start([sys.executable, "-S", "-c", code], account=None, directory=tmp_path, log=tmp_path / "server.log")
    try:
        yield server
    finally:
        await server.stop()


def says(tmp_path, text):
    log = tmp_path / "server.log"
    return lambda: log.exists() and text in log.read_text()


class TestServerProcess:
    async def test_stop_goes_on_to_sigkill_when_nothing_else_helps(self, tmp_path):
        stubborn = (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\n"
            "while True: time.sleep(1)"
        )
        async with running(tmp_path, stubborn) as server:
            await server.wait_ready(says(tmp_path, "up"), timeout_s=20, log=tmp_path / "server.log")
            await server.stop((signal.SIGTERM, 0.1))
            assert describe(server.exit_status) == "killed by SIGKILL"

    async def test_an_end_while_starting_is_reported_without_waiting_for_the_limit(self, tmp_path):
        async with running(tmp_path, "raise SystemExit(3)") as server:
            with pytest.raises(SupervisorError, match=r"ended while starting \(exit status 3\).*server\.log"):
                async with asyncio.timeout(60):
                    await server.wait_ready(lambda: False, timeout_s=3600, log=tmp_path / "server.log")

    async def test_a_server_that_never_gets_ready_is_given_up(self, tmp_path):
        async with running(tmp_path, "import time; time.sleep(600)") as server:
            with pytest.raises(SupervisorError, match="not ready after"):
                await server.wait_ready(lambda: False, timeout_s=0.05, log=tmp_path / "server.log")

    async def test_an_unexpected_end_is_an_error_and_an_ordered_one_is_not(self, tmp_path):
        async with running(tmp_path, "import time; time.sleep(600)") as server:
            watch = asyncio.create_task(server.failed())
            server.send(signal.SIGKILL)
            with pytest.raises(SupervisorError, match=r"ended unexpectedly \(killed by SIGKILL\)"):
                await watch
        async with running(tmp_path, "import time; time.sleep(600)") as server:
            await server.stop((signal.SIGTERM, 20))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await server.failed()

    async def test_it_sees_none_of_our_environment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TELEMETRY_SECRET", "made-up")
        async with running(tmp_path, "import os; print(sorted(os.environ))") as server:
            await server.wait_exit(20)
        assert "TELEMETRY_SECRET" not in (tmp_path / "server.log").read_text()

    async def test_a_missing_program_is_named_by_the_server_not_by_a_traceback(self, tmp_path):
        with pytest.raises(SupervisorError, match="cannot start the test server"):
            ServerProcess("the test server").start(
                [tmp_path / "absent"], account=None, directory=tmp_path, log=tmp_path / "log"
            )
