"""What owners are told of alerts, and who wants mails of them: off until a person asks for them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from telemetry.access.principal import Principal
from telemetry.api import formats
from telemetry.api.asked import Instant, NameList, TimeZone, names_of, zone_of
from telemetry.api.asking_models import AlertShown
from telemetry.api.context import Context, context_of
from telemetry.api.principals import owner, person_of
from telemetry.api.problems import responses
from telemetry.errors import InvalidRequest
from telemetry.model.sharing import MemberRight, SharingPurpose
from telemetry.views import query as views_query
from telemetry.views.alerts import alerts
from telemetry.views.sight import Viewer

router = APIRouter()

Ctx = Annotated[Context, Depends(context_of)]
Seeing = Annotated[Principal, owner(MemberRight.SEE)]
RecipientPerson = Annotated[Principal, person_of(recipients=True)]
OwnerPerson = Annotated[Principal, person_of(recipients=False)]
_OWN = SharingPurpose.MONITORING  # an owner's own look is for no purpose; a query names one


class OwnAlertsAsked(BaseModel):
    """Which alerts."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    since: Instant = Field(alias="from", description="open at this instant or later", examples=["2026-11-24T00:00:00Z"])
    until: Instant = Field(alias="to", description="begun before this instant", examples=["2026-11-25T00:00:00Z"])
    sites: NameList | None = Field(None, description="only of these sites")
    devices: NameList | None = Field(None, description="only of these devices")
    open: bool = Field(default=False, description="only those that are open")
    tz: TimeZone = Field("UTC", description="IANA time zone in which times are written; it changes nothing else")


class OwnAlerts(BaseModel):
    """Alerts in the order of names."""

    alerts: list[AlertShown]


class MailedPurposes(BaseModel):
    """The purposes for which the account is told of alerts by mail."""

    model_config = ConfigDict(extra="forbid")
    purposes: list[SharingPurpose] = Field(max_length=16)


class MailedHome(BaseModel):
    """Whether the account is told of the home's alerts by mail."""

    model_config = ConfigDict(extra="forbid")
    wanted: bool = Field(strict=True)


@router.get("/me/alerts", response_model=OwnAlerts, responses=responses("not-found"), tags=["owners"])
async def list_home_alerts(principal: Seeing, context: Ctx, asked: Annotated[OwnAlertsAsked, Query()]) -> Response:
    """All alerts of the own home, as far as they lie in the range."""
    if not asked.since < asked.until:
        raise InvalidRequest("the range is empty", where="query.to", remedy="it lies after `from`")
    query = views_query.Query(
        _OWN,
        asked.since,
        asked.until,
        sites=names_of(asked.sites),
        devices=names_of(asked.devices),
        timezone=zone_of(asked.tz),
    )
    found = await alerts(context.views, Viewer(owner_key=principal.key), query, open_only=asked.open)
    return formats.json_response({"alerts": formats.rows_of(found)})


@router.get("/alert-mails", tags=["recipients"])
async def read_alert_mails(principal: RecipientPerson, context: Ctx) -> MailedPurposes:
    """For which purposes this account is told of alerts by mail."""
    return MailedPurposes(purposes=sorted(await _purposes(context, principal)))


@router.put("/alert-mails", responses=responses("unavailable"), tags=["recipients"])
async def set_alert_mails(principal: RecipientPerson, context: Ctx, body: MailedPurposes) -> MailedPurposes:
    """Be told of alerts by mail for these purposes, and for no others. What is not shared is not told."""
    wanted, before = set(body.purposes), await _purposes(context, principal)
    _check_configured(context, anything=bool(wanted))
    for purpose in sorted(wanted - before):
        await context.alert_mails.want(_account(principal), recipient_key=principal.key, purpose=purpose)
    for purpose in sorted(before - wanted):
        await context.alert_mails.end(_account(principal), purpose)
    return MailedPurposes(purposes=sorted(wanted))


@router.get("/me/alert-mails", tags=["owners"])
async def read_home_alert_mails(principal: OwnerPerson, context: Ctx) -> MailedHome:
    """Whether this account is told of the home's alerts by mail."""
    return MailedHome(wanted=None in await context.alert_mails.wanted(_account(principal)))


@router.put("/me/alert-mails", responses=responses("unavailable"), tags=["owners"])
async def set_home_alert_mails(principal: OwnerPerson, context: Ctx, body: MailedHome) -> MailedHome:
    """Be told of the home's alerts by mail, or no longer."""
    _check_configured(context, anything=body.wanted)
    if body.wanted:
        await context.alert_mails.want(_account(principal), owner_key=principal.key)
    else:
        await context.alert_mails.end(_account(principal))
    return body


async def _purposes(context: Context, principal: Principal) -> set[SharingPurpose]:
    return {purpose for purpose in await context.alert_mails.wanted(_account(principal)) if purpose is not None}


def _account(principal: Principal) -> int:
    assert principal.account_key is not None  # noqa: S101 - the routes are for persons
    return principal.account_key


def _check_configured(context: Context, *, anything: bool) -> None:
    """Raises NotConfigured: whoever asks for mails must know that none can come."""
    if anything:
        context.access.people.letters.require()
