"""What owners settle, as records: terms, grants, requests, invitations."""

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from telemetry.client.wire import instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What may be seen. ``classes``, ``fields``: at least one of either. ``sites``, ``kinds``: None for all, later ones
    included. ``history_s``: how far back of now, in seconds; None without that limit. ``data_from``: None for the
    grant's own start.
    """

    purpose: str
    classes: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    sites: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    resolution: str = "PT15M"
    serial: str = "withheld"
    place: str = "withheld"
    extremes: bool = False
    history_s: float | None = None
    data_from: datetime | None = None
    start: datetime | None = None
    until: datetime | None = None

    def sent(self) -> dict[str, Any]:
        """As the API takes it: what is None is left out."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        made = {name: _sent(value) for name, value in told.items() if value is not None}
        if self.history_s is not None:
            made["history_s"] = int(self.history_s)
        return made


def _sent(value: object) -> object:
    if isinstance(value, datetime):
        return instant(value)
    return list(value) if isinstance(value, Collection) and not isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Recipient:
    """Somebody who may be granted something. ``handle`` names no person."""

    recipient: str
    handle: str
    kind: str


@dataclass(frozen=True, slots=True)
class OwnGrant:
    """One version of a grant, as its owner sees it. ``says``: its terms in a sentence."""

    grant: str
    version: int
    state: str
    recipient: Recipient
    terms: Terms
    policy: str
    recorded_at: datetime
    says: str


@dataclass(frozen=True, slots=True)
class OwnGrants:
    """``sees``: by the recipient's key, in sentences, what all grants to it come to."""

    grants: tuple[OwnGrant, ...]
    sees: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Settled:
    """What is in force now. ``receipt``: signed, a compact JWS. ``sees``: all that the recipient sees by now."""

    grant: OwnGrant
    receipt: str = field(repr=False)
    sees: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Received:
    """What a recipient asks for. ``says``: what it would see if it were accepted as asked."""

    request: str
    recipient: Recipient
    reason: str
    terms: Terms
    says: tuple[str, ...]
    made_at: datetime
    expires_at: datetime
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Proposed:
    """What an invitation proposes, before anything is agreed to."""

    recipient: Recipient
    terms: Terms
    says: tuple[str, ...]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ConnectionCode:
    """A code to be told to one recipient."""

    code: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Me:
    """Whose home, and what may be done for it."""

    owner: str
    member: bool
    rights: tuple[str, ...]
    restricted: bool


@dataclass(frozen=True, slots=True)
class OwnSite:
    """One home."""

    site: str
    name: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class OwnDevice:
    """One device, with its real serial."""

    site: str
    device: str
    kind: str
    serial: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Read:
    """That somebody looked."""

    at: datetime
    recipient: str | None
    purpose: str
    way: str
    fields: tuple[str, ...]
    resolution: str
