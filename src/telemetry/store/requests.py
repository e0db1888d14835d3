"""The recipients' side of requests and invitations, as the role ``telemetry_access``.

Every answer follows from the recipient's own acts, from what was accepted and from time: never from whether a
code exists, whose it is, or what other recipients and owners do (decision 0071).
"""

import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from telemetry.errors import InputError, PartyUnknown, RequestsBounded
from telemetry.model.identity import new_key
from telemetry.model.requests import (
    MAX_TEXT_LENGTH,
    Asked,
    Invitation,
    InvitationState,
    RequestReason,
    RequestState,
)
from telemetry.model.sharing import GrantTerms
from telemetry.privacy.keys import Purpose, Sealer, new_key_pair
from telemetry.privacy.requesting import INVITATION_BYTES, CodeIndex
from telemetry.store.failures import reported
from telemetry.store.sql import queries

MAX_OPEN_INVITATIONS: Final = 100
MAX_INVITATIONS_A_DAY: Final = 200
MAX_INVITATION_LIFETIME: Final = timedelta(days=30)
_BOUNDS: Final[Mapping[str, str]] = {
    "codes": "too many connection codes were tried today",
    "open": "too many requests are pending",
}


class Connections(Protocol):
    """Where connections of one role come from (telemetry.views.pool.Pool)."""

    def connection(self) -> AbstractAsyncContextManager[Any]:
        """One connection, for the time of the block. Raises StoreUnavailable or StoreError."""
        ...


@dataclass(frozen=True, slots=True)
class SeenSite:
    """A site that the recipient is shown, as a view resolved it: the token, and whose it is."""

    token: str
    owner_key: int = field(repr=False)
    site_key: int = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewInvitation:
    """``secret``: what the installer hands over, stored nowhere. 256 random bits as base64url."""

    invitation_key: int
    secret: str = field(repr=False)
    expires_at: datetime


class Requests:
    """One event loop, any number of callers. ``connections``: of the role ``telemetry_access``."""

    def __init__(self, connections: Connections, codes: CodeIndex) -> None:
        self._connections = connections
        self._codes = codes
        self._sql = queries("requests")
        # What is sealed to nobody takes as long as what is sealed to an owner.
        self._nobody = Sealer(new_key_pair().public)

    async def ask(
        self, recipient_key: int, terms: GrantTerms, reason: RequestReason, *, to: str | SeenSite, text: str = ""
    ) -> Asked:
        """Ask for terms: of whoever made the connection code ``to``, or of the owner of a site that is shown.

        The answer is the same whether or not anybody is reached. ``text`` is sealed to the owner's key.

        Raises:
            InputError: a code or text of a wrong form, or terms that name sites.
            RequestsBounded: the recipient asks too much.

        """
        if terms.sites is not None:
            raise InputError("a request names no sites", remedy="address one site, or leave the choice to the owner")
        if len(text) > MAX_TEXT_LENGTH or not text.isprintable():
            raise InputError(f"the text has at most {MAX_TEXT_LENGTH} printable characters")
        seen = to if isinstance(to, SeenSite) else None
        code = self._codes.digest(to) if isinstance(to, str) else None
        address = (code, seen and seen.owner_key, seen and seen.site_key)
        key, sql = new_key(), self._sql
        async with self._acting(recipient_key, "asking an owner") as connection:
            sealed = None
            if text:
                public = await connection.fetchval(sql["letterbox"], *address)
                sealer = self._nobody if public is None else Sealer(public)
                sealed = sealer.seal(text.encode(), purpose=Purpose.REQUEST_TEXT, subject_key=key)
            arguments = (reason.value, terms.model_dump_json(), seen and seen.token, *address, sealed)
            made = await connection.fetchrow(sql["ask"], key, *arguments)
            if made["outcome"] != "made":
                raise RequestsBounded(_BOUNDS[made["outcome"]], retry_after_s=made["wait_s"])
            (row,) = await connection.fetch(sql["asked"], key)
        return _asked(row)

    async def asked(self, recipient_key: int) -> list[Asked]:
        """The recipient's requests, in the order made; those taken back left out."""
        async with self._acting(recipient_key, "listing requests") as connection:
            return [_asked(row) for row in await connection.fetch(self._sql["asked"], None)]

    async def take_back(self, recipient_key: int, request_key: int) -> None:
        """Withdraw a request: the owner sees it no more. Raises PartyUnknown for one that is not the recipient's."""
        async with self._acting(recipient_key, "withdrawing a request") as connection:
            done = await connection.fetchval(self._sql["withdraw"], request_key)
        if not done:
            raise PartyUnknown("there is no such request")

    async def invite(self, recipient_key: int, terms: GrantTerms, *, lifetime: timedelta) -> NewInvitation:
        """Propose terms to whoever is given the secret.

        Raises:
            InputError: a lifetime out of range, or terms that name sites.
            RequestsBounded: too many invitations are open.

        """
        if terms.sites is not None:
            raise InputError("an invitation names no sites", remedy="the owner chooses them")
        if not timedelta(0) < lifetime <= MAX_INVITATION_LIFETIME:
            raise InputError(f"an invitation lasts at most {MAX_INVITATION_LIFETIME.days} days")
        key, secret = new_key(), secrets.token_urlsafe(INVITATION_BYTES)
        arguments = (key, recipient_key, invitation_digest(secret), terms.model_dump_json(), lifetime)
        async with self._acting(recipient_key, "inviting an owner") as connection:
            bounds = (MAX_OPEN_INVITATIONS, MAX_INVITATIONS_A_DAY)
            expires_at = await connection.fetchval(self._sql["invite"], *arguments, *bounds)
        if expires_at is None:
            raise RequestsBounded("too many invitations are open, or were made today", retry_after_s=3600.0)
        return NewInvitation(key, secret, expires_at)

    async def invitations(self, recipient_key: int) -> list[Invitation]:
        """The recipient's invitations, in the order made."""
        async with self._acting(recipient_key, "listing invitations") as connection:
            return [_invitation(row) for row in await connection.fetch(self._sql["invitations"])]

    async def revoke(self, recipient_key: int, invitation_key: int) -> None:
        """End an invitation. Raises PartyUnknown for one that is not the recipient's, accepted or revoked."""
        async with self._acting(recipient_key, "revoking an invitation") as connection:
            done = await connection.fetchval(self._sql["revoke_invitation"], invitation_key)
        if done is None:
            raise PartyUnknown("there is no such invitation")

    @asynccontextmanager
    async def _acting(self, recipient_key: int, what: str) -> AsyncIterator[Any]:
        """One transaction for a recipient. A refusal of ours leaves the connection whole."""
        with reported(what):
            refusal: RequestsBounded | None = None
            async with self._connections.connection() as connection:
                try:
                    async with connection.transaction():
                        await connection.execute(self._sql["act_for"], str(recipient_key))
                        yield connection
                except RequestsBounded as error:
                    refusal = error
            if refusal is not None:
                raise refusal


def invitation_digest(secret: str) -> bytes:
    """By what an invitation is found: SHA-256 suffices for 256 random bits."""
    return hashlib.sha256(b"telemetry/invitation/1\0" + secret.encode()).digest()


def _asked(row: Mapping[str, Any]) -> Asked:
    state = RequestState.ACCEPTED if row["accepted_at"] is not None else RequestState.PENDING
    if state is RequestState.PENDING and row["expires_at"] <= row["now"]:
        state = RequestState.NOT_ACCEPTED
    return Asked(
        row["request_key"],
        state,
        RequestReason(row["reason"]),
        GrantTerms.model_validate_json(row["terms"]),
        row["site_token"],
        row["made_at"],
        row["expires_at"],
        row["accepted_at"],
    )


def _invitation(row: Mapping[str, Any]) -> Invitation:
    state = InvitationState.OPEN
    if row["accepted_at"] is not None:
        state = InvitationState.ACCEPTED
    elif row["revoked_at"] is not None:
        state = InvitationState.REVOKED
    elif row["expires_at"] <= row["now"]:
        state = InvitationState.EXPIRED
    return Invitation(
        row["invitation_key"],
        state,
        GrantTerms.model_validate_json(row["terms"]),
        row["made_at"],
        row["expires_at"],
        row["accepted_at"],
    )
