"""Whoever asks, once it is known who that is. Routes know nothing else of authentication."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from telemetry.model.sharing import MemberRight, SharingPurpose


class Role(StrEnum):
    """For whom somebody asks."""

    OWNER = "owner"  # a person at home: the owner, or a member of the household
    RECIPIENT = "recipient"  # an installer, a partner, a developer
    OPERATOR = "operator"  # whoever runs the service; sees no personal data


class Scope(StrEnum):
    """What a machine's token may be used for. A person may do whatever the role may."""

    READ = "read"  # series, devices, alerts, what is granted
    LIVE = "live"  # event streams
    EXPORT = "export"  # whole exports
    MANAGE = "manage"  # requests, invitations, webhooks; an owner's settings


ALL_RIGHTS = frozenset(MemberRight)
ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Principal:
    """``key``: the owner's or recipient's, 0 for the operator. ``account_key``: of a person, None for a machine.
    ``token_key``: of a machine's token, None for a person. ``rights``: of a member of the household.
    ``purposes``: those that a recipient's token is bound to, None for all. ``member_key``: of the household's member
    who asks, or who issued the token; None for the owner. An operator who gave no second factor has no scopes.
    """

    role: Role
    key: int
    account_key: int | None = None
    token_key: int | None = None
    scopes: frozenset[Scope] = ALL_SCOPES
    rights: frozenset[MemberRight] = ALL_RIGHTS
    purposes: frozenset[SharingPurpose] | None = None
    member_key: int | None = None


@dataclass(frozen=True, slots=True)
class PersonSession:
    """A person's session: who, and the token that unsafe requests must carry. ``session_key``: not the secret."""

    principal: Principal
    session_key: int
    csrf: str


class Authenticator(Protocol):
    """Tells who asks. Both look at the database every time: what was revoked is unknown at once.

    Raises:
        StoreUnavailable: try again.

    """

    async def machine(self, bearer: str) -> Principal | None:
        """Whose token this is; None for an unknown, expired or revoked one."""
        ...

    async def person(self, secret: str) -> PersonSession | None:
        """Whose session this is; None for an unknown, expired or ended one."""
        ...
