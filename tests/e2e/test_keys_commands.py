"""`telemetry keys …`, `telemetry labels` and the place of a site, as an operator runs them."""

from datetime import UTC, datetime, timedelta

import asyncpg
import h3
import pytest
import pytest_asyncio

from tests.support.installation import Installation, installation

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANDLE = "sunny-installers"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def installed():
    async with installation() as found:
        for number in range(3):
            assert (await found.telemetry("owner", "add", "--name", f"Example {number}")).code == 0
        admin = await connected(found)
        await admin.execute(
            "INSERT INTO consent.recipient (recipient_key, handle, kind) VALUES (7, $1, 'installer')", HANDLE
        )
        await admin.close()
        yield found


async def connected(installed: Installation):
    return await asyncpg.connect(installed.postgres.dsn("telemetry"))


async def test_the_key_encryption_key_is_replaced_and_everything_opens(installed):
    path = installed.data_dir / "keys" / "kek"
    before = path.read_bytes()
    ended = await installed.telemetry("keys", "rotate", "kek", "--json")
    assert (ended.code, ended.json) == (0, {"rewrapped": 3, "unopened": 0, "adopted": True})
    assert path.read_bytes() != before
    assert path.stat().st_mode & 0o777 == 0o600
    assert (await installed.telemetry("keys", "check", "--json")).json == {"opened": 3, "unopened": 0}
    names = (await installed.telemetry("owner", "list", "--reveal", "--json")).json
    assert {row["name"] for row in names} == {f"Example {number}" for number in range(3)}
    assert (await installed.telemetry("keys", "rotate", "kek", "--resume", "--json")).json["rewrapped"] == 0


async def test_a_recipients_key_is_announced_shown_and_taken_back(installed):
    assert (await installed.telemetry("keys", "recipient", HANDLE, "--json")).json["version"] == 1
    at = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)
    made = await installed.telemetry("keys", "rotate", "recipient", HANDLE, "--activate-at", at.isoformat(), "--json")
    assert (made.code, made.json["version"]) == (0, 2)
    status = (await installed.telemetry("keys", "status", "--json")).json
    assert [(row["recipient"], row["version"], row["state"]) for row in status["recipients"]] == [
        (HANDLE, 1, "active"),
        (HANDLE, 2, "announced"),
    ]
    assert [row["state"] for row in status["keks"]] == ["active"]
    assert "takes effect at" in (await installed.telemetry("keys", "status")).out
    again = await installed.telemetry("keys", "rotate", "recipient", HANDLE)
    assert (again.code, "announced already" in again.err) == (2, True)
    assert (await installed.telemetry("keys", "cancel", HANDLE, "--json")).json["cancelled"] == 2
    assert (await installed.telemetry("keys", "rotate", "recipient", HANDLE)).code == 0
    assert (await installed.telemetry("keys", "settle", "--json")).json == {"retired": 0}


@pytest.mark.parametrize("when", ["tomorrow", "2027-01-01T00:00:00"])
async def test_an_instant_is_given_with_its_offset(installed, when):
    ended = await installed.telemetry("keys", "rotate", "recipient", HANDLE, "--activate-at", when)
    assert (ended.code, "offset from UTC" in ended.err) == (2, True)


async def test_an_unknown_recipient_is_said_to_be(installed):
    ended = await installed.telemetry("keys", "recipient", "nobody-here")
    assert (ended.code, "no open recipient" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.chmod(0o644), "chmod 600"),
        (lambda path: path.write_bytes(bytes(32)), "restore that key"),
        (lambda path: path.write_bytes(bytes(5)), "has not 32 bytes"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
async def test_a_key_that_is_not_as_it_must_be_is_refused_with_the_remedy(installed, spoil, said):
    path = installed.data_dir / "keys" / "kek"
    right = path.read_bytes()
    try:
        spoil(path)
        for command in (["keys", "rotate", "kek"], ["owner", "add", "--name", "canary"], ["owner", "list", "--reveal"]):
            ended = await installed.telemetry(*command)
            assert (ended.code, said in ended.err) == (2, True), (command, ended.err)
            assert "canary" not in ended.err
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(right)
        path.chmod(0o600)
    assert (await installed.telemetry("keys", "check", "--json")).json["unopened"] == 0
    assert len((await installed.telemetry("owner", "list", "--json")).json) == 3


async def test_a_site_has_its_cell_from_when_it_is_added(installed):
    owner = (await installed.telemetry("owner", "list", "--json")).json[0]["owner"]
    place = ["--latitude", "47.5", "--longitude", "11.5", "--region", "AT-7", "--timezone", "Europe/Vienna"]
    site = (await installed.telemetry("site", "add", owner, "--name", "Home", *place, "--json")).json["site_key"]
    admin = await connected(installed)
    row = await admin.fetchrow("SELECT to_hex(cell7), country, region, timezone FROM consent.site_place")
    assert tuple(row) == (h3.latlng_to_cell(47.5, 11.5, 7), "AT", "AT-7", "Europe/Vienna")
    assert await admin.fetchval("SELECT site_key FROM consent.site_place") == site
    await admin.close()
    for wrong, said in ((["--latitude", "0", "--longitude", "0"], "no home"), (["--country", "XX"], "no such country")):
        ended = await installed.telemetry("site", "add", owner, "--name", "Home", *wrong)
        assert (ended.code, said in ended.err) == (2, True)
    assert (await installed.telemetry("labels", "--once", "--json")).json == {
        "recipients": 0,
        "written": 0,
        "removed": 0,
    }
