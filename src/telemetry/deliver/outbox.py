"""The queue of what is to be told: PostgreSQL, SKIP LOCKED, leases. At least once, and each message under one id.

    collected ─▶ waiting ─▶ claimed (until its lease is over) ─▶ delivered | withdrawn | refused | given up
                    ▲─────────── failed: later, with jitter ──────────┘

A process that is killed loses its lease and nothing else. Whoever comes too late changes nothing, but may say that it
was delivered.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from telemetry.deliver.targets import Connections, message_id, transaction
from telemetry.store.sql import queries

_SQL: Final = queries("outbox")
LASTING: Final = timedelta(hours=24)  # so long a message is tried, and a webhook may fail
_FIRST_S: Final = 5.0
_LONGEST_S: Final = 2 * 3600.0
_TEST_ATTEMPTS: Final = 5
_KEPT: Final = timedelta(days=100)  # longer than an alert can be shown for the first time


class Event(StrEnum):
    """What a message tells."""

    OPENED = "opened"
    CLOSED = "closed"
    TEST = "test"


class End(StrEnum):
    """What became of a message."""

    DELIVERED = "delivered"
    WITHDRAWN = "withdrawn"  # what it would have told is not shown any more
    GIVEN_UP = "given_up"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Target:
    """A webhook or an account that wants to be told. ``owner_key`` None: a recipient's, for ``purpose``."""

    webhook_key: int | None
    alert_mail_key: int | None
    recipient_key: int | None
    owner_key: int | None
    purpose: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Message:
    """One message that was claimed, and its target."""

    key: Any
    event: Event
    alert_key: int | None
    webhook_key: int | None
    alert_mail_key: int | None
    recipient_key: int | None
    owner_key: int | None
    purpose: str | None
    account_key: int | None
    created_at: datetime
    attempts: int
    lease: datetime
    sealed: bytes | None = field(repr=False)
    failing_since: datetime | None = None
    disabled: bool = False

    @property
    def id(self) -> str:
        """The ``webhook-id``."""
        return message_id(self.key)

    def retry_at(self, now: datetime) -> datetime | None:
        """When to try again: later each time, with jitter; None when it is given up."""
        if now - self.created_at >= LASTING or (self.event is Event.TEST and self.attempts >= _TEST_ATTEMPTS):
            return None
        delay_s = min(_LONGEST_S, _FIRST_S * 2.0 ** min(self.attempts - 1, 20))
        return now + timedelta(seconds=random.uniform(delay_s / 2, delay_s))


class Outbox:
    """Over connections of the role telemetry_access. Any number of processes. Raises StoreUnavailable or StoreError."""

    def __init__(self, pool: Connections) -> None:
        self._pool = pool

    async def targets(self, *, webhooks: bool, mails: bool) -> list[Target]:
        """Who may be told something, those of one viewer together."""
        async with transaction(self._pool, "reading who is told") as connection:
            rows = await connection.fetch(_SQL["targets"], webhooks, mails)
        return [Target(**row) for row in rows]

    async def enqueue(self, target: Target, events: Sequence[tuple[int, Event]], now: datetime) -> int:
        """Have the target told of (alert, event), each once for ever. An end is told to whom the begin was."""
        about = target.webhook_key, target.alert_mail_key
        made = 0
        async with transaction(self._pool, "noting what is to be told") as connection:
            for wanted, statement in ((Event.OPENED, "enqueue"), (Event.CLOSED, "enqueue_end")):
                alerts = [alert for alert, event in events if event is wanted]
                if alerts:
                    made += len(await connection.fetch(_SQL[statement], *about, alerts, wanted.value, now))
        return made

    async def claim(
        self, now: datetime, lease: timedelta, at_most: int, *, webhooks: bool, mails: bool
    ) -> list[Message]:
        """What is due, for as long as the lease."""
        async with transaction(self._pool, "taking what is due") as connection:
            rows = await connection.fetch(_SQL["claim"], now, now + lease, at_most, webhooks, mails)
        return [_message(row) for row in rows]

    async def end(self, message: Message, as_: End, now: datetime) -> None:
        """A message's end; one that was delivered says that its webhook works, and without messages none is failing."""
        async with transaction(self._pool, "noting a delivery") as connection:
            await connection.execute(_SQL["end_message"], message.key, message.lease, now, as_.value)
            if message.webhook_key is not None:
                await connection.execute(_SQL["working" if as_ is End.DELIVERED else "idle"], message.webhook_key)

    async def failed(self, message: Message, now: datetime) -> End | None:
        """Try again later (None), or give the message up. A webhook that fails for long is disabled."""
        again = message.retry_at(now)
        lasting = message.failing_since is not None and now - message.failing_since >= LASTING
        async with transaction(self._pool, "noting a failure") as connection:
            if message.webhook_key is not None:
                await connection.execute(_SQL["failing"], message.webhook_key, now)
                if lasting:
                    await connection.execute(_SQL["disable"], message.webhook_key, now, "failing")
                    return End.GIVEN_UP
            if again is None:
                ended = (message.key, message.lease, now, End.GIVEN_UP.value)
                await connection.execute(_SQL["end_message"], *ended)
                return End.GIVEN_UP
            await connection.execute(_SQL["retry_message"], message.key, message.lease, again)
        return None

    async def gone(self, message: Message, now: datetime) -> None:
        """The webhook says that it is gone: it is told nothing any more."""
        async with transaction(self._pool, "disabling a webhook") as connection:
            await connection.execute(_SQL["disable"], message.webhook_key, now, "gone")

    async def nobody(self, message: Message) -> None:
        """The account is gone: its wish for mails goes too, with what waits."""
        async with transaction(self._pool, "forgetting a wish for mails") as connection:
            await connection.execute(_SQL["forget_mail"], message.alert_mail_key)

    async def tidy(self, now: datetime) -> int:
        """Forget what ended long ago; how many messages wait."""
        async with transaction(self._pool, "tidying the queue") as connection:
            await connection.execute(_SQL["forget"], now - _KEPT)
            waiting: int = await connection.fetchval(_SQL["waiting"])
        return waiting


def _message(row: Mapping[str, Any]) -> Message:
    same = ("alert_key", "webhook_key", "alert_mail_key", "recipient_key", "owner_key", "purpose", "account_key")
    return Message(
        key=row["message_key"],
        event=Event(row["event"]),
        lease=row["due_at"],
        disabled=row["disabled_at"] is not None,
        **{name: row[name] for name in (*same, "created_at", "attempts", "sealed", "failing_since")},
    )
