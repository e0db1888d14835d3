"""The doctor's frame, and its look at this machine: checks find what is wrong and survive what is missing."""

import asyncio
import itertools

import pytest

from telemetry.errors import StoreUnavailable
from telemetry.maintenance import doctor
from telemetry.maintenance.doctor import (
    Status,
    check_clock,
    check_data_dir,
    check_disk,
    check_keys,
    clock_state,
    examine,
    healthy,
    in_thread,
    ok,
    to_json,
)
from telemetry.store.keystore import SECRET_NAMES, FileKeystore


def statuses(findings):
    return [finding.status for finding in findings]


async def test_a_check_that_breaks_or_hangs_stops_no_other(monkeypatch):
    monkeypatch.setattr(doctor, "_LIMIT_S", 0.1)

    async def unavailable():
        raise StoreUnavailable("the database cannot be reached", remedy="start it")

    async def defect():
        raise KeyError("INV00000042")

    async def hangs():
        await asyncio.sleep(60)

    findings = await examine({"a": unavailable, "b": defect, "c": hangs, "d": in_thread(lambda: [ok("d", "fine")])})
    assert statuses(findings) == [Status.FAIL, Status.FAIL, Status.FAIL, Status.OK]
    assert (findings[0].told, findings[0].remedy) == ("the database cannot be reached", "start it")
    assert "INV00000042" not in str(findings)
    assert not healthy(findings)
    assert to_json(findings)["healthy"] is False


def test_the_data_directory(tmp_path):
    assert statuses(check_data_dir(tmp_path / "none")) == [Status.WARN]
    tmp_path.chmod(0o700)
    assert statuses(check_data_dir(tmp_path)) == [Status.OK]
    tmp_path.chmod(0o755)
    assert statuses(check_data_dir(tmp_path)) == [Status.WARN]


def test_keys(tmp_path):
    directory = tmp_path / "keys"
    keystore = FileKeystore(directory)
    assert statuses(check_keys(keystore, SECRET_NAMES, directory)) == [Status.WARN]
    keystore.create()
    assert statuses(check_keys(keystore, SECRET_NAMES, directory)) == [Status.OK]
    (directory / "blind_index").chmod(0o644)
    (directory / "kek").unlink()
    found = check_keys(keystore, SECRET_NAMES, directory)
    assert statuses(found) == [Status.FAIL, Status.FAIL]
    assert all(finding.remedy for finding in found)


@pytest.mark.parametrize(
    ("free", "total", "status"),
    [(100, 1000, Status.OK), (4, 1000, Status.WARN), (40, 1000, Status.WARN), (0.5, 1000, Status.FAIL)],
)
def test_disk(tmp_path, monkeypatch, free, total, status):
    usage = doctor.shutil._ntuple_diskusage(int(total * 2**30), 0, int(free * 2**30))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert statuses(check_disk(tmp_path / "not" / "yet" / "there")) == [status]


def test_a_clock_that_runs_and_is_synchronised():
    assert statuses(check_clock(wall=lambda: 1.8e9, monotonic=lambda: 5.0, state=lambda: 0)) == [Status.OK] * 2


def test_a_clock_that_jumps_is_unset_or_unsynchronised():
    walls = itertools.chain([1.8e9], itertools.repeat(1.8e9 + 3))
    found = check_clock(wall=lambda: next(walls), monotonic=lambda: 5.0, state=lambda: 5)
    assert statuses(found) == [Status.WARN, Status.WARN]
    assert "+3.00 s" in found[0].told
    found = check_clock(wall=lambda: 86_400.0, monotonic=lambda: 5.0, state=lambda: None)
    assert statuses(found) == [Status.FAIL, Status.SKIPPED]


def test_the_kernel_can_be_asked():
    assert clock_state() is None or 0 <= clock_state() <= 5
