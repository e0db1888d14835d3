"""Requests, answers, and when to ask again: everything about HTTP that needs no socket.

A *plan* is a generator that yields requests and is sent answers; its return value is the result. Each call of the API
is written once as a plan, and driven by a client that waits or by one that awaits.
"""

import random
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import BinaryIO, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec

from telemetry.client.errors import ClientError, NotAnApi, Problem, Unreachable, problem_of

PREFIX: Final = "/api/v1"
JSON: Final = "application/json"
ARROW: Final = "application/vnd.apache.arrow.stream"
_SAFE: Final = frozenset({"GET", "HEAD"})
_FOR_NOW: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_BY_POLICY: Final = re.compile(r'"(\w+)";r=(\d+);t=(\d+)')
_LINK: Final = re.compile(r'<([^>]*)>\s*;\s*rel="next"')

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """``path``: below /api/v1. ``params``: without what is None. ``body``: sent as JSON. ``into``: where the answer's
    body is written, instead of being held in memory.
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: object | None = field(default=None, repr=False)
    accept: str = JSON
    into: BinaryIO | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_safe(self) -> bool:
        """Whether it may be asked again (RFC 9110, 9.2.1)."""
        return self.method in _SAFE


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. ``headers``: names in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def checked(self) -> "Reply":
        """Itself. Raises the Problem that it tells."""
        if self.status >= HTTPStatus.BAD_REQUEST:
            raise problem_of(self.status, self.body, retry_after_s(self.headers))
        return self

    def as_(self, kind: type[T]) -> T:
        """The body as what it is expected to be; what is not known in it is passed over. Raises NotAnApi."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except msgspec.MsgspecError as error:
            # The text of the error names places and types, and no values.
            raise NotAnApi(f"an answer of another form: {error}") from None


Plan = Generator[Request, Reply, T]


def get(path: str, **params: object) -> Request:
    """A GET; ``from_`` stands for ``from``, lists are joined with commas."""
    return Request("GET", path, parameters(params))


def parameters(asked: Mapping[str, object]) -> dict[str, str]:
    """Query parameters as the API takes them; what is None is left out."""
    return {name.rstrip("_"): _text(value) for name, value in asked.items() if value is not None}


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(sorted(map(str, value)))
    return str(value)


def instant(value: datetime) -> str:
    """RFC 3339 in UTC. Raises ValueError for one without a zone: it would be another instant on another machine."""
    if value.tzinfo is None:
        raise ValueError("an instant needs a time zone, as in datetime(2026, 1, 1, tzinfo=UTC)")
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def following(request: Request, reply: Reply) -> Request | None:
    """The request for the next page, as Link names it (RFC 8288). Only its query is believed."""
    found = _LINK.search(reply.headers.get("link", ""))
    return None if found is None else replace(request, params=dict(parse_qsl(urlsplit(found[1]).query)))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long an answer says to wait: by Retry-After (RFC 9110, 10.2.3), else by RateLimit; None where by neither."""
    text = headers.get("retry-after")
    if text is None:
        waits = [float(reset) for _, left, reset in _BY_POLICY.findall(headers.get("ratelimit", "")) if left == "0"]
        return max(waits, default=None)
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


@dataclass(slots=True)
class Patience:
    """When to ask again. ``retries``: times at most; ``patience_s``: longer waits are not waited for.

    A wait grows from ``first_s`` to ``most_s``, each shortened by chance, so that many clients do not come at once.
    """

    retries: int = 4
    patience_s: float = 60.0
    first_s: float = 0.25
    most_s: float = 20.0
    chance: Callable[[], float] = random.random
    _tried: int = 0

    def wait_s(self, error: ClientError) -> float:
        """How long to wait before asking again. Raises ``error`` where that is of no use."""
        told = error.retry_after_s if isinstance(error, Problem) else None
        lost = isinstance(error, Unreachable) and not error.begun
        refused_for_now = isinstance(error, Problem) and error.status in _FOR_NOW
        if not (lost or refused_for_now) or self._tried >= self.retries or (told or 0.0) > self.patience_s:
            raise error
        grown = min(self.most_s, self.first_s * 2 ** min(self._tried, 20))
        self._tried += 1
        return grown * (0.5 + self.chance() / 2) if told is None else told

    def fresh(self) -> "Patience":
        """The same patience for another request."""
        return replace(self, _tried=0)
