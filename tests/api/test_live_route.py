"""GET /live over real HTTP: batches, heartbeats, and the end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.api.homes import DEVICE, LOOKER, OTHER, told, two_homes, withdraw
from tests.support.api_world import PATIENCE_S, ApiWorld, api_world, quarter
from tests.support.view_world import mean_amount

Event = tuple[str, Any]


@asynccontextmanager
async def live(world: ApiWorld, bearer: str, **asked: Any) -> AsyncIterator[AsyncIterator[Event]]:
    """The events of a stream that is open."""
    headers = {"Authorization": f"Bearer {bearer}"} | asked.pop("headers", {})
    async with (
        asyncio.timeout(PATIENCE_S),
        world.client.stream("GET", "/api/v1/live", params=asked, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = _events(answer)
        yield events
        await events.aclose()


async def _events(answer: httpx.Response) -> AsyncIterator[Event]:
    name = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
        elif line.startswith(":"):
            yield "heartbeat", None
        else:
            assert line == "", line


async def batch(events: AsyncIterator[Event]) -> Any:
    """The next batch."""
    async for name, data in events:
        if name == "batch":
            return data
        assert name == "heartbeat"
    raise AssertionError("the stream ended")


def values(data: Any) -> list[list[float]]:
    return sorted(series["value"] for series in data["series"])


async def test_each_batch_holds_what_is_new(world: ApiWorld) -> None:
    await two_homes(world, quarters=2)
    async with live(world, await world.token(LOOKER)) as events:
        first = await batch(events)
        assert values(first) == [[101.0, 100.0], [201.0, 200.0]]
        assert len(first["devices"]) == 2, "devices without anything new are left out"
        await world.series([{"device_key": DEVICE + 1, "start": quarter(1), "amount": mean_amount(7)}])
        await told(world)
        assert values(await batch(events)) == [[7.0]]


async def test_it_ends_with_the_last_grant_and_goes_on_with_one_left(world: ApiWorld) -> None:
    await two_homes(world, quarters=1)
    async with live(world, await world.token(LOOKER)) as events:
        await batch(events)
        await withdraw(world, 1)
        await world.series([{"device_key": DEVICE + 11, "start": quarter(1), "amount": mean_amount(8)}])
        await told(world)
        assert values(await batch(events)) == [[8.0]]
        await withdraw(world, 2)
        assert [event async for event in events if event[0] != "heartbeat"] == [("end", {})]


async def test_a_recipient_without_anything_is_told_the_same_as_one_whose_last_grant_ended(world: ApiWorld) -> None:
    await two_homes(world)
    await withdraw(world, 1, 2)
    for recipient in (LOOKER, OTHER):
        async with live(world, await world.token(recipient)) as events:
            assert [event async for event in events] == [("heartbeat", None), ("end", {})]


async def test_a_revoked_token_ends_it(world: ApiWorld) -> None:
    await two_homes(world)
    bearer = await world.token(LOOKER)
    async with live(world, bearer) as events:
        await batch(events)
        await world.revoke(bearer)
        assert [event async for event in events if event[0] != "heartbeat"] == [("end", {})]


async def test_last_event_id_brings_nothing_back(world: ApiWorld) -> None:
    await two_homes(world)
    async with live(world, await world.token(LOOKER)) as events:
        await batch(events)
    await withdraw(world, 1)
    async with live(world, await world.token(LOOKER), headers={"Last-Event-ID": "0"}) as events:
        assert values(await batch(events)) == [[203.0, 202.0, 201.0, 200.0]]


async def test_quiet_streams_say_so(world: ApiWorld, store, tmp_path) -> None:
    async with api_world(store, tmp_path, heartbeat_s=0.1) as quiet:
        await two_homes(quiet)
        async with live(quiet, await quiet.token(LOOKER)) as events:
            await batch(events)
            assert [await anext(events) for _ in range(3)] == [("heartbeat", None)] * 3


@pytest.mark.parametrize("name", ["sites", "devices"])
async def test_foreign_and_missing_names_are_the_same_problem(world: ApiWorld, name: str) -> None:
    await two_homes(world)
    bearer = await world.token(LOOKER)
    listed = (await world.get("/series", bearer, from_="2026-01-01T00:00:00Z", to="2026-01-02T00:00:00Z")).json()
    known = listed["devices"][0][name.removesuffix("s")]
    foreign = await world.get("/live", await world.token(OTHER), **{name: known})
    missing = await world.get("/live", bearer, **{name: "nobody"})
    assert foreign.status_code == missing.status_code == 404
    hidden = foreign.json()["request_id"], missing.json()["request_id"]
    assert foreign.text.replace(hidden[0], "") == missing.text.replace(hidden[1], "")


async def test_only_so_many_at_once(world: ApiWorld, store, tmp_path) -> None:
    async with api_world(store, tmp_path, streams=1) as narrow:
        await two_homes(narrow)
        bearer = await narrow.token(LOOKER)
        async with live(narrow, bearer) as events:
            await batch(events)
            refused = await narrow.get("/live", bearer)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
        async with asyncio.timeout(PATIENCE_S):
            while (await narrow.get("/live", bearer, devices="nobody")).status_code == 429:
                await asyncio.sleep(0.05)


async def test_the_end_of_the_process_ends_it_without_saying_that_anything_was_withdrawn(
    world: ApiWorld, store, tmp_path
) -> None:
    async with api_world(store, tmp_path) as ending:
        await two_homes(ending)
        async with live(ending, await ending.token(LOOKER)) as events:
            await batch(events)
            ending.context.ending.begin()
            assert [event async for event in events if event[0] != "heartbeat"] == []
