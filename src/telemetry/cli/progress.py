"""How far a long command is: a bar on a terminal, a plain line now and then elsewhere. On standard error."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import DownloadColumn as BytesColumn

Unit = Literal["bytes", "rows", "steps"]

_LINE_EVERY_S: Final = 5.0


class CommandProgress:
    """Counts towards ``total`` (None where nobody knows it). A context manager; ``advance`` from any thread.

    Texts are the caller's own words: names of files and tables, never what is in them.
    """

    def __init__(
        self,
        what: str,
        *,
        total: int | None = None,
        unit: Unit = "steps",
        console: Console | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._console = console or Console(stderr=True, highlight=False)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._done = 0
        self._part = ""
        self._started = self._last_line = monotonic()
        self._bar = self._make_bar() if self._console.is_terminal else None

    def _make_bar(self) -> Progress:
        count = BytesColumn(binary_units=True) if self._unit == "bytes" else MofNCompleteColumn()
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            count,
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._last_line > self._started:
            self._line("done")  # said something before, so say the end too

    def advance(self, count: int, part: str = "") -> None:
        """``count`` more are done; ``part`` is what is being worked on."""
        with self._lock:
            self._done += count
            self._part = part or self._part
            if self._bar is not None:
                text = f"{self._what} {self._part}".rstrip()
                self._bar.update(self._task, advance=count, description=text)
            elif self._monotonic() - self._last_line >= _LINE_EVERY_S:
                self._last_line = self._monotonic()
                self._line(self._part)

    def _line(self, end: str) -> None:
        of = f" of {self._amount(self._total)}" if self._total is not None else ""
        elapsed = self._monotonic() - self._started
        text = f"{self._what}: {self._amount(self._done)}{of} in {elapsed:.0f} s {end}".rstrip()
        self._console.print(text, markup=False, soft_wrap=True)

    def _amount(self, count: int) -> str:
        return f"{count / 2**20:,.1f} MiB" if self._unit == "bytes" else f"{count:,} {self._unit}"


@contextmanager
def progress_bar(what: str, total: int, unit: Unit = "rows") -> Iterator[Callable[[int, int], None]]:
    """Gives a function that takes (done, all), for code that tells how far it is instead of how much was added."""
    told = 0
    with CommandProgress(what, total=total, unit=unit) as progress:

        def tell(done: int, _all: int) -> None:
            nonlocal told
            progress.advance(done - told)
            told = done

        yield tell
