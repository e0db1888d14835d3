"""`telemetry token | account` as operators run them."""

import json
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from telemetry.access.authenticator import DatabaseAuthenticator
from telemetry.access.principal import Role, Scope
from telemetry.cli.access import open_pool
from telemetry.config import load_config
from telemetry.model.sharing import SharingPurpose
from telemetry.model.shown import key_shown
from tests.support.installation import Installation, installation

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def installed():
    async with installation() as here:
        await here.telemetry("recipient", "add", "example-installer", "--kind", "installer")
        yield here


async def done(installed: Installation, *arguments: str) -> Any:
    """The JSON of a command that must succeed."""
    ended = await installed.telemetry(*arguments, "--json")
    assert ended.code == 0, ended.err
    return ended.json


async def principal(installed: Installation, secret: str) -> Any:
    async with open_pool(load_config(installed.config)) as pool:
        return await DatabaseAuthenticator(pool, bytes(32)).machine(secret)


async def issued(installed: Installation, *arguments: str) -> Any:
    return await done(installed, "token", "issue", "--recipient", "example-installer", *arguments)


async def test_a_token_that_was_issued_is_its_holders(installed):
    told = await issued(installed, "--scope", "live", "--purpose", "maintenance", "--days", "10")
    who = await principal(installed, told["secret"])
    assert (who.role, who.scopes, who.purposes) == (Role.RECIPIENT, {Scope.LIVE}, {SharingPurpose.MAINTENANCE})
    assert key_shown("token", told["token"]) == who.token_key


async def test_for_people_the_secret_alone_is_printed(installed):
    ended = await installed.telemetry("token", "issue", "--operator")
    assert (await principal(installed, ended.out.strip())).role is Role.OPERATOR


async def test_an_owner_and_a_member_get_their_own(installed):
    owner = await done(installed, "owner", "add", "--name", "Example Owner")
    member = await done(installed, "member", "add", owner["owner"], "--name", "Example Member", "--right", "see")
    told = await done(installed, "token", "issue", "--owner", owner["owner"], "--member", member["member"])
    assert told["for"] == member["member"]
    assert (await principal(installed, told["secret"])).rights == {"see"}


async def test_a_list_shows_no_secret(installed):
    told = await issued(installed)
    ended = await installed.telemetry("token", "list", "--json")
    assert told["token"] in ended.out
    assert told["secret"][4:] not in ended.out
    assert "secret" not in json.loads(ended.out)[0]
    assert (await installed.telemetry("token", "list")).code == 0


async def test_after_a_rotation_both_count_and_after_a_revocation_it_does_not(installed):
    old = await issued(installed)
    new = await done(installed, "token", "rotate", old["token"], "--overlap-hours", "2")
    assert await principal(installed, old["secret"]) is not None
    await done(installed, "token", "revoke", new["token"])
    assert await principal(installed, new["secret"]) is None
    again = await installed.telemetry("token", "revoke", new["token"])
    assert (again.code, again.err.count("\n")) == (2, 1)


async def test_a_code_is_printed_once_and_stored_as_hash(installed):
    told = await done(installed, "account", "invite", "--recipient", "example-installer")
    connection = await asyncpg.connect(installed.postgres.dsn("telemetry"))
    try:
        rows = await connection.fetch("SELECT c::text FROM access.claim AS c")
    finally:
        await connection.close()
    assert len(rows) == 1
    assert told["code"] not in rows[0][0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["token", "issue"],
        ["token", "issue", "--operator", "--owner", "o_0000000000000001"],
        ["token", "issue", "--operator", "--member", "m_0000000000000001"],
        ["token", "issue", "--operator", "--purpose", "billing"],
        ["token", "issue", "--recipient", "nobody-at-all"],
        ["token", "issue", "--owner", "o_0000000000000001"],
        ["token", "rotate", "t_0000000000000001"],
        ["account", "invite", "--owner", "o_0000000000000001"],
    ],
)
async def test_what_cannot_be_done_is_said_in_one_line(installed, arguments):
    ended = await installed.telemetry(*arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
