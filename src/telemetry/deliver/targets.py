"""Who wants to be told of alerts, and where: webhooks of recipients, mails of accounts. Role telemetry_access.

Others' webhooks and none look the same. An address is checked when it is given, and again at every attempt.
"""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from telemetry.config import WebhooksConfig
from telemetry.deliver.address import parse
from telemetry.deliver.sealing import WebhookSealer
from telemetry.deliver.webhook import new_secret, shown_secret
from telemetry.errors import DeliveryError, NotConfigured, TargetUnknown, UnsealError
from telemetry.model.sharing import SharingPurpose
from telemetry.store.failures import reported
from telemetry.store.sql import queries

_SQL: Final = queries("outbox")


class Connections(Protocol):
    """Where connections come from: a telemetry.views.pool.Pool of the role telemetry_access."""

    def connection(self) -> AbstractAsyncContextManager[Any]:
        """One connection, for the time of the block."""
        ...


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook as its recipient sees it. ``url`` None: it does not open any more and has to be added anew.

    ``state``: "working", "failing" (since ``failing_since``), or "disabled"; ``waiting``: messages to be sent.
    """

    webhook_key: int
    purpose: SharingPurpose
    url: str | None = field(repr=False)
    created_at: datetime
    state: str
    failing_since: datetime | None
    waiting: int


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """``secret``: whsec_…, shown this once."""

    webhook_key: int
    secret: str = field(repr=False)


def _now() -> datetime:
    return datetime.now(UTC)


class Webhooks:
    """A recipient's webhooks. One event loop, any number of callers.

    Raises everywhere:
        StoreUnavailable: try again.
    """

    def __init__(
        self,
        pool: Connections,
        sealer: WebhookSealer,
        config: WebhooksConfig,
        *,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._pool, self._sealer, self._config, self._clock = pool, sealer, config, clock

    async def add(self, recipient_key: int, purpose: SharingPurpose, url: str) -> NewWebhook:
        """Alerts that this recipient may see for this purpose are posted to ``url`` from now on.

        Raises:
            NotConfigured: webhooks are off.
            AddressRefused: the address is none to send to.
            DeliveryError: the recipient has as many as it may have.

        """
        if not self._config.enabled:
            raise NotConfigured("webhooks are off", remedy="ask the operator: webhooks.enabled")
        parse(url, loopback=self._config.loopback)
        key, secret = secrets.randbits(63) or 1, new_secret()
        sealed = self._sealer.seal(url, secret, webhook_key=key)
        about = (key, recipient_key, purpose.value, sealed, self._clock(), self._config.per_recipient)
        async with self._transaction("adding a webhook") as connection:
            await connection.execute(_SQL["lock_recipient"], recipient_key)
            if await connection.fetchval(_SQL["add_webhook"], *about) is None:
                raise DeliveryError("there are as many webhooks as there may be", remedy="remove one")
        return NewWebhook(key, shown_secret(secret))

    async def list(self, recipient_key: int) -> list[Webhook]:
        """The recipient's webhooks, oldest first."""
        async with self._transaction("listing webhooks") as connection:
            rows = await connection.fetch(_SQL["webhooks"], recipient_key)
        return [self._webhook(row) for row in rows]

    async def remove(self, recipient_key: int, webhook_key: int) -> None:
        """Nothing is sent to it any more; what waits is gone. Raises TargetUnknown."""
        async with self._transaction("removing a webhook") as connection:
            if await connection.fetchval(_SQL["remove_webhook"], webhook_key, recipient_key) is None:
                raise TargetUnknown

    async def test(self, recipient_key: int, webhook_key: int) -> str:
        """Have a test message sent, also where the webhook is disabled: taken, it is enabled again.

        Returns the ``webhook-id`` that will arrive. One test waits at a time: asked again, it is the same.

        Raises:
            TargetUnknown: unknown or somebody else's.
            NotConfigured: webhooks are off.

        """
        if not self._config.enabled:
            raise NotConfigured("webhooks are off", remedy="ask the operator: webhooks.enabled")
        async with self._transaction("testing a webhook") as connection:
            message = await connection.fetchval(_SQL["test_webhook"], webhook_key, recipient_key, self._clock())
            if message is None:
                raise TargetUnknown
        return message_id(message)

    def _webhook(self, row: Any) -> Webhook:
        try:
            url, _ = self._sealer.open(row["sealed"], webhook_key=row["webhook_key"])
        except UnsealError:
            url = None
        state = "disabled" if row["disabled_at"] else "failing" if row["failing_since"] else "working"
        purpose = SharingPurpose(row["purpose"])
        since = row["failing_since"]
        return Webhook(row["webhook_key"], purpose, url, row["created_at"], state, since, row["waiting"])

    @asynccontextmanager
    async def _transaction(self, what: str) -> AsyncIterator[Any]:
        async with transaction(self._pool, what) as connection:
            yield connection


class AlertMails:
    """Which accounts want mails of alerts: of a recipient for one purpose, or an owner's of the own home."""

    def __init__(self, pool: Connections, *, clock: Callable[[], datetime] = _now) -> None:
        self._pool, self._clock = pool, clock

    async def want(
        self,
        account_key: int,
        *,
        recipient_key: int | None = None,
        owner_key: int | None = None,
        purpose: SharingPurpose | None = None,
    ) -> None:
        """From now on the account is told; asking again changes nothing. Of a recipient with a purpose, of an owner
        without.
        """
        key = secrets.randbits(63) or 1
        about = (key, account_key, recipient_key, owner_key, purpose and purpose.value, self._clock())
        async with transaction(self._pool, "wanting mails") as connection:
            await connection.execute(_SQL["want_mail"], *about)

    async def wanted(self, account_key: int) -> list[SharingPurpose | None]:
        """The purposes that the account is told for; None for the own home."""
        async with transaction(self._pool, "listing wishes for mails") as connection:
            rows = await connection.fetch(_SQL["wanted_mail"], account_key)
        return [row["purpose"] and SharingPurpose(row["purpose"]) for row in rows]

    async def end(self, account_key: int, purpose: SharingPurpose | None = None) -> None:
        """No more mails for this purpose. Ending what was not wanted changes nothing."""
        async with transaction(self._pool, "ending mails") as connection:
            await connection.execute(_SQL["end_mail"], account_key, purpose and purpose.value)


@asynccontextmanager
async def transaction(pool: Connections, what: str) -> AsyncIterator[Any]:
    """One transaction on a connection of the pool. Raises StoreUnavailable or StoreError, naming ``what``."""
    async with pool.connection() as connection:
        with reported(what):
            async with connection.transaction():
                yield connection


def message_id(key: Any) -> str:
    """The ``webhook-id`` of a message: the same at every attempt."""
    return f"msg_{key.hex}"
