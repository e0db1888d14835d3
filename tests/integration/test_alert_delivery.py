"""Alerts told: to real servers, at least once under one id, and nothing that is not shown at that moment."""

import asyncio
import base64
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from telemetry.alerts.tell import Teller
from telemetry.config import Config, load_config
from telemetry.deliver.outbox import LASTING, Outbox
from telemetry.deliver.sealing import WebhookSealer
from telemetry.deliver.targets import AlertMails, Webhooks
from telemetry.deliver.webhook import WebhookSender
from telemetry.errors import (
    AddressRefused,
    DeliveryError,
    DeliveryRefused,
    DeliveryUnavailable,
    NotConfigured,
    TargetUnknown,
)
from telemetry.model.alert import AlertKind
from telemetry.model.sharing import Resolution, SharingPurpose
from telemetry.observe import Observer
from telemetry.views.pool import Pool
from tests.support import consents
from tests.support.alerts import add_alert
from tests.support.certificates import make_certificates
from tests.support.hook_server import HookServer
from tests.support.mail_server import MailServer
from tests.support.store import PASSWORD, Store
from tests.support.view_world import HOUR, MINUTE, ViewWorld

LOOKER, OTHER, OWNER, SITE, DEVICE = 1, 2, 10, 100, 1000
NOW = datetime.now(UTC).replace(microsecond=0)
PURPOSE = SharingPurpose.MAINTENANCE
KEY = b"k" * 32
ROOT = Path(__file__).resolve().parents[2]


class MadeUpAddresses:
    def __init__(self, **known: str) -> None:
        self.known = {int(key.removeprefix("_")): address for key, address in known.items()}

    async def of_account(self, account_key: int) -> str | None:
        return self.known.get(account_key)


def settings(mail: Any = None, **webhooks: Any) -> Config:
    more = {} if mail is None else {"mail": mail.model_dump()}
    return load_config(None, webhooks={"enabled": True, "loopback": True, "timeout_s": 5} | webhooks, **more)


class Scene:
    """A recipient with a raw grant of alerts, one device, a clock, and whoever tells."""

    def __init__(self, store: Store, admin: Any) -> None:
        self.store, self.admin, self.now = store, admin, NOW
        self.views = ViewWorld(store, admin, NOW)
        self.pool = Pool(store.role("access"))
        self.sealer, self.observer = WebhookSealer(KEY), Observer()
        self.hooks = self.webhooks()

    def webhooks(self, **more: Any) -> Webhooks:
        return Webhooks(self.pool, self.sealer, settings(**more).webhooks, clock=lambda: self.now)

    def teller(self, config: Config | None = None, addresses: Any = None) -> Teller:
        self.views.now = self.now
        return Teller(
            config or settings(),
            self.views.views,
            Outbox(self.pool),
            self.sealer,
            self.observer,
            addresses=addresses,
            clock=lambda: self.now,
        )

    async def round(
        self, *, after: timedelta = timedelta(0), config: Config | None = None, addresses: Any = None
    ) -> int:
        """Look, then send all that is due."""
        self.now += after
        teller = self.teller(config, addresses)
        made = await teller.look()
        while await teller.send():
            pass
        return made

    async def alert(self, **more: Any) -> int:
        self.now += MINUTE
        return await add_alert(self.admin, DEVICE, self.now - MINUTE, **{"found": self.now - MINUTE} | more)

    async def close(self, key: int) -> None:
        self.now += MINUTE
        await self.admin.execute(
            "UPDATE readings.alert SET closed_at = $2, settled_at = $2 WHERE alert_key = $1", key, self.now
        )

    async def queue(self) -> list[tuple[str, str | None]]:
        rows = await self.admin.fetch("SELECT event, ended_as FROM access.outbox ORDER BY created_at, event")
        return [tuple(row) for row in rows]


CLEAR = "TRUNCATE access.webhook, access.alert_mail CASCADE"


@pytest_asyncio.fixture
async def scene(store: Store) -> AsyncIterator[Scene]:
    admin = await store.admin()
    await consents.clear(admin)
    await admin.execute(CLEAR)
    for key in (LOOKER, OTHER):
        await consents.add_recipient(admin, key)
    await consents.add_owner(admin, OWNER)
    await consents.add_site(admin, SITE, OWNER)
    await consents.add_device(admin, DEVICE, SITE)
    await consents.add_grant(admin, 1, OWNER, LOOKER, classes=["alert"], fields=[], resolution=Resolution.RAW.rank)
    scene = Scene(store, admin)
    yield scene
    await scene.pool.close()
    await scene.views.pool.close()
    await admin.execute(CLEAR)
    await consents.clear(admin)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[HookServer]:
    async with HookServer() as server:
        yield server


def opened(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix("whsec_"))


class TestWebhooks:
    async def test_what_begins_and_what_ends_is_told_signed_in_tokens(self, scene: Scene, server: HookServer) -> None:
        made = await scene.hooks.add(LOOKER, PURPOSE, server.url)
        key = await scene.alert(kind=AlertKind.STALE, severity=4)
        assert await scene.round() == 1
        (call,) = server.calls
        assert call.path == "/hook?a=1"
        assert call.signed_by(opened(made.secret))
        assert call.headers["host"] == f"localhost:{server.port}"
        assert call.json["type"] == "alert.opened"
        data = call.json["data"]
        assert data.pop("site").startswith("site_")
        assert data.pop("device").startswith("dev_")
        began = (scene.now - MINUTE).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert data == {"purpose": "maintenance", "kind": "stale", "severity": 4, "opened": began, "closed": None}
        await scene.close(key)
        assert await scene.round(after=MINUTE) == 1
        assert [call.json["type"] for call in server.calls] == ["alert.opened", "alert.closed"]
        assert server.calls[1].json["data"]["closed"] is not None
        assert await scene.queue() == [("opened", "delivered"), ("closed", "delivered")]

    async def test_nothing_is_told_twice(self, scene: Scene, server: HookServer) -> None:
        await scene.hooks.add(LOOKER, PURPOSE, server.url)
        await scene.alert()
        for _ in range(3):
            await scene.round(after=HOUR)
        assert len(server.calls) == 1

    async def test_what_was_found_before_is_not_told(self, scene: Scene, server: HookServer) -> None:
        key = await scene.alert()
        await scene.hooks.add(LOOKER, PURPOSE, server.url)
        await scene.close(key)
        await scene.round(after=MINUTE)
        assert server.calls == []

    async def test_of_what_is_not_granted_nothing_is_told(self, scene: Scene, server: HookServer) -> None:
        await scene.hooks.add(OTHER, PURPOSE, server.url)
        await scene.hooks.add(LOOKER, SharingPurpose.BILLING, server.url)
        await scene.alert()
        await scene.round(after=HOUR)
        assert server.calls == []
        assert await scene.queue() == []

    async def test_below_real_time_it_is_told_when_it_is_shown(self, scene: Scene, server: HookServer) -> None:
        await consents.withdraw(scene.admin, 1)
        await consents.add_grant(scene.admin, 2, OWNER, LOOKER, classes=["alert"], fields=[], resolution=2)
        await scene.hooks.add(LOOKER, PURPOSE, server.url)
        await scene.alert()
        await scene.round()
        assert server.calls == []
        await scene.round(after=20 * MINUTE)
        (call,) = server.calls
        assert datetime.fromisoformat(call.json["data"]["opened"]).minute % 15 == 0

    async def test_what_is_withdrawn_before_it_is_sent_is_not_told(self, scene: Scene, server: HookServer) -> None:
        await scene.hooks.add(LOOKER, PURPOSE, server.url)
        await scene.alert()
        teller = scene.teller()
        assert await teller.look() == 1
        await consents.withdraw(scene.admin, 1)
        await teller.send()
        assert server.calls == []
        assert await scene.queue() == [("opened", "withdrawn")]

    async def test_a_message_that_failed_is_not_told_after_a_withdrawal_either(
        self, scene: Scene, server: HookServer
    ) -> None:
        await scene.hooks.add(LOOKER, PURPOSE, server.url)
        server.answers = [500]
        await scene.alert()
        await scene.round()
        await consents.withdraw(scene.admin, 1)
        await scene.round(after=HOUR)
        assert len(server.calls) == 1
        assert await scene.queue() == [("opened", "withdrawn")]
        assert [one.state for one in await scene.hooks.list(LOOKER)] == ["working"]  # it has failed nobody since

    async def test_it_is_tried_again_later_each_time_under_the_same_id(self, scene: Scene, server: HookServer) -> None:
        made = await scene.hooks.add(LOOKER, PURPOSE, server.url)
        server.answers = [500, 503, None, 302, 404]
        await scene.alert()
        await scene.round()
        due = []
        for _ in range(5):
            (row,) = await scene.admin.fetch("SELECT due_at FROM access.outbox")
            due.append((row["due_at"] - scene.now).total_seconds())
            await scene.round(after=timedelta(seconds=due[-1] - 0.5))
            before = len(server.calls)
            await scene.round(after=timedelta(seconds=0.5))
            assert len(server.calls) == before + 1
        assert all(5 * 2**n / 2 <= each <= 5 * 2**n for n, each in enumerate(due))
        assert len({call.headers["webhook-id"] for call in server.calls}) == 1
        assert all(call.signed_by(opened(made.secret)) for call in server.calls)
        assert await scene.queue() == [("opened", "delivered")]

    async def test_redirects_are_not_followed(self, scene: Scene, server: HookServer) -> None:
        async with HookServer() as elsewhere:
            server.headers = f"location: {elsewhere.url}\r\n"
            server.answers = [307]
            await scene.hooks.add(LOOKER, PURPOSE, server.url)
            await scene.alert()
            await scene.round()
            assert (len(server.calls), elsewhere.calls) == (1, [])

    async def test_after_a_day_it_is_given_up_and_the_webhook_is_disabled(
        self, scene: Scene, server: HookServer
    ) -> None:
        await scene.hooks.add(LOOKER, PURPOSE, server.url)
        server.answers = [500] * 100
        await scene.alert()
        await scene.round()
        assert [one.state for one in await scene.hooks.list(LOOKER)] == ["failing"]
        for _ in range(14):
            await scene.round(after=2 * HOUR)
        assert [one.state for one in await scene.hooks.list(LOOKER)] == ["disabled"]
        assert await scene.queue() == [("opened", "given_up")]
        assert 10 <= len(server.calls) <= 14
        tried = len(server.calls)
        await scene.alert(kind=AlertKind.STALE)
        await scene.round(after=HOUR)
        assert len(server.calls) == tried

    async def test_one_that_says_gone_is_disabled_at_once(self, scene: Scene, server: HookServer) -> None:
        await scene.hooks.add(LOOKER, PURPOSE, server.url)
        server.answers = [410]
        await scene.alert()
        await scene.round()
        assert [one.state for one in await scene.hooks.list(LOOKER)] == ["disabled"]

    async def test_a_test_that_is_taken_enables_it_again(self, scene: Scene, server: HookServer) -> None:
        made = await scene.hooks.add(LOOKER, PURPOSE, server.url)
        server.answers = [410]
        await scene.alert()
        await scene.round()
        told = await scene.hooks.test(LOOKER, made.webhook_key)
        assert await scene.hooks.test(LOOKER, made.webhook_key) == told
        await scene.round(after=MINUTE)
        call = server.calls[-1]
        assert (call.headers["webhook-id"], call.json["type"], call.json["data"]) == (told, "webhook.test", {})
        assert [one.state for one in await scene.hooks.list(LOOKER)] == ["working"]

    async def test_one_success_ends_the_failing(self, scene: Scene, server: HookServer) -> None:
        await scene.hooks.add(LOOKER, PURPOSE, server.url)
        server.answers = [500]
        await scene.alert()
        await scene.round()
        await scene.round(after=HOUR)
        assert [one.state for one in await scene.hooks.list(LOOKER)] == ["working"]

    async def test_one_that_hangs_holds_nobody_else_up(self, scene: Scene, server: HookServer) -> None:
        async with HookServer(delay_s=30) as slow:
            await scene.hooks.add(LOOKER, PURPOSE, slow.url)
            await scene.hooks.add(LOOKER, PURPOSE, server.url)
            await scene.alert()
            await scene.round(config=settings(timeout_s=0.5))
            assert (len(slow.calls), len(server.calls)) == (1, 1)

    async def test_looks_are_recorded_when_something_is_told(self, scene: Scene, server: HookServer) -> None:
        await scene.hooks.add(LOOKER, PURPOSE, server.url)
        await scene.round()
        assert await scene.admin.fetchval("SELECT count(*) FROM audit.read") == 0
        await scene.alert()
        await scene.round()
        (row,) = await scene.admin.fetch("SELECT recipient_key, owner_key, way, resolution FROM audit.read")
        assert tuple(row) == (LOOKER, OWNER, "stream", 0)

    async def test_removed_it_is_told_nothing(self, scene: Scene, server: HookServer) -> None:
        made = await scene.hooks.add(LOOKER, PURPOSE, server.url)
        await scene.alert()
        teller = scene.teller()
        await teller.look()
        await scene.hooks.remove(LOOKER, made.webhook_key)
        await teller.send()
        assert (server.calls, await scene.queue()) == ([], [])


class TestManaging:
    async def test_addresses_and_secrets_are_in_no_table(self, scene: Scene, server: HookServer) -> None:
        made = await scene.hooks.add(LOOKER, PURPOSE, "https://hooks.example.invalid/secret-path")
        (row,) = await scene.admin.fetch("SELECT * FROM access.webhook")
        assert b"example" not in row["sealed"]
        assert opened(made.secret) not in row["sealed"]
        assert "whsec" not in repr(made)
        (one,) = await scene.hooks.list(LOOKER)
        assert (one.url, one.purpose, one.state, one.waiting) == (
            "https://hooks.example.invalid/secret-path",
            PURPOSE,
            "working",
            0,
        )
        assert "example" not in repr(one)

    async def test_what_is_not_public_is_refused(self, scene: Scene) -> None:
        for url in ("http://hooks.example.invalid/", "https://10.1.2.3/", "https://localhost/"):
            with pytest.raises(AddressRefused):
                await scene.webhooks(loopback=False).add(LOOKER, PURPOSE, url)

    async def test_anothers_and_none_look_the_same(self, scene: Scene, server: HookServer) -> None:
        made = await scene.hooks.add(LOOKER, PURPOSE, server.url)
        for key in (made.webhook_key, 12345):
            for act in (scene.hooks.remove, scene.hooks.test):
                with pytest.raises(TargetUnknown):
                    await act(OTHER, key)
        assert await scene.hooks.list(OTHER) == []
        assert len(await scene.hooks.list(LOOKER)) == 1

    async def test_there_are_so_many_and_no_more(self, scene: Scene, server: HookServer) -> None:
        hooks = scene.webhooks(per_recipient=3)
        done = await asyncio.gather(*(hooks.add(LOOKER, PURPOSE, server.url) for _ in range(6)), return_exceptions=True)
        assert sum(isinstance(one, DeliveryError) for one in done) == 3
        assert len(await hooks.list(LOOKER)) == 3

    async def test_off_until_configured(self, scene: Scene, server: HookServer) -> None:
        made = await scene.hooks.add(LOOKER, PURPOSE, server.url)
        off = scene.webhooks(enabled=False)
        with pytest.raises(NotConfigured):
            await off.add(LOOKER, PURPOSE, server.url)
        with pytest.raises(NotConfigured):
            await off.test(LOOKER, made.webhook_key)
        await scene.alert()
        assert await scene.round(config=settings(enabled=False)) == 0
        await asyncio.wait_for(scene.teller(settings(enabled=False)).run(), 5)  # there is nothing to do
        assert server.calls == []


class TestSending:
    """One attempt."""

    async def test_under_tls_the_certificate_is_of_the_name(self, tmp_path: Path) -> None:
        certificates = make_certificates(tmp_path / "c")
        async with HookServer(certificates) as server:
            own = WebhookSender(settings(ca_file=str(certificates.ca)).webhooks)
            await own.post(server.url, KEY, "msg_1", b"{}")
            with pytest.raises(DeliveryUnavailable):  # nobody vouches for it
                await WebhookSender(settings().webhooks).post(server.url, KEY, "msg_1", b"{}")
            with pytest.raises(DeliveryUnavailable):  # it is another one's
                await own.post(server.url.replace("localhost", "127.0.0.1"), KEY, "msg_1", b"{}")
        assert len(server.calls) == 1

    async def test_loopback_is_not_reached_unless_it_is_allowed(self, server: HookServer) -> None:
        with pytest.raises(AddressRefused):
            await WebhookSender(settings(loopback=False).webhooks).post(server.url, KEY, "msg_1", b"{}")
        assert server.calls == []

    @pytest.mark.parametrize(
        ("status", "raised"), [(410, DeliveryRefused), (400, DeliveryUnavailable), (None, DeliveryUnavailable)]
    )
    async def test_errors_name_a_status_and_no_address(self, server: HookServer, status: Any, raised: Any) -> None:
        server.answers = [status]
        with pytest.raises(raised) as told:
            await WebhookSender(settings().webhooks).post(server.url, KEY, "msg_1", b"{}")
        assert "localhost" not in str(told.value)
        assert told.value.__cause__ is None

    async def test_proxies_of_the_environment_are_not_used(
        self, server: HookServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with HookServer() as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            await WebhookSender(settings().webhooks).post(server.url, KEY, "msg_1", b"{}")
        assert (len(server.calls), proxy.calls) == (1, [])


class TestMails:
    async def test_a_recipients_account_and_an_owners_are_told_without_identifiers(self, scene: Scene) -> None:
        addresses = MadeUpAddresses(_7="ada@example.invalid", _8="owner@example.invalid")
        mails = AlertMails(scene.pool, clock=lambda: scene.now)
        for _ in range(2):
            await mails.want(7, recipient_key=LOOKER, purpose=PURPOSE)
            await mails.want(8, owner_key=OWNER)
        assert await mails.wanted(7) == [PURPOSE]
        assert await mails.wanted(8) == [None]
        async with MailServer() as server:
            config = settings(server.config(link_base="https://portal.example.invalid/"))
            key = await scene.alert()
            assert await scene.round(config=config, addresses=addresses) == 2
            assert {mail["To"] for mail in server.mails} == set(addresses.known.values())
            text = server.mails[0].get_content()
            assert "a device reports an alarm" in text
            assert "https://portal.example.invalid/alerts" in text
            assert not any(part in text for part in ("site_", "dev_", "d_", "s_", "o_"))
            await mails.end(7, PURPOSE)
            await scene.close(key)
            assert await scene.round(config=config, addresses=addresses, after=MINUTE) == 1
            assert server.mails[-1]["To"] == "owner@example.invalid"
            assert server.mails[-1]["Subject"] == "An alert has ended"

    async def test_an_account_that_is_gone_is_forgotten(self, scene: Scene) -> None:
        await AlertMails(scene.pool, clock=lambda: scene.now).want(7, owner_key=OWNER)
        async with MailServer() as server:
            await scene.alert()
            await scene.round(config=settings(server.config()), addresses=MadeUpAddresses())
            assert server.mails == []
        assert await scene.admin.fetchval("SELECT count(*) FROM access.alert_mail") == 0

    async def test_a_mail_that_is_refused_is_not_tried_again_and_one_that_is_put_off_is(self, scene: Scene) -> None:
        await AlertMails(scene.pool, clock=lambda: scene.now).want(7, owner_key=OWNER)
        addresses = MadeUpAddresses(_7="ada@example.invalid")
        async with MailServer(replies=["451 later", "554 never"]) as server:
            config = settings(server.config())
            await scene.alert()
            await scene.round(config=config, addresses=addresses)
            assert await scene.queue() == [("opened", None)]
            for _ in range(2):
                await scene.round(config=config, addresses=addresses, after=HOUR)
            assert await scene.queue() == [("opened", "refused")]

    async def test_without_a_mail_server_nothing_waits_for_one(self, scene: Scene) -> None:
        await AlertMails(scene.pool, clock=lambda: scene.now).want(7, owner_key=OWNER)
        await scene.alert()
        assert await scene.round(addresses=MadeUpAddresses(_7="ada@example.invalid")) == 0


def test_a_message_is_tried_for_a_day() -> None:
    assert timedelta(hours=24) == LASTING


@pytest.mark.parametrize("seed", [3, 4])
async def test_killed_at_any_moment_nothing_is_lost_and_what_comes_twice_has_one_id(
    scene: Scene, server: HookServer, seed: int
) -> None:
    """Two processes tell, and are killed and begun again; the lease is short."""
    chance = random.Random(seed)
    wanted = 40
    await scene.admin.execute("UPDATE consent.active_grant SET start = now() - interval '2 d'")
    scene.now = datetime.now(UTC) - HOUR
    await scene.hooks.add(LOOKER, PURPOSE, server.url)
    await scene.hooks.add(LOOKER, PURPOSE, server.url)
    server.answers = [chance.choice([204, 204, 500, None]) for _ in range(60)]
    server.delay_s = 0.02

    async def begun() -> asyncio.subprocess.Process:
        dsn = scene.store.postgres.dsn("telemetry")
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.teller_main", dsn, PASSWORD, KEY.hex()),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}/src:{ROOT}"},
        )

    processes = [await begun(), await begun()]
    try:
        for n in range(wanted):
            at = datetime.now(UTC) - timedelta(minutes=59) + timedelta(seconds=n)
            await add_alert(scene.admin, DEVICE, at, at + timedelta(milliseconds=1))
        ended = "SELECT count(*) FROM access.outbox WHERE ended_as = 'delivered'"
        for _ in range(8):
            await asyncio.sleep(chance.uniform(0.6, 1.6))
            killed = chance.randrange(2)
            processes[killed].send_signal(signal.SIGKILL)
            await processes[killed].wait()
            processes[killed] = await begun()
        async with asyncio.timeout(90):
            while await scene.admin.fetchval(ended) < 4 * wanted:
                await asyncio.sleep(0.2)
    finally:
        for process in processes:
            process.kill()
            await process.wait()
    ids = {call.headers["webhook-id"] for call in server.calls}
    assert len(ids) == 4 * wanted  # opened and closed, for two webhooks
    about = {(call.headers["webhook-id"], call.json["type"], call.json["data"]["opened"]) for call in server.calls}
    assert len(about) == 4 * wanted
    assert len(server.calls) > len(ids)
