"""What recipients ask owners for, each call as a plan (``wire``)."""

from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote

from telemetry.client.settled import Terms
from telemetry.client.wire import Plan, Request, get

_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """A request as its recipient sees it. ``state``: pending, accepted or not_accepted; what is declined, and what
    reached nobody, stays pending until it expires.
    """

    request: str
    state: str
    reason: str
    terms: Terms
    made_at: datetime
    expires_at: datetime
    site: str | None = None
    accepted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation as its recipient sees it. ``state``: open, accepted, revoked or expired."""

    invitation: str
    state: str
    terms: Terms
    made_at: datetime
    expires_at: datetime
    accepted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewInvitation:
    """``code``: what the owner is given; it is told this once."""

    invitation: str
    code: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class _Requests:
    requests: tuple[AccessRequest, ...]


@dataclass(frozen=True, slots=True)
class _Invitations:
    invitations: tuple[Invitation, ...]


def access_requests() -> Plan[tuple[AccessRequest, ...]]:
    """Own requests, in the order made."""
    return (yield get("/access-requests")).as_(_Requests).requests


def ask(
    terms: Terms, reason: str, *, code: str | None = None, site: str | None = None, text: str = ""
) -> Plan[AccessRequest]:
    """Ask whoever made a connection ``code``, or the owner of a ``site`` that is shown. The answer is the same whether
    or not a code reaches anybody. ``reason``: commissioning, fault, service_contract, warranty_claim, tariff, advice
    or application. ``text``: for the owner alone.
    """
    told = {"terms": terms.sent(), "reason": reason, "code": code, "site": site, "text": text or None}
    body = {name: value for name, value in told.items() if value is not None}
    return (yield Request("POST", "/access-requests", body=body)).as_(AccessRequest)


def take_back(request: str) -> Plan[None]:
    """Take a request back: its owner sees it no more."""
    yield Request("DELETE", f"/access-requests/{quote(request, safe='')}")


def invitations() -> Plan[tuple[Invitation, ...]]:
    """Own invitations, in the order made."""
    return (yield get("/invitations")).as_(_Invitations).invitations


def invite(terms: Terms, *, lifetime_s: int = 7 * _DAY_S) -> Plan[NewInvitation]:
    """Propose terms to whoever is given the code."""
    body = {"terms": terms.sent(), "lifetime_s": lifetime_s}
    return (yield Request("POST", "/invitations", body=body)).as_(NewInvitation)


def revoke_invitation(invitation: str) -> Plan[None]:
    """End an invitation that nobody accepted."""
    yield Request("DELETE", f"/invitations/{quote(invitation, safe='')}")
