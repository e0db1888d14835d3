"""GET /export over real HTTP: whole, or visibly not whole."""

import asyncio
import io
import json
import socket
from typing import Any

import httpx
import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from telemetry.api.routes import exports
from tests.api.homes import DEVICE, HOUR, LOOKER, OTHER, lately, two_homes, withdraw
from tests.support.api_world import PATIENCE_S, ApiWorld, quarter, text

FORMS = ("csv", "jsonl", "parquet", "arrow")


def values(form: str, body: bytes) -> list[float]:
    if form == "csv":
        return pl.read_csv(io.BytesIO(body))["value"].to_list()
    if form == "jsonl":
        return [json.loads(line)["value"] for line in body.splitlines()]
    table = pq.read_table(io.BytesIO(body)) if form == "parquet" else pyarrow.ipc.open_stream(body).read_all()
    return table["value"].to_pylist()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk_rows", [3, 20_000])
async def test_every_form_holds_the_same_rows(world: ApiWorld, form: str, chunk_rows: int, monkeypatch) -> None:
    monkeypatch.setattr(exports, "_ROWS", chunk_rows)
    await two_homes(world)
    answer = await world.get("/export", await world.token(LOOKER), **lately(format=form))
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == exports.MEDIA_TYPES[exports.ExportForm(form)]
    assert sorted(values(form, answer.content)) == [100, 101, 102, 103, 200, 201, 202, 203]


async def test_accept_chooses_the_form_and_none_that_is_known_is_not_acceptable(world: ApiWorld) -> None:
    await two_homes(world)
    headers = {"Authorization": f"Bearer {await world.token(LOOKER)}"}
    asked = {"from": text(quarter(10)), "to": text(quarter())}
    for accept, status, kind in (
        ("application/x-ndjson", 200, "application/x-ndjson"),
        ("text/csv;q=0.1, application/vnd.apache.parquet", 200, "application/vnd.apache.parquet"),
        ("image/png", 406, "application/problem+json"),
    ):
        answer = await world.client.get("/api/v1/export", params=asked, headers=headers | {"Accept": accept})
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (status, kind)


async def test_nothing_shared_is_nothing_here(world: ApiWorld) -> None:
    await two_homes(world)
    assert (await world.get("/export", await world.token(OTHER), **lately())).status_code == 404


async def slowly(world: ApiWorld, bearer: str, form: str, meanwhile: Any) -> tuple[bytes, bool]:
    """What arrives of an export that is not read until ``meanwhile`` is done, and whether it ended as it should."""
    body = b""
    try:
        narrow = httpx.AsyncHTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)])
        async with (
            asyncio.timeout(PATIENCE_S),
            httpx.AsyncClient(base_url=world.base, timeout=None, transport=narrow) as client,
        ):
            asked = {"from": text(quarter(24 * 4 * 30)), "to": text(quarter() + HOUR), "fields": "ac_power_w"}
            async with client.stream(
                "GET",
                "/api/v1/export",
                params=asked | {"format": form},
                headers={"Authorization": f"Bearer {bearer}"},
            ) as answer:
                assert answer.status_code == 200
                parts = answer.aiter_raw()
                body += await anext(parts)
                await meanwhile()
                async for part in parts:
                    body += part
    except (httpx.RemoteProtocolError, httpx.ReadError):
        return body, False
    return body, True


async def many(world: ApiWorld) -> str:
    """More than what sockets hold: sending waits for the reader."""
    await two_homes(world, quarters=0)
    for device in (DEVICE, DEVICE + 1, DEVICE + 10, DEVICE + 11):
        for first in range(0, 24 * 4 * 28, 1000):
            await world.quarters(device, 1000, 1.0, first=first)
    return await world.token(LOOKER)


async def stuck(world: ApiWorld) -> None:
    """Until nothing more is read from the database: what is sent waits for the reader."""
    before, now = -1, 0
    while before != now:
        await asyncio.sleep(0.5)
        before, now = now, await world.admin.fetchval("SELECT count(*) FROM audit.read")


async def over(world: ApiWorld) -> None:
    """Until no export is under way any more."""
    while world.context.observer.metrics.api_streams._value.get():
        await asyncio.sleep(0.02)


@pytest.mark.long
@pytest.mark.parametrize("form", ["csv", "jsonl", "arrow"])
@pytest.mark.parametrize("change", ["until = now()", "fields = '{temperature_c}'"], ids=["all", "the field"])
async def test_withdrawal_breaks_it_off_while_nobody_reads(
    world: ApiWorld, form: str, change: str, monkeypatch
) -> None:
    monkeypatch.setattr(exports, "_ROWS", 1000)
    bearer = await many(world)

    async def broken_off() -> None:
        await stuck(world)
        await world.admin.execute(f"UPDATE consent.active_grant SET {change}")
        await over(world)

    assert not (await slowly(world, bearer, form, broken_off))[1]


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
async def test_withdrawal_between_two_parts_breaks_it_off(world: ApiWorld, form: str, monkeypatch) -> None:
    monkeypatch.setattr(exports, "_ROWS", 1000)
    bearer = await many(world)
    body, whole = await slowly(world, bearer, form, lambda: withdraw(world, 1, 2))
    assert not whole
    if form == "parquet":
        with pytest.raises(pa.ArrowInvalid):
            values(form, body)


@pytest.mark.long
async def test_it_goes_on_to_the_end_where_nothing_is_withdrawn(world: ApiWorld, monkeypatch) -> None:
    monkeypatch.setattr(exports, "_ROWS", 1000)
    bearer = await many(world)
    body, whole = await slowly(world, bearer, "csv", lambda: asyncio.sleep(0.1))
    assert whole
    assert len(values("csv", body)) > 4 * 2000


@pytest.mark.long
async def test_a_revoked_token_breaks_it_off(world: ApiWorld, monkeypatch) -> None:
    monkeypatch.setattr(exports, "_ROWS", 1000)
    bearer = await many(world)

    async def broken_off() -> None:
        await stuck(world)
        await world.revoke(bearer)
        await over(world)

    assert not (await slowly(world, bearer, "csv", broken_off))[1]
