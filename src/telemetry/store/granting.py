"""Grants within one transaction: made, changed, withdrawn, each version with its receipt."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import asyncpg

from telemetry.errors import PartyUnknown, PolicyNotInForce, SharingError, SiteNotOwned
from telemetry.model.identity import new_key
from telemetry.model.sharing import Grant, GrantState, GrantTerms, SharingPurpose
from telemetry.model.shown import key_shown
from telemetry.privacy.granting import (
    SolarWarning,
    check_history,
    check_solar,
    completed,
    retention_of,
    solar_warnings,
)
from telemetry.privacy.receipts import ReceiptSigner, receipt_of
from telemetry.store.grant_rows import grant_of, row_of
from telemetry.store.settling import HeldOwner, Recipient, Settling, recipient_of


@dataclass(frozen=True, slots=True)
class Stored:
    """A version of a grant with what its owner confirmed."""

    grant: Grant
    confirmed_km: float | None


@dataclass(slots=True)
class _Asked:
    """What the solar warnings of one owner, recipient and purpose were, and which errors are confirmed now."""

    before: frozenset[SolarWarning]
    confirmed_km: set[float] = field(default_factory=set)


class Granting(Settling):
    """``hot_retention``: for how long readings stay as fine as they came (rule 7)."""

    def __init__(self, connection: asyncpg.Connection, signer: ReceiptSigner, hot_retention: timedelta) -> None:
        super().__init__(connection)
        self._signer = signer
        self._hot_retention = hot_retention
        self._asked: dict[tuple[int, int, SharingPurpose], _Asked] = {}

    async def set_grant(
        self,
        owner_key: int,
        recipient_key: int,
        terms: GrantTerms,
        *,
        confirmed_km: float | None = None,
        grant_key: int | None = None,
        policy: str | None = None,
    ) -> Grant:
        """A new grant, or with ``grant_key`` a new version of one; unchanged terms leave the version as it is.

        ``confirmed_km``: the error that a SolarUnconfirmed stated, to say that it is known. ``policy``: the version
        of the privacy notice consented to, the newest without.

        Raises:
            PartyUnknown: owner erased, recipient closed, or the grant has ended.
            SiteNotOwned, PolicyNotInForce, HistoryTooFine, SharingError: see there.
            SolarUnconfirmed: at the transaction's end.

        """
        held = await self.hold(owner_key)
        recipient = await recipient_of(self._connection, recipient_key)
        if recipient.closed_at is not None:
            raise PartyUnknown("the recipient is closed", remedy="`telemetry recipient list`")
        versions = [] if grant_key is None else await self._standing(held, grant_key)
        last = versions[-1] if versions else None
        if last and (last.grant.recipient_key, last.grant.terms.purpose) != (recipient_key, terms.purpose):
            raise SharingError("a grant keeps its recipient and purpose", remedy="withdraw it and make another")
        policy = await self._policy(policy)
        await self._check_sites(owner_key, terms)
        terms = completed(terms, last.grant.terms if last else None, held.at)
        confirming = confirmed_km if confirmed_km is not None or last is None else last.confirmed_km
        if last and (last.grant.terms, last.grant.policy, last.confirmed_km) == (terms, policy, confirming):
            return last.grant
        check_history(terms, await self.keeping(owner_key), self._hot_retention)
        grant = Grant(
            grant_key=grant_key or new_key(),
            version=len(versions) + 1,
            owner_key=owner_key,
            recipient_key=recipient_key,
            state=GrantState.ACTIVE,
            terms=terms,
            epoch=last.grant.epoch if last else await self._epoch(owner_key, recipient_key),
            policy=policy,
            recorded_at=held.at,
        )
        await self._ask(grant, confirmed_km)
        await self._add(held, recipient, Stored(grant, confirming), [one.grant for one in versions])
        self.note("grant.change" if last else "grant.make", owner_key, grant.grant_key)
        return grant

    async def withdraw(self, owner_key: int, grant_key: int) -> Grant:
        """End a grant for good. What comes later is a new one, with new tokens if nothing else stands (rule 23).

        Raises:
            PartyUnknown: there is no such grant of this owner, or it is withdrawn.

        """
        held = await self.hold(owner_key)
        versions = await self._versions(held, grant_key)
        last = versions[-1]
        recipient = await recipient_of(self._connection, last.grant.recipient_key)
        ended = last.grant.model_copy(
            update={
                "version": last.grant.version + 1,
                "state": GrantState.WITHDRAWN,
                "recorded_at": held.at,
            }
        )
        await self._add(held, recipient, Stored(ended, last.confirmed_km), [one.grant for one in versions])
        self.note("grant.withdraw", owner_key, grant_key)
        return ended

    async def withdraw_all(self, owner_key: int, recipient_key: int) -> list[Grant]:
        """End everything that the recipient was granted by this owner.

        Raises:
            PartyUnknown: the owner is unknown or erased, or nothing stands.

        """
        await self.hold(owner_key)
        standing = await self.active(owner_key, recipient_key)
        if not standing:
            raise PartyUnknown("nothing is granted to this recipient", remedy="`telemetry grant list`")
        return [await self.withdraw(owner_key, grant.grant_key) for grant in standing]

    async def recipient(self, which: int | str) -> Recipient:
        """By key, by key as shown, or by handle. Raises PartyUnknown."""
        if isinstance(which, str) and which.startswith("r_"):
            which = key_shown("recipient", which)
        return await recipient_of(self._connection, which)

    async def standing_grants(self, owner_key: int, at: datetime) -> list[Stored]:
        """The owner's grants that are in force at ``at`` or will be, in the order made."""
        rows = await self._connection.fetch(self._sql["standing"], owner_key, at)
        return [Stored(grant_of(row), row["confirmed_km"]) for row in rows]

    async def _versions(self, held: HeldOwner, grant_key: int) -> list[Stored]:
        rows = await self._connection.fetch(self._sql["versions"], grant_key)
        versions = [Stored(grant_of(row), row["confirmed_km"]) for row in rows]
        ours = versions and versions[-1].grant.owner_key == held.owner_key
        if not ours or versions[-1].grant.state is GrantState.WITHDRAWN:
            raise PartyUnknown("this owner has no such grant, or it is withdrawn", remedy="`telemetry grant list`")
        return versions

    async def _standing(self, held: HeldOwner, grant_key: int) -> list[Stored]:
        """The grant's versions, if it may be changed: what has ended begins anew, with new tokens (rule 23)."""
        versions = await self._versions(held, grant_key)
        grant = versions[-1].grant
        rows = await self._connection.fetch(self._sql["policy_ends"], [grant.policy])
        ends: list[datetime | None] = [grant.terms.until, *(row["expires_at"] for row in rows)]
        if any(end is not None and end <= held.at for end in ends):
            raise PartyUnknown("the grant has ended", remedy="withdraw it and make a new one")
        return versions

    async def _policy(self, policy: str | None) -> str:
        found: str | None = await self._connection.fetchval(self._sql["policy_in_force"], policy)
        if found is None:
            raise PolicyNotInForce(
                "this version of the privacy notice is not in force", remedy="leave it out to take the newest"
            )
        return found

    async def _check_sites(self, owner_key: int, terms: GrantTerms) -> None:
        if terms.sites is not None and await self._connection.fetch(
            self._sql["foreign_sites"], owner_key, sorted(terms.sites)
        ):
            raise SiteNotOwned("a site is not this owner's", remedy="`telemetry site list --owner OWNER`")

    async def judge(self) -> None:
        """Rule 19, on what all changes so far come to, whatever their order was. Raises SolarUnconfirmed."""
        for (owner_key, recipient_key, purpose), asked in self._asked.items():
            found = await self._solar_warnings(owner_key, recipient_key, purpose)
            check_solar(found, asked.before, asked.confirmed_km)
        self._asked.clear()

    async def finish(self) -> None:
        """As always, and nothing goes unjudged."""
        await self.judge()
        await super().finish()

    async def _ask(self, grant: Grant, confirmed_km: float | None) -> None:
        trio = (grant.owner_key, grant.recipient_key, grant.terms.purpose)
        if trio not in self._asked:
            self._asked[trio] = _Asked(await self._solar_warnings(*trio))
        if confirmed_km is not None:
            self._asked[trio].confirmed_km.add(confirmed_km)

    async def _solar_warnings(
        self, owner_key: int, recipient_key: int, purpose: SharingPurpose
    ) -> frozenset[SolarWarning]:
        held = await self.hold(owner_key)
        standing = [one for one in await self.active(owner_key, recipient_key) if one.terms.purpose is purpose]
        return solar_warnings(standing, held.at)

    async def _epoch(self, owner_key: int, recipient_key: int) -> int:
        """The token epoch of a new grant: the next one where nothing stands (rule 23)."""
        sql = self._sql
        epoch: int | None = await self._connection.fetchval(sql["epoch"], owner_key, recipient_key)
        if epoch is not None and await self._connection.fetchval(sql["anything_standing"], owner_key, recipient_key):
            return epoch
        epoch = (epoch or 0) + 1
        await self._connection.execute(sql["set_epoch"], owner_key, recipient_key, epoch)
        return epoch

    async def _add(self, held: HeldOwner, recipient: Recipient, stored: Stored, history: list[Grant]) -> None:
        grant = stored.grant
        await self._connection.execute(self._sql["add_version"], *row_of(grant, stored.confirmed_km))
        record = receipt_of(
            grant,
            region=held.region,
            kind=recipient.kind,
            retention_days=retention_of(grant.terms, await self.keeping(held.owner_key)),
            history=history,
        )
        jws = self._signer.sign(record)
        await self._connection.execute(self._sql["add_receipt"], grant.grant_key, grant.version, held.owner_key, jws)
