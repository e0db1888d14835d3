"""Machines' tokens: issued for one holder, scoped, expiring, rotated with overlap, revoked at once."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final

from telemetry.access.principal import Role, Scope
from telemetry.access.records import (
    SQL,
    Clock,
    Connections,
    Holder,
    holder_exists,
    holder_of,
    record,
    transaction,
    utc_now,
)
from telemetry.access.secret_text import new_token, token_hash
from telemetry.errors import InputError, PartyUnknown
from telemetry.model.identity import new_key
from telemetry.model.sharing import SharingPurpose

DEFAULT_LIFETIME: Final = timedelta(days=90)
MAX_LIFETIME: Final = timedelta(days=366)
DEFAULT_OVERLAP: Final = timedelta(hours=24)
MAX_OVERLAP: Final = timedelta(days=30)
READING: Final = frozenset({Scope.READ})


@dataclass(frozen=True, slots=True)
class MachineToken:
    """A token as it is listed: never with its secret. ``last_used_on``: the day, in UTC. ``successor_key``: of the
    token that it was rotated to.
    """

    token_key: int
    holder: Holder
    scopes: frozenset[Scope]
    purposes: frozenset[SharingPurpose] | None
    issued_at: datetime
    expires_at: datetime
    last_used_on: date | None = None
    revoked_at: datetime | None = None
    successor_key: int | None = None


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token, with the secret that is told once and stored nowhere."""

    token: MachineToken
    secret: str = field(repr=False)


class MachineTokens:
    """Over a pool of the role ``telemetry_access``. Any number of callers, one event loop.

    ``by_operator`` where the operator acts for a holder: it is recorded so.
    """

    def __init__(self, pool: Connections, *, clock: Clock = utc_now) -> None:
        self._pool = pool
        self._clock = clock

    async def issue(
        self,
        holder: Holder,
        scopes: Collection[Scope] = READING,
        *,
        purposes: Collection[SharingPurpose] | None = None,
        lifetime: timedelta = DEFAULT_LIFETIME,
        by_operator: bool = False,
    ) -> IssuedToken:
        """A new token for ``holder``. ``purposes``: of a recipient, those that it is bound to; None for all.

        Raises:
            InputError: no scope, purposes of somebody who is no recipient, or a lifetime of nothing or over a year.
            PartyUnknown: the holder is unknown, erased, closed or removed.

        """
        _check(holder, scopes, purposes, lifetime)
        now = self._clock()
        token = MachineToken(
            new_key(),
            holder,
            frozenset(scopes),
            None if purposes is None else frozenset(purposes),
            now,
            now + lifetime,
        )
        async with transaction(self._pool, "issuing a token") as connection:
            known = await holder_exists(connection, holder)
            if known:
                secret = await _add(connection, token)
                await record(connection, _action("issue", by_operator), holder.owner_key, token.token_key)
        if not known:
            raise PartyUnknown("whom the token is for is unknown, erased, closed or removed", remedy="name another")
        return IssuedToken(token, secret)

    async def list(self, holder: Holder | None = None) -> list[MachineToken]:
        """The holder's tokens in the order issued, of everybody without one; ended ones too, until they are tidied.

        A household's owner sees those of its members; a member sees the own ones.
        """
        async with transaction(self._pool, "listing tokens") as connection:
            rows = await connection.fetch(SQL["tokens"], *_whose(holder))
        return [_token(row) for row in rows]

    async def rotate(
        self,
        token_key: int,
        holder: Holder | None = None,
        *,
        overlap: timedelta = DEFAULT_OVERLAP,
        by_operator: bool = False,
    ) -> IssuedToken:
        """A new token that may do the same for as long; the old one lives on for ``overlap``, at most until its end.

        Whoever did not hear the answer rotates again: a successor that was never used is revoked.

        Raises:
            InputError: an overlap that is negative or over 30 days.
            PartyUnknown: the holder has no such token, it is expired or revoked, or its successor is in use.

        """
        if not timedelta(0) <= overlap <= MAX_OVERLAP:
            raise InputError(f"an overlap lasts 0 to {MAX_OVERLAP.days} days")
        now, token, secret = self._clock(), None, ""
        async with transaction(self._pool, "rotating a token") as connection:
            row = await connection.fetchrow(SQL["hold_token"], token_key, now, *_whose(holder))
            if row is not None and await _free_to_rotate(connection, row["successor_key"], now):
                old = _token(row)
                if await holder_exists(connection, old.holder):
                    lifetime = old.expires_at - old.issued_at
                    token = MachineToken(new_key(), old.holder, old.scopes, old.purposes, now, now + lifetime)
                    secret = await _add(connection, token)
                    await connection.execute(SQL["succeed_token"], token_key, token.token_key, now + overlap)
                    owner_key = old.holder.owner_key
                    await record(connection, _action("rotate", by_operator), owner_key, token_key)
        if token is None:
            raise _unknown()
        return IssuedToken(token, secret)

    async def revoke(self, token_key: int, holder: Holder | None = None, *, by_operator: bool = False) -> None:
        """From the next request on the token is unknown.

        Raises:
            PartyUnknown: the holder has no such token, or it is revoked already.

        """
        async with transaction(self._pool, "revoking a token") as connection:
            row = await connection.fetchrow(SQL["revoke_token"], token_key, self._clock(), *_whose(holder))
            if row is not None:
                await record(connection, _action("revoke", by_operator), row["owner_key"], token_key)
        if row is None:
            raise _unknown()


def _check(
    holder: Holder, scopes: Collection[Scope], purposes: Collection[SharingPurpose] | None, lifetime: timedelta
) -> None:
    if not scopes:
        raise InputError("a token has at least one scope")
    if purposes is not None and (holder.role is not Role.RECIPIENT or not purposes):
        raise InputError("a recipient's token alone is bound to purposes, and then to at least one")
    if not timedelta(0) < lifetime <= MAX_LIFETIME:
        raise InputError(f"a token lives for more than nothing and at most {MAX_LIFETIME.days} days")


async def _add(connection: Any, token: MachineToken) -> str:
    secret, holder = new_token(), token.holder
    await connection.execute(
        SQL["add_token"],
        token.token_key,
        holder.role.value,
        holder.owner_key,
        holder.member_key,
        holder.recipient_key,
        token_hash(secret),
        sorted(token.scopes),
        None if token.purposes is None else sorted(token.purposes),
        token.issued_at,
        token.expires_at,
    )
    return secret


async def _free_to_rotate(connection: Any, successor_key: int | None, now: datetime) -> bool:
    if successor_key is None:
        return True
    return await connection.fetchval(SQL["revoke_unused"], successor_key, now) is not None


def _whose(holder: Holder | None) -> tuple[str | None, int | None, int | None, int | None]:
    if holder is None:
        return (None, None, None, None)
    return (holder.role.value, holder.owner_key, holder.recipient_key, holder.member_key)


def _token(row: Any) -> MachineToken:
    purposes = row["purposes"]
    return MachineToken(
        row["token_key"],
        holder_of(row),
        frozenset(map(Scope, row["scopes"])),
        None if purposes is None else frozenset(map(SharingPurpose, purposes)),
        row["issued_at"],
        row["expires_at"],
        row["last_used_on"],
        row["revoked_at"],
        row["successor_key"],
    )


def _action(what: str, by_operator: bool) -> str:
    return f"operator.token.{what}" if by_operator else f"token.{what}"


def _unknown() -> PartyUnknown:
    return PartyUnknown("there is no such token, or it has ended", remedy="list the tokens, and issue a new one")
