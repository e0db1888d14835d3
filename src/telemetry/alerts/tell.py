"""Tells recipients and owners of alerts: what they are shown now, read through the views, and nothing else.

    look: for each who wants to be told ─▶ the view of alerts ─▶ what is new there ─▶ queue
    send: queue ─▶ the view again ─▶ still shown? ─▶ webhook or mail

What is queued is an alert's key. What is told is read at the moment of telling: withdrawn in between, it is not told.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import orjson

from telemetry.config import Config
from telemetry.deliver.mail import Mail, Mailer
from telemetry.deliver.outbox import End, Event, Message, Outbox, Target
from telemetry.deliver.sealing import WebhookSealer
from telemetry.deliver.webhook import WebhookSender
from telemetry.errors import DeliveryError, DeliveryRefused, KeystoreError, RegistryError, TelemetryError
from telemetry.model.alert import AlertKind
from telemetry.model.sharing import Resolution, SharingPurpose
from telemetry.observe import Observer, events
from telemetry.privacy.combine import instant_us
from telemetry.views.alerts import Shown, read_alerts, record_look
from telemetry.views.query import Query, Way
from telemetry.views.sight import Viewer
from telemetry.views.view import Views

LOOK_S: Final = 15.0
SEND_S: Final = 1.0
_TIDY_S: Final = 600.0
_RETRY_S: Final = 2.0
_REACH: Final = timedelta(days=70)  # what was found longer ago is shown already, or never
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS: Final = {
    AlertKind.DEVICE_ALARM: "a device reports an alarm",
    AlertKind.STALE: "a device that reported regularly does no longer",
    AlertKind.LOW_PRODUCTION: "a device makes far less than under the same sun before",
}
_Who = tuple[int | None, int | None, str | None]


class Addresses(Protocol):
    """Where accounts' addresses come from."""

    async def of_account(self, account_key: int) -> str | None:
        """The account's address in clear, for a mail; None where there is no such account."""
        ...


class Teller:
    """Looks and sends until cancelled. One event loop; any number of processes beside each other.

    ``addresses`` None: no mails. Webhooks and mails are off until they are configured.
    """

    def __init__(
        self,
        config: Config,
        views: Views,
        outbox: Outbox,
        sealer: WebhookSealer,
        observer: Observer,
        *,
        addresses: Addresses | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._views, self._outbox, self._sealer, self._observer = views, outbox, sealer, observer
        self._mailer, self._addresses = Mailer(config.mail), addresses
        self._sender = WebhookSender(config.webhooks)
        self._webhooks = config.webhooks.enabled
        self._mails = self._mailer.configured and addresses is not None
        self._at_once = config.webhooks.at_once
        self._lease = timedelta(seconds=2 * max(config.webhooks.timeout_s, config.mail.timeout_s) + 60)
        self._clock = clock or (lambda: datetime.now(UTC))

    async def run(self, *, look_s: float = LOOK_S, send_s: float = SEND_S) -> None:
        """Rounds until cancelled; a round that fails is told, and tried again."""
        look_at = tidy_at = 0.0
        while self._webhooks or self._mails:
            try:
                if time.monotonic() >= look_at:
                    await self.look()
                    look_at = time.monotonic() + look_s
                busy = await self.send()
                if time.monotonic() >= tidy_at:
                    await self._outbox.tidy(self._clock())
                    tidy_at = time.monotonic() + _TIDY_S
            except (TelemetryError, OSError) as error:
                self._observer.job_failed(events.JobFailed(events.Job.DELIVERY, error))
                await asyncio.sleep(_RETRY_S)
                continue
            if not busy:
                await asyncio.sleep(send_s)

    async def look(self) -> int:
        """Queue what has begun or ended for those who want to be told; how many messages that makes."""
        began, made = time.perf_counter(), 0
        targets = await self._outbox.targets(webhooks=self._webhooks, mails=self._mails)
        by_viewer: dict[_Who, list[Target]] = defaultdict(list)
        for target in targets:
            by_viewer[target.recipient_key, target.owner_key, target.purpose].append(target)
        for who, of_viewer in by_viewer.items():
            since = max(min(target.created_at for target in of_viewer), self._clock() - _REACH)
            shown = await self._or_none(self._shown(who, found_since_us=instant_us(since)))
            for target in of_viewer:
                fresh = [one for one in shown if one.found_us >= instant_us(target.created_at)]
                news = [(one.alert_key, Event.OPENED) for one in fresh]
                news += [(one.alert_key, Event.CLOSED) for one in shown if one.closed_us is not None]
                made += await self._outbox.enqueue(target, news, self._clock())
        self._observer.job_done(events.JobDone(events.Job.DELIVERY, time.perf_counter() - began, made=made))
        return made

    async def send(self) -> bool:
        """Send what is due, some of it at once; whether there was as much as could be taken."""
        at_most = 4 * self._at_once
        now = self._clock()
        messages = await self._outbox.claim(now, self._lease, at_most, webhooks=self._webhooks, mails=self._mails)
        if not messages:
            return False
        shown = await self._still_shown(messages)
        slots = asyncio.Semaphore(self._at_once)
        counts: dict[str, int] = defaultdict(int)

        async def one(message: Message) -> None:
            async with slots:
                counts[await self._tell(message, shown.get((_who(message), message.alert_key)))] += 1

        async with asyncio.TaskGroup() as group:
            for message in messages:
                group.create_task(one(message))
        waiting = await self._outbox.tidy(self._clock())
        ended = {name: counts[name] for name in ("delivered", "failed", "withdrawn", "given_up")}
        self._observer.messages_sent(events.MessagesSent(**ended, waiting=waiting))
        return len(messages) == at_most

    async def _still_shown(self, messages: Iterable[Message]) -> dict[tuple[_Who, int | None], Shown]:
        """What of it is shown now, by viewer and alert; recorded as looks."""
        wanted: dict[_Who, list[int]] = defaultdict(list)
        for message in messages:
            if message.alert_key is not None:
                wanted[_who(message)].append(message.alert_key)
        found: dict[tuple[_Who, int | None], Shown] = {}
        for who, keys in wanted.items():
            found |= {(who, one.alert_key): one for one in await self._or_none(self._shown(who, keys=keys))}
        return found

    async def _or_none(self, looking: Awaitable[list[Shown]]) -> list[Shown]:
        """One viewer whose names cannot be made (a key is gone) holds nobody else up."""
        try:
            return await looking
        except (KeystoreError, RegistryError) as error:
            self._observer.job_failed(events.JobFailed(events.Job.DELIVERY, error))
            return []

    async def _shown(
        self, who: _Who, *, keys: Sequence[int] | None = None, found_since_us: int | None = None
    ) -> list[Shown]:
        """What a viewer is shown; with ``keys`` it is about to be told, and the look is recorded."""
        recipient, owner, purpose = who
        viewer = Viewer(recipient, SharingPurpose(purpose) if purpose else None, owner)
        async with self._views.seeing(viewer) as (connection, sight, named):
            ever = (0, instant_us(sight.now + _REACH))
            shown = await read_alerts(connection, sight, named, ever, keys=keys, found_since_us=found_since_us)
            if keys is not None and shown and viewer.purpose is not None:
                told = {one.device for one in shown}
                about = named.part([n for n, name in enumerate(named.names) if name in told])
                query = Query(viewer.purpose, sight.now - _REACH, sight.now, Resolution.RAW)
                await record_look(connection, viewer, about, query, Way.STREAM)
        return shown

    async def _tell(self, message: Message, shown: Shown | None) -> str:
        """Tell one message; what became of it."""
        now = self._clock()
        if message.disabled and message.event is not Event.TEST:
            await self._outbox.end(message, End.GIVEN_UP, now)
            return End.GIVEN_UP.value
        closed = shown is not None and shown.closed_us is not None
        if message.event is not Event.TEST and (shown is None or (message.event is Event.CLOSED and not closed)):
            await self._outbox.end(message, End.WITHDRAWN, now)
            return End.WITHDRAWN.value
        try:
            told = await (self._post(message, shown) if message.webhook_key is not None else self._mail(message, shown))
        except DeliveryRefused:
            await (self._outbox.gone(message, now) if message.webhook_key else self._end_refused(message, now))
            return End.GIVEN_UP.value
        except TelemetryError as error:
            if not isinstance(error, DeliveryError):
                self._observer.job_failed(events.JobFailed(events.Job.DELIVERY, error))
            return await self._outbox.failed(message, self._clock()) or "failed"
        if told:
            await self._outbox.end(message, End.DELIVERED, self._clock())
        return End.DELIVERED.value if told else End.WITHDRAWN.value

    async def _end_refused(self, message: Message, now: datetime) -> None:
        await self._outbox.end(message, End.REFUSED, now)

    async def _post(self, message: Message, shown: Shown | None) -> bool:
        assert message.sealed is not None  # noqa: S101 - it has a webhook
        assert message.webhook_key is not None  # noqa: S101
        url, secret = self._sealer.open(message.sealed, webhook_key=message.webhook_key)
        await self._sender.post(url, secret, message.id, payload(message, shown, self._clock()))
        return True

    async def _mail(self, message: Message, shown: Shown | None) -> bool:
        assert self._addresses is not None  # noqa: S101 - mails are claimed with it only
        assert message.account_key is not None  # noqa: S101 - it is a mail
        to = await self._addresses.of_account(message.account_key)
        if to is None:
            await self._outbox.nobody(message)
            return False
        assert shown is not None  # noqa: S101 - looked at before
        await self._mailer.send(mail(to, message, shown, self._mailer.link_base))
        return True


def _who(message: Message) -> _Who:
    return message.recipient_key, message.owner_key, message.purpose


def payload(message: Message, shown: Shown | None, now: datetime) -> bytes:
    """What a webhook gets, as JSON: type, timestamp, and data in the recipient's own tokens. No value of a reading."""
    data: Mapping[str, Any] = {}
    if shown is not None:
        data = {
            "purpose": message.purpose,
            "site": shown.site,
            "device": shown.device,
            "kind": shown.kind.label,
            "severity": shown.severity,
            "opened": _instant(shown.opened_us),
            "closed": _instant(shown.closed_us),
        }
    kind = "webhook.test" if message.event is Event.TEST else f"alert.{message.event.value}"
    stamp = now.astimezone(UTC).replace(microsecond=0)
    return orjson.dumps({"type": kind, "timestamp": stamp, "data": data}, option=orjson.OPT_UTC_Z)


def mail(to: str, message: Message, shown: Shown, link_base: str) -> Mail:
    """What a person gets: no name, no token, and nothing measured."""
    ended = message.event is Event.CLOSED
    subject = "An alert has ended" if ended else "There is an alert"
    when = _instant(shown.closed_us if ended else shown.opened_us)
    lines = [f"{'Over' if ended else 'New'}: {_KINDS[shown.kind]}."]
    lines += [f"{'Until' if ended else 'Since'}: {when:%Y-%m-%d %H:%M} UTC."] if when else []
    lines += ["", f"What it is about: {link_base}/alerts"] if link_base else []
    return Mail(to, subject, "\n".join(lines) + "\n")


def _instant(us: int | None) -> datetime | None:
    return None if us is None else _EPOCH + timedelta(microseconds=us)
