"""Invitations that are mailed: over real SMTP, to an address that is kept nowhere."""

import re
from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.api_world import ApiWorld, api_world
from tests.support.mail_server import MailServer
from tests.support.owned_home import OwnedHome, asked, owned_home

ADDRESS = "example.person@example.test"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[MailServer]:
    async with MailServer() as made:
        yield made


@pytest_asyncio.fixture
async def home(store, tmp_path, server) -> AsyncIterator[OwnedHome]:
    mail = server.config(link_base="https://example.test").model_dump()
    async with api_world(store, tmp_path, sections={"mail": mail}) as made:
        yield await owned_home(made)


async def invite(home: OwnedHome, **more):
    return await home.ask("POST", "/invitations", {"terms": asked()} | more, await home.installer())


async def test_the_mail_holds_a_code_that_an_owner_may_accept(home, server):
    answer = await invite(home, email=ADDRESS)
    assert answer.status_code == 201, answer.text
    mail = await server.mail(ADDRESS)
    text = mail.get_content()
    code = answer.json()["code"]
    assert f"https://example.test/invitation#{code}" in text
    assert "recipient-1 proposes" in text
    looked = await home.ask("POST", "/me/invitations/look", {"code": re.search(r"code is: (\S+)", text)[1]})
    assert looked.status_code == 200


async def test_the_address_is_in_no_table_and_no_answer(home, server):
    answer = await invite(home, email=ADDRESS)
    await server.mail(ADDRESS)
    assert ADDRESS not in answer.text
    tables = await home.world.admin.fetch(
        "SELECT schemaname || '.' || tablename AS name FROM pg_tables"
        " WHERE schemaname IN ('access', 'consent', 'vault', 'audit', 'alerts')"
    )
    assert len(tables) > 20
    for table in tables:
        rows = await home.world.admin.fetch(f"SELECT t::text AS row FROM {table['name']} AS t")
        found = [row for row in rows if ADDRESS in row["row"] or ADDRESS.encode().hex() in row["row"]]
        assert not found, table["name"]


async def test_what_is_no_address_makes_no_invitation_and_is_not_repeated(home):
    answer = await invite(home, email="example person")
    assert answer.status_code == 422
    assert "example person" not in answer.text
    assert await home.world.context.requests.invitations(1) == []


async def test_without_a_mail_server_it_is_unavailable_and_nothing_is_made(world: ApiWorld):
    home = await owned_home(world)
    answer = await invite(home, email=ADDRESS)
    assert answer.status_code == 503
    assert await world.context.requests.invitations(1) == []
    assert (await invite(home)).status_code == 201
