"""What a client raises. Texts are the service's own, which hold no identifier; none holds an address or a token.

Hierarchy::

    ClientError
    ├── Unreachable          no answer, or one that was broken off; ``begun`` where a part of it had come
    ├── NotAnApi             something answered that is not this API
    └── Problem              the service said why (RFC 9457)
        ├── InvalidRequest   422: ``faults`` says where
        ├── TooCostly        422: the answer could be too large
        ├── NotAuthenticated 401: the token or session does not count
        ├── SecondFactorNeeded 401: the password is right, and a code is wanted as well
        ├── NotPermitted     403: the route is not for this role or scope
        ├── NotFound         404: there is none, or none that is shared: the same in both cases
        ├── Conflict         409: the state of things does not allow it
        ├── SolarUnconfirmed 409: the series would tell the place; ``error_km``
        ├── Changed          412: it was changed since it was read
        ├── CursorExpired    410: begin anew
        ├── RateLimited      429: ``retry_after_s``
        └── Unavailable      503: ``retry_after_s``
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec


class ClientError(Exception):
    """Base of all errors of the client."""


class Unreachable(ClientError):  # noqa: N818 - a state, not a mistake
    """No whole answer came: the connection was refused, lost or timed out. ``begun``: a part of it had come."""

    def __init__(self, what: str, *, begun: bool = False) -> None:
        super().__init__(f"no answer from the service ({what})")
        self.begun = begun


class NotAnApi(ClientError):  # noqa: N818
    """What answered is not this API, or another version of it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a request. ``location``: a parameter's name, or the path in the body."""

    location: str
    message: str


class Problem(ClientError):  # noqa: N818
    """The service refused. ``slug``: the kind of problem. ``request_id`` finds it in the service's log."""

    def __init__(self, told: "Told", *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{told.title}: {told.detail} ({told.status}, request {told.request_id})")
        self.slug = told.type.rpartition("/")[2]
        self.title, self.status, self.detail, self.request_id = told.title, told.status, told.detail, told.request_id
        self.faults, self.error_km = told.errors, told.error_km
        self.retry_after_s = retry_after_s


class InvalidRequest(Problem):
    """A parameter or the body is wrong; ``faults`` says where."""


class TooCostly(Problem):
    """The answer could have more values than one request may ask for."""


class NotAuthenticated(Problem):
    """The token or session does not count: unknown, expired or revoked."""


class SecondFactorNeeded(NotAuthenticated):
    """The password is right, and the authenticator's code is wanted as well."""


class NotPermitted(Problem):
    """The route is not for this role, right or scope."""


class NotFound(Problem):
    """There is no such thing, or none that is shared."""


class Conflict(Problem):
    """The state of things does not allow it."""


class SolarUnconfirmed(Problem):
    """The series would tell the place within ``error_km``, better than is granted: to be confirmed by that number."""


class Changed(Problem):
    """It was changed since it was read: read it again."""


class CursorExpired(Problem):
    """A cursor is older than a day."""


class RateLimited(Problem):
    """Too much at once; ``retry_after_s`` says when to ask again."""


class Unavailable(Problem):
    """The service, or a part of it, does not answer now."""


@dataclass(frozen=True, slots=True)
class Told:
    """Problem details as they come (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = ""
    request_id: str = ""
    errors: tuple[Fault, ...] = ()
    error_km: float | None = None


_BY_SLUG: Final[Mapping[str, type[Problem]]] = {
    "invalid-request": InvalidRequest,
    "too-costly": TooCostly,
    "not-authenticated": NotAuthenticated,
    "second-factor-needed": SecondFactorNeeded,
    "not-permitted": NotPermitted,
    "not-found": NotFound,
    "conflict": Conflict,
    "solar-unconfirmed": SolarUnconfirmed,
    "precondition-failed": Changed,
    "gone": CursorExpired,
    "rate-limited": RateLimited,
    "unavailable": Unavailable,
}
_TOLD: Final = msgspec.json.Decoder(Told)


def problem_of(status: int, body: bytes, retry_after_s: float | None) -> ClientError:
    """The error for an answer that is none of 2xx."""
    try:
        told = _TOLD.decode(body)
    except msgspec.MsgspecError:
        return NotAnApi(f"an answer with status {status} that says nothing this client understands")
    made: Any = _BY_SLUG.get(told.type.rpartition("/")[2], Problem)
    error: Problem = made(told, retry_after_s=retry_after_s)
    return error
