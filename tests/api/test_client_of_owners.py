"""Owners' client against a real API: sessions, and every step between an owner and an installer."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import pytest_asyncio

from telemetry import client
from telemetry.access.principal import Role
from tests.support.access import FAST, PASSWORD, code_in
from tests.support.api_world import ApiWorld, api_world, quarter
from tests.support.mail_server import MailServer
from tests.support.owned_home import NAME, SERIALS, OwnedHome, owned_home

EMAIL = "someone@example.test"
SINCE, UNTIL = quarter(20), quarter() + timedelta(hours=1)
CURVE = client.Terms(
    purpose="maintenance",
    fields=("ac_power_w",),
    serial="pseudonym",
    data_from=datetime.now(UTC) - timedelta(days=1),
)
DAILY = client.Terms(purpose="maintenance", classes=("production",), resolution="P1D")


@pytest_asyncio.fixture
async def home(world: ApiWorld) -> OwnedHome:
    made = await owned_home(world)
    await world.quarters(made.devices[0], 4)
    return made


@pytest_asyncio.fixture
async def owner(home: OwnedHome) -> AsyncIterator[client.AsyncOwnerClient]:
    async with client.AsyncOwnerClient(home.world.base, home.token) as made:
        yield made


@pytest_asyncio.fixture
async def installer(home: OwnedHome) -> AsyncIterator[client.AsyncClient]:
    async with client.AsyncClient(home.world.base, await home.world.token(1)) as made:
        yield made


async def test_from_an_invitation_to_a_withdrawal(
    owner: client.AsyncOwnerClient, installer: client.AsyncClient
) -> None:
    made = await installer.invite(CURVE)
    assert made.code not in repr(made)
    proposed = await owner.look_at_invitation(made.code)
    assert proposed.terms.fields == ("ac_power_w",)
    assert any("Inverters: ac_power_w" in sentence for sentence in proposed.says)
    assert (await owner.grants()).grants == (), "looking agreed to it"
    with pytest.raises(client.SolarUnconfirmed) as caught:
        await owner.accept_invitation(made.code)
    assert caught.value.error_km is not None
    settled = await owner.accept_invitation(made.code, confirm_solar_km=caught.value.error_km)
    assert settled.receipt.count(".") == 2
    rows = await installer.series(SINCE, UNTIL, fields=["ac_power_w"])
    assert rows["value"].to_list() == [103.0, 102.0, 101.0, 100.0]
    (seen,) = await installer.grants()
    assert (seen.fields, seen.all_sites) == (("ac_power_w",), True)
    assert [one.state for one in await installer.invitations()] == ["accepted"]
    (site,) = await installer.fleet()
    await owner.withdraw(settled.grant.grant)
    assert await installer.fleet() == ()
    with pytest.raises(client.NotFound):
        await installer.site(site.site)
    assert [one.state for one in await owner.history(settled.grant.grant)] == ["active", "withdrawn"]
    assert (await owner.receipt(settled.grant.grant, 1)) == settled.receipt


async def test_a_request_by_a_connection_code_is_accepted_with_less(
    owner: client.AsyncOwnerClient, installer: client.AsyncClient
) -> None:
    code = (await owner.connection_code()).code
    asked = await installer.ask(DAILY, "fault", code=code, text="Example text.")
    assert asked.state == "pending"
    (received,) = await owner.access_requests()
    assert (received.text, received.reason, received.terms.resolution) == ("Example text.", "fault", "P1D")
    less = client.Terms(purpose="maintenance", fields=("energy_total_wh",), resolution="P1M")
    await owner.accept(received.request, less)
    assert [(one.state, one.request) for one in await installer.access_requests()] == [("accepted", asked.request)]
    (grant,) = (await owner.grants()).grants
    assert (grant.terms.fields, grant.terms.resolution) == (("energy_total_wh",), "P1M")
    again = await installer.ask(DAILY, "fault", code=(await owner.connection_code()).code)
    await owner.decline((await owner.access_requests())[0].request)
    assert await owner.access_requests() == ()
    assert [one.state for one in await installer.access_requests()] == ["accepted", "pending"]
    await installer.take_back(again.request)
    assert len(await installer.access_requests()) == 1


async def test_an_invitation_that_was_revoked_cannot_be_accepted(
    owner: client.AsyncOwnerClient, installer: client.AsyncClient
) -> None:
    made = await installer.invite(DAILY, lifetime_s=3600)
    await installer.revoke_invitation(made.invitation)
    for call in (owner.look_at_invitation, owner.accept_invitation):
        with pytest.raises(client.NotFound):
            await call(made.code)


async def test_a_change_is_refused_where_somebody_changed_it_meanwhile(owner: client.AsyncOwnerClient) -> None:
    settled = await owner.grant("recipient-1", DAILY)
    read = settled.grant
    finer = client.Terms(purpose="maintenance", classes=("production", "alert"), resolution="P1D")
    changed = await owner.change(read, finer)
    assert (changed.grant.version, changed.grant.terms.classes) == (2, ("alert", "production"))
    with pytest.raises(client.Changed):
        await owner.change(read, DAILY)


async def test_a_preview_is_what_the_installer_would_be_given(
    owner: client.AsyncOwnerClient, installer: client.AsyncClient
) -> None:
    before = await owner.preview("recipient-1", "maintenance", SINCE, UNTIL, terms=CURVE)
    assert before.rows["value"].to_list() == [103.0, 102.0, 101.0, 100.0]
    assert before.error_km is not None
    await owner.grant("recipient-1", CURVE, confirm_solar_km=before.error_km)
    now = await owner.preview("recipient-1", "maintenance", SINCE, UNTIL)
    given = await installer.series(SINCE, UNTIL)
    assert now.rows.equals(given)
    ways = [(read.recipient, read.way) for read in await owner.reads()]
    assert ways == [("recipient-1", "view"), ("recipient-1", "preview")]


async def test_an_owner_is_shown_all_of_the_own_home(
    owner: client.AsyncOwnerClient, home: OwnedHome, tmp_path: Path
) -> None:
    assert (await owner.me()).rights == ("rights", "see", "share")
    assert [(site.site, site.name) for site in await owner.sites()] == [(home.site_name, NAME)]
    devices = await owner.devices()
    assert {device.serial for device in devices} == set(SERIALS)
    assert all(serial not in repr(devices) for serial in SERIALS)
    assert [one.handle for one in await owner.recipients()] == ["recipient-1", "recipient-2"]
    rows = await owner.series(SINCE, UNTIL, fields=["ac_power_w"])
    assert rows["value"].to_list() == [103.0, 102.0, 101.0, 100.0]
    assert (await owner.latest())["value"].to_list() == [100.0]
    await owner.export(tmp_path / "own.parquet", SINCE, UNTIL)
    assert pl.read_parquet(tmp_path / "own.parquet")["value"].to_list() == rows["value"].to_list()


async def test_a_session_is_begun_kept_and_ended(
    store: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.access.passwords.PARAMETERS", FAST)
    async with MailServer() as server:
        sections = {"mail": server.config().model_dump()}
        async with api_world(store, tmp_path, sections=sections) as world:
            await world.admin.execute("TRUNCATE access.attempt, access.sign_up, access.claim CASCADE")
            async with client.AsyncOwnerClient(world.base) as home:
                await home.sign_up(EMAIL, of_age=True, name="Example Person")
                await home.verify(code_in(await server.mail(EMAIL)), PASSWORD)
                with pytest.raises(client.NotAuthenticated):
                    await home.login(EMAIL, "not the password")
                with pytest.raises(client.NotAuthenticated):
                    await home.me()
                await home.login(EMAIL, PASSWORD)
                assert (await home.me()).member is False
                code = await home.connection_code()
                assert code.code not in repr(code)
                csrf, home._csrf = home._csrf, None
                with pytest.raises(client.NotPermitted):
                    await home.connection_code()
                home._csrf = csrf
                await home.logout()
                with pytest.raises(client.NotAuthenticated):
                    await home.me()


async def test_an_owners_token_opens_no_recipients_route(home: OwnedHome) -> None:
    async with client.AsyncClient(home.world.base, home.token) as api:
        with pytest.raises(client.NotPermitted):
            await api.fleet()
    token = await home.world.token(1, Role.RECIPIENT)
    async with client.AsyncOwnerClient(home.world.base, token) as api:
        with pytest.raises(client.NotPermitted):
            await api.me()
