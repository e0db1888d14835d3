"""What an owner's routes have in common: grants as they are shown, and what they come to in sentences."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from telemetry.api.terms import terms_shown
from telemetry.errors import PartyUnknown
from telemetry.model.sharing import Grant, GrantState, GrantTerms
from telemetry.model.shown import key_shown, shown_key
from telemetry.privacy.explain import Situation, describe, explain
from telemetry.store.settling import Recipient
from telemetry.store.sharing import Sharing


def which(name: str) -> int | str:
    """A recipient's key where it is written as one, a handle otherwise."""
    return key_shown("recipient", name) if name.startswith("r_") else name


async def open_recipient(sharing: Sharing, name: str) -> Recipient:
    """A recipient that may be granted something. Raises PartyUnknown for unknown and closed ones alike."""
    found = await sharing.recipient(which(name))
    if found.closed_at is not None:
        raise PartyUnknown("the recipient is unknown or closed")
    return found


def recipient_shown(recipient: Recipient) -> dict[str, Any]:
    """As RecipientShown."""
    return {
        "recipient": shown_key("recipient", recipient.recipient_key),
        "handle": recipient.handle,
        "kind": recipient.kind,
    }


def grant_shown(grant: Grant, recipient: Recipient) -> dict[str, Any]:
    """As OwnGrant."""
    return {
        "grant": shown_key("grant", grant.grant_key),
        "version": grant.version,
        "state": grant.state,
        "recipient": recipient_shown(recipient),
        "terms": terms_shown(grant.terms),
        "policy": grant.policy,
        "recorded_at": grant.recorded_at,
        "says": describe(grant),
    }


def etag(version: int) -> str:
    """Of a grant that is read alone: its version. What a change names in If-Match."""
    return f'"{version}"'


async def situation(sharing: Sharing, owner_key: int, recipient: Recipient) -> Situation:
    """All that decides what the recipient sees of the owner now."""
    now = await sharing.now()
    return Situation(
        owner_key=owner_key,
        handle=recipient.handle,
        now=now,
        grants=await sharing.grants(owner_key, recipient.recipient_key),
        standing=await sharing.standing(owner_key, recipient, now),
        keeping=await sharing.keeping(owner_key),
        sites=await sharing.sites(owner_key),
    )


async def sees(sharing: Sharing, owner_key: int, recipient: Recipient) -> list[str]:
    """What the recipient sees of the owner now, in sentences."""
    return explain(await situation(sharing, owner_key, recipient))


async def would_see(sharing: Sharing, owner_key: int, recipient: Recipient, terms: GrantTerms) -> list[str]:
    """What it would see if these terms were granted, by themselves: beside whatever stands."""
    now = await situation(sharing, owner_key, recipient)
    return explain(replace(now, grants=[_as_if(terms, owner_key, recipient, now)], proposed=True))


def _as_if(terms: GrantTerms, owner_key: int, recipient: Recipient, now: Situation) -> Grant:
    start = now.now if terms.start is None else max(terms.start, now.now)
    filled = terms.model_copy(update={"start": start, "data_from": terms.data_from or start})
    return Grant(
        grant_key=0,
        version=1,
        owner_key=owner_key,
        recipient_key=recipient.recipient_key,
        state=GrantState.ACTIVE,
        terms=filled,
        epoch=1,
        policy="",
        recorded_at=now.now,
    )


async def settled(sharing: Sharing, grant: Grant) -> dict[str, Any]:
    """As Settled, of a version that was just recorded."""
    recipient = await sharing.recipient(grant.recipient_key)
    return {
        "grant": grant_shown(grant, recipient),
        "receipt": await sharing.receipt(grant.grant_key, grant.version),
        "sees": await sees(sharing, grant.owner_key, recipient),
    }


async def own_versions(sharing: Sharing, owner_key: int, grant_key: int) -> Sequence[Grant]:
    """Every version of a grant of this owner. Raises PartyUnknown for another's, or none."""
    found = [one for one in await sharing.history(owner_key) if one.grant_key == grant_key]
    if not found:
        raise PartyUnknown("there is no such grant")
    return found
