"""Live figures: a table that is redrawn on a terminal, a line every five seconds elsewhere."""

import sys
import time
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

_LINE_EVERY_S = 5.0


class LiveFigures:
    """Shows ``Observer.snapshot`` figures on standard error. A context manager; one thread."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, soft_wrap=True, markup=False)

    def show(self, figures: dict[str, Any]) -> None:
        """The newest figures."""
        if self._live is not None:
            self._live.update(_table(figures), refresh=True)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            print(_line(figures), file=sys.stderr, flush=True)  # noqa: T201 - this is the command's output


def _rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    commit = figures["commit_ms"]
    return [
        ("readings received", f"{figures['received']:,}"),
        ("stored", f"{figures['stored']:,}"),
        ("duplicates", f"{figures['duplicates']:,}"),
        ("withheld", f"{figures['withheld_rows']:,}"),
        ("quarantined", f"{figures['quarantined']:,}"),
        ("readings per second", f"{figures['readings_per_second']:,.0f}"),
        ("commit p50 / p99", f"{commit['p50']:.1f} / {commit['p99']:.1f} ms"),
        ("in flight", f"{figures['in_flight']['messages']:,} messages"),
        ("devices", f"{figures['devices']:,}"),
    ]


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title="telemetry", show_header=False, min_width=44)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in _rows(figures):
        table.add_row(name, value)
    return table


def _line(figures: dict[str, Any]) -> str:
    return "  ".join(f"{name}: {value}" for name, value in _rows(figures))
