"""What a person does with the own account: password, second factor, sessions."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from telemetry.access.principal import Principal
from telemetry.api.principals import person
from telemetry.api.problems import responses
from telemetry.api.routes.auth import Code, ContextOf, Password, current_session
from telemetry.errors import InvalidRequest, LoginRefused
from telemetry.model.shown import key_shown, shown_key

router = APIRouter(tags=["auth"])

Person = Annotated[Principal, person()]
_SENSITIVE: Final = responses("invalid-request", "rate-limited", "unavailable")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PasswordChange(_Body):
    """The present password and the new one."""

    password: Password
    new_password: Password


class Confirmed(_Body):
    """The password once more."""

    password: Password


class CodeGiven(_Body):
    """What the authenticator shows."""

    code: Annotated[SecretStr, Field(max_length=40, description="six digits of the authenticator")]


class BothFactors(_Body):
    """The password and a code."""

    password: Password
    code: Code


class ProposedFactor(BaseModel):
    """What goes into an authenticator. Told once."""

    secret: str = Field(description="base32, to be typed")
    uri: str = Field(description="for a QR code", examples=["otpauth://totp/…"])


class RecoveryCodes(BaseModel):
    """Each stands in for the authenticator once. Told once."""

    codes: list[str] = Field(min_length=10, max_length=10)


class SessionLine(BaseModel):
    """One session."""

    session: str = Field(examples=["e_00c0ffee00c0ffee"])
    current: bool
    begun_at: datetime
    seen_at: datetime = Field(description="to the minute")
    expires_at: datetime
    second_factor: bool


class SessionList(BaseModel):
    """The newest first."""

    sessions: list[SessionLine]


@router.post("/auth/password", status_code=204, responses=_SENSITIVE)
async def change_password(request: Request, context: ContextOf, principal: Person, body: PasswordChange) -> Response:
    """Another password. Ends all other sessions and outstanding resets."""
    with _wrong():
        await context.access.passwords.change(
            *_who(request, principal), body.password.get_secret_value(), body.new_password.get_secret_value()
        )
    return Response(status_code=204)


@router.post("/auth/totp", responses=_SENSITIVE)
async def propose_totp(request: Request, context: ContextOf, principal: Person, body: Confirmed) -> ProposedFactor:
    """A new secret for an authenticator. It counts once `/auth/totp/confirm` saw a code of it."""
    with _wrong():
        proposed = await context.access.second_factor.propose(
            *_who(request, principal), body.password.get_secret_value()
        )
    return ProposedFactor(secret=proposed.secret, uri=proposed.uri)


@router.post("/auth/totp/confirm", responses=_SENSITIVE)
async def confirm_totp(request: Request, context: ContextOf, principal: Person, body: CodeGiven) -> RecoveryCodes:
    """Switch the second factor on. Ends all other sessions; ten recovery codes are told once."""
    with _wrong():
        codes = await context.access.second_factor.confirm(*_who(request, principal), body.code.get_secret_value())
    return RecoveryCodes(codes=codes)


@router.delete("/auth/totp", status_code=204, responses=_SENSITIVE)
async def remove_totp(request: Request, context: ContextOf, principal: Person, body: BothFactors) -> Response:
    """Switch the second factor off; the request has a body, with both factors. Ends all other sessions."""
    with _wrong():
        await context.access.second_factor.remove(
            *_who(request, principal), body.password.get_secret_value(), body.code.get_secret_value()
        )
    return Response(status_code=204)


@router.post("/auth/recovery-codes", responses=_SENSITIVE)
async def renew_recovery_codes(
    request: Request, context: ContextOf, principal: Person, body: BothFactors
) -> RecoveryCodes:
    """Ten new recovery codes; those before count no longer. Wants both factors."""
    with _wrong():
        codes = await context.access.second_factor.renew_codes(
            *_who(request, principal), body.password.get_secret_value(), body.code.get_secret_value()
        )
    return RecoveryCodes(codes=codes)


@router.get("/auth/sessions")
async def list_sessions(request: Request, context: ContextOf, principal: Person) -> SessionList:
    """The person's sessions."""
    account_key, current = _who(request, principal)
    lines = [
        SessionLine(
            session=shown_key("session", one.session_key),
            current=one.session_key == current,
            begun_at=one.begun_at,
            seen_at=one.seen_at,
            expires_at=one.expires_at,
            second_factor=one.second_factor,
        )
        for one in await context.access.sessions.list(account_key)
    ]
    return SessionList(sessions=lines)


@router.delete("/auth/sessions/{session}", status_code=204, responses=responses("not-found"))
async def end_session(
    request: Request,
    context: ContextOf,
    principal: Person,
    session: Annotated[str, Path(pattern="^e_[0-9a-f]{16}$", examples=["e_00c0ffee00c0ffee"])],
) -> Response:
    """End one of the person's sessions, be it this one."""
    account_key, _ = _who(request, principal)
    await context.access.sessions.end(account_key, key_shown("session", session))
    return Response(status_code=204)


def _who(request: Request, principal: Principal) -> tuple[int, int]:
    return principal.account_key or 0, current_session(request).session_key


@contextmanager
def _wrong() -> Iterator[None]:
    """Who is logged in stays so: a wrong password is a wrong field here."""
    try:
        yield
    except LoginRefused:
        raise InvalidRequest("the password or the code is wrong", where="body", remedy="try again") from None
