"""What routes need: one object, opened with the process and closed with it."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from fastapi import Request

from telemetry.access.assembly import Access, assemble
from telemetry.access.principal import Authenticator
from telemetry.api.ending import Ending
from telemetry.api.keyed import Cursors, ETags, GrantNames
from telemetry.api.limits import Limits
from telemetry.config import Config
from telemetry.deliver.mail import Mailer
from telemetry.deliver.sealing import WebhookSealer
from telemetry.deliver.targets import AlertMails, Webhooks
from telemetry.observe import Observer, events
from telemetry.ports import Keks, Keystore
from telemetry.privacy.keys import BlindIndex, Purpose
from telemetry.privacy.receipts import ReceiptSigner
from telemetry.privacy.requesting import CodeIndex
from telemetry.store import plans
from telemetry.store.administration import Administration
from telemetry.store.connection import Connect, connector
from telemetry.store.keks import open_keks
from telemetry.store.keyring import KeyRing
from telemetry.store.keystore import ACCESS, API, BLIND_INDEX, RECEIPT_SIGNING, role_password
from telemetry.store.registration import NewOwner
from telemetry.store.requests import Requests
from telemetry.store.sharing_pool import SharingPool
from telemetry.views.naming import Names
from telemetry.views.opener import RegistryOpener
from telemetry.views.pool import Pool
from telemetry.views.view import Views
from telemetry.views.visible import Visibility

_STATEMENT_S: Final = 30.0  # a request's statement is given up after this


@dataclass(frozen=True, slots=True)
class Pools:
    """Connections by role. ``keys``: of the role telemetry_keys, to the database of keys."""

    views: Pool
    sharing: Pool
    operator: Pool
    access: Pool
    keys: Pool


@dataclass(frozen=True, slots=True)
class Context:
    """``dsn``: of a database by name, without role or password. ``stream_connect``: a new connection of the views'
    role, to listen on. ``ring_of``: opens owners' keys on a connection of ``pools.keys``.
    """

    config: Config
    observer: Observer
    limits: Limits
    cursors: Cursors
    etags: ETags
    grant_names: GrantNames
    authenticator: Authenticator
    access: Access
    pools: Pools
    views: Views
    visibility: Visibility
    sharing: SharingPool
    requests: Requests
    webhooks: Webhooks
    alert_mails: AlertMails
    codes: CodeIndex
    vault: "PooledOpener"
    stream_connect: Connect
    ring_of: Callable[[Any], KeyRing]
    blind: BlindIndex
    clock: Callable[[], datetime]
    ending: Ending = field(default_factory=Ending)


def context_of(request: Request) -> Context:
    """The context that the application was made with. Also a dependency."""
    return cast("Context", request.app.state.context)


class PooledKeys:
    """What tokens are made from (a naming.TokenKeys), any number of callers at once.

    ``pool``: of the views' role in the database of keys; ``adopting``: of the role of keys, which alone may say under
    which key-encryption key the first secret ever is wrapped.
    """

    def __init__(self, pool: Pool, keks: Keks, adopting: Pool) -> None:
        self._pool, self._keks, self._adopting = pool, keks, adopting
        self._adopted = False

    async def recipient_secret(self, recipient_key: int) -> Any:
        """As ``KeyRing.recipient_secret``."""
        if not self._adopted:
            async with self._adopting.connection() as connection:
                await KeyRing(connection, self._keks).active()
            self._adopted = True
        async with self._pool.connection() as connection:
            return await KeyRing(connection, self._keks).recipient_secret(recipient_key)

    async def token_secrets(self, owner_keys: Sequence[int]) -> Mapping[int, bytes]:
        """As ``KeyRing.token_secrets``."""
        async with self._pool.connection() as connection:
            return await KeyRing(connection, self._keks).token_secrets(owner_keys)


class PooledOpener:
    """The registry and its vault (a naming.VaultOpener), any number of callers at once."""

    def __init__(self, pools: Pools, blind: BlindIndex, keks: Keks) -> None:
        self._pools, self._blind, self._keks = pools, blind, keks

    @contextlib.asynccontextmanager
    async def _administration(self) -> AsyncIterator[Administration]:
        async with self._pools.operator.connection() as connection, self._pools.keys.connection() as keys:
            yield Administration(connection, self._blind, KeyRing(keys, self._keks))

    async def reveal(self, purpose: Purpose, subjects: Sequence[tuple[int, int]]) -> Mapping[int, str]:
        """As ``Administration.reveal``."""
        async with self._administration() as administration:
            return await administration.reveal(purpose, subjects)

    async def serials(self, subjects: Sequence[tuple[int, int]]) -> Mapping[int, str]:
        """As ``RegistryOpener.serials``."""
        async with self._administration() as administration:
            return await RegistryOpener(administration).serials(subjects)

    async def coordinates(self, subjects: Sequence[tuple[int, int]]) -> Mapping[int, tuple[float, float]]:
        """As ``RegistryOpener.coordinates``."""
        async with self._administration() as administration:
            return await RegistryOpener(administration).coordinates(subjects)

    async def register(self, new: NewOwner) -> int:
        """As ``Administration.add_owner``."""
        async with self._administration() as administration:
            return await administration.add_owner(new)


@contextlib.asynccontextmanager
async def open_context(
    config: Config,
    keystore: Keystore,
    dsn: Callable[[str], str],
    *,
    keks: Keks | None = None,
    observer: Observer | None = None,
    views_clock: Callable[[], datetime] | None = None,
) -> AsyncIterator[Context]:
    """Open everything; connections are made when they are needed.

    ``dsn``: the address of the database ``telemetry`` or ``keys``. ``views_clock``: for tests, in place of the
    database's.
    """
    size, wrapped = config.api.connections, keks if keks is not None else open_keks(config)

    def connect(role: str, database: str = "telemetry") -> Connect:
        password = role_password(keystore, role)
        return connector(dsn(database), user=role, password=password, statement_timeout_s=_STATEMENT_S)

    secret = keystore.secret(API)
    blind, codes = BlindIndex(keystore.secret(BLIND_INDEX)), CodeIndex(keystore.secret(ACCESS))
    told = observer if observer is not None else Observer()
    pools = _pools(connect, size)
    naming = Pool(connect("telemetry_views", "keys"), size=size)
    opener = PooledOpener(pools, blind, wrapped)
    names = Names(PooledKeys(naming, wrapped, pools.keys), opener)
    access = _access(config, keystore, pools, opener, told)
    try:
        async with access.running():
            yield Context(
                config=config,
                observer=told,
                limits=Limits(config.api),
                cursors=Cursors(secret),
                etags=ETags(secret),
                grant_names=GrantNames(secret),
                authenticator=access.authenticator,
                access=access,
                pools=pools,
                views=Views(pools.views, names, hot_hours=config.retention.hot_hours, clock=views_clock),
                visibility=Visibility(pools.views, names, clock=views_clock),
                sharing=_sharing(config, keystore, pools, told),
                requests=Requests(pools.access, codes),
                alert_mails=AlertMails(pools.access),
                webhooks=Webhooks(pools.access, WebhookSealer(keystore.secret(ACCESS)), config.webhooks),
                codes=codes,
                vault=opener,
                stream_connect=connect("telemetry_views"),
                ring_of=lambda connection: KeyRing(connection, wrapped),
                blind=blind,
                clock=lambda: datetime.now(UTC),
            )
    finally:
        for pool in (naming, *(getattr(pools, name) for name in Pools.__slots__)):
            await pool.close()


def _sharing(config: Config, keystore: Keystore, pools: Pools, observer: Observer) -> SharingPool:
    """What owners settle. What could not be compiled stays marked, and is told as a job that failed."""
    return SharingPool(
        pools.sharing,
        ReceiptSigner(keystore.secret(RECEIPT_SIGNING)),
        plans.recompile,
        hot_retention=timedelta(hours=config.retention.hot_hours),
        behind=lambda error: observer.job_failed(events.JobFailed(events.Job.PLAN, error)),
    )


def _pools(connect: Callable[..., Connect], size: int) -> Pools:
    return Pools(
        views=Pool(connect("telemetry_views"), size=size),
        sharing=Pool(connect("telemetry_rights"), size=size),
        operator=Pool(connect("telemetry_operator"), size=size),
        access=Pool(connect("telemetry_access"), size=size),
        keys=Pool(connect("telemetry_keys", "keys"), size=size),
    )


def _access(config: Config, keystore: Keystore, pools: Pools, opener: PooledOpener, observer: Observer) -> Access:
    """Accounts, sessions and tokens. A mail that is given up is told as a delivery that failed."""
    return assemble(
        pools.access,
        access_key=keystore.secret(ACCESS),
        api_key=keystore.secret(API),
        mailer=Mailer(config.mail),
        register=opener.register,
        report=lambda error: observer.job_failed(events.JobFailed(events.Job.DELIVERY, error)),
        config=config.access,
    )
