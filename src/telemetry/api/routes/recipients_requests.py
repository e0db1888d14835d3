"""What recipients ask owners for, and where they want to be told of alerts."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Response

from telemetry.access.accounts import checked_email
from telemetry.access.principal import Principal, Scope
from telemetry.access.texts import invitation_mail
from telemetry.api.asking_models import (
    AccessRequestAsked,
    AccessRequestList,
    AccessRequestShown,
    InvitationList,
    InvitationMade,
    NewInvitationShown,
    NewWebhookShown,
    WebhookAsked,
    WebhookList,
    WebhookTested,
)
from telemetry.api.context import Context, context_of
from telemetry.api.formats import as_json, json_response
from telemetry.api.principals import recipient
from telemetry.api.problems import responses
from telemetry.api.terms import TermsAsked, terms_shown
from telemetry.deliver.mail import Mail
from telemetry.errors import InvalidRequest, NotVisible
from telemetry.model.requests import Asked, Invitation
from telemetry.model.sharing import SharingPurpose
from telemetry.model.shown import key_shown, shown_key
from telemetry.store.requests import SeenSite
from telemetry.views.sight import Viewer

router = APIRouter(tags=["recipients"])

Ctx = Annotated[Context, Depends(context_of)]
Reader = Annotated[Principal, recipient(Scope.READ)]
Manager = Annotated[Principal, recipient(Scope.MANAGE)]
RequestName = Annotated[str, Path(pattern=r"^q_[0-9a-f]{16}$", description="as the list names it")]
InvitationName = Annotated[str, Path(pattern=r"^i_[0-9a-f]{16}$", description="as the list names it")]
WebhookName = Annotated[str, Path(pattern=r"^w_[0-9a-f]{16}$", description="as the list names it")]


@router.get("/access-requests", response_model=AccessRequestList)
async def list_access_requests(principal: Reader, context: Ctx) -> Response:
    """Own requests, in the order made."""
    return json_response({"requests": [_asked(one) for one in await context.requests.asked(principal.key)]})


@router.post(
    "/access-requests",
    status_code=201,
    response_model=AccessRequestShown,
    responses=responses("not-found", "rate-limited"),
)
async def make_access_request(
    principal: Manager, context: Ctx, asked: Annotated[AccessRequestAsked, Body()]
) -> Response:
    """Ask an owner. The answer is the same whether or not a code reaches anybody."""
    _permitted(principal, asked.terms)
    to = asked.code if asked.site is None else await _site(context, principal, asked.site)
    assert to is not None  # noqa: S101 - the body has one of both
    made = await context.requests.ask(principal.key, asked.terms.terms, asked.reason, to=to, text=asked.text)
    return _created(_asked(made))


@router.delete("/access-requests/{request}", status_code=204, responses=responses("not-found"))
async def take_back_request(request: RequestName, principal: Manager, context: Ctx) -> Response:
    """Take a request back: its owner sees it no more."""
    await context.requests.take_back(principal.key, key_shown("request", request))
    return Response(status_code=204)


@router.get("/invitations", response_model=InvitationList)
async def list_invitations(principal: Reader, context: Ctx) -> Response:
    """Own invitations, in the order made."""
    found = await context.requests.invitations(principal.key)
    return json_response({"invitations": [_invitation(one) for one in found]})


@router.post("/invitations", status_code=201, response_model=NewInvitationShown, responses=responses("rate-limited"))
async def make_invitation(principal: Manager, context: Ctx, asked: Annotated[InvitationMade, Body()]) -> Response:
    """Propose terms to whoever is given the code. It is shown this once."""
    _permitted(principal, asked.terms)
    lifetime, letters = timedelta(seconds=asked.lifetime_s), context.access.people.letters
    address = None
    if asked.email is not None:
        letters.require()
        address = checked_email(asked.email)
    made = await context.requests.invite(principal.key, asked.terms.terms, lifetime=lifetime)
    if address is not None:
        mail = invitation_mail(address, await _handle(context, principal), made.secret, letters.link_base)

        async def written() -> Mail:
            return mail

        letters.post(written)
    name = shown_key("invitation", made.invitation_key)
    return _created({"invitation": name, "code": made.secret, "expires_at": made.expires_at})


@router.delete("/invitations/{invitation}", status_code=204, responses=responses("not-found"))
async def revoke_invitation(invitation: InvitationName, principal: Manager, context: Ctx) -> Response:
    """End an invitation that nobody accepted."""
    await context.requests.revoke(principal.key, key_shown("invitation", invitation))
    return Response(status_code=204)


@router.get("/webhooks", response_model=WebhookList)
async def list_webhooks(principal: Reader, context: Ctx) -> Response:
    """Own webhooks, oldest first."""
    shown = [
        {
            "webhook": shown_key("webhook", one.webhook_key),
            "purpose": one.purpose,
            "url": one.url,
            "created_at": one.created_at,
            "state": one.state,
            "failing_since": one.failing_since,
            "waiting": one.waiting,
        }
        for one in await context.webhooks.list(principal.key)
    ]
    return json_response({"webhooks": shown})


@router.post("/webhooks", status_code=201, response_model=NewWebhookShown, responses=responses("conflict"))
async def add_webhook(principal: Manager, context: Ctx, asked: Annotated[WebhookAsked, Body()]) -> Response:
    """Have alerts that are shown for a purpose posted to an address. The secret that signs them is shown this once."""
    _of_token(principal, asked.purpose, "body.purpose")
    made = await context.webhooks.add(principal.key, asked.purpose, asked.url)
    return _created({"webhook": shown_key("webhook", made.webhook_key), "secret": made.secret})


@router.delete("/webhooks/{webhook}", status_code=204, responses=responses("not-found"))
async def remove_webhook(webhook: WebhookName, principal: Manager, context: Ctx) -> Response:
    """Nothing is posted any more; what waits is gone."""
    await context.webhooks.remove(principal.key, key_shown("webhook", webhook))
    return Response(status_code=204)


@router.post(
    "/webhooks/{webhook}/test", status_code=202, response_model=WebhookTested, responses=responses("not-found")
)
async def test_webhook(webhook: WebhookName, principal: Manager, context: Ctx) -> Response:
    """Have a test message posted; one that is disabled is enabled again when it takes it."""
    message = await context.webhooks.test(principal.key, key_shown("webhook", webhook))
    return Response(as_json({"message": message}), 202, media_type="application/json")


async def _handle(context: Context, principal: Principal) -> str:
    async with context.sharing.open() as sharing:
        return (await sharing.recipient(principal.key)).handle


async def _site(context: Context, principal: Principal, token: str) -> SeenSite:
    """Whose site it is, if it is shown for any purpose of the token. Raises NotVisible."""
    for purpose in principal.purposes if principal.purposes is not None else SharingPurpose:
        try:
            owner_key, site_key = await context.visibility.site(Viewer(principal.key, purpose), token)
        except NotVisible:
            continue
        return SeenSite(token, owner_key, site_key)
    raise NotVisible


def _permitted(principal: Principal, terms: TermsAsked) -> None:
    _of_token(principal, terms.purpose, "body.terms.purpose")


def _of_token(principal: Principal, purpose: SharingPurpose, where: str) -> None:
    if principal.purposes is not None and purpose not in principal.purposes:
        raise InvalidRequest("the token is not for this purpose", where=where, remedy="name one of its own")


def _created(told: dict[str, Any]) -> Response:
    return Response(as_json(told), 201, media_type="application/json")


def _asked(one: Asked) -> dict[str, Any]:
    return {
        "request": shown_key("request", one.request_key),
        "state": one.state,
        "reason": one.reason,
        "terms": terms_shown(one.terms),
        "site": one.site,
        "made_at": one.made_at,
        "expires_at": one.expires_at,
        "accepted_at": one.accepted_at,
    }


def _invitation(one: Invitation) -> dict[str, Any]:
    return {
        "invitation": shown_key("invitation", one.invitation_key),
        "state": one.state,
        "terms": terms_shown(one.terms),
        "made_at": one.made_at,
        "expires_at": one.expires_at,
        "accepted_at": one.accepted_at,
    }
