"""What the API tells of itself; part of events.py, which says what an event may hold."""

from dataclasses import dataclass
from enum import StrEnum

from telemetry.observe.event import Event


class Method(StrEnum):
    """Methods of HTTP that are told apart."""

    GET = "GET"
    POST = "POST"
    PUT = "PUT"
    DELETE = "DELETE"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class RequestAnswered(Event):
    """One line of the access log. ``request``: as in X-Request-Id. ``route``: the route's template, never the address
    asked for.
    """

    request: int
    route: StrEnum
    method: Method
    status: int
    request_s: float
    sent_bytes: int
    aborted: bool = False
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class ApiStarted(Event):
    """The API takes requests."""

    port: int
    tls: bool
