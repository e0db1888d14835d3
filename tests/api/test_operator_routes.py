"""What whoever runs the service is told and may do, over real HTTP."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from telemetry.access.principal import Role, Scope
from telemetry.model.shown import shown_key
from tests.support import consents
from tests.support.api_world import ApiWorld
from tests.support.owned_home import INSTALLER, NAME, SERIALS, OwnedHome, owned_home

ROUTES = [
    ("GET", "/operator/health", None),
    ("GET", "/operator/ingest", None),
    ("GET", "/operator/quarantine", None),
    ("GET", "/operator/recipients", None),
    ("POST", "/operator/recipients", {"handle": "example-new", "kind": "installer"}),
    ("POST", "/operator/recipients/r_00c0ffee00c0ffee/close", None),
    ("POST", "/operator/tokens", {"recipient": "r_00c0ffee00c0ffee"}),
]


@pytest.fixture
async def home(world: ApiWorld) -> OwnedHome:
    made = await owned_home(world)
    await consents.add_grant(world.admin, 1, made.owner, INSTALLER)
    return made


@pytest.fixture
async def operator(home: OwnedHome) -> str:
    return await home.world.token(0, Role.OPERATOR)


async def test_health_says_how_far_everything_is(home, operator):
    ingest = await home.world.store.role("ingest")()
    await home.world.admin.execute("UPDATE readings.rollup_pass SET done_as_of = now() - interval '90 seconds'")
    async with home.world.context.sharing.open() as sharing, sharing.settling() as settlement:
        settlement.concern([home.owner])
    told = (await home.ask("GET", "/operator/health", token=operator)).json()
    await ingest.close()
    assert told["workers"] == told["connections"]["ingest"] >= 1
    assert 90 <= told["rollup_lag_s"] < 150
    assert told["migrations"] == told["migrations_known"] >= 15
    assert (told["owners_to_compile"], told["compiling_since"]) == (0, None)
    await home.world.admin.execute("INSERT INTO consent.dirty_owner (owner_key) VALUES ($1)", home.owner)
    told = (await home.ask("GET", "/operator/health", token=operator)).json()
    assert told["owners_to_compile"] == 1
    await home.world.admin.execute("UPDATE readings.rollup_pass SET done_as_of = NULL")
    told = (await home.ask("GET", "/operator/health", token=operator)).json()
    assert (told["rolled_up_to"], told["rollup_lag_s"]) == (None, None)


async def test_ingest_counts_what_is_registered_and_written(home, operator):
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)

    async def written() -> int:
        told = (await home.ask("GET", "/operator/ingest", token=operator)).json()
        assert (told["owners"], told["sites"], told["gateways"], told["devices"]) == (1, 1, 1, 2)
        return sum(
            one["readings"]
            for one in told["hours"]
            if (one["kind"], datetime.fromisoformat(one["hour"])) == ("hot", hour)
        )

    before = await written()
    for n in range(3):
        await consents.add_reading(home.world.admin, "hot", home.devices[0], hour + timedelta(seconds=n))
    await home.world.admin.execute("SELECT pg_stat_force_next_flush()")  # the server counts behind a delay
    assert await written() == before + 3


async def test_quarantine_is_counted_by_reason(home, operator):
    for n in range(3):
        await home.world.admin.execute(
            "INSERT INTO readings.quarantine (gateway_key, owner_key, reason, codec, detail, readings, size_bytes,"
            " digest, sealed) VALUES (1, $1, $2, 'native', '', 5, 10, $3, '')",
            home.owner,
            "too_old" if n else "empty",
            bytes([n] * 16),
        )
    counts = (await home.ask("GET", "/operator/quarantine", token=operator)).json()["counts"]
    assert [(one["reason"], one["messages"], one["readings"]) for one in counts] == [
        ("too_old", 2, 10),
        ("empty", 1, 5),
    ]


async def test_recipients_are_added_listed_and_closed_for_good(home, operator):
    body = {"handle": "example-partner", "kind": "energy_partner"}
    added = await home.ask("POST", "/operator/recipients", body, operator)
    assert added.status_code == 201
    again = await home.ask("POST", "/operator/recipients", body, operator)
    assert again.status_code == 409
    listed = (await home.ask("GET", "/operator/recipients", token=operator)).json()["recipients"]
    assert {one["handle"]: one["owners"] for one in listed} == {
        "example-partner": 0,
        "recipient-1": 1,
        "recipient-2": 0,
    }
    key, token = shown_key("recipient", INSTALLER), await home.installer()
    assert (await home.ask("POST", f"/operator/recipients/{key}/close", None, operator)).json() == {"owners": 1}
    assert (await home.ask("POST", f"/operator/recipients/{key}/close", None, operator)).status_code == 404
    seen = await home.world.get(
        "/series", token, purpose="maintenance", from_="2026-01-01T00:00:00Z", to="2026-01-02T00:00:00Z"
    )
    assert seen.status_code == 401 or seen.json()["devices"] == []
    pending = await home.world.admin.fetchval(
        "SELECT count(*) FROM consent.dirty_owner WHERE owner_key = $1", home.owner
    )
    assert pending == 0


async def test_a_token_that_is_issued_works_within_its_scopes_and_is_told_once(home, operator):
    body = {"recipient": shown_key("recipient", INSTALLER), "purposes": ["maintenance"], "lifetime_days": 1}
    issued = await home.ask("POST", "/operator/tokens", body, operator)
    assert issued.status_code == 201
    told = issued.json()
    bearer = told["secret"]
    assert re.fullmatch(r"tlm_[A-Za-z0-9_-]{43}", bearer)
    seen = await home.world.get("/series", bearer, from_="2026-01-01T00:00:00Z", to="2026-01-02T00:00:00Z")
    assert seen.status_code == 200
    export = await home.world.get("/export", bearer, from_="2026-01-01T00:00:00Z", to="2026-01-02T00:00:00Z")
    assert export.status_code == 403
    rows = await home.world.admin.fetch("SELECT t::text AS row FROM access.token AS t")
    assert not [row for row in rows if bearer in row["row"]]
    unknown = await home.ask("POST", "/operator/tokens", body | {"recipient": "r_00c0ffee00c0ffee"}, operator)
    assert unknown.status_code == 404


async def test_nothing_that_an_operator_is_told_names_a_home(home, operator):
    secrets = (NAME, *SERIALS, *(f"{key % 2**64:016x}" for key in (home.owner, home.site, *home.devices)))
    numbers = tuple(str(key) for key in (home.owner, home.site, *home.devices))
    for method, path, _ in ROUTES[:4]:
        answer = await home.ask(method, path, token=operator)
        assert answer.status_code == 200, (path, answer.text)
        assert not [secret for secret in secrets + numbers if secret in answer.text], path


async def test_owners_and_recipients_may_none_of_it_and_a_reading_operator_changes_nothing(home):
    for token in (home.token, await home.installer()):
        for method, path, body in ROUTES:
            assert (await home.ask(method, path, body, token)).status_code == 403, (method, path)
    reading = await home.world.token(0, Role.OPERATOR, scopes=frozenset({Scope.READ}))
    for method, path, body in ROUTES:
        status = (await home.ask(method, path, body, reading)).status_code
        assert (status == 403) == (method == "POST"), (method, path)
    assert await home.world.admin.fetchval("SELECT count(*) FROM consent.recipient WHERE handle = 'example-new'") == 0


async def test_the_routes_are_all_that_there_are(home):
    document = (await home.world.client.get("/api/openapi.json")).json()
    declared = {
        (method.upper(), path.removeprefix("/api/v1"))
        for path, operations in document["paths"].items()
        if path.startswith("/api/v1/operator")
        for method in operations
    }
    assert declared == {(method, path.replace("r_00c0ffee00c0ffee", "{recipient}")) for method, path, _ in ROUTES}
