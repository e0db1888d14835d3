"""Who asks, as dependencies of routes: ``recipient(scope)``, ``owner(right)``, ``operator()``, ``anybody()``.

A machine sends a bearer token; a person's browser sends the session's cookie and, with every unsafe method, the CSRF
token in X-CSRF-Token. What is refused depends on the route and on who asks, never on what is asked for.
"""

import hmac
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer
from fastapi.security.base import SecurityBase

from telemetry.access.principal import PersonSession, Principal, Role, Scope
from telemetry.api.context import Context, context_of
from telemetry.errors import NotAuthenticated, NotPermitted
from telemetry.model.sharing import MemberRight

SECURE_COOKIE: Final = "__Host-session"
PLAIN_COOKIE: Final = "session"
CSRF_HEADER: Final = "X-CSRF-Token"
_BEARER: Final = re.compile(r"(?i:bearer) +(tlm_[A-Za-z0-9_-]{43})")
_SESSION: Final = re.compile(r"[A-Za-z0-9_-]{20,200}")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

bearer_scheme: Final = HTTPBearer(
    scheme_name="token", description="A machine's token: `tlm_` and 43 characters", auto_error=False
)
session_scheme: Final = APIKeyCookie(
    name=SECURE_COOKIE,
    scheme_name="session",
    description=f"A person's session; unsafe methods need the CSRF token in {CSRF_HEADER}",
    auto_error=False,
)


async def authenticated(request: Request) -> Principal:
    """Who asks, after the limits of whoever it is have let the request in.

    Raises:
        NotAuthenticated: no token or session, or one that does not count.
        NotPermitted: a session's unsafe request without its CSRF token, or from elsewhere.
        RateLimited: too much of it.

    """
    context = context_of(request)
    principal = await _who(request, context)
    state = request.scope["state"]
    state["principal"] = principal
    state["slot"] = context.limits.admit(principal)
    return principal


async def _who(request: Request, context: Context) -> Principal:
    if (header := request.headers.get("authorization")) is not None:
        match = _BEARER.fullmatch(header)
        bearer = match[1] if match else ""
        principal = await context.authenticator.machine(bearer) if bearer else None
        if principal is None:
            raise NotAuthenticated
        request.scope["state"]["still"] = _still(lambda: context.authenticator.machine(bearer), principal)
        return principal
    session = await session_of(request)
    if session is None:
        raise NotAuthenticated
    if request.method not in _SAFE:
        check_origin(request)
        if not hmac.compare_digest(request.headers.get(CSRF_HEADER, "").encode(), session.csrf.encode()):
            raise NotPermitted("the CSRF token is missing or wrong", remedy=f"send it in {CSRF_HEADER}")
    request.scope["state"]["session"] = session
    secret = _cookie(request, context)

    async def again() -> Principal | None:
        found = await context.authenticator.person(secret)
        return None if found is None else found.principal

    request.scope["state"]["still"] = _still(again, session.principal)
    return session.principal


def _still(again: Callable[[], Awaitable[Principal | None]], principal: Principal) -> Callable[[], Awaitable[bool]]:
    """Asks whether the token or session still counts, for answers that last."""

    async def still() -> bool:
        return await again() == principal

    return still


async def session_of(request: Request) -> PersonSession | None:
    """The person's session that the cookie names, None without one that counts. For routes of sessions."""
    context = context_of(request)
    secret = _cookie(request, context)
    return await context.authenticator.person(secret) if _SESSION.fullmatch(secret) else None


def cookie_name(context: Context) -> str:
    """The session cookie's name: with __Host- where it is for TLS alone (RFC 6265bis)."""
    return SECURE_COOKIE if context.config.api.cookie_secure else PLAIN_COOKIE


def _cookie(request: Request, context: Context) -> str:
    return request.cookies.get(cookie_name(context), "")


def check_origin(request: Request) -> None:
    """Refuse what another site's page sends. A program that is no browser sends neither header, and passes.

    Raises:
        NotPermitted: Origin or Sec-Fetch-Site tell of another site.

    """
    own = context_of(request).config.api.origin
    origin, fetch = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    elsewhere = NotPermitted("the request came from another site", remedy="ask from the service's own pages")
    if origin is not None:
        expected = own or f"{request.url.scheme}://{request.headers.get('host', '')}"
        if (urlsplit(origin).scheme, urlsplit(origin).netloc) != (urlsplit(expected).scheme, urlsplit(expected).netloc):
            raise elsewhere
    elif fetch is not None and fetch not in {"same-origin", "none"}:
        raise elsewhere


def _permitted(permits: Callable[[Principal], bool]) -> Any:
    async def permitted(
        request: Request,
        _token: Any = Security(bearer_scheme),  # noqa: B008 - how the scheme gets into OpenAPI
        _session: Any = Security(session_scheme),  # noqa: B008
    ) -> Principal:
        principal = await authenticated(request)
        if not permits(principal):
            raise NotPermitted
        return principal

    return Security(permitted)


def recipient(scope: Scope = Scope.READ) -> Any:
    """For a recipient whose token may do this. Goes into ``Annotated`` beside ``Principal``."""
    return _permitted(lambda who: who.role is Role.RECIPIENT and scope in who.scopes)


def owner(right: MemberRight | None = MemberRight.SEE, scope: Scope = Scope.READ) -> Any:
    """The owner, or a member of the household with this right; None for any right."""
    return _permitted(
        lambda who: who.role is Role.OWNER and scope in who.scopes and (right is None or right in who.rights)
    )


def operator(scope: Scope = Scope.READ) -> Any:
    """Whoever runs the service."""
    return _permitted(lambda who: who.role is Role.OPERATOR and scope in who.scopes)


def anybody(scope: Scope | None = None) -> Any:
    """Anybody who is known, of whatever role."""
    return _permitted(lambda who: scope is None or scope in who.scopes)


def person(scope: Scope | None = None) -> Any:
    """A person who is logged in, of whatever role; without a scope for what concerns the own account.

    ``request.scope["state"]["session"]`` is the PersonSession then.
    """
    return _permitted(lambda who: who.account_key is not None and (scope is None or scope in who.scopes))


def person_of(*, recipients: bool) -> Any:
    """A person who is logged in for a recipient, or for a home that this person may see."""
    role = Role.RECIPIENT if recipients else Role.OWNER
    return _permitted(
        lambda who: who.account_key is not None and who.role is role and (recipients or MemberRight.SEE in who.rights)
    )


SCHEMES: Final[tuple[SecurityBase, ...]] = (bearer_scheme, session_scheme)
