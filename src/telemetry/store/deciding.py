"""What an owner decides about requests and invitations, within one transaction; nobody else consents for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from telemetry.errors import GrantChanged, PartyUnknown
from telemetry.model.requests import CODE_LIFETIME, MAX_OPEN_CODES, RequestReason
from telemetry.model.sharing import Grant, GrantTerms
from telemetry.privacy.requesting import CodeIndex, acceptable, check_narrower, new_code
from telemetry.store.failures import reported
from telemetry.store.granting import Granting
from telemetry.store.requests import invitation_digest
from telemetry.store.settling import Recipient, recipient_from, recipient_of
from telemetry.store.sql import queries

_SQL: Final = queries("requests")


@dataclass(frozen=True, slots=True)
class Received:
    """A request as its owner sees it. ``has_text``: sealed in the vault (Purpose.REQUEST_TEXT, by request_key)."""

    request_key: int
    recipient: Recipient
    reason: RequestReason
    terms: GrantTerms
    has_text: bool
    made_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Proposed:
    """An invitation as whoever holds its secret sees it."""

    invitation_key: int
    recipient: Recipient
    terms: GrantTerms
    made_at: datetime
    expires_at: datetime


class Deciding(Granting):
    """Requests and invitations of one owner. What has been decided, withdrawn or has expired is unknown here."""

    async def received(self, owner_key: int, request_key: int | None = None) -> list[Received]:
        """The owner's open requests, in the order made."""
        rows = await self._connection.fetch(_SQL["open_requests"], owner_key, request_key)
        return [_received(row) for row in rows]

    async def accept(
        self,
        owner_key: int,
        request_key: int,
        terms: GrantTerms | None = None,
        *,
        confirmed_km: float | None = None,
        policy: str | None = None,
    ) -> Grant:
        """Grant what was asked, or ``terms``, which may only be less.

        Raises:
            PartyUnknown: the owner has no such open request.
            RequestWidened: ``terms`` go beyond what was asked.
            SharingError: as ``set_grant``; the request stays open then.

        """
        held = await self.hold(owner_key)
        request = await self._request(owner_key, request_key)
        wanted = self._wanted(request.terms, terms, held.at)
        grant = await self.set_grant(
            owner_key, request.recipient.recipient_key, wanted, confirmed_km=confirmed_km, policy=policy
        )
        await self._connection.execute(_SQL["decide"], request_key, grant.grant_key)
        await self._connection.execute(_SQL["say_accepted"], request_key)
        await self._connection.execute(_SQL["forget_text"], owner_key, request_key)
        self.mention("request.accept", owner_key, request_key)
        return grant

    async def decline(self, owner_key: int, request_key: int) -> None:
        """Put a request away. Its recipient is not told. Raises PartyUnknown."""
        await self.hold(owner_key)
        await self._request(owner_key, request_key)
        await self._connection.execute(_SQL["decide"], request_key, None)
        await self._connection.execute(_SQL["forget_text"], owner_key, request_key)
        self.mention("request.decline", owner_key, request_key)

    async def block(self, owner_key: int, recipient_key: int) -> None:
        """See no more requests of this recipient. It is not told. Raises PartyUnknown."""
        await self.hold(owner_key)
        await recipient_of(self._connection, recipient_key)
        if await self._connection.fetchval(_SQL["block"], owner_key, recipient_key) is not None:
            self.mention("request.block", owner_key, recipient_key)

    async def unblock(self, owner_key: int, recipient_key: int) -> None:
        """See requests of this recipient again. Raises PartyUnknown where none are blocked."""
        await self.hold(owner_key)
        if await self._connection.fetchval(_SQL["unblock"], owner_key, recipient_key) is None:
            raise PartyUnknown("this recipient is not blocked")
        self.mention("request.unblock", owner_key, recipient_key)

    async def connection_code(self, owner_key: int, codes: CodeIndex) -> tuple[str, datetime]:
        """A code that the owner gives to a recipient, and until when it works: once, for an hour.

        Of an owner's codes only the newest MAX_OPEN_CODES work.
        """
        await self.hold(owner_key)
        await self._connection.execute(_SQL["drop_codes"], owner_key, MAX_OPEN_CODES - 1)
        while True:
            code = new_code()
            until = await self._connection.fetchval(_SQL["add_code"], codes.digest(code), owner_key, CODE_LIFETIME)
            if until is not None:
                self.mention("request.code", owner_key, None)
                return code, until

    async def proposed(self, secret: str) -> Proposed:
        """What an invitation proposes. Raises PartyUnknown: unknown, used, revoked and expired are one thing."""
        row = await self._connection.fetchrow(_SQL["invitation"], invitation_digest(secret))
        if row is None:
            raise PartyUnknown("there is no such invitation")
        terms = GrantTerms.model_validate_json(row["terms"])
        return Proposed(row["invitation_key"], recipient_from(row), terms, row["made_at"], row["expires_at"])

    async def accept_invitation(
        self,
        owner_key: int,
        secret: str,
        terms: GrantTerms | None = None,
        *,
        confirmed_km: float | None = None,
        policy: str | None = None,
    ) -> Grant:
        """Grant what an invitation proposes, or less. Raises as ``accept``."""
        held = await self.hold(owner_key)
        proposed = await self.proposed(secret)
        if await self._connection.fetchval(_SQL["use_invitation"], proposed.invitation_key) is None:
            raise PartyUnknown("there is no such invitation")
        wanted = self._wanted(proposed.terms, terms, held.at)
        grant = await self.set_grant(
            owner_key, proposed.recipient.recipient_key, wanted, confirmed_km=confirmed_km, policy=policy
        )
        self.mention("invitation.accept", owner_key, proposed.invitation_key)
        return grant

    async def expect(self, owner_key: int, grant_key: int, version: int) -> None:
        """That nobody has changed the grant since ``version``; held until the transaction ends.

        Raises:
            PartyUnknown: there is no such grant of this owner, or it is withdrawn.
            GrantChanged: it has another version.

        """
        held = await self.hold(owner_key)
        current = (await self._versions(held, grant_key))[-1].grant.version
        if current != version:
            raise GrantChanged(current)

    async def _request(self, owner_key: int, request_key: int) -> Received:
        """One open request, which its recipient cannot withdraw until this transaction ends."""
        if await self._connection.fetchval(_SQL["hold_request"], owner_key, request_key) is not None:
            for request in await self.received(owner_key, request_key):
                return request
        raise PartyUnknown("there is no such open request")

    @staticmethod
    def _wanted(asked: GrantTerms, terms: GrantTerms | None, at: datetime) -> GrantTerms:
        if terms is None:
            return acceptable(asked, at)
        check_narrower(terms, asked, at)
        return terms


async def prune(connection: Any) -> int:
    """Remove what is over, as the role ``telemetry_rights``; how many requests."""
    with reported("removing requests that are over"):
        removed: int = await connection.fetchval(_SQL["prune"])
    return removed


async def blocked(connection: Any, owner_key: int) -> list[dict[str, Any]]:
    """recipient_key, handle, kind, blocked_at: whose requests the owner does not see."""
    return [dict(row) for row in await connection.fetch(_SQL["blocks"], owner_key)]


def _received(row: Mapping[str, Any]) -> Received:
    terms = GrantTerms.model_validate_json(row["terms"])
    if row["sites"] is not None:
        terms = terms.model_copy(update={"sites": frozenset(row["sites"])})
    return Received(
        row["request_key"],
        recipient_from(row),
        RequestReason(row["reason"]),
        terms,
        row["has_text"],
        row["made_at"],
        row["expires_at"],
    )
