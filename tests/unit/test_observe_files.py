"""Log files: for their owner alone, no larger than allowed, and gone after the days they may be kept."""

import json
import os
import stat
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from telemetry.config import ObserveConfig
from telemetry.observe import Observer, configure_logging, events
from telemetry.observe.logs import RetainedFile

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Days:
    def __init__(self):
        self.now = START

    def __call__(self):
        self.now += timedelta(microseconds=1)
        return self.now


@pytest.fixture
def days():
    return Days()


def parts(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def test_lines_go_to_the_configured_file(tmp_path):
    path = tmp_path / "telemetry.log"
    undo = configure_logging(ObserveConfig(log_file=path))
    Observer().service_started(events.ServiceStarted(1.5))
    undo()
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["startup_s"] == 1.5
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not structlog.is_configured()


def test_a_file_starts_anew_at_its_size_and_no_line_is_lost(tmp_path, days):
    file = RetainedFile(tmp_path / "a.log", max_bytes=100, keep_days=30, now=days)
    written = [f"{number:03d} {'x' * 30}\n" for number in range(10)]
    for line in written:
        file.write(line)
    file.close()
    paths = [*sorted(tmp_path.glob("a.log.*")), tmp_path / "a.log"]
    assert len(paths) == 5
    assert "".join(path.read_text() for path in paths) == "".join(written)
    assert all(path.stat().st_size <= 100 for path in paths)


def test_a_new_day_starts_a_new_file_and_old_parts_go(tmp_path, days):
    file = RetainedFile(tmp_path / "a.log", max_bytes=10_000, keep_days=10, now=days)
    for _ in range(15):
        file.write("a line\n")
        days.now += timedelta(days=1)
    file.write("the last\n")
    file.close()
    kept = len(parts(tmp_path))
    assert 9 <= kept <= 11


def test_what_lay_idle_is_as_old_as_its_last_line(tmp_path, days):
    path = tmp_path / "a.log"
    path.write_text("old\n")
    old = (START - timedelta(days=40)).timestamp()
    os.utime(path, (old, old))
    RetainedFile(path, max_bytes=10_000, keep_days=30, now=days).close()
    assert parts(tmp_path) == ["a.log"]
    assert path.read_text() == ""


def test_what_is_not_ours_stays(tmp_path, days):
    (tmp_path / "a.log.notes-of-20200101Z").write_text("kept")
    RetainedFile(tmp_path / "a.log", max_bytes=10_000, keep_days=1, now=days).close()
    assert "a.log.notes-of-20200101Z" in parts(tmp_path)


@pytest.mark.parametrize("keep_days", [0, 91])
def test_more_than_ninety_days_is_refused(tmp_path, keep_days):
    with pytest.raises(ValueError, match="between 1 and 90"):
        RetainedFile(tmp_path / "a.log", max_bytes=10_000, keep_days=keep_days)
