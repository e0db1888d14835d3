"""Machines' tokens of whoever asks. A person issues them; a machine may rotate and end its own."""

from datetime import date, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from telemetry.access.principal import Principal, Role, Scope
from telemetry.access.records import Holder
from telemetry.access.tokens import MachineToken
from telemetry.api.principals import anybody, person
from telemetry.api.problems import responses
from telemetry.api.routes.auth import ContextOf
from telemetry.errors import InvalidRequest, NotFound
from telemetry.model.sharing import SharingPurpose
from telemetry.model.shown import key_shown, shown_key

router = APIRouter(tags=["tokens"])

TokenPath = Annotated[str, Path(pattern="^t_[0-9a-f]{16}$", examples=["t_00c0ffee00c0ffee"])]
_KEPT: Final = "what it may be used for"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewToken(_Body):
    """What a token shall be allowed."""

    scopes: list[Scope] = Field(default=[Scope.READ], min_length=1, max_length=8, description=_KEPT)
    purposes: list[SharingPurpose] | None = Field(
        None, min_length=1, max_length=16, description="of a recipient alone: what for; all without"
    )
    days: int = Field(90, ge=1, le=366, strict=True, description="how long it lives")


class Rotation(_Body):
    """How long the old token lives on."""

    overlap_hours: float = Field(24.0, ge=0, le=720, strict=True)


class TokenShown(BaseModel):
    """A token without its secret."""

    token: str = Field(examples=["t_00c0ffee00c0ffee"])
    member: str | None = Field(description="who issued it, of the household; null for the owner and for others")
    scopes: list[Scope]
    purposes: list[SharingPurpose] | None
    issued_at: datetime
    expires_at: datetime
    last_used_on: date | None = Field(description="the day, in UTC")
    revoked: bool
    successor: str | None = Field(description="the token that it was rotated to")


class TokenList(BaseModel):
    """In the order issued."""

    tokens: list[TokenShown]


class TokenIssued(TokenShown):
    """A new token. ``secret`` goes into `Authorization: Bearer`; it is told once and stored nowhere."""

    secret: str = Field(pattern="^tlm_[A-Za-z0-9_-]{43}$")


@router.get("/tokens")
async def list_tokens(context: ContextOf, principal: Annotated[Principal, anybody(Scope.MANAGE)]) -> TokenList:
    """The tokens of whoever asks: a person's owner or recipient; a member's own ones."""
    return TokenList(tokens=[_shown(one) for one in await context.access.tokens.list(_holder(principal))])


@router.post("/tokens", status_code=201, responses=responses("not-found"))
async def issue_own_token(
    context: ContextOf, principal: Annotated[Principal, person(Scope.MANAGE)], body: NewToken
) -> TokenIssued:
    """Issue a token for whom the person acts. A member's has the rights that the member has whenever it is used."""
    if body.purposes is not None and principal.role is not Role.RECIPIENT:
        raise InvalidRequest("a recipient's token alone is bound to purposes", where="body.purposes", remedy="none")
    lifetime = timedelta(days=body.days)
    issued = await context.access.tokens.issue(
        _holder(principal), set(body.scopes), purposes=body.purposes, lifetime=lifetime
    )
    return TokenIssued(**_shown(issued.token).model_dump(), secret=issued.secret)


@router.post("/tokens/{token}/rotate", status_code=201, responses=responses("not-found"))
async def rotate_token(
    context: ContextOf,
    principal: Annotated[Principal, anybody()],
    token: TokenPath,
    body: Rotation | None = None,
) -> TokenIssued:
    """A new token that may do the same for as long; the old one ends after an overlap. A machine rotates its own.

    Who did not get the answer asks again: the token that was lost is revoked then.
    """
    key = key_shown("token", token)
    if principal.account_key is None and key != principal.token_key:
        raise NotFound  # it would be told the secret of one that may do more
    overlap = timedelta(hours=(body or Rotation(overlap_hours=24.0)).overlap_hours)
    issued = await context.access.tokens.rotate(key, _holder(principal), overlap=overlap)
    return TokenIssued(**_shown(issued.token).model_dump(), secret=issued.secret)


@router.delete("/tokens/{token}", status_code=204, responses=responses("not-found"))
async def revoke_token(context: ContextOf, principal: Annotated[Principal, anybody()], token: TokenPath) -> Response:
    """End a token: it is unknown from the next request on. A machine without the scope `manage` ends its own."""
    key = key_shown("token", token)
    if key != principal.token_key and Scope.MANAGE not in principal.scopes:
        raise NotFound
    await context.access.tokens.revoke(key, _holder(principal))
    return Response(status_code=204)


def _holder(principal: Principal) -> Holder:
    return Holder(
        principal.role,
        principal.key if principal.role is Role.OWNER else None,
        principal.member_key,
        principal.key if principal.role is Role.RECIPIENT else None,
    )


def _shown(token: MachineToken) -> TokenShown:
    member, successor, purposes = token.holder.member_key, token.successor_key, token.purposes
    return TokenShown(
        token=shown_key("token", token.token_key),
        member=None if member is None else shown_key("member", member),
        scopes=sorted(token.scopes),
        purposes=None if purposes is None else sorted(purposes),
        issued_at=token.issued_at,
        expires_at=token.expires_at,
        last_used_on=token.last_used_on,
        revoked=token.revoked_at is not None,
        successor=None if successor is None else shown_key("token", successor),
    )
