"""`telemetry plan`: what is kept and why, and what is wrong, through the program."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from telemetry.model.sharing import Keeping
from telemetry.privacy.receipts import ReceiptSigner
from telemetry.store.keystore import RECEIPT_SIGNING, role_password
from telemetry.store.sharing import Sharing
from tests.support.installation import Installation, installation
from tests.support.postgres import FAST

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Planned:
    """An installation with one owner, and what settles for that owner without compiling."""

    installed: Installation
    sharing: Sharing
    admin: Any
    owner: str
    owner_key: int
    site: str


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def planned() -> AsyncIterator[Planned]:
    async with installation(FAST) as installed:
        owner = (await installed.telemetry("owner", "add", "--name", "Example Owner", "--json")).json
        site = (await installed.telemetry("site", "add", owner["owner"], "--name", "Example Home", "--json")).json
        role = "telemetry_rights"
        rights = await asyncpg.connect(
            installed.postgres.dsn("telemetry", role, role_password(installed.keystore, role))
        )
        admin = await asyncpg.connect(installed.postgres.dsn("telemetry"))
        sharing = Sharing(rights, ReceiptSigner(installed.keystore.secret(RECEIPT_SIGNING)))
        yield Planned(installed, sharing, admin, owner["owner"], owner["owner_key"], site["site"])
        await rights.close()
        await admin.close()


async def test_show_says_what_is_kept_and_that_something_waits(planned: Planned):
    shown = (await planned.installed.telemetry("plan", "show", planned.owner, "--json")).json
    assert shown["owner"] == planned.owner
    assert not shown["pending"]
    assert {each["kind"] for each in shown["classes"]} >= {"inverter", "junction_box"}
    assert {each["plan_class"] for each in shown["classes"]} == {0}
    assert shown["classes"][0]["kept"]["ac_power_w"] == "PT15M"
    assert shown["classes"][0]["retention_days"]["grid"] == 1098

    await planned.sharing.set_keeping(planned.owner_key, Keeping(never=frozenset({"load_power_w"})))
    ended = await planned.installed.telemetry("plan", "show", planned.owner)
    assert ended.code == 0
    assert f"At {planned.site}, for devices of every kind:" in ended.out
    assert "load_power_w is not kept because it must never be kept." in ended.out
    assert "not compiled yet" in ended.out


async def test_recompile_takes_what_is_pending_one_owner_or_everybody(planned: Planned):
    await planned.sharing.set_keeping(planned.owner_key, Keeping(never=frozenset({"ev_power_w"})))
    assert (await planned.installed.telemetry("plan", "recompile", "--json")).json == {"owners": 1, "failed": 0}
    assert (await planned.installed.telemetry("plan", "recompile", "--json")).json == {"owners": 0, "failed": 0}
    shown = (await planned.installed.telemetry("plan", "show", planned.owner, "--json")).json
    assert "ev_power_w" not in shown["classes"][0]["kept"]
    for arguments in ([planned.owner], ["--all"]):
        ended = await planned.installed.telemetry("plan", "recompile", *arguments, "--json")
        assert ended.json == {"owners": 1, "failed": 0}
    assert (await planned.installed.telemetry("plan", "recompile", planned.owner, "--all")).code == 2


async def test_check_ends_with_1_when_workers_go_by_something_else_than_was_settled(planned: Planned):
    await planned.installed.telemetry("plan", "recompile", "--all")
    ended = await planned.installed.telemetry("plan", "check", "--json")
    assert (ended.code, ended.json) == (0, {"owners": 1, "pending": 0, "failures": []})
    await planned.admin.execute("UPDATE consent.site SET plan_classes = '{0,0,0,0,0,0}'")
    ended = await planned.installed.telemetry("plan", "check", "--json")
    assert ended.code == 1
    assert [failure["owner"] for failure in ended.json["failures"]] == [planned.owner]
    await planned.installed.telemetry("plan", "recompile", "--all")
    assert (await planned.installed.telemetry("plan", "check")).code == 0


async def test_what_does_not_exist_is_said_in_one_line(planned: Planned):
    ended = await planned.installed.telemetry("plan", "show", "o_00c0ffee00c0ffee")
    assert ended.code == 2
    assert "there is no such owner" in ended.err
    assert (await planned.installed.telemetry("plan", "show", planned.site)).code == 2
