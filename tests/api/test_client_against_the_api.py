"""The client against a real API over a real database."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import pytest_asyncio

from telemetry import client
from telemetry.access.principal import Scope
from tests.support import consents
from tests.support.alerts import add_alert
from tests.support.api_world import PATIENCE_S, ApiWorld, api_world, quarter
from tests.support.certificates import make_certificates
from tests.support.proxy import Proxy
from tests.support.store import Store, migrated, store  # noqa: F401
from tests.support.view_world import mean_amount

LOOKER, OTHER, OWNER, SITE, DEVICE = 1, 2, 10, 100, 1000
SINCE, UNTIL = quarter(700), quarter() + timedelta(hours=1)


@pytest_asyncio.fixture
async def home(store: Store, tmp_path: Path) -> AsyncIterator[ApiWorld]:  # noqa: F811
    """One home with three inverters, and no more than one of them on a page."""
    async with api_world(store, tmp_path, rows_per_request=1000, heartbeat_s=0.2) as world:
        await consents.add_recipient(world.admin, LOOKER)
        await consents.add_recipient(world.admin, OTHER)
        await world.home(OWNER, SITE, DEVICE, DEVICE + 1, DEVICE + 2)
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, serial="pseudonym")
        for number in range(3):
            await world.quarters(DEVICE + number, 4, watts=100.0 * (number + 1))
        yield world


async def token(world: ApiWorld, key: int = LOOKER, **more: Any) -> str:
    return await world.token(key, **more)


async def waited(call: Any, *args: Any, **more: Any) -> Any:
    """The client that waits, in a thread: the API runs in this one."""
    return await asyncio.to_thread(call, *args, **more)


async def test_a_service_without_a_trusted_certificate_is_told_nothing(
    store: Store,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = make_certificates(tmp_path)
    files = {"cert_file": made.server_cert, "key_file": made.server_key, "cookie_secure": True}
    async with api_world(store, tmp_path, **files) as world:
        await consents.add_recipient(world.admin, LOOKER)
        await world.home(OWNER, SITE)
        base = world.base.replace("http://127.0.0.1", "https://localhost")
        once = client.Patience(retries=0)
        async with client.AsyncClient(base, await token(world), retry=once) as api:
            with pytest.raises(client.Unreachable):
                await api.fleet()
        monkeypatch.setenv("SSL_CERT_FILE", str(made.ca))
        async with client.AsyncClient(base, await token(world), retry=once) as api:
            assert await api.fleet() == ()


async def test_a_series_is_all_of_its_pages(home: ApiWorld) -> None:
    with client.Client(home.base, await token(home)) as api:
        rows = await waited(api.series, SINCE, UNTIL, fields=["ac_power_w"])
    assert rows.height == 12
    assert rows["device"].n_unique() == 3
    assert sorted(rows["value"]) == [100.0 * n + back for n in (1, 2, 3) for back in range(4)]
    assert rows["start"].dtype == pl.Datetime("us", "UTC")
    one = (await home.get("/series", await token(home), from_=iso(SINCE), to=iso(UNTIL), fields="ac_power_w")).json()
    assert one["next"] is not None, "all of it was on one page"


async def test_both_clients_are_given_the_same(home: ApiWorld) -> None:
    secret = await token(home)
    with client.Client(home.base, secret) as one:
        async with client.AsyncClient(home.base, secret) as other:
            for call, args in (("fleet", ()), ("series", (SINCE, UNTIL))):
                more = {"fields": {"ac_power_w"}} if args else {}
                waiting, awaited = (
                    await waited(getattr(one, call), *args, **more),
                    await getattr(other, call)(*args, **more),
                )
                assert waiting.equals(awaited) if args else waiting == awaited


async def test_sites_and_devices_are_records(home: ApiWorld) -> None:
    async with client.AsyncClient(home.base, await token(home)) as api:
        (site,) = await api.fleet()
        assert [kind.kind for kind in site.kinds] == ["inverter"]
        assert site.devices == 3
        assert await api.site(site.site) == site
        devices = await api.devices(site.site)
        assert len(devices) == 3
        assert devices[0].shared == (client.SharedField("ac_power_w", "PT15M"),)
        assert await api.device(devices[1].device) == devices[1]


async def test_foreign_missing_and_withdrawn_are_one_error(home: ApiWorld) -> None:
    async with client.AsyncClient(home.base, await token(home)) as api:
        (site,) = await api.fleet()
    told = set()
    async with client.AsyncClient(home.base, await token(home, OTHER)) as stranger:
        for name in (site.site, "s_made-up"):
            with pytest.raises(client.NotFound) as caught:
                await stranger.site(name)
            told.add((str(caught.value).replace(caught.value.request_id, ""), caught.value.slug))
    await consents.withdraw(home.admin, 1)
    async with client.AsyncClient(home.base, await token(home)) as api:
        with pytest.raises(client.NotFound) as caught:
            await api.site(site.site)
        told.add((str(caught.value).replace(caught.value.request_id, ""), caught.value.slug))
    assert len(told) == 1


async def test_a_token_without_the_scope_is_told_so(home: ApiWorld) -> None:
    async with client.AsyncClient(home.base, await token(home, scopes=frozenset({Scope.READ}))) as api:
        with pytest.raises(client.NotPermitted):
            await anext(api.live())
    async with client.AsyncClient(home.base, "tlm_" + "x" * 43) as nobody:
        with pytest.raises(client.NotAuthenticated):
            await nobody.fleet()


async def test_what_is_wrong_is_told_with_its_place(home: ApiWorld) -> None:
    async with client.AsyncClient(home.base, await token(home)) as api:
        with pytest.raises(client.InvalidRequest) as caught:
            await api.series(UNTIL, SINCE)
        assert [fault.location for fault in caught.value.faults] == ["query.to"]
        with pytest.raises(client.TooCostly):
            await api.series(quarter(99_000), UNTIL)


async def test_live_goes_on_after_a_lost_connection_and_ends_with_the_grant(home: ApiWorld) -> None:
    address = ("127.0.0.1", int(home.base.rpartition(":")[2]))
    async with asyncio.timeout(PATIENCE_S), Proxy(address, ("127.0.0.1", 0)) as proxy:
        base = f"http://127.0.0.1:{proxy.address[1]}"
        brisk = client.Patience(first_s=0.05)
        async with client.AsyncClient(base, await token(home), retry=brisk) as api:
            batches = api.live(fields=["ac_power_w"])
            first = await anext(batches)
            assert first.rows.height == 12
            assert len(first.devices) == 3
            proxy.cut()
            await home.series([{"device_key": DEVICE, "start": quarter(9), "amount": mean_amount(7)}])
            second = await anext(batches)
            assert second.rows["value"].to_list() == [7.0], "what was given already came again"
            await consents.withdraw(home.admin, 1)
            assert [batch async for batch in batches] == []


async def test_live_waits_as_it_awaits(home: ApiWorld) -> None:
    def followed(base: str, secret: str) -> list[int]:
        with client.Client(base, secret) as api:
            heights = []
            for batch in api.live(fields=["ac_power_w"]):
                heights.append(batch.rows.height)
                asyncio.run_coroutine_threadsafe(consents.withdraw(home.admin, 1), loop).result(PATIENCE_S)
            return heights

    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(followed, home.base, await token(home)) == [12]


@pytest.mark.parametrize("form", ["parquet", "arrow", "csv", "jsonl"])
async def test_an_export_holds_what_series_hold(home: ApiWorld, tmp_path: Path, form: Any) -> None:
    read = {"parquet": pl.read_parquet, "arrow": pl.read_ipc_stream, "csv": pl.read_csv, "jsonl": pl.read_ndjson}
    target = tmp_path / f"fleet.{form}"
    async with client.AsyncClient(home.base, await token(home)) as api:
        await api.export(target, SINCE, UNTIL, form, fields=["ac_power_w"])
        rows = await api.series(SINCE, UNTIL, fields=["ac_power_w"])
    found = read[form](target)
    by = ["device", "start"]
    assert found.sort(by)["value"].to_list() == rows.sort(by)["value"].to_list()


def iso(instant: Any) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_the_latest_values_are_one_row_a_field(home: ApiWorld) -> None:
    async with client.AsyncClient(home.base, await token(home)) as api:
        rows = await api.latest(fields=["ac_power_w"])
    assert sorted(rows["value"]) == [100.0, 200.0, 300.0]


async def test_changes_go_on_from_a_cursor(home: ApiWorld) -> None:
    since = quarter(20)
    async with client.AsyncClient(home.base, await token(home)) as api:
        first = await api.changes(since, fields=["ac_power_w"])
        assert first.rows.height == 12
        await home.series([{"device_key": DEVICE, "start": quarter(9), "amount": mean_amount(7)}])
        second = await api.changes(since, first.cursor, fields=["ac_power_w"])
        assert 7.0 in second.rows["value"].to_list()
        assert {device.device for device in second.devices} == {device.device for device in first.devices}
        assert set(first.renewed) == {device.device for device in first.devices}
        with pytest.raises(client.InvalidRequest):
            await api.changes(since, first.cursor, fields=["grid_power_w"])


async def test_alerts_are_those_that_are_granted(home: ApiWorld) -> None:
    opened = quarter(8)
    await add_alert(home.admin, DEVICE, opened)
    async with client.AsyncClient(home.base, await token(home)) as api:
        assert await api.alerts(quarter(20), UNTIL) == ()
        more = {"serial": "pseudonym", "fields": [], "classes": ["alert"]}
        await consents.add_grant(home.admin, 2, OWNER, LOOKER, **more)
        (alert,) = await api.alerts(quarter(20), UNTIL, open_only=True)
        assert (alert.opened, alert.closed, alert.resolution) == (opened, None, "PT15M")
