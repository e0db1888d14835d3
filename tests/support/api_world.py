"""A real API on a real socket over a real PostgreSQL, with tokens issued as the service issues them."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from telemetry.access.principal import ALL_SCOPES, Role, Scope
from telemetry.access.records import Holder
from telemetry.access.secret_text import csrf_token, new_secret, secret_hash
from telemetry.access.tokens import MachineTokens
from telemetry.api.context import Context, open_context
from telemetry.api.server import serving
from telemetry.config import load_config
from telemetry.model.identity import new_key
from telemetry.model.sharing import SharingPurpose
from telemetry.privacy.keys import Kek
from telemetry.store.keyring import KeyRing, OwnerSecrets
from telemetry.store.keystore import API
from telemetry.store.series import write_series
from tests.support import consents
from tests.support.store import PASSWORD, Store
from tests.support.view_world import mean_amount, series_frame

PATIENCE_S = 30.0
MAINTENANCE = frozenset({SharingPurpose.MAINTENANCE})


class StoreKeystore:
    """Secrets of the tests' shared database. One key-encryption key, since its database remembers which one it was."""

    def secret(self, name: str) -> bytes:
        if name.startswith("password-"):
            return PASSWORD.encode()
        return hashlib.sha256(f"made up {name}".encode()).digest()


class StoreKeks:
    """The one key of StoreKeystore."""

    def __init__(self) -> None:
        self._kek = Kek(StoreKeystore().secret("kek"))

    def named(self, kek_id: bytes) -> Kek:
        assert kek_id == self._kek.kek_id
        return self._kek

    def newest(self) -> Kek:
        return self._kek


@dataclass(frozen=True)
class Signed:
    """A person's session: what a browser holds. ``cookie``: for safe methods; ``headers``: for all."""

    secret: str
    csrf: str

    @property
    def cookie(self) -> dict[str, str]:
        return {"Cookie": f"session={self.secret}"}

    @property
    def headers(self) -> dict[str, str]:
        return self.cookie | {"X-CSRF-Token": self.csrf}


def holder_of(role: Role, key: int, member_key: int | None = None) -> Holder:
    """For whom a token or an account is."""
    owner = key if role is Role.OWNER else None
    return Holder(role, owner, member_key, key if role is Role.RECIPIENT else None)


@dataclass
class ApiWorld:
    """``client``: over HTTP, without credentials. ``base``: the API's address. ``issued``: tokens' keys."""

    store: Store
    admin: Any
    context: Context
    base: str
    client: httpx.AsyncClient
    ring: KeyRing
    issued: dict[str, int] = field(default_factory=dict)

    async def owner(self, owner_key: int, **more: Any) -> None:
        """An owner with real token secrets in the database of keys."""
        await consents.add_owner(self.admin, owner_key, **more)
        await self.ring.add([OwnerSecrets(owner_key, secrets.token_bytes(96), secrets.token_bytes(32))])

    async def home(self, owner_key: int, site_key: int, *device_keys: int, kind: int = 1, **more: Any) -> None:
        """An owner with a site and devices."""
        await self.owner(owner_key)
        await consents.add_site(self.admin, site_key, owner_key, **more)
        for device_key in device_keys:
            await consents.add_device(self.admin, device_key, site_key, kind)

    async def series(self, rows: Any) -> None:
        """Windows, as ViewWorld.series writes them."""
        await write_series(self.admin, series_frame(rows))

    async def quarters(self, device_key: int, count: int, watts: float = 100.0, *, first: int = 0, **more: Any) -> None:
        """``count`` quarters that are shown by now, from the last but ``first`` back; the n-th has n watts more."""
        rows = [
            {"device_key": device_key, "start": quarter(n), "amount": mean_amount(watts + n)} | more
            for n in range(first, first + count)
        ]
        await self.series(rows)

    async def token(
        self,
        key: int = 0,
        role: Role = Role.RECIPIENT,
        *,
        scopes: frozenset[Scope] = ALL_SCOPES,
        purposes: frozenset[SharingPurpose] | None = MAINTENANCE,
        member_key: int | None = None,
    ) -> str:
        """A machine's token, issued as the real service does. ``purposes``: of a recipient alone."""
        issued = await self._tokens.issue(
            holder_of(role, key, member_key), scopes, purposes=purposes if role is Role.RECIPIENT else None
        )
        self.issued[issued.secret] = issued.token.token_key
        return issued.secret

    async def revoke(self, bearer: str) -> None:
        """The token counts no longer."""
        await self._tokens.revoke(self.issued[bearer])

    async def sign_in(self, key: int = 0, role: Role = Role.OWNER, member_key: int | None = None) -> Signed:
        """A person's session, with a second factor. The account is put into its table by the administrator."""
        secret, account, now = new_secret(), new_key(), datetime.now(UTC)
        who = holder_of(role, key, member_key)
        await self.admin.execute(
            "INSERT INTO access.account (account_key, role, owner_key, member_key, recipient_key, email_blind,"
            " email_sealed, password_sealed, adult_stated_at, created_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, '', '', $7, $7)",
            account,
            role.value,
            who.owner_key,
            who.member_key,
            who.recipient_key,
            account.to_bytes(16, signed=True),
            now,
        )
        await self.admin.execute(
            "INSERT INTO access.session (session_key, account_key, secret_hash, second_factor, begun_at, seen_at,"
            " expires_at) VALUES ($1, $2, $3, true, $4, $4, $5)",
            new_key(),
            account,
            secret_hash(secret),
            now,
            now + timedelta(hours=1),
        )
        return Signed(secret, csrf_token(StoreKeystore().secret(API), secret))

    @property
    def _tokens(self) -> MachineTokens:
        return MachineTokens(self.context.pools.access)

    async def get(self, path: str, bearer: str | None = None, **parameters: Any) -> httpx.Response:
        """GET below /api/v1. ``from_`` stands for ``from``."""
        asked = {name.rstrip("_"): value for name, value in parameters.items() if value is not None}
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        return await self.client.get(f"/api/v1{path}", params=asked, headers=headers)


def quarter(back: int = 0) -> datetime:
    """The start of a window that is over and shown, so many before the last one."""
    now = datetime.now(UTC) - timedelta(minutes=20)
    return now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0) - back * timedelta(minutes=15)


def text(instant: datetime) -> str:
    """As a query takes it."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@asynccontextmanager
async def api_world(
    store: Store,
    data_dir: Path,
    *,
    clock: Callable[[], datetime] | None = None,
    sections: Mapping[str, Any] | None = None,
    dsn: Callable[[str], str] | None = None,
    **api: Any,
) -> AsyncIterator[ApiWorld]:
    """The API in this process on a socket of its own. ``api``: of the config section; ``sections``: others.
    ``data_dir``: of nobody else.
    """
    settings = {"port": 0, "cookie_secure": False} | api
    config = load_config(data_dir=data_dir, embedded=True, api=settings, **(sections or {}))
    async with AsyncExitStack() as stack:
        admin = await store.admin()
        await consents.clear(admin)
        keys = await store.role("keys", "keys")()
        stack.push_async_callback(keys.close)
        await (await store.admin("keys")).execute("TRUNCATE keys.owner_key, keys.recipient_key")
        context = await stack.enter_async_context(
            open_context(
                config,
                StoreKeystore(),
                dsn or (lambda database: store.postgres.dsn(database, "")),
                keks=StoreKeks(),
                views_clock=clock,
            )
        )
        port = await stack.enter_async_context(serving(context))
        base = f"http://127.0.0.1:{port}"
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=base, timeout=PATIENCE_S))
        yield ApiWorld(store, admin, context, base, client, KeyRing(keys, StoreKeks()))
        await consents.clear(admin)
