"""An owner's own affairs beside grants: homes, what is kept, restriction, objections, who looked."""

from typing import Annotated, Any, cast

import polars as pl
from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from telemetry.access.principal import Principal, Scope
from telemetry.api.asked import Cursor
from telemetry.api.context import Context, context_of
from telemetry.api.formats import json_response
from telemetry.api.own_models import (
    KeepingAsked,
    Me,
    ObjectionAsked,
    Objections,
    OwnDevices,
    OwnSites,
    Reads,
    RecipientList,
    Restrictions,
)
from telemetry.api.paging import Paging, link
from telemetry.api.principals import owner
from telemetry.api.problems import responses
from telemetry.api.routes.owners_data import own_settings
from telemetry.api.settled import recipient_shown, which
from telemetry.errors import Conflict, PartyUnknown
from telemetry.model.sharing import RESOLUTIONS, Keeping, MemberRight, SharingPurpose
from telemetry.model.shown import key_shown, shown_key
from telemetry.privacy.keys import Purpose
from telemetry.store.sharing import Row, Sharing

router = APIRouter(prefix="/me", tags=["owners"])

Ctx = Annotated[Context, Depends(context_of)]
Anyone = Annotated[Principal, owner(None)]
Seeing = Annotated[Principal, owner(MemberRight.SEE)]
Exercising = Annotated[Principal, owner(MemberRight.RIGHTS, Scope.MANAGE)]
Objection = Annotated[
    str, Path(pattern=r"^[a-z_]{1,32}(\.r_[0-9a-f]{16})?$", description="as the list names it", max_length=60)
]


class ListAsked(BaseModel):
    """A page of a list."""

    model_config = ConfigDict(extra="forbid")
    limit: int = Field(100, ge=1, le=1000, description="entries on a page, at most")
    cursor: Cursor | None = Field(None, description="`next` of the page before")


class ReadsAsked(ListAsked):
    """A page of who looked."""

    recipient: Annotated[str | None, Field(pattern=r"^r_[0-9a-f]{16}$")] = Field(None, description="only this one's")


@router.get("", response_model=Me)
async def read_me(principal: Anyone, context: Ctx) -> Response:
    """Whose home, and what whoever asks may do for it."""
    async with context.sharing.open() as sharing:
        restrictions = await sharing.restrictions(principal.key)
    return json_response(
        {
            "owner": shown_key("owner", principal.key),
            "member": principal.member_key is not None,
            "rights": sorted(principal.rights),
            "restricted": any(row["lifted_at"] is None for row in restrictions),
        }
    )


@router.get("/sites", response_model=OwnSites)
async def list_own_sites(principal: Seeing, context: Ctx) -> Response:
    """The owner's homes, by name. That names were opened is in the audit."""
    async with context.sharing.open() as sharing:
        sites = await sharing.sites(principal.key)
    names = await context.vault.reveal(Purpose.SITE_NAME, [(principal.key, site) for site in sites]) if sites else {}
    return json_response({"sites": [{"site": shown_key("site", site), "name": names.get(site)} for site in sites]})


@router.get("/devices", response_model=OwnDevices)
async def list_own_devices(principal: Seeing, context: Ctx) -> Response:
    """All devices, with their real serials."""
    view = await own_settings(context, principal)
    return json_response({"devices": view.devices.select("site", "device", "kind", "serial").to_dicts()})


@router.get("/keeping", response_model=Keeping)
async def read_keeping(principal: Anyone, context: Ctx) -> Response:
    """What may be stored of the home."""
    async with context.sharing.open() as sharing:
        return _keeping(await sharing.keeping(principal.key))


@router.put("/keeping", response_model=Keeping, responses=responses("conflict"))
async def set_keeping(principal: Exercising, context: Ctx, asked: Annotated[KeepingAsked, Body()]) -> Response:
    """Settle what may be stored from now on."""
    async with context.sharing.open() as sharing:
        await sharing.set_keeping(principal.key, Keeping.model_validate(asked.model_dump()))
        return _keeping(await sharing.keeping(principal.key))


def _keeping(keeping: Keeping) -> Response:
    told = keeping.model_dump(mode="json")
    for name in ("classes", "fields", "never"):
        told[name] = None if told[name] is None else sorted(told[name])
    return json_response(told)


@router.get("/recipients", response_model=RecipientList, responses=responses("gone"))
async def list_recipients_to_grant(
    request: Request, principal: Anyone, context: Ctx, asked: Annotated[ListAsked, Query()]
) -> Response:
    """Who may be granted something."""
    limit = asked.limit
    async with context.sharing.open() as sharing:
        found = {one.handle: one for one in await sharing.recipients()}
    handles = pl.DataFrame({"handle": sorted(found)}, schema={"handle": pl.String})
    paging = Paging(context.cursors, principal, ("recipients", limit), asked.cursor)
    shown, following = paging.of(handles, limit)
    told = [recipient_shown(found[handle]) for handle in shown["handle"]]
    return json_response({"recipients": told, "next": following}, link(request, following))


@router.get("/restriction", response_model=Restrictions)
async def read_restriction(principal: Anyone, context: Ctx) -> Response:
    """When processing was or is restricted (GDPR Art. 18)."""
    async with context.sharing.open() as sharing:
        return _restrictions(await sharing.restrictions(principal.key))


@router.post("/restriction", status_code=201, response_model=Restrictions, responses=responses("conflict"))
async def begin_restriction(principal: Exercising, context: Ctx) -> Response:
    """From now on nothing is shown to anybody but the owner."""
    async with context.sharing.open() as sharing:
        try:
            async with sharing.settling() as settlement:
                await settlement.restrict(principal.key)
        except PartyUnknown:
            raise Conflict("a restriction is in force already") from None
        return _restrictions(await sharing.restrictions(principal.key), 201)


@router.delete("/restriction", response_model=Restrictions, responses=responses("conflict"))
async def lift_restriction(principal: Exercising, context: Ctx) -> Response:
    """End the restriction. What was measured meanwhile stays unseen by recipients."""
    async with context.sharing.open() as sharing:
        try:
            async with sharing.settling() as settlement:
                await settlement.lift(principal.key)
        except PartyUnknown:
            raise Conflict("no restriction is in force") from None
        return _restrictions(await sharing.restrictions(principal.key))


def _restrictions(rows: list[Row], status: int = 200) -> Response:
    answer = json_response({"restrictions": rows})
    answer.status_code = status
    return answer


@router.get("/objections", response_model=Objections)
async def list_objections(principal: Anyone, context: Ctx) -> Response:
    """Objections that stand (GDPR Art. 21)."""
    async with context.sharing.open() as sharing:
        return await _objections(sharing, principal)


@router.post("/objections", status_code=201, response_model=Objections, responses=responses("conflict", "not-found"))
async def make_objection(principal: Exercising, context: Ctx, asked: Annotated[ObjectionAsked, Body()]) -> Response:
    """Object to a purpose: no grant for it counts any more, of one recipient or of all."""
    async with context.sharing.open() as sharing:
        key = None if asked.recipient is None else (await sharing.recipient(which(asked.recipient))).recipient_key
        try:
            async with sharing.settling() as settlement:
                await settlement.make_objection(principal.key, asked.purpose, key)
        except PartyUnknown:
            raise Conflict("this objection stands already") from None
        answer = await _objections(sharing, principal)
    answer.status_code = 201
    return answer


@router.delete("/objections/{objection}", response_model=Objections, responses=responses("not-found"))
async def end_objection(objection: Objection, principal: Exercising, context: Ctx) -> Response:
    """End an objection, as narrow as it was made."""
    name, _, recipient = objection.partition(".")
    if name not in set(SharingPurpose):
        raise PartyUnknown("there is no such objection")
    key = key_shown("recipient", recipient) if recipient else None
    async with context.sharing.open() as sharing:
        async with sharing.settling() as settlement:
            await settlement.withdraw_objection(principal.key, SharingPurpose(name), key)
        return await _objections(sharing, principal)


async def _objections(sharing: Sharing, principal: Principal) -> Response:
    told = []
    for row in await sharing.objections(principal.key):
        if row["withdrawn_at"] is not None:
            continue
        recipient = None if row["recipient_key"] is None else await sharing.recipient(row["recipient_key"])
        suffix = "" if recipient is None else f".{shown_key('recipient', recipient.recipient_key)}"
        told.append(
            {
                "objection": f"{row['purpose']}{suffix}",
                "purpose": row["purpose"],
                "recipient": None if recipient is None else recipient_shown(recipient),
                "made_at": row["made_at"],
            }
        )
    return json_response({"objections": told})


@router.get("/reads", response_model=Reads, responses=responses("gone", "not-found"))
async def list_reads(
    request: Request, principal: Anyone, context: Ctx, asked: Annotated[ReadsAsked, Query()]
) -> Response:
    """Who looked, newest first: who, when, which fields, which range."""
    limit, recipient = asked.limit, asked.recipient
    paging = Paging(context.cursors, principal, ("reads", limit, recipient), asked.cursor)
    before = cast("int | None", paging.place())
    key = None if recipient is None else key_shown("recipient", recipient)
    async with context.sharing.open() as sharing:
        rows = await sharing.reads(principal.key, recipient_key=key, before=before, limit=limit + 1)
    more = len(rows) > limit
    following = paging.sealed(rows[limit - 1]["read_key"]) if more else None
    told = {"reads": [_read(row) for row in rows[:limit]], "next": following}
    return json_response(told, link(request, following))


def _read(row: Row) -> dict[str, Any]:
    return {
        "at": row["at"],
        "recipient": row["handle"],
        "purpose": row["purpose"],
        "way": row["way"],
        "fields": row["fields"],
        "resolution": RESOLUTIONS[row["resolution"]],
        "from": row["from_at"],
        "to": row["to_at"],
    }
