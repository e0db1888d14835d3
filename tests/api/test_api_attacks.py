"""Attacks on the API, each with a control that succeeds where there is nothing to protect.

Canaries in every input position; tokens of two recipients joined; overlapping windows and offsets; whether somebody
was there before, from what is answered after.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from prometheus_client import generate_latest

from telemetry.config import ObserveConfig
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.maintenance.scan import scan
from telemetry.maintenance.scan_places import BytesPlace, DatabasePlace, FilePlace
from telemetry.observe import configure_logging
from tests.api.test_route_matrix import DOCUMENT, OPERATIONS, TABLE, may
from tests.support import consents
from tests.support.access import FAST
from tests.support.api_received import whole
from tests.support.api_town import Town, a_town
from tests.support.api_world import ApiWorld, quarter, text
from tests.support.owned_home import asked
from tests.support.store import Store
from tests.support.view_world import mean_amount

SERIAL, MAC, NAME, EMAIL = "CANARYINV0042", "DE:AD:BE:EF:42:17", "Canary Mustermann", "canary@example.test"
LATITUDE, ADDRESS, FREE = "47.371234", "203.0.113.77", "canary free text of a neighbour"
CANARIES = [SERIAL, MAC, NAME, EMAIL, LATITUDE, ADDRESS, FREE]
HEADERS = {
    "Accept": f"text/{SERIAL}",
    "Accept-Language": NAME,
    "If-None-Match": f'"{SERIAL}"',
    "If-Match": f'"{MAC}"',
    "User-Agent": FREE,
    "Referer": f"https://example.invalid/{SERIAL}?{LATITUDE}",
    "X-Forwarded-For": ADDRESS,
    "Forwarded": f"for={ADDRESS}",
    "X-Request-Id": SERIAL,
    "Last-Event-ID": SERIAL,
    SERIAL: EMAIL,
}
ABUSED = {"Authorization": f"Bearer {SERIAL}", "Cookie": f"session={SERIAL}; {SERIAL}={EMAIL}"}


@pytest_asyncio.fixture
async def made(migrated: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Town]:
    store = Store(migrated)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("telemetry.access.passwords.PARAMETERS", FAST)
        async with a_town(store, tmp_path / "api") as town:
            yield town
    await store.close()


def filled(schema: dict[str, Any], words: Iterator[str], depth: int = 0) -> Any:
    """A body of a schema's shape in which every text is a canary, and one key nobody knows."""
    schema = resolved(schema)
    if depth > 5:
        return next(words)
    if "properties" in schema:
        made = {name: filled(each, words, depth + 1) for name, each in schema["properties"].items()}
        return made | ({SERIAL: EMAIL, FREE: {MAC: NAME}} if depth == 0 else {})
    if schema.get("type") == "array":
        return [filled(schema.get("items", {}), words, depth + 1)]
    if schema.get("type") == "boolean":
        return True
    return next(words)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema or "anyOf" in schema:
        if "anyOf" in schema:
            schema = next(each for each in schema["anyOf"] if each.get("type") != "null")
        else:
            schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def attacks(name: str) -> Iterator[dict[str, Any]]:
    """Requests of one operation with canaries in its path, query, headers and body; each alone, and all together."""
    method, _, path = OPERATIONS[name].partition(" ")
    operation = DOCUMENT["paths"][path][method.lower()]
    words = itertools.cycle(CANARIES)
    good = path
    for parameter in operation.get("parameters", []):
        good = good.replace("{" + parameter["name"] + "}", "x_00c0ffee00c0ffee")
    bad = path
    while "{" in bad:
        head, _, rest = bad.partition("{")
        bad = head + next(words) + rest.partition("}")[2]
    query = {each["name"]: next(words) for each in operation.get("parameters", []) if each["in"] == "query"}
    yield {"method": method, "url": good, "params": query | {SERIAL: EMAIL}}
    yield {"method": method, "url": good, "headers": HEADERS}
    if bad != path:
        yield {"method": method, "url": bad}
    yield {"method": method, "url": f"{good}/{SERIAL}"}
    yield {"method": "PATCH", "url": good, "content": f"{SERIAL} {MAC}", "headers": {"Content-Type": f"text/{SERIAL}"}}
    if body := operation.get("requestBody"):
        schema = body["content"]["application/json"]["schema"]
        yield {"method": method, "url": good, "json": filled(schema, words)}
        bare = filled(schema, words)
        yield {"method": method, "url": good, "json": {key: bare[key] for key in bare if key not in {SERIAL, FREE}}}
        yield {"method": method, "url": good, "content": f'{{"{SERIAL}": "{MAC}',
               "headers": {"Content-Type": "application/json"}}  # fmt: skip
        yield {"method": method, "url": good, "json": [SERIAL, {MAC: NAME}]}


# Valid, with canaries where free text or an address is taken.
TAKEN = [
    ("POST", "/auth/sign-up", {"email": EMAIL, "of_age": True, "name": NAME}),
    ("POST", "/auth/login", {"email": EMAIL, "password": FREE}),
    ("POST", "/auth/password/forgot", {"email": EMAIL}),
    ("POST", "/webhooks", {"purpose": "maintenance", "url": f"https://hooks.example.invalid/{SERIAL}?at={LATITUDE}"}),
]


async def test_canaries_in_every_input_position_are_in_no_answer_log_metric_or_table(
    made: Town, tmp_path: Path
) -> None:
    log = tmp_path / "api.log"
    undo = configure_logging(ObserveConfig(log_file=log, log_level="debug"))
    answers: list[bytes] = []

    async def send(credentials: Mapping[str, str], **request: Any) -> httpx.Response:
        sent = dict(credentials) | request.pop("headers", {})
        answer = await made.world.client.request(**request, headers=sent)
        answers.append(repr(answer.headers.multi_items()).encode() + answer.content)
        assert answer.status_code < 500, (request, answer.text)
        return answer

    try:
        for name in OPERATIONS:
            asker = next(one for one in made.askers if may(TABLE[name], one))
            for request in attacks(name):
                await send(asker.headers, **request)
            await send(ABUSED, method="GET", url=OPERATIONS[name].partition(" ")[2])
        recipient = made.askers[1]
        for method, path, body in TAKEN:
            answer = await send(recipient.headers, method=method, url=f"/api/v1{path}", json=body)
            assert answer.is_success or answer.status_code == 401, answer.text
        # What is written to an owner alone reaches the owner, and is sealed meanwhile.
        request = {"terms": asked(), "reason": "fault", "site": made.own.site, "text": FREE}
        made_one = await send(recipient.headers, method="POST", url="/api/v1/access-requests", json=request)
        assert made_one.status_code == 201, made_one.text
        told = await made.as_owner(made.own, "GET", "/me/access-requests")
        assert [one["text"] for one in told["requests"]] == [FREE], "the control: it was taken"
    finally:
        undo()
    metrics = generate_latest(made.world.context.observer.metrics.registry)
    lines = await asyncio.to_thread(log.read_bytes)
    assert b"/api/v1/series" in lines, "requests are logged"
    dsn = made.world.store.postgres.dsn("postgres")

    async def search() -> Any:
        places = [
            FilePlace("log", log),
            BytesPlace("metrics", lambda: metrics),
            BytesPlace("answers", lambda: b"\n".join(answers)),
            DatabasePlace("databases", dsn),
        ]
        return await scan(places, CANARIES)

    report = await search()
    assert report.clean, report.to_json()
    # The control: the same search finds one that an answer holds.
    answers.append(SERIAL.lower().encode())
    assert (await search()).identifiers_found > 0


async def joined(world: ApiWorld, recipients: tuple[int, int], column: str) -> int:
    """How many values of a column two recipients have in common, whole or by a part."""
    told: list[set[str]] = []
    for key in recipients:
        headers = {"Authorization": f"Bearer {await world.token(key)}"}
        found: set[str] = set()
        for path in ("/fleet", "/grants"):
            answer = (await world.client.get(f"/api/v1{path}", headers=headers)).json()
            found |= {str(row.get(column)) for row in answer.get("sites", answer.get("grants")) if row.get(column)}
        answer = (await world.get("/series", headers["Authorization"].split()[1], **lately())).json()
        found |= {row[column] for row in answer["devices"] if row.get(column)}
        told.append({part for one in found for part in parts(one)})
    return len(told[0] & told[1])


def parts(name: str) -> set[str]:
    """What a name might share with another: its letters, and each half of them."""
    letters = name.rpartition("_")[2]
    return {letters, letters[::-1], letters[: len(letters) // 2], letters[len(letters) // 2 :]}


def lately() -> dict[str, str]:
    return {"from_": text(quarter(8)), "to": text(quarter(-1))}


@pytest.fixture
async def shared(world: ApiWorld) -> ApiWorld:
    """Twenty homes, of which two recipients are granted the same."""
    for recipient in (1, 2):
        await consents.add_recipient(world.admin, recipient)
    for n in range(20):
        await world.home(10 + n, 100 + n, 1000 + n)
        for recipient in (1, 2):
            await consents.add_grant(world.admin, 10 * n + recipient, 10 + n, recipient, place="region")
        await world.quarters(1000 + n, 4, 100.0 * n)
    return world


@pytest.mark.parametrize("column", ["device", "site", "grant"])
async def test_the_names_that_two_recipients_are_given_join_nothing(shared: ApiWorld, column: str) -> None:
    assert await joined(shared, (1, 2), column) == 0
    # The controls: the same join of one recipient with itself finds all; and of two by what they may both know.
    assert await joined(shared, (1, 1), column) >= 20
    assert await joined(shared, (1, 2), "place") > 0


async def test_etags_and_cursors_of_two_recipients_join_nothing(shared: ApiWorld) -> None:
    told: list[set[str]] = []
    for recipient in (1, 2, 1):
        bearer = await shared.token(recipient)
        found = set()
        for path in ("/access-requests", "/invitations", "/webhooks"):  # the same body for both
            answer = await shared.get(path, bearer)
            found.add(answer.headers["etag"])
        found.add((await shared.get("/fleet", bearer, limit=1)).json()["next"])
        told.append(found)
    assert not told[0] & told[1]
    assert told[0] == told[2], "the control: one recipient's are the same"


# --- overlapping windows and offsets ----------------------------------------------------------------------------------

QUARTER, HOUR, DAY = timedelta(minutes=15), timedelta(hours=1), timedelta(days=1)
FIRST = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - 5 * DAY
SPAN = 3 * 96  # quarters


@pytest.fixture
async def measured(world: ApiWorld) -> ApiWorld:
    """One home with three days of quarters, each with a value of its own."""
    await consents.add_recipient(world.admin, 1)
    await world.home(10, 100, 1000)
    rng = np.random.default_rng(5)
    rows = [
        {"device_key": 1000, "start": FIRST + n * QUARTER, "amount": mean_amount(float(value))}
        for n, value in enumerate(rng.integers(0, 10_000, SPAN))
    ]
    await world.series(rows)
    return world


async def equations(world: ApiWorld, rank: int) -> np.ndarray:
    """What an attacker can put together of all answers to all offsets: each row adds up some quarters."""
    await consents.add_grant(world.admin, 1, 10, 1, resolution=rank, place="region")
    bearer, found = await world.token(1), set()
    offsets = [timedelta(minutes=n) for n in (0, 7, 15, 30, 45)]
    finer = itertools.product(("PT1M", "PT15M", "PT30M", "PT1H"), ("UTC",), (None,))
    days = itertools.product(("P1D",), ("UTC", "Asia/Kolkata"), ("utc", "site"))
    for resolution, zone, grid in (*finer, *days):
        for offset in offsets:
            asked = {"from_": text(FIRST + offset), "to": text(FIRST + 2 * DAY + offset), "format": "rows"}
            more = {"resolution": resolution, "tz": zone, "fields": "ac_power_w", "grid": grid}
            answer = await world.get("/series", bearer, **asked, **more)
            assert answer.status_code == 200, answer.text
            for row in answer.json()["rows"]:
                edges = [datetime.fromisoformat(row[name]) for name in ("start", "end")]
                found.add((*edges, round(row["value"], 9)))
    rows = {}
    for start, end, value in found:
        since, until = ((edge - FIRST) / QUARTER for edge in (start, end))
        assert since == int(since), "a window starts between quarters"
        assert (start, end) not in rows, "one window has two values"
        rows[start, end] = value
        assert until == int(until)
    matrix = np.zeros((len(rows), SPAN))
    for line, (start, end) in zip(matrix, rows, strict=True):
        line[int((start - FIRST) / QUARTER) : int((end - FIRST) / QUARTER)] = 1
    return matrix


def recovered(matrix: np.ndarray, length: int) -> int:
    """How many spans of so many quarters the rows determine: those whose sum is a combination of rows."""
    basis = np.linalg.svd(matrix, full_matrices=False)
    rows = basis.Vh[basis.S > 1e-9]
    found = 0
    for start in range(SPAN - length + 1):
        span = np.zeros(SPAN)
        span[start : start + length] = 1
        found += bool(np.linalg.norm(span - rows.T @ (rows @ span)) < 1e-6)
    return found


@pytest.mark.parametrize(("rank", "finest"), [(4, 4), (5, 92), pytest.param(3, 2, marks=pytest.mark.long)])
async def test_overlapping_windows_and_offsets_give_nothing_finer_than_what_is_granted(
    measured: ApiWorld, rank: int, finest: int
) -> None:
    matrix = await equations(measured, rank)
    assert matrix.any()
    for length in range(1, min(finest, 8)):
        assert recovered(matrix, length) == 0
    assert recovered(matrix, {4: 4, 3: 2, 5: 96}[rank]) > 0, "the control: what is granted is told"


async def test_the_control_quarters_are_recovered_where_they_are_granted(measured: ApiWorld) -> None:
    assert recovered(await equations(measured, 2), 1) > 150


# --- presence ---------------------------------------------------------------------------------------------------------

ENDS = {
    "withdrawn": "SELECT 1",
    "erased": "UPDATE consent.owner SET erased_at = now() WHERE owner_key = 11",
    "expired": "UPDATE consent.active_grant SET until = now() - interval '1 minute',"
    " start = now() - interval '9 days' WHERE owner_key = 12",
    "restricted": "INSERT INTO consent.restriction (owner_key, from_at) VALUES (13, now() - interval '9 days')",
    "objected to": "INSERT INTO consent.objection (owner_key, purpose, made_at) VALUES (14, 'maintenance', now())",
}


RANGED = {
    "/series": ("from", "to"),
    "/export": ("from", "to"),
    "/alerts": ("from", "to"),
    "/changes": ("from",),
    "/latest": (),
    "/live": (),
}


async def test_however_sharing_ended_the_answers_are_those_of_what_never_was(world: ApiWorld) -> None:
    """Status, body, headers, with names, ETags and cursors of before."""
    await consents.add_recipient(world.admin, 1)
    for n in range(len(ENDS) + 1):
        await world.home(10 + n, 100 + n, 1000 + n)
        await consents.add_grant(world.admin, n + 1, 10 + n, 1)
        await world.quarters(1000 + n, 4, 100.0 * n + 1)
    bearer = await world.token(1)
    named: dict[float, dict[str, str]] = {}
    told = (await world.get("/series", bearer, **lately())).json()
    for series in told["series"]:
        named[series["value"][-1] // 100] = {"site": series["site"], "device": series["device"]}
    tags = {}
    for n in range(len(ENDS)):
        answer = await world.get(f"/devices/{named[n]['device']}", bearer)
        assert answer.status_code == 200
        tags[n] = answer.headers["etag"]
    await consents.withdraw(world.admin, 1)
    for statement in ENDS.values():
        await world.admin.execute(statement)
    headers = {"Authorization": f"Bearer {bearer}"}
    answers = []
    for names, tag in [*((named[n], tags[n]) for n in range(len(ENDS))), (NEVER, '"0123456789abcdef"')]:
        paths = (f"/sites/{names['site']}", f"/sites/{names['site']}/devices", f"/devices/{names['device']}")
        tagged = headers | {"If-None-Match": tag}
        got = [await world.client.get(f"/api/v1{path}", headers=tagged) for path in paths]
        for (path, also), key in itertools.product(RANGED.items(), names):
            span = {name: {"from": lately()["from_"], "to": lately()["to"]}[name] for name in also}
            got.append(await world.client.get(f"/api/v1{path}", headers=headers, params=span | {f"{key}s": names[key]}))
        body = {"terms": asked(), "reason": "fault", "site": names["site"]}
        got.append(await world.client.post("/api/v1/access-requests", headers=headers, json=body))
        assert {each.status_code for each in got} == {404}
        answers.append([whole(each) for each in got])
    assert all(each == answers[-1] for each in answers)
    left = (await world.get("/fleet", bearer)).json()["sites"]
    assert [site["site"] for site in left] == [named[len(ENDS)]["site"]], "the control: one goes on"


NEVER = {"site": "site_" + "a" * 27, "device": "dev_" + "b" * 27}


# --- withdrawal -------------------------------------------------------------------------------------------------------


async def test_an_owner_who_withdraws_ends_requests_pages_streams_and_exports(made: Town) -> None:
    """By DELETE of the grant, over HTTP, as the owner's page does."""
    owner, world = made.askers[0], made.world
    await world.admin.execute("DELETE FROM consent.active_grant WHERE owner_key = $1", made.own.owner)
    body = {"recipient": "recipient-1", "terms": asked(resolution="PT15M", data_from=text(quarter(20)))}
    warned = await made.send("POST", "/me/grants", owner.headers, body=body)
    assert warned.status_code == 409, warned.text
    body["confirm_solar_km"] = warned.json()["error_km"]
    granted = await made.send("POST", "/me/grants", owner.headers, body=body)
    assert granted.is_success, granted.text
    grant = granted.json()["grant"]["grant"]
    bearer = await world.token(1)
    headers = {"Authorization": f"Bearer {bearer}"}
    first = await world.get("/series", bearer, **lately(), limit=1)
    assert first.json()["next"]
    async with asyncio.timeout(30), world.client.stream("GET", "/api/v1/live", headers=headers) as stream:
        pieces = stream.aiter_raw()
        while b"event: batch" not in await anext(pieces):
            pass
        ended = await made.send("DELETE", f"/me/grants/{grant}", owner.headers)
        assert ended.status_code == 200, ended.text
        rest = b"".join([piece async for piece in pieces])
    assert rest.endswith(b"event: end\ndata: {}\n\n")
    assert b"event: batch" not in rest
    series = await world.get("/series", bearer, **lately())
    assert (series.status_code, series.json()["devices"], series.json()["series"]) == (200, [], [])
    second = await world.get("/series", bearer, **lately(), limit=1, cursor=first.json()["next"])
    assert second.json() == series.json()
    export = await world.get("/export", bearer, **lately(), format="csv")
    assert export.status_code == 404
    assert json.loads(export.content)["type"] == "/problems/not-found"
