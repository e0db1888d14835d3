"""The spool: what is appended comes back after a restart, sealed, bounded, and whole or not at all."""

import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.errors import ConfigurationError
from telemetry.privacy.ble import BleSecret
from telemetry.sources.ble_spool import MAX_RECORD_BYTES, Spool

MIB = 2**20
SECRET = secrets.token_bytes(32)


OPENED = []


@pytest.fixture(autouse=True)
def closed():
    yield
    while OPENED:
        OPENED.pop().close()


def opened(directory, secret=SECRET, size=MIB):
    OPENED.append(Spool(directory / "spool", BleSecret(secret), size))
    return OPENED[-1]


def values(first, last, size=20):
    return [b"%08d" % number + b"canary"[: size - 8] for number in range(first, last)]


def test_a_restart_loses_nothing_and_keeps_the_order(tmp_path):
    spool = opened(tmp_path)
    spool.append(values(0, 50))
    taken = spool.take(20)
    assert [value for _, value in taken] == values(0, 20)
    spool.acknowledge([number for number, _ in taken])
    spool.close()
    again = opened(tmp_path)
    found = again.take(1000)
    # Acknowledged records of a file that is not done with may come again; the store has them once.
    assert [value for _, value in found] == values(0, 50)
    again.acknowledge([number for number, _ in found])
    assert (len(again), again.size_bytes) == (0, 0)
    assert list((tmp_path / "spool").iterdir()) == []


def test_nothing_on_disk_can_be_read(tmp_path):
    spool = opened(tmp_path)
    spool.append(values(0, 10))
    (file,) = (tmp_path / "spool").iterdir()
    assert b"canary" not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700


def test_bounded_by_bytes_the_oldest_goes_and_is_counted(tmp_path):
    spool = opened(tmp_path)
    for first in range(0, 40_000, 100):
        spool.append(values(first, first + 100))
        assert spool.size_bytes <= MIB
    left = spool.take(100_000)
    assert spool.dropped == 40_000 - len(left)
    assert spool.dropped > 0
    assert [value for _, value in left] == values(spool.dropped, 40_000)
    spool.append([bytes(MAX_RECORD_BYTES + 1)])
    assert spool.dropped == 40_001 - len(left)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 20, 40])
def test_a_torn_write_costs_what_was_being_written(tmp_path, cut):
    spool = opened(tmp_path)
    spool.append(values(0, 10))
    spool.close()
    (file,) = (tmp_path / "spool").iterdir()
    file.write_bytes(file.read_bytes()[:-cut])
    again = opened(tmp_path)
    assert again.damaged == 1
    assert [value for _, value in again.take(99)] == values(0, 9)
    again.append(values(90, 92))
    assert [value for _, value in again.take(99)] == values(90, 92)
    again.close()
    assert [value for _, value in opened(tmp_path).take(99)] == values(0, 9) + values(90, 92)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_an_altered_file_gives_only_what_was_written(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("spool")
    spool = opened(directory)
    spool.append(values(0, 6))
    spool.close()
    (file,) = (directory / "spool").iterdir()
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(bytes(content))
    found = [value for _, value in opened(directory).take(99)]
    assert found == values(0, len(found))
    assert len(found) < 6


def test_another_secret_reads_nothing(tmp_path):
    spool = opened(tmp_path)
    spool.append(values(0, 5))
    spool.close()
    other = opened(tmp_path, secret=secrets.token_bytes(32))
    assert (other.take(99), other.damaged) == ([], 1)


def test_records_that_change_places_do_not_open(tmp_path):
    spool = opened(tmp_path)
    spool.append(values(0, 2))
    spool.close()
    (file,) = (tmp_path / "spool").iterdir()
    content = file.read_bytes()
    half = len(content) // 2
    file.write_bytes(content[half:] + content[:half])
    assert opened(tmp_path).take(99) == []


def test_clearing_forgets_and_counts(tmp_path):
    spool = opened(tmp_path)
    spool.append(values(0, 5))
    spool.clear()
    assert (len(spool), spool.dropped, spool.take(9)) == (0, 5, [])
    spool.append(values(5, 7))
    assert [value for _, value in spool.take(9)] == values(5, 7)


def test_acknowledged_in_any_order(tmp_path):
    spool = opened(tmp_path)
    spool.append(values(0, 4))
    numbers = [number for number, _ in spool.take(9)]
    for number in (numbers[2], numbers[0], 999, numbers[3]):
        spool.acknowledge([number])
    assert len(spool) == 1
    spool.rewind()
    assert [value for _, value in spool.take(9)] == values(1, 2)


def test_a_directory_that_others_can_read_is_refused(tmp_path):
    (tmp_path / "spool").mkdir(mode=0o755)
    (tmp_path / "spool").chmod(0o755)
    with pytest.raises(ConfigurationError):
        opened(tmp_path)
    with pytest.raises(ConfigurationError):
        opened(tmp_path / "other", size=1000)
