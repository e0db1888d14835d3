"""An owner's grants: listed, made, changed from a known version, withdrawn; each with its signed receipt."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Response

from telemetry.access.principal import Principal, Scope
from telemetry.api.context import Context, context_of
from telemetry.api.formats import json_response
from telemetry.api.own_models import GrantAsked, GrantChange, GrantHistory, OwnGrant, OwnGrants, Receipt, Settled
from telemetry.api.principals import owner
from telemetry.api.problems import ProblemError, responses
from telemetry.api.settled import etag, grant_shown, open_recipient, own_versions, sees, settled
from telemetry.errors import InvalidRequest
from telemetry.model.sharing import MemberRight
from telemetry.model.shown import key_shown, shown_key

router = APIRouter(prefix="/me/grants", tags=["owners"])

Ctx = Annotated[Context, Depends(context_of)]
Anyone = Annotated[Principal, owner(None)]
Sharer = Annotated[Principal, owner(MemberRight.SHARE, Scope.MANAGE)]
GrantName = Annotated[str, Path(pattern=r"^c_[0-9a-f]{16}$", description="as the list names it")]
IfMatch = Annotated[
    str | None, Header(description="the ETag of the grant as it was read, or *: whatever it is by now", max_length=40)
]
_VERSION = re.compile(r'"([1-9][0-9]{0,8})"')
_TAGGED: dict[int | str, dict[str, Any]] = {
    200: {"headers": {"ETag": {"description": "names this version, for If-Match", "schema": {"type": "string"}}}}
}


@router.get("", response_model=OwnGrants)
async def list_own_grants(principal: Anyone, context: Ctx) -> Response:
    """Grants that are not withdrawn, and in sentences what each recipient sees by them."""
    async with context.sharing.open() as sharing:
        grants = await sharing.grants(principal.key)
        recipients = {key: await sharing.recipient(key) for key in sorted({one.recipient_key for one in grants})}
        told = {
            "grants": [grant_shown(grant, recipients[grant.recipient_key]) for grant in grants],
            "sees": {
                shown_key("recipient", key): await sees(sharing, principal.key, recipient)
                for key, recipient in recipients.items()
            },
        }
    return json_response(told)


@router.post(
    "", status_code=201, response_model=Settled, responses=responses("conflict", "solar-unconfirmed", "not-found")
)
async def make_grant(principal: Sharer, context: Ctx, asked: Annotated[GrantAsked, Body()]) -> Response:
    """Grant something. In force when this is answered; the receipt says what was agreed to."""
    async with context.sharing.open() as sharing:
        recipient = await open_recipient(sharing, asked.recipient)
        grant = await sharing.set_grant(
            principal.key,
            recipient.recipient_key,
            asked.terms.terms,
            confirmed_km=asked.confirm_solar_km,
            policy=asked.policy,
        )
        answer = json_response(await settled(sharing, grant))
    answer.status_code = 201
    answer.headers["Location"] = f"/api/v1/me/grants/{shown_key('grant', grant.grant_key)}"
    answer.headers["ETag"] = etag(grant.version)
    return answer


@router.get("/{grant}", response_model=OwnGrant, responses=_TAGGED | responses("not-found"))
async def read_own_grant(grant: GrantName, principal: Anyone, context: Ctx) -> Response:
    """One grant as it is now, be it withdrawn. Its ETag is its version."""
    async with context.sharing.open() as sharing:
        last = (await own_versions(sharing, principal.key, key_shown("grant", grant)))[-1]
        told = grant_shown(last, await sharing.recipient(last.recipient_key))
    return json_response(told, {"ETag": etag(last.version)})


@router.put(
    "/{grant}",
    response_model=Settled,
    responses=_TAGGED
    | responses("conflict", "solar-unconfirmed", "not-found", "precondition-failed", "precondition-required"),
)
async def change_grant(
    grant: GrantName,
    principal: Sharer,
    context: Ctx,
    asked: Annotated[GrantChange, Body()],
    if_match: IfMatch = None,
) -> Response:
    """Settle all terms of a grant anew. If-Match names the version that this is a change of."""
    version, key = _version(if_match), key_shown("grant", grant)
    async with context.sharing.open() as sharing:
        last = (await own_versions(sharing, principal.key, key))[-1]
        async with sharing.settling() as settlement:
            if version is not None:
                await settlement.expect(principal.key, key, version)
            changed = await settlement.set_grant(
                principal.key,
                last.recipient_key,
                asked.terms.terms,
                confirmed_km=asked.confirm_solar_km,
                grant_key=key,
                policy=asked.policy,
            )
        return json_response(await settled(sharing, changed), {"ETag": etag(changed.version)})


@router.delete("/{grant}", response_model=Settled, responses=responses("not-found"))
async def withdraw_grant(grant: GrantName, principal: Sharer, context: Ctx) -> Response:
    """Withdraw a grant for good, whatever its version. In force when this is answered."""
    async with context.sharing.open() as sharing:
        (ended,) = await sharing.withdraw(principal.key, grant_key=key_shown("grant", grant))
        return json_response(await settled(sharing, ended))


@router.get("/{grant}/history", response_model=GrantHistory, responses=responses("not-found"))
async def read_grant_history(grant: GrantName, principal: Anyone, context: Ctx) -> Response:
    """Every version of a grant: what was allowed when."""
    async with context.sharing.open() as sharing:
        versions = await own_versions(sharing, principal.key, key_shown("grant", grant))
        recipient = await sharing.recipient(versions[-1].recipient_key)
    return json_response({"versions": [grant_shown(one, recipient) for one in versions]})


@router.get("/{grant}/receipt", response_model=Receipt, responses=responses("not-found"))
async def read_receipt(
    grant: GrantName, principal: Anyone, context: Ctx, version: Annotated[int | None, Query(ge=1, le=10**9)] = None
) -> Response:
    """The signed receipt of a version, the newest without: a compact JWS that others can check."""
    key = key_shown("grant", grant)
    async with context.sharing.open() as sharing:
        await own_versions(sharing, principal.key, key)
        return json_response({"receipt": await sharing.receipt(key, version)})


def _version(if_match: str | None) -> int | None:
    """The version that a change starts from; None for any."""
    if if_match is None:
        raise ProblemError("precondition-required")
    if if_match.strip() == "*":
        return None
    match = _VERSION.fullmatch(if_match.strip())
    if match is None:
        raise InvalidRequest("If-Match holds one ETag of this grant, or *", where="header.if-match")
    return int(match[1])
