"""Turns whatever is about to be logged into what may be logged.

Only these come through: numbers, truth values, members of this package's enumerations, counts by those and by
catalogue fields, and exceptions and foreign log records in the description that this module writes. A
description consists of class names, places in code, SQLSTATEs, errno names and the text of our own errors.
Foreign text is never quoted: databases, brokers and operating systems repeat in it what they were given.
"""

import errno
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from telemetry.errors import TelemetryError
from telemetry.model.fields import FIELD_INDEX
from telemetry.observe.events import EVENTS

SCRUBBED: Final = "[scrubbed]"
_PACKAGE: Final = Path(__file__).resolve().parent.parent
_CHAIN_LIMIT: Final = 8
_TEXT_LIMIT: Final = 300
_LIBRARIES: Final = frozenset(
    {
        "aiomqtt", "asyncio", "asyncpg", "bleak", "concurrent", "dbus_fast", "mqtt5", "polars",
        "prometheus_client", "pyarrow", "telemetry", "uvloop",
    }
)  # fmt: skip
_BOOKKEEPING: Final = frozenset({"event", "level", "timestamp", "suppressed"})
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(field.name for field in fields(event))  # type: ignore[arg-type]  # every event is a dataclass
    for name, event in EVENTS.items()
}
# In our own texts: quoted strings, and words that hold digits, except plain numbers of up to five digits.
_SUSPECT: Final = re.compile(r"'[^']*'|\"[^\"]*\"|\S*\d\S*")
_PLAIN_NUMBER: Final = re.compile(r"\(?[<>=≤≥-]?\d{1,5}(\.\d{1,2})?[%.,;:)]*")
_SQLSTATE: Final = re.compile(r"[0-9A-Z]{5}")


class _Known:
    """What replaces the identifiers that this process has seen; nothing until somebody says so."""

    replaced: Callable[[str, str], str] | None = None


@contextmanager
def known_identifiers(replaced: Callable[[str, str], str]) -> Iterator[None]:
    """For as long as this lasts, texts are led through ``replaced(text, by)``, which knows identifiers, as well.

    For the whole process, as logging is. ``replaced`` is called from any thread.
    """
    before, _Known.replaced = _Known.replaced, replaced
    try:
        yield
    finally:
        _Known.replaced = before


def scrub_text(text: str) -> str:
    """Our own error's text, without identifiers that are known, nor anything that looks like a serial, an address or
    a coordinate.
    """
    if _Known.replaced is not None:
        text = _Known.replaced(text, "[…]")

    def judge(match: re.Match[str]) -> str:
        return match[0] if _PLAIN_NUMBER.fullmatch(match[0]) else "[…]"

    return _SUSPECT.sub(judge, text[:_TEXT_LIMIT])


def class_name(kind: type) -> str:
    """The name of a class, if it can be found under that name; made-up classes may hold anything in theirs."""
    module = sys.modules.get(kind.__module__)
    return kind.__name__ if getattr(module, kind.__name__, None) is kind else "Exception"


@lru_cache(maxsize=256)
def _library_of(path: str) -> str | None:
    """The known library that the source file ``path`` belongs to."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == path and name.partition(".")[0] in _LIBRARIES:
            return name.partition(".")[0]
    return None


def _own_places(trace: TracebackType | None) -> list[str]:
    """Where in this package an exception passed, outermost first: ``pipeline/runtime.py:120``."""
    places = []
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE):
            places.append(f"{path.relative_to(_PACKAGE).as_posix()}:{trace.tb_lineno}")
        trace = trace.tb_next
    return places[-_CHAIN_LIMIT:]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it groups and what it came from, each once."""
    pending, seen = [error], set[int]()
    while pending and len(seen) < _CHAIN_LIMIT:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions
        if current.__cause__ is not None:
            pending.append(current.__cause__)
        elif current.__context__ is not None and not current.__suppress_context__:
            pending.append(current.__context__)


def describe_error(error: BaseException) -> dict[str, Any]:
    """What may be said of an exception: classes, codes, places in our code, and our own text."""
    told: dict[str, Any] = {}
    classes = []
    for link in _chain(error):
        classes.append(class_name(type(link)))
        state = getattr(link, "sqlstate", None)
        if isinstance(state, str) and _SQLSTATE.fullmatch(state) and type(link).__module__.startswith("asyncpg"):
            told.setdefault("sqlstate", state)
        if isinstance(link, OSError) and (code := errno.errorcode.get(link.errno or 0)):
            told.setdefault("errno", code)
        if isinstance(link, TelemetryError):
            told.setdefault("text", scrub_text(str(link)))
        if places := _own_places(link.__traceback__):
            told.setdefault("at", places)
    told = {"class": classes[0], **told}
    if len(classes) > 1:
        told["because"] = classes[1:]
    return told


def describe_record(record: logging.LogRecord) -> dict[str, Any]:
    """What may be said of a library's log record: which library, where in it, and any exception it carries."""
    told: dict[str, Any] = {"library": "other"}
    if (library := _library_of(record.pathname)) is not None:
        told |= {"library": library, "place": f"{Path(record.pathname).name}:{int(record.lineno)}"}
    args = record.args.values() if isinstance(record.args, Mapping) else record.args or ()
    carried = [record.exc_info[1] if isinstance(record.exc_info, tuple) else None, record.msg, *args]
    for value in carried:
        if isinstance(value, BaseException):
            return told | {"error": describe_error(value)}
    return told


def safe_key(key: Any) -> str:
    """A key of a count: members of our enumerations and catalogue fields by name, everything else scrubbed."""
    if isinstance(key, tuple):
        return ".".join(safe_key(part) for part in key)
    if isinstance(key, Enum) and type(key).__module__.startswith("telemetry."):
        return str(key.value)
    return key if isinstance(key, str) and key in FIELD_INDEX else SCRUBBED


def _safe_number(value: Any) -> bool | int | float | None:
    """A plain number, None for everything else, NaN and the infinities included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, bool) else None
    if isinstance(value, int):
        return int(value)
    return round(float(value), 6) if math.isfinite(value) else None


def safe_value(value: Any) -> Any:
    """``value`` if it is of a type that cannot hold an identifier, its description, or the word [scrubbed]."""
    if isinstance(value, Enum):
        return safe_key(value)
    if isinstance(value, BaseException):
        return describe_error(value)
    if isinstance(value, Mapping):
        counts: dict[str, float] = {}
        for key, count in value.items():
            counts[safe_key(key)] = counts.get(safe_key(key), 0) + (_safe_number(count) or 0)
        return counts
    return _safe_number(value) if isinstance(value, int | float) else SCRUBBED


def allow(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The last structlog processor before rendering: known events pass with their own fields, made safe.

    Anything else logged by whomever keeps only its level and time, and says that something was scrubbed.
    """
    record, trouble = line.pop("_record", None), line.pop("exc_info", None)
    event = line.get("event")
    known = event if isinstance(event, str) and event in EVENTS else None
    allowed = _FIELDS[known] if known else frozenset[str]()
    told: dict[str, Any] = {"event": known or "unlisted_event"}
    told |= {key: line[key] for key in ("level", "timestamp") if key in line}
    told |= {key: safe_value(value) for key, value in line.items() if key in allowed and value is not None}
    if isinstance(line.get("suppressed"), int):
        told["suppressed"] = int(line["suppressed"])
    if dropped := len(line.keys() - allowed - _BOOKKEEPING):
        told["scrubbed_fields"] = dropped
    if isinstance(record, logging.LogRecord):
        told |= describe_record(record)
    error = sys.exc_info()[1] if trouble is True else trouble[1] if isinstance(trouble, tuple) else trouble
    if isinstance(error, BaseException):
        told.setdefault("error", describe_error(error))
    return told
