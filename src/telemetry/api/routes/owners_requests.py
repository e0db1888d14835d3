"""What recipients ask an owner for, and how it answers. Nobody else answers for it, and the recipient is told
nothing but what is granted (decision 0071).
"""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Response

from telemetry.access.principal import Principal, Scope
from telemetry.api.context import Context, context_of
from telemetry.api.formats import json_response
from telemetry.api.own_models import (
    Acceptance,
    BlockAsked,
    Blocks,
    ConnectionCode,
    InvitationAcceptance,
    InvitationAsked,
    InvitationShown,
    RequestsReceived,
    Settled,
)
from telemetry.api.principals import owner
from telemetry.api.problems import responses
from telemetry.api.settled import recipient_shown, settled, which, would_see
from telemetry.api.terms import terms_shown
from telemetry.model.sharing import MemberRight
from telemetry.model.shown import key_shown, shown_key
from telemetry.privacy.keys import Purpose
from telemetry.store.deciding import Received
from telemetry.store.sharing import Sharing

router = APIRouter(prefix="/me", tags=["owners"])

Ctx = Annotated[Context, Depends(context_of)]
Reader = Annotated[Principal, owner(MemberRight.SHARE)]
Sharer = Annotated[Principal, owner(MemberRight.SHARE, Scope.MANAGE)]
RequestName = Annotated[str, Path(pattern=r"^q_[0-9a-f]{16}$", description="as the list names it")]
RecipientKey = Annotated[str, Path(pattern=r"^r_[0-9a-f]{16}$")]
_ACCEPTING = responses("conflict", "solar-unconfirmed", "not-found")


@router.get("/access-requests", response_model=RequestsReceived)
async def list_received_requests(principal: Reader, context: Ctx) -> Response:
    """Open requests, with what each recipient would see if it were accepted as asked."""
    async with context.sharing.open() as sharing:
        received = await sharing.received(principal.key)
        says = [await would_see(sharing, principal.key, one.recipient, one.terms) for one in received]
    sealed = [(principal.key, one.request_key) for one in received if one.has_text]
    texts = await context.vault.reveal(Purpose.REQUEST_TEXT, sealed) if sealed else {}
    told = [_request(one, each, texts.get(one.request_key)) for one, each in zip(received, says, strict=True)]
    return json_response({"requests": told})


@router.post("/access-requests/{request}/accept", response_model=Settled, responses=_ACCEPTING)
async def accept_request(
    request: RequestName, principal: Sharer, context: Ctx, asked: Annotated[Acceptance, Body()]
) -> Response:
    """Grant what was asked, or less. In force when this is answered."""
    async with context.sharing.open() as sharing:
        async with sharing.settling() as settlement:
            grant = await settlement.accept(
                principal.key,
                key_shown("request", request),
                None if asked.terms is None else asked.terms.terms,
                confirmed_km=asked.confirm_solar_km,
                policy=asked.policy,
            )
        return json_response(await settled(sharing, grant))


@router.post("/access-requests/{request}/decline", status_code=204, responses=responses("not-found"))
async def decline_request(request: RequestName, principal: Sharer, context: Ctx) -> Response:
    """Put a request away. Its recipient is not told."""
    async with context.sharing.open() as sharing, sharing.settling() as settlement:
        await settlement.decline(principal.key, key_shown("request", request))
    return Response(status_code=204)


@router.get("/access-blocks", response_model=Blocks)
async def list_blocks(principal: Reader, context: Ctx) -> Response:
    """Whose requests are not shown."""
    async with context.sharing.open() as sharing:
        return await _blocks(sharing, principal)


@router.post("/access-blocks", status_code=201, response_model=Blocks, responses=responses("not-found"))
async def block_recipient(principal: Sharer, context: Ctx, asked: Annotated[BlockAsked, Body()]) -> Response:
    """See no more requests of a recipient. It is not told; what is granted to it stays granted."""
    async with context.sharing.open() as sharing:
        recipient = await sharing.recipient(which(asked.recipient))
        async with sharing.settling() as settlement:
            await settlement.block(principal.key, recipient.recipient_key)
        answer = await _blocks(sharing, principal)
    answer.status_code = 201
    return answer


@router.delete("/access-blocks/{recipient}", response_model=Blocks, responses=responses("not-found"))
async def unblock_recipient(recipient: RecipientKey, principal: Sharer, context: Ctx) -> Response:
    """See a recipient's requests again."""
    async with context.sharing.open() as sharing:
        async with sharing.settling() as settlement:
            await settlement.unblock(principal.key, key_shown("recipient", recipient))
        return await _blocks(sharing, principal)


@router.post("/connection-codes", status_code=201, response_model=ConnectionCode)
async def make_connection_code(principal: Sharer, context: Ctx) -> Response:
    """A code to be told to one recipient, by which it asks. It works once, for an hour; the newest three work."""
    async with context.sharing.open() as sharing, sharing.settling() as settlement:
        code, until = await settlement.connection_code(principal.key, context.codes)
    answer = json_response({"code": code, "expires_at": until})
    answer.status_code = 201
    return answer


@router.post("/invitations/look", response_model=InvitationShown, responses=responses("not-found"))
async def look_at_invitation(principal: Reader, context: Ctx, asked: Annotated[InvitationAsked, Body()]) -> Response:
    """What an invitation proposes, before anything is agreed to."""
    async with context.sharing.open() as sharing:
        async with sharing.settling() as settlement:
            proposed = await settlement.proposed(asked.code)
        says = await would_see(sharing, principal.key, proposed.recipient, proposed.terms)
    return json_response(
        {
            "recipient": recipient_shown(proposed.recipient),
            "terms": terms_shown(proposed.terms),
            "says": says,
            "expires_at": proposed.expires_at,
        }
    )


@router.post("/invitations/accept", response_model=Settled, responses=_ACCEPTING)
async def accept_invitation(
    principal: Sharer, context: Ctx, asked: Annotated[InvitationAcceptance, Body()]
) -> Response:
    """Grant what an invitation proposes, or less. In force when this is answered; it cannot be used again."""
    async with context.sharing.open() as sharing:
        async with sharing.settling() as settlement:
            grant = await settlement.accept_invitation(
                principal.key,
                asked.code,
                None if asked.terms is None else asked.terms.terms,
                confirmed_km=asked.confirm_solar_km,
                policy=asked.policy,
            )
        return json_response(await settled(sharing, grant))


def _request(received: Received, says: list[str], text: str | None) -> dict[str, Any]:
    return {
        "request": shown_key("request", received.request_key),
        "recipient": recipient_shown(received.recipient),
        "reason": received.reason,
        "text": text,
        "terms": terms_shown(received.terms),
        "says": says,
        "made_at": received.made_at,
        "expires_at": received.expires_at,
    }


async def _blocks(sharing: Sharing, principal: Principal) -> Response:
    rows = await sharing.blocked(principal.key)
    told = [dict(row) | {"recipient": shown_key("recipient", row["recipient_key"])} for row in rows]
    for row in told:
        del row["recipient_key"]
    return json_response({"blocked": told})
