"""What is wrong with an installation, and what to mend: the checks' frame, and those of this machine.

A check is a small function that returns findings. Each runs on its own: one that fails, hangs or misses its part
says so and stops no other.
"""

import asyncio
import ctypes
import os
import shutil
import stat
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from telemetry.errors import KeystoreError, TelemetryError
from telemetry.ports import Keystore

_LIMIT_S: Final = 20.0
_GIB: Final = 2**30
_CLOCK_SAMPLE_S: Final = 0.2
_CLOCK_TOLERANCE_S: Final = 0.05
_BEFORE_THIS_SOFTWARE: Final = 1_767_225_600  # 2026-01-01; a clock before it was never set
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised


class Status(StrEnum):
    """``skipped``: the part is not there to be looked at, on purpose or because another check failed."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor: what was looked at, how it is, and what to do about it."""

    check: str
    status: Status
    told: str
    remedy: str = ""


Check = Callable[[], Awaitable[Sequence[Finding]]]


def ok(check: str, told: str) -> Finding:
    """Nothing to do."""
    return Finding(check, Status.OK, told)


def warn(check: str, told: str, remedy: str) -> Finding:
    """Works, and should not stay so."""
    return Finding(check, Status.WARN, told, remedy)


def fail(check: str, told: str, remedy: str) -> Finding:
    """Does not work, or loses data or privacy."""
    return Finding(check, Status.FAIL, told, remedy)


def skipped(check: str, told: str) -> Finding:
    """Could not be looked at."""
    return Finding(check, Status.SKIPPED, told)


def in_thread(look: Callable[[], Sequence[Finding]]) -> Check:
    """A check out of a function that blocks."""

    async def check() -> Sequence[Finding]:
        return await asyncio.to_thread(look)

    return check


async def examine(checks: Mapping[str, Check]) -> list[Finding]:
    """Run all checks, each with a time limit, in their order."""
    return [finding for name, check in checks.items() for finding in await _isolated(name, check)]


async def _isolated(name: str, check: Check) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(_LIMIT_S):
            return await check()
    except TimeoutError:
        return [fail(name, f"no answer within {_LIMIT_S:.0f} s", "see whether the part is overloaded or stuck")]
    except TelemetryError as error:
        return [fail(name, str(error.args[0]), error.remedy)]
    except Exception as error:  # a defect in one check must not hide the others' findings
        return [fail(name, f"the check itself failed ({type(error).__name__})", "report this as a defect")]


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as JSON takes them."""
    return {"healthy": healthy(findings), "findings": [asdict(finding) for finding in findings]}


def healthy(findings: Sequence[Finding]) -> bool:
    """Does nothing fail?"""
    return all(finding.status is not Status.FAIL for finding in findings)


def check_data_dir(path: Path) -> list[Finding]:
    """The data directory is there, ours, and closed to others."""
    name = "data directory"
    if not path.is_dir():
        return [warn(name, "does not exist yet", "it is made at the first start; or set data_dir")]
    found = path.stat()
    if found.st_uid != os.geteuid():
        return [fail(name, "belongs to another user", "run as that user, or change its owner")]
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o007:
        return [warn(name, f"is open to others (mode {mode:04o})", "chmod 700 it")]
    return [ok(name, f"closed to others (mode {mode:04o})")]


def check_keys(keystore: Keystore, names: Sequence[str], directory: Path | None = None) -> list[Finding]:
    """Every named secret is there, private and of the right length. ``directory``: where they are files."""
    check = "keys"
    if directory is not None and not directory.is_dir():
        return [warn(check, "there are none yet", "`telemetry migrate` or the first start makes them")]
    findings = []
    for name in names:
        try:
            keystore.secret(name)
        except KeystoreError as error:
            findings.append(fail(check, str(error.args[0]), error.remedy))
    return findings or [ok(check, f"all {len(names)} are there, private and of the right length")]


def check_disk(path: Path) -> list[Finding]:
    """There is room for rows and for the write-ahead log."""
    existing = next(parent for parent in (path.resolve(), *path.resolve().parents) if parent.exists())
    usage = shutil.disk_usage(existing)
    told = f"{usage.free / _GIB:.1f} GiB free of {usage.total / _GIB:.1f}"
    if usage.free < _GIB:
        return [fail("disk", told, "make room: PostgreSQL stops when it is full")]
    if usage.free < 5 * _GIB or usage.free < usage.total * 0.05:
        return [warn("disk", told, "make room, or shorten retention.hot_hours")]
    return [ok("disk", told)]


def clock_state() -> int | None:
    """What adjtimex(2) returns, asked without changing anything; None where there is no such call."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    # struct timex is 208 bytes on 64-bit Linux; its first member, modes, is 0: only read.
    answer = int(adjtimex(ctypes.create_string_buffer(512)))
    return None if answer < 0 else answer


def check_clock(
    *,
    wall: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    state: Callable[[], int | None] = clock_state,
) -> list[Finding]:
    """The clock is set, runs evenly, and is synchronised. A reading's time is judged by it."""
    findings = []
    before = wall() - monotonic()
    time.sleep(_CLOCK_SAMPLE_S)
    jump = wall() - monotonic() - before
    if wall() < _BEFORE_THIS_SOFTWARE:
        findings.append(fail("clock", "shows a time years ago", "set it; start an NTP client"))
    elif abs(jump) > _CLOCK_TOLERANCE_S:
        findings.append(warn("clock", f"was moved by {jump:+.2f} s while we looked", "let an NTP client slew it"))
    else:
        findings.append(ok("clock", "runs evenly"))
    kernel = state()
    if kernel is None:
        findings.append(skipped("clock", "whether it is synchronised cannot be asked here"))
    elif kernel == _TIME_ERROR:
        findings.append(warn("clock", "the kernel says that it is not synchronised", "start an NTP client (chrony)"))
    else:
        findings.append(ok("clock", "synchronised"))
    return findings
