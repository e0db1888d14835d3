"""Progress: a bar on a terminal, few plain lines elsewhere, silence where a command is quick."""

import io

from rich.console import Console

from telemetry.cli.progress import CommandProgress


def run(steps, *, terminal, **options):
    stream, now = io.StringIO(), [0.0]
    console = Console(file=stream, force_terminal=terminal, width=100)
    with CommandProgress("scanning", console=console, monotonic=lambda: now[0], **options) as progress:
        for seconds, count in steps:
            now[0] += seconds
            progress.advance(count, "data_dir")
    return stream.getvalue()


def test_a_quick_command_says_nothing_in_a_log():
    assert run([(0.1, 5), (0.1, 5)], terminal=False) == ""


def test_a_long_one_says_a_line_now_and_then_and_its_end():
    told = run([(1.0, 2**20)] * 12, terminal=False, total=12 * 2**20, unit="bytes")
    assert told.splitlines() == [
        "scanning: 5.0 MiB of 12.0 MiB in 5 s data_dir",
        "scanning: 10.0 MiB of 12.0 MiB in 10 s data_dir",
        "scanning: 12.0 MiB of 12.0 MiB in 12 s done",
    ]


def test_an_unknown_total_is_not_made_up():
    assert run([(6.0, 1500)], terminal=False, unit="rows").splitlines()[0] == ("scanning: 1,500 rows in 6 s data_dir")


def test_a_terminal_gets_a_bar():
    told = run([(0.1, 1)], terminal=True, total=2)
    assert "scanning" in told
    assert "\x1b[" in told
