"""Whose token and whose session: one indexed query a request, and nothing remembered between two."""

from datetime import timedelta
from typing import Any, Final

from telemetry.access.principal import ALL_RIGHTS, ALL_SCOPES, PersonSession, Principal, Role, Scope
from telemetry.access.records import SQL, Clock, Connections, utc_now
from telemetry.access.secret_text import csrf_token, secret_hash, token_hash
from telemetry.model.sharing import MemberRight, SharingPurpose
from telemetry.store.failures import reported

DEFAULT_IDLE: Final = timedelta(hours=12)
OPERATOR_IDLE: Final = timedelta(hours=1)


class DatabaseAuthenticator:
    """A principal.Authenticator over a pool of the role ``telemetry_access``. Any number of callers, one event loop.

    ``api_key``: the keystore's secret API. ``idle``: after how long without a request a session is over.
    """

    def __init__(
        self, pool: Connections, api_key: bytes, *, idle: timedelta = DEFAULT_IDLE, clock: Clock = utc_now
    ) -> None:
        self._pool = pool
        self._api_key = api_key
        self._idle = idle
        self._clock = clock

    async def machine(self, bearer: str) -> Principal | None:
        """See Authenticator."""
        digest = token_hash(bearer)
        if digest is None:
            return None
        row = await self._row("use_token", digest, self._clock())
        if row is None:
            return None
        purposes = row["purposes"]
        return Principal(
            role=Role(row["role"]),
            key=row["owner_key"] or row["recipient_key"] or 0,
            token_key=row["token_key"],
            scopes=frozenset(map(Scope, row["scopes"])),
            rights=_rights(row),
            purposes=None if purposes is None else frozenset(map(SharingPurpose, purposes)),
            member_key=row["member_key"],
        )

    async def person(self, secret: str) -> PersonSession | None:
        """See Authenticator."""
        digest = secret_hash(secret)
        if digest is None:
            return None
        idle = min(self._idle, OPERATOR_IDLE)
        row = await self._row("use_session", digest, self._clock(), self._idle, idle)
        if row is None:
            return None
        role = Role(row["role"])
        principal = Principal(
            role=role,
            key=row["owner_key"] or row["recipient_key"] or 0,
            account_key=row["account_key"],
            scopes=frozenset() if role is Role.OPERATOR and not row["second_factor"] else ALL_SCOPES,
            rights=_rights(row),
            member_key=row["member_key"],
        )
        return PersonSession(principal, row["session_key"], csrf_token(self._api_key, secret))

    async def _row(self, statement: str, *arguments: object) -> Any:
        with reported("telling who asks"):
            async with self._pool.connection() as connection:
                return await connection.fetchrow(SQL[statement], *arguments)


def _rights(row: Any) -> frozenset[MemberRight]:
    return ALL_RIGHTS if row["member_key"] is None else frozenset(map(MemberRight, row["rights"]))
