"""The processes of a PostgreSQL cluster that nobody supervises any more: finding them and ending them."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from telemetry.embedded.process import POLL_S
from telemetry.errors import SupervisorError

_ORPHAN_PATIENCE_S = 1.0


async def end_leftovers(cluster: Path, patience_s: float) -> None:
    """Stop what a killed supervisor left running in ``cluster``, within about ``patience_s`` seconds.

    Stopped, not adopted: we could not read the exit status of another's child, and its settings may be old.
    A fast shutdown rolls back what nobody will commit any more, and the next start needs no recovery.

    Raises:
        SupervisorError: some process cannot be ended.

    """
    pid_file = cluster / "postmaster.pid"
    if not pid_file.exists():
        return
    first = next(iter(pid_file_lines(cluster)), "").strip()
    left = servers_in(cluster)
    postmaster = [process for process in left if str(process.pid) == first]
    for process in postmaster:
        process.send_signal(signal.SIGINT)
        await gone([process], patience_s)
    # Servers whose postmaster was killed end by themselves, except in the middle of a long computation.
    if not await gone(left, _ORPHAN_PATIENCE_S):
        kill_all(left)
        if not await gone(left, patience_s + 10.0):
            raise SupervisorError(
                f"processes of an earlier run still use {cluster}", remedy="they resist SIGKILL: wait for the disk"
            )
    # PostgreSQL would refuse to start for a file that is cut off, or whose number is a stranger's by now (usual
    # after a reboot) or a zombie's. We hold the lock and have seen that nobody works here.
    pid_file.unlink(missing_ok=True)


def pid_file_lines(cluster: Path) -> list[str]:
    """The lines of `postmaster.pid`, none where there is no such file."""
    with contextlib.suppress(FileNotFoundError):
        return (cluster / "postmaster.pid").read_text().splitlines()
    return []


def servers_in(cluster: Path) -> list[psutil.Process]:
    """Every postgres process that works in ``cluster``; PostgreSQL changes into its data directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "postgres" and process.cwd() == str(cluster):
                found.append(process)
    return found


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """Send SIGKILL to all that still exist."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


async def gone(processes: Sequence[psutil.Process], timeout_s: float) -> bool:
    """Wait until all have ended; False when some had not after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while any(_alive(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True
