"""Where log lines go, and how everything that is logged in this process is led through one gate.

``install`` sets up structlog and takes over the standard library's logging, warnings and the hooks for
exceptions that nobody caught; all of it passes ``scrub.allow`` before it is written: as JSON lines to a file or
to standard error, or in colour where standard error is a terminal.
"""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TextIO

import orjson
import structlog

from telemetry.observe.events import LibraryLog, Uncaught
from telemetry.observe.scrub import allow

MAX_KEEP_DAYS: Final = 90  # promise KEEP-3: technical logs are kept at most 90 days
_LEVELS: Final = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
_STAMP: Final = "%Y%m%dT%H%M%S%fZ"


class RetainedFile:
    """A log file that starts anew at a size or on a new day, and removes what is older than ``keep_days``.

    Older parts stand beside it under the time of their last line (UTC). Files are for their owner alone
    (0600). Safe to call from several threads.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        keep_days: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not 1 <= keep_days <= MAX_KEEP_DAYS:
            raise ValueError(f"log files are kept between 1 and {MAX_KEEP_DAYS} days")
        self._path, self._max_bytes, self._keep, self._now = path, max_bytes, timedelta(days=keep_days), now
        self._lock = threading.RLock()
        self._file = self._open()
        if self._size and self._written_at.date() != self._now().date():
            self._rotate()
        self.prune()

    def _open(self) -> TextIO:
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        found = os.fstat(handle)
        self._size = found.st_size
        self._written_at = datetime.fromtimestamp(found.st_mtime, UTC) if self._size else self._now()
        return os.fdopen(handle, "a", encoding="utf-8")

    def write(self, text: str) -> None:
        """Append a line; rotates before it where the line would not fit or the day is another."""
        with self._lock:
            size, now = len(text.encode()), self._now()
            if self._size and (self._size + size > self._max_bytes or now.date() != self._written_at.date()):
                self._rotate()
            self._file.write(text)
            self._size += size
            self._written_at = now

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        with self._lock:
            self._file.flush()

    def close(self) -> None:
        """Close the file; nothing may be written afterwards."""
        with self._lock:
            self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        while (part := self._path.with_name(f"{self._path.name}.{self._written_at:{_STAMP}}")).exists():
            self._written_at += timedelta(microseconds=1)
        self._path.rename(part)
        self._file = self._open()
        self.prune()

    def prune(self) -> None:
        """Remove closed parts whose newest line is older than allowed, less the day that a part may span."""
        oldest = self._now() - self._keep + timedelta(days=1)
        for part in self._path.parent.glob(f"{self._path.name}.*Z"):
            try:
                last_line = datetime.strptime(part.name[len(self._path.name) + 1 :], _STAMP).replace(tzinfo=UTC)
            except ValueError:
                continue
            if last_line < oldest:
                part.unlink(missing_ok=True)


class _Gate(logging.Handler):
    """Leads the standard library's log records through structlog; never formats their text."""

    def emit(self, record: logging.LogRecord) -> None:
        level = max((known for known in _LEVELS if known <= record.levelno), default=logging.DEBUG)
        structlog.get_logger().log(level, LibraryLog.name(), _record=record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class's name
        """Say nothing: the standard way prints the record's arguments."""


def _json(value: Any, **_options: Any) -> str:
    return orjson.dumps(value).decode()


def _uncaught(error: BaseException | None) -> None:
    structlog.get_logger().error(Uncaught.name(), error=error)


def _warned(message: Warning | str, *_place: Any, **_more: Any) -> None:
    structlog.get_logger().warning(LibraryLog.name(), error=message if isinstance(message, Warning) else Warning())


def _hook_everything() -> Callable[[], None]:
    """Take over logging, warnings and the last-resort hooks; returns what puts them back."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.raiseExceptions, warnings.showwarning)
    hooks = (sys.excepthook, sys.unraisablehook, threading.excepthook)

    def excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, kind(), None)
        else:
            _uncaught(error.with_traceback(trace))

    root.handlers[:] = [_Gate()]
    root.setLevel(logging.INFO)
    logging.raiseExceptions = False
    warnings.showwarning = _warned
    sys.excepthook = excepthook
    sys.unraisablehook = lambda what: _uncaught(what.exc_value)
    threading.excepthook = lambda what: _uncaught(what.exc_value)

    def restore() -> None:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        logging.raiseExceptions, warnings.showwarning = before[2], before[3]
        sys.excepthook, sys.unraisablehook, threading.excepthook = hooks

    return restore


def install(
    *,
    level: str = "info",
    log_file: Path | None = None,
    max_bytes: int = 64 * 2**20,
    keep_days: int = 30,
    stream: TextIO | None = None,
) -> Callable[[], None]:
    """Send all logging of this process through the gate, to ``log_file`` or ``stream`` (standard error).

    Returns:
        a function that undoes it and closes the file.

    """
    console = log_file is None and (stream or sys.stderr).isatty()
    target: Any = stream or sys.stderr
    if log_file is not None:
        target = RetainedFile(log_file, max_bytes=max_bytes, keep_days=keep_days)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            allow,
            structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(serializer=_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=False,
    )
    restore = _hook_everything()

    def undo() -> None:
        restore()
        structlog.reset_defaults()
        if isinstance(target, RetainedFile):
            target.close()

    return undo
