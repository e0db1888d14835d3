"""How people come in: signing up, logging in, and a new password for who forgot it. Nobody is logged in yet.

Every answer is the same whether an address is known or not. What must come from the service's own pages says so by its
Origin; bodies are JSON, which no form of another site sends.
"""

from contextlib import suppress
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from telemetry.access.logging_in import LoggedIn, Login
from telemetry.access.principal import PersonSession, Principal, Role
from telemetry.access.sealing import DEVICE_COOKIE_DAYS
from telemetry.access.signing_up import NewPerson
from telemetry.access.throttle import Whence
from telemetry.api.context import Context, context_of
from telemetry.api.principals import check_origin, cookie_name, person
from telemetry.api.problems import responses
from telemetry.errors import LoginRefused, PartyUnknown
from telemetry.model.sharing import MemberRight
from telemetry.model.shown import shown_key

router = APIRouter(tags=["auth"])

DEVICE_COOKIE: Final = "__Host-device"
PLAIN_DEVICE_COOKIE: Final = "device"
_DAY_S: Final = 86_400

ContextOf = Annotated[Context, Depends(context_of)]
Email = Annotated[str, Field(min_length=3, max_length=254, examples=["name@example.org"])]
Password = Annotated[SecretStr, Field(min_length=1, max_length=1024, examples=["several words are easy"])]
MailCode = Annotated[SecretStr, Field(max_length=100, description="from the mail")]
Code = Annotated[SecretStr, Field(max_length=40, description="six digits of the authenticator, or a recovery code")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SignUp(_Body):
    """Who wants an account."""

    email: Email
    of_age: bool = Field(
        strict=True, description="the person states to be 18 or older; there are no accounts for others"
    )
    name: str = Field("", max_length=500, description="of the owner; needed without a code")
    code: SecretStr | None = Field(None, max_length=100, description="that whoever runs the service handed out")


class Verify(_Body):
    """The code from the mail, and the password that is to count."""

    code: MailCode
    password: Password


class LoginBody(_Body):
    """Who logs in."""

    email: Email
    password: Password
    code: Code | None = None


class Forgot(_Body):
    """Whose password is forgotten."""

    email: Email


class Reset(_Body):
    """The code from the mail, and the new password."""

    code: MailCode
    password: Password


class Accepted(BaseModel):
    """Taken. A mail says the rest."""

    accepted: bool = True


class SessionShown(BaseModel):
    """Who is logged in. ``csrf`` goes into X-CSRF-Token of every unsafe request."""

    role: Role
    key: str | None = Field(description="the owner's or the recipient's; null for the operator", examples=["o_01…"])
    rights: list[MemberRight] = Field(description="of an owner or a member of the household; empty for others")
    restricted: bool = Field(description="an operator without a second factor may set one up, and nothing else")
    session: str = Field(description="this session's key", examples=["e_00c0ffee00c0ffee"])
    csrf: str
    expires_at: datetime | None = Field(None, description="at a login: when the session ends in any case")


_PUBLIC: Final = responses("invalid-request", "not-permitted", "rate-limited", "unavailable")
_LOGIN: Final = responses(
    "not-authenticated", "second-factor-needed", "invalid-request", "not-permitted", "rate-limited", "unavailable"
)


@router.post("/auth/sign-up", status_code=202, responses=_PUBLIC)
async def sign_up(request: Request, context: ContextOf, body: SignUp) -> Accepted:
    """Ask for an account. A mail holds a code for `/auth/verify`; one who has an account is told so by mail."""
    check_origin(request)
    code = None if body.code is None else body.code.get_secret_value()
    await context.access.signing_up.sign_up(NewPerson(body.email, body.of_age, body.name, code), whence(request))
    return Accepted()


@router.post("/auth/verify", status_code=204, responses=_PUBLIC)
async def verify(request: Request, context: ContextOf, body: Verify) -> Response:
    """Make the account of who reads the mail. Then log in."""
    check_origin(request)
    await context.access.signing_up.verify(body.code.get_secret_value(), body.password.get_secret_value())
    return Response(status_code=204)


@router.post("/auth/login", responses=_LOGIN)
async def login(request: Request, response: Response, context: ContextOf, body: LoginBody) -> SessionShown:
    """Begin a session, in a cookie. With a second factor, `code` is wanted as well: the problem says so."""
    check_origin(request)
    code = None if body.code is None else body.code.get_secret_value()
    asked = Login(body.email, body.password.get_secret_value(), code)
    begun = await context.access.logging_in.login(asked, whence(request))
    session = await context.access.authenticator.person(begun.secret)
    if session is None:
        raise LoginRefused  # ended in this moment
    _set_session(response, context, begun)
    _set_device(response, context, begun.device_cookie)
    return shown_session(session, begun.expires_at)


@router.post("/auth/logout", status_code=204)
async def logout(request: Request, context: ContextOf, principal: Annotated[Principal, person()]) -> Response:
    """End this session."""
    session = current_session(request)
    with suppress(PartyUnknown):  # it was ended meanwhile
        await context.access.sessions.end(principal.account_key or 0, session.session_key)
    response = Response(status_code=204)
    secure = context.config.api.cookie_secure
    response.delete_cookie(cookie_name(context), path="/", secure=secure, httponly=True, samesite="lax")
    return response


@router.get("/auth/session")
async def read_session(request: Request, principal: Annotated[Principal, person()]) -> SessionShown:
    """Who is logged in, and the CSRF token."""
    assert principal.account_key is not None  # noqa: S101 - the route is for people
    return shown_session(current_session(request))


@router.post("/auth/password/forgot", status_code=202, responses=_PUBLIC)
async def forget_password(request: Request, context: ContextOf, body: Forgot) -> Accepted:
    """Ask for a new password. If there is an account, its address is sent a code for `/auth/password/reset`."""
    check_origin(request)
    await context.access.passwords.forgot(body.email, whence(request))
    return Accepted()


@router.post("/auth/password/reset", status_code=204, responses=_PUBLIC)
async def reset_password(request: Request, context: ContextOf, body: Reset) -> Response:
    """Choose a new password with the code from the mail. Ends every session. Then log in."""
    check_origin(request)
    device = await context.access.passwords.reset(body.code.get_secret_value(), body.password.get_secret_value())
    response = Response(status_code=204)
    _set_device(response, context, device)
    return response


def whence(request: Request) -> Whence:
    """Where a request comes from. The address is hashed before it is kept anywhere."""
    name = DEVICE_COOKIE if context_of(request).config.api.cookie_secure else PLAIN_DEVICE_COOKIE
    return Whence(request.client.host if request.client else None, request.cookies.get(name))


def current_session(request: Request) -> PersonSession:
    """Of a route for a ``person()``."""
    session = request.scope["state"]["session"]
    assert isinstance(session, PersonSession)  # noqa: S101 - who is no person was refused
    return session


def shown_session(session: PersonSession, expires_at: datetime | None = None) -> SessionShown:
    """A session as its person sees it."""
    who = session.principal
    return SessionShown(
        role=who.role,
        key=shown_key(who.role.value, who.key) if who.key else None,
        rights=sorted(who.rights) if who.role is Role.OWNER else [],
        restricted=not who.scopes,
        session=shown_key("session", session.session_key),
        csrf=session.csrf,
        expires_at=expires_at,
    )


def _set_session(response: Response, context: Context, begun: LoggedIn) -> None:
    # Without an age: it ends with the browser, and in any case where the database says so.
    secure = context.config.api.cookie_secure
    response.set_cookie(cookie_name(context), begun.secret, path="/", secure=secure, httponly=True, samesite="lax")


def _set_device(response: Response, context: Context, cookie: str) -> None:
    secure = context.config.api.cookie_secure
    name = DEVICE_COOKIE if secure else PLAIN_DEVICE_COOKIE
    age_s = DEVICE_COOKIE_DAYS * _DAY_S
    response.set_cookie(name, cookie, max_age=age_s, path="/", secure=secure, httponly=True, samesite="strict")
