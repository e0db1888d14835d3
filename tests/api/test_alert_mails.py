"""Alerts at home and by mail: people ask for mails, and get them only of what they are shown when it is sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio

from telemetry.access.principal import Role
from telemetry.access.records import Holder
from telemetry.alerts.tell import Teller
from telemetry.api.telling import telling
from telemetry.deliver.outbox import Outbox
from telemetry.deliver.sealing import WebhookSealer
from telemetry.model.sharing import MemberRight
from tests.support import consents
from tests.support.access import FAST, PASSWORD, code_in
from tests.support.api_town import INSTALLER, Town, lately, town
from tests.support.api_world import PATIENCE_S, api_world
from tests.support.mail_server import MailServer

FOR_WHAT = {"purposes": ["maintenance"]}


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.access.passwords.PARAMETERS", FAST)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[MailServer]:
    async with MailServer() as made:
        yield made


@pytest_asyncio.fixture
async def made(store, tmp_path, server) -> AsyncIterator[Town]:
    mail = server.config(link_base="https://example.test").model_dump()
    async with api_world(store, tmp_path, sections={"mail": mail}) as world:
        made = await town(world)
        # Alerts in real time: otherwise they are told at the end of a window.
        await consents.add_grant(world.admin, 9, made.own.owner, INSTALLER, classes=["alert"], resolution=0)
        yield made


@asynccontextmanager
async def person(made: Town, server: MailServer, holder: Holder, email: str) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who signed up with the operator's code, logged in."""
    code, _ = await made.world.context.access.claims.invite(holder)
    await made.world.admin.execute("TRUNCATE access.attempt")
    async with httpx.AsyncClient(base_url=f"{made.world.base}/api/v1", timeout=PATIENCE_S) as client:
        await client.post("/auth/sign-up", json={"email": email, "of_age": True, "code": code})
        await made.world.context.access.people.letters.drained()
        mailed = next(mail for mail in reversed(server.mails) if mail["To"] == email)
        await client.post("/auth/verify", json={"code": code_in(mailed), "password": PASSWORD})
        told = await client.post("/auth/login", json={"email": email, "password": PASSWORD})
        assert told.status_code == 200, told.text
        client.headers["X-CSRF-Token"] = told.json()["csrf"]
        yield client


def teller(made: Town) -> Teller:
    context = made.world.context
    sealer = WebhookSealer(b"a" * 32)
    return Teller(
        context.config,
        context.views,
        Outbox(context.pools.access),
        sealer,
        context.observer,
        addresses=context.access.people,
    )


async def break_down(made: Town, key: int) -> None:
    """A device of the own home reports an alarm; an earlier one is forgotten, as one alone may be open."""
    await made.world.admin.execute("DELETE FROM readings.alert WHERE kind = 1")
    await made.world.admin.execute(
        "INSERT INTO readings.alert (alert_key, device_key, kind, severity, opened_at, found_at)"
        " VALUES ($1, $2, 1, 3, now() - interval '3 hours', clock_timestamp())",
        key,
        made.own.devices[0],
    )


async def told_by_mail(made: Town, server: MailServer, email: str) -> list[Any]:
    """The mails of alerts to an address, after everything is told that is to be told."""
    telling_ = teller(made)
    await telling_.look()
    while await telling_.send():
        pass
    return [mail for mail in server.mails if mail["To"] == email and "The code is" not in mail.get_content()]


async def test_an_owner_sees_all_alerts_of_the_home_and_of_no_other(made: Town) -> None:
    await break_down(made, 77)
    told = await made.send("GET", "/me/alerts", {"Authorization": f"Bearer {made.own.token}"}, query=span())
    assert told.status_code == 200, told.text
    assert len(told.json()["alerts"]) == len(made.own.devices) + 1
    other = await made.send("GET", "/me/alerts", {"Authorization": f"Bearer {made.other.token}"}, query=span())
    assert len(other.json()["alerts"]) == len(made.other.devices)


def span() -> dict[str, str]:
    return {name.rstrip("_"): value for name, value in lately().items()}


@pytest.mark.parametrize("who", ["recipient", "owner"])
async def test_whoever_asks_for_mails_gets_them_and_no_longer_when_they_are_ended(
    made: Town, server: MailServer, who: str
) -> None:
    holder = (
        Holder(Role.RECIPIENT, recipient_key=INSTALLER) if who == "recipient" else Holder(Role.OWNER, made.own.owner)
    )
    path, yes, no = (
        ("/alert-mails", FOR_WHAT, {"purposes": []})
        if who == "recipient"
        else ("/me/alert-mails", {"wanted": True}, {"wanted": False})
    )
    email = f"{who}@example.test"
    async with person(made, server, holder, email) as client:
        assert (await client.get(path)).json() == no
        assert (await client.put(path, json=yes)).json() == yes
        assert (await client.put(path, json=yes)).json() == yes
        assert (await client.get(path)).json() == yes
        await break_down(made, 78)
        (mail,) = await told_by_mail(made, server, email)
        text = mail.get_content()
        assert "https://example.test" in text
        assert not {str(device) for device in made.own.devices} & set(text.split())
        assert (await client.put(path, json=no)).json() == no
        await break_down(made, 79)
        assert len(await told_by_mail(made, server, email)) == 1


async def test_who_is_no_longer_of_the_household_is_told_nothing(made: Town, server: MailServer) -> None:
    async with made.world.context.sharing.open() as sharing, sharing.settling() as settlement:
        member = await settlement.add_member(made.own.owner, "Example Member", [MemberRight.SEE])
    email = "member@example.test"
    async with person(made, server, Holder(Role.OWNER, made.own.owner, member), email) as client:
        assert (await client.put("/me/alert-mails", json={"wanted": True})).status_code == 200
        await break_down(made, 80)
        assert len(await told_by_mail(made, server, email)) == 1
        await made.world.admin.execute("UPDATE consent.member SET rights = '{share}' WHERE member_key = $1", member)
        await break_down(made, 81)
        assert len(await told_by_mail(made, server, email)) == 1
        await made.world.admin.execute(
            "UPDATE consent.member SET rights = '{see}', removed_at = now() WHERE member_key = $1", member
        )
        await break_down(made, 82)
        assert len(await told_by_mail(made, server, email)) == 1


@pytest.mark.parametrize("end", ["consent.recipient SET closed_at", "consent.owner SET erased_at"])
async def test_accounts_that_would_not_be_let_in_have_no_address(made: Town, server: MailServer, end: str) -> None:
    holder = (
        Holder(Role.RECIPIENT, recipient_key=INSTALLER) if "recipient" in end else Holder(Role.OWNER, made.own.owner)
    )
    people = made.world.context.access.people
    async with person(made, server, holder, "someone@example.test"):
        key = await made.world.admin.fetchval("SELECT account_key FROM access.account ORDER BY created_at DESC LIMIT 1")
        assert await people.of_account(key) == "someone@example.test"
        await made.world.admin.execute(f"UPDATE {end} = now()")
        assert await people.of_account(key) is None
    assert await people.of_account(1) is None


async def test_the_process_of_the_api_tells_by_itself(made: Town, server: MailServer) -> None:
    email = "recipient@example.test"
    async with person(made, server, Holder(Role.RECIPIENT, recipient_key=INSTALLER), email) as client:
        await client.put("/alert-mails", json=FOR_WHAT)
        await break_down(made, 83)
        async with telling(made.world.context, b"a" * 32), asyncio.timeout(PATIENCE_S):
            while not [mail for mail in server.mails if mail["To"] == email and "code" not in mail.get_content()]:
                await asyncio.sleep(0.1)


async def test_without_a_mail_server_nobody_can_ask_for_mails(store, tmp_path) -> None:
    async with api_world(store, tmp_path) as world:
        made = await town(world)
        headers, _ = await made.session(INSTALLER)
        assert (await made.send("PUT", "/alert-mails", headers, body=FOR_WHAT)).status_code == 503
        assert (await made.send("PUT", "/alert-mails", headers, body={"purposes": []})).status_code == 200
