"""A settings file against what stands: what would change, and the change itself, all of it or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from telemetry.errors import InputError, PartyUnknown, SharingError
from telemetry.model.sharing import Grant, GrantTerms
from telemetry.model.shown import key_shown, shown_key
from telemetry.store.granting import Stored
from telemetry.store.settings_file import FileGrant, FileOwner, SettingsFile, plain_keeping, plain_terms, written
from telemetry.store.settling import Recipient
from telemetry.store.sharing import Settlement, Sharing


@dataclass(frozen=True, slots=True)
class Change:
    """What the file changes: ``what`` is keeping, make, change or withdraw; before and after as in the file."""

    owner: str
    what: str
    recipient: str = ""
    grant: str = ""
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people: one line for a grant made or withdrawn, one for each setting that changes otherwise."""
        purpose = (self.after or self.before).get("purpose", "")
        names = sorted(self.before.keys() | self.after.keys())
        differing = [name for name in names if self.before.get(name) != self.after.get(name)]
        if self.what in {"make", "withdraw"}:
            sign, terms = ("+", self.after) if self.what == "make" else ("-", self.before)
            told = ", ".join(f"{name} {_shown(value)}" for name, value in terms.items() if name != "purpose")
            return [f"{sign} {self.owner} → {self.recipient} for {purpose}: {told}"]
        where = f"→ {self.recipient} for {purpose} ({self.grant})" if self.what == "change" else "keeping"
        values = [(name, _shown(self.before.get(name)), _shown(self.after.get(name))) for name in differing]
        return [f"~ {self.owner} {where}: {name} {before} → {after}" for name, before, after in values]


async def rehearse(sharing: Sharing, file: SettingsFile) -> list[Change]:
    """Do all of it and undo it: every refusal comes up, nothing changes. What would change."""
    async with sharing.rehearsing() as settlement:
        return await _settle(settlement, file)


async def apply(sharing: Sharing, file: SettingsFile, expected: Sequence[Change]) -> list[Change]:
    """Do all of it in one transaction, if it changes exactly what ``rehearse`` said.

    Raises:
        SharingError: something was changed meanwhile, or a setting cannot be; nothing of the file is in force then.

    """
    async with sharing.settling() as settlement:
        changes = await _settle(settlement, file)
        if changes != list(expected):
            raise SharingError("settings were changed meanwhile", remedy="look at the difference again")
    return changes


async def export(sharing: Sharing, owner_keys: Sequence[int]) -> str:
    """What stands for these owners as a settings file; applied again, it changes nothing."""
    owners = {}
    for owner_key in owner_keys:
        async with sharing.settling() as settlement:
            held = await settlement.hold(owner_key)
            standing = await settlement.standing_grants(owner_key, held.at)
            grants = []
            for stored in standing:
                recipient = await sharing.recipient(stored.grant.recipient_key)
                grants.append((stored.grant, recipient.handle, stored.confirmed_km))
            owners[owner_key] = (await settlement.keeping(owner_key), grants)
    return written(owners)


async def _settle(settlement: Settlement, file: SettingsFile) -> list[Change]:
    changes: list[Change] = []
    by_key = sorted((key_shown("owner", name), name, owner) for name, owner in file.owners.items())
    for key, name, owner in by_key:
        try:
            changes += await _settle_owner(settlement, key, owner)
            await settlement.judge()
        except SharingError as error:
            error.args = (f"{name}: {error.args[0]}",)
            raise
    return changes


async def _settle_owner(settlement: Settlement, owner_key: int, owner: FileOwner) -> list[Change]:
    """Keeping first, then what ends, then what is made: no grant is judged beside one that the file ends."""
    changes: list[Change] = []
    name = shown_key("owner", owner_key)
    held = await settlement.hold(owner_key)
    if owner.keeping is not None:
        before = await settlement.keeping(owner_key)
        if before != owner.keeping:
            changes.append(Change(name, "keeping", before=plain_keeping(before), after=plain_keeping(owner.keeping)))
            await settlement.set_keeping(owner_key, owner.keeping)
    if owner.grants is None:
        return changes
    recipients = {one.recipient: await settlement.recipient(one.recipient) for one in owner.grants}
    standing = await settlement.standing_grants(owner_key, held.at)
    pairs, ending = matched(standing, owner.grants, recipients)
    changes += [await _withdraw(settlement, name, stored) for stored in ending]
    for stored_or_none, wanted in pairs:
        recipient = recipients[wanted.recipient]
        if stored_or_none is None or not _same(stored_or_none, wanted):
            changes.append(await _set(settlement, name, recipient, stored_or_none, wanted))
    return changes


async def _withdraw(settlement: Settlement, owner: str, stored: Stored) -> Change:
    grant = stored.grant
    recipient = await settlement.recipient(grant.recipient_key)
    await settlement.withdraw(grant.owner_key, grant.grant_key)
    return Change(owner, "withdraw", recipient.handle, shown_key("grant", grant.grant_key), before=_with_km(stored))


async def _set(
    settlement: Settlement, owner: str, recipient: Recipient, stored: Stored | None, wanted: FileGrant
) -> Change:
    grant = stored.grant if stored else None
    made = await settlement.set_grant(
        key_shown("owner", owner),
        recipient.recipient_key,
        wanted.terms,
        confirmed_km=wanted.confirm_solar_km,
        grant_key=grant.grant_key if grant else None,
    )
    after = plain_terms(wanted.terms)
    if wanted.confirm_solar_km is not None:
        after["confirm_solar_km"] = wanted.confirm_solar_km
    if grant is None or stored is None:
        return Change(owner, "make", recipient.handle, after=after)
    # What the file leaves open is what the new version came to: only what was said can be expected again.
    if made.terms.data_from == grant.terms.data_from:
        after.setdefault("data_from", plain_terms(grant.terms)["data_from"])
    else:
        after.setdefault("data_from", "now")
    after.setdefault("start", plain_terms(grant.terms)["start"])
    return Change(
        owner, "change", recipient.handle, shown_key("grant", grant.grant_key), before=_with_km(stored), after=after
    )


def matched(
    standing: Sequence[Stored], wanted: Sequence[FileGrant], recipients: dict[str, Recipient]
) -> tuple[list[tuple[Stored | None, FileGrant]], list[Stored]]:
    """Pair what is wanted with what stands, and what stands without being wanted.

    First by the grant named, then equal ones, then in the order made, within recipient and purpose.

    Raises:
        PartyUnknown: a grant named does not stand for this owner, recipient and purpose.
        InputError: a grant is named twice.

    """
    left = list(standing)
    found: dict[int, Stored] = {}

    def take(index: int, candidates: Sequence[Stored]) -> None:
        if candidates:
            found[index] = candidates[0]
            left.remove(candidates[0])

    def of(one: FileGrant) -> list[Stored]:
        parties = (recipients[one.recipient].recipient_key, one.purpose)
        return [stored for stored in left if (stored.grant.recipient_key, stored.grant.terms.purpose) == parties]

    named = [(index, one, key_shown("grant", one.grant)) for index, one in enumerate(wanted) if one.grant is not None]
    if len({key for _, _, key in named}) < len(named):
        raise InputError("a grant is named twice", remedy="leave `grant` out where a new one is meant")
    for index, one, key in named:
        candidates = [stored for stored in of(one) if stored.grant.grant_key == key]
        if not candidates:
            raise PartyUnknown("a grant named does not stand", remedy="leave `grant` out where a new one is meant")
        take(index, candidates)
    for pick in (_same, lambda *_: True):
        for index, one in enumerate(wanted):
            if index not in found and one.grant is None:
                take(index, [stored for stored in of(one) if pick(stored, one)])
    return [(found.get(index), one) for index, one in enumerate(wanted)], left


def _same(stored: Stored, wanted: FileGrant) -> bool:
    """Whether the grant is what the file says; what it leaves open may be anything."""
    terms = wanted.terms
    confirmed = wanted.confirm_solar_km is None or wanted.confirm_solar_km == stored.confirmed_km
    return confirmed and _filled(terms, stored.grant) == stored.grant.terms


def _filled(terms: GrantTerms, grant: Grant) -> GrantTerms:
    filled: dict[str, datetime | None] = {
        name: getattr(terms, name) or getattr(grant.terms, name) for name in ("start", "data_from")
    }
    return terms.model_copy(update=filled)


def _with_km(stored: Stored) -> dict[str, Any]:
    km = stored.confirmed_km
    return plain_terms(stored.grant.terms) | ({} if km is None else {"confirm_solar_km": km})


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
