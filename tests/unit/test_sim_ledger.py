"""The ledger: exact, readable after a kill, and honest about what was acknowledged."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import polars as pl
import pytest

from device_sim import ledger
from device_sim.ledger import Ledger
from device_sim.message import Message, Reading


def message(sequence: int, *readings: Reading, **more: object) -> Message:
    return Message(sequence, "readings", b"", None, list(readings), **more)  # type: ignore[arg-type]


def reading(number: int, ts_us: int, **fields: float) -> Reading:
    return Reading(f"INV{number:08}", "inverter", ts_us, dict(fields))


def test_what_was_written_is_read_back_as_columns(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Ledger(path, {"settings": {"seed": 4}}) as book:
        book.publishing("gw-1", "s", message(1, reading(1, 10, ac_power_w=1.25), reading(2, 10, grid_power_w=-3.0)))
        book.publishing("gw-1", "s", message(2, poison="truncated"))
        book.publishing("gw-1", "s", message(3, reading(1, 20, ac_power_w=2.0, alert_bits=7)))
        book.acknowledged("gw-1", 1)
        book.acknowledged("gw-1", 2)
        book.committed("gw-1", 1)

    back = ledger.read(path)

    assert back.run["settings"] == {"seed": 4}
    assert back.messages["acknowledged"].to_list() == [True, True, False]
    assert back.messages["committed"].to_list() == [True, False, False]
    assert back.poison.select("gateway", "sequence", "poison", "readings").rows() == [("gw-1", 2, "truncated", 1)]
    columns = ["gateway", "serial", "ts", "acknowledged", "ac_power_w", "grid_power_w", "alert_bits"]
    assert back.readings.select(columns).rows() == [
        ("gw-1", "INV00000001", 10, True, 1.25, None, None),
        ("gw-1", "INV00000001", 20, False, 2.0, None, 7),
        ("gw-1", "INV00000002", 10, True, None, -3.0, None),
    ]
    assert back.readings.schema["alert_bits"] == pl.Int64


def test_repeated_readings_are_one_and_acknowledged_if_either_was(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Ledger(path) as book:
        book.publishing("gw-1", "s", message(1, reading(1, 10, ac_power_w=1.0)))
        book.publishing("gw-1", "s", message(2, reading(1, 10, ac_power_w=1.0), duplicate_of=1))
        book.publishing("gw-2", "s", message(1, reading(1, 10, ac_power_w=5.0)))
        book.acknowledged("gw-1", 2)

    distinct = ledger.read(path).distinct()

    assert distinct.select("gateway", "serial", "ts", "acknowledged", "ac_power_w").rows() == [
        ("gw-1", "INV00000001", 10, True, 1.0),
        ("gw-2", "INV00000001", 10, False, 5.0),
    ]


def test_an_empty_ledger_is_one_too(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    Ledger(path).close()

    back = ledger.read(path)

    assert back.messages.is_empty()
    assert back.distinct().is_empty()


def test_a_torn_last_line_is_left_out_and_damage_before_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Ledger(path) as book:
        for sequence in (1, 2, 3):
            book.publishing("gw-1", "s", message(sequence, reading(1, sequence, ac_power_w=1.0)))
    whole = path.read_bytes()

    path.write_bytes(whole[:-7])
    assert ledger.read(path).messages.height == 2

    path.write_bytes(whole[:60] + b"\n" + whole[60:])
    with pytest.raises(ValueError, match="line"):
        ledger.read(path)


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    Ledger(path).close()

    assert path.stat().st_mode & 0o077 == 0


_WRITER = """
    import itertools, sys
    from pathlib import Path
    from device_sim.ledger import Ledger
    from device_sim.message import Message, Reading

    book = Ledger(Path(sys.argv[1]))
    for sequence in itertools.count(1):
        readings = [Reading("INV00000042", "inverter", sequence * 100 + i, {"ac_power_w": 1.0}) for i in range(50)]
        book.publishing("gw-1", "s", Message(sequence, "readings", b"", None, readings))
        print(sequence, flush=True)  # "on the network": only after the ledger has it
        book.acknowledged("gw-1", sequence)
"""


def test_a_killed_writer_leaves_a_valid_prefix_with_all_that_went_out(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_WRITER), str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        sent = 0
        while sent < 300:
            sent = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        for line in writer.stdout:
            sent = int(line)

    back = ledger.read(path)

    assert back.messages["sequence"].to_list() == list(range(1, back.messages.height + 1))
    assert back.messages.height >= sent
    assert back.readings.height == 50 * back.messages.height
    assert back.messages["acknowledged"].sum() <= sent
