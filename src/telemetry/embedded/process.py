"""What the supervisors of embedded servers share: accounts, private directories, locks and child processes.

Nothing here changes a directory that it did not create itself: a server that cannot reach its files as the
unprivileged user gets a place of its own instead, never a more open parent directory.
"""

import asyncio
import contextlib
import fcntl
import os
import pwd
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from telemetry.errors import AlreadyRunning, SupervisorError

# In this order: an account made for databases holds nothing else, `nobody` is often shared with other services.
UNPRIVILEGED = ("postgres", "nobody", "daemon")
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine under which a server runs."""

    name: str
    uid: int
    gid: int


def unprivileged_account(preferred: Sequence[str] = ()) -> Account | None:
    """The user to run servers under: None means ours, which is what an ordinary user gets.

    Root gets the first that exists of ``preferred`` and then `UNPRIVILEGED`; no user is ever added.

    Raises:
        SupervisorError: root, and none of these users exists.

    """
    if os.geteuid() != 0:
        return None
    for name in (*preferred, *UNPRIVILEGED):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise SupervisorError(
        "servers refuse to run as root, and none of the users that could run them exists",
        remedy="start as an ordinary user",
    )


def private_directory(path: Path, account: Account | None = None, *, mode: int = 0o700) -> Path:
    """Make ``path`` with ``mode``, owned by ``account`` or by us, or return it if it is so already.

    Missing parents are made 0700 and ours. What exists is not repaired but refused, because whoever made it may
    still hold it open; only an empty directory of our own, left by a start that was broken off, is taken over.

    Raises:
        SupervisorError: ``path`` is not a directory, belongs to somebody else or is open to others.

    """
    uid = account.uid if account else os.geteuid()
    if not path.parent.exists():
        private_directory(path.parent)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        closed = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & ~mode & 0o077
        if closed and found.st_uid == uid:
            return path
        if not closed or found.st_uid != os.geteuid() or any(path.iterdir()):
            raise SupervisorError(
                f"{path} is not a private directory of user {uid}",
                remedy="choose another data directory, or correct its owner and mode",
            ) from None
    if account:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    path.chmod(mode)
    return path


def can_traverse(path: Path, account: Account) -> bool:
    """Whether ``account`` may pass through ``path`` and every directory above it, judged by owner and mode."""
    resolved = path.resolve()
    for directory in (resolved, *resolved.parents):
        found = directory.stat()
        if found.st_uid == account.uid:
            bit = stat.S_IXUSR
        elif found.st_gid == account.gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not found.st_mode & bit:
            return False
    return True


class InstanceLock:
    """An exclusive lock on a file that the operating system lets go of when this process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock, at once or not at all.

        Raises:
            AlreadyRunning: somebody else holds it; the message has the pid.

        """
        if self._descriptor is not None:
            return
        # O_CLOEXEC (Python's default): a server must not keep the lock of a supervisor that was killed.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise AlreadyRunning(
                f"process {holder} already uses {self._path.parent}",
                remedy="stop that process, or set another data_dir for this one",
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go. The file stays: removing it would let two processes lock two files of the same name."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            # Explicitly: between its fork and exec a child has the descriptor too, and closing ours is not enough.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class ServerProcess:
    """One child process: started under an account, watched, stopped with growing insistence.

    For one event loop; not thread-safe. The exit status is polled, so no event loop's child watcher is needed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The process id while the process runs."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """Whether the process runs now."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """The exit status, negative for a signal; None while running or before the first start."""
        return self._process.poll() if self._process else None

    def start(
        self,
        command: Sequence[str | Path],
        *,
        account: Account | None,
        directory: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run ``command`` in a session of its own (Ctrl-C reaches us, and we decide), output appended to ``log``.

        The child sees only ``environment``, PATH and the C locale: a server needs no secrets of ours.

        Raises:
            SupervisorError: the program cannot be started.

        """
        if self.running:
            raise SupervisorError(f"{self.name} already runs", remedy="stop() it first")
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        self._stopping = False
        try:
            self._process = subprocess.Popen(
                [os.fspath(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                cwd=directory,
                env={"PATH": os.defpath, "LC_ALL": "C", **(environment or {})},
                umask=0o077,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,  # root's groups must not come along
            )
        except OSError as error:
            raise SupervisorError(
                f"cannot start {self.name}: {error.strerror}", remedy=f"see {log} and the file's permissions"
            ) from error
        finally:
            os.close(descriptor)

    async def wait_ready(self, ready: Callable[[], bool], *, timeout_s: float, log: Path) -> None:
        """Wait until ``ready()``; give up as soon as the process ends, not only after ``timeout_s``.

        Raises:
            SupervisorError: it ended, or was not ready in time.

        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise SupervisorError(
                    f"{self.name} ended while starting ({describe(self.exit_status)})",
                    remedy=f"the reason is in {log}",
                )
            if time.monotonic() > deadline:
                raise SupervisorError(
                    f"{self.name} was not ready after {timeout_s:g} s",
                    remedy=f"see {log}; after a crash a longer start_timeout_s may be needed",
                )
            await asyncio.sleep(POLL_S)

    async def wait_exit(self, timeout_s: float) -> bool:
        """Wait for the end; False when the process still runs after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self.running:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def stop(self, *steps: tuple[signal.Signals, float]) -> None:
        """Send each signal and wait so many seconds for the end; SIGKILL when all of them passed in vain."""
        self._stopping = True
        for number, patience_s in steps:
            self.send(number)
            if await self.wait_exit(patience_s):
                return
        self.send(signal.SIGKILL)
        await self.wait_exit(60.0)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def expect_exit(self) -> None:
        """From here on the end of the process is no failure."""
        self._stopping = True

    async def failed(self) -> None:
        """Return never while all is well; for a TaskGroup beside the server's users.

        Raises:
            SupervisorError: the process ended though nobody asked it to.

        """
        while self.running or self._stopping or self._process is None:  # noqa: ASYNC110 - a child, not an event
            await asyncio.sleep(0.2)
        raise SupervisorError(
            f"{self.name} ended unexpectedly ({describe(self.exit_status)})",
            remedy="see its log; starting again recovers what was committed",
        )


def describe(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "still running"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"
