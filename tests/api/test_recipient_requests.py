"""What recipients ask for, over real HTTP: requests, invitations, webhooks; alerts and their own reads."""

from typing import Any

import httpx
import pytest

from telemetry.access.principal import Role, Scope
from tests.api.homes import DEVICE, LOOKER, OTHER, lately, two_homes
from tests.support.api_world import ApiWorld, api_world, quarter, text

TERMS = {"purpose": "maintenance", "classes": ["production"], "resolution": "P1D"}
RANGE = {"from_": text(quarter(100)), "to": text(quarter())}


async def sent(world: ApiWorld, method: str, path: str, bearer: str, body: Any = None) -> httpx.Response:
    return await world.client.request(
        method, f"/api/v1{path}", json=body, headers={"Authorization": f"Bearer {bearer}"}
    )


async def test_a_request_by_an_unknown_code_looks_like_any_other(world: ApiWorld) -> None:
    await two_homes(world)
    bearer = await world.token(LOOKER)
    asked = {"terms": TERMS, "reason": "fault", "code": "7K3M-9QXV"}
    made = await sent(world, "POST", "/access-requests", bearer, asked)
    assert made.status_code == 201, made.text
    assert made.json()["state"] == "pending"
    listed = (await world.get("/access-requests", bearer)).json()["requests"]
    assert listed == [made.json()]
    assert (await world.get("/access-requests", await world.token(OTHER))).json()["requests"] == []
    path = f"/access-requests/{made.json()['request']}"
    assert (await sent(world, "DELETE", path, await world.token(OTHER))).status_code == 404
    assert (await sent(world, "DELETE", path, bearer)).status_code == 204
    assert (await world.get("/access-requests", bearer)).json()["requests"] == []


async def test_a_site_that_is_shown_can_be_asked_and_another_is_nothing_here(world: ApiWorld) -> None:
    await two_homes(world)
    bearer, other = await world.token(LOOKER), await world.token(OTHER)
    site = (await world.get("/fleet", bearer)).json()["sites"][0]["site"]
    asked = {"terms": TERMS, "reason": "fault", "site": site}
    assert (await sent(world, "POST", "/access-requests", bearer, asked)).json()["site"] == site
    for refused in (other, bearer):
        named = asked if refused is other else asked | {"site": "site_" + "a" * 27}
        assert (await sent(world, "POST", "/access-requests", refused, named)).status_code == 404


async def test_a_token_asks_for_its_own_purposes_alone(world: ApiWorld) -> None:
    await two_homes(world)
    asked = {"terms": TERMS | {"purpose": "billing"}, "reason": "tariff", "code": "7K3M-9QXV"}
    refused = await sent(world, "POST", "/access-requests", await world.token(LOOKER), asked)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["location"] == "body.terms.purpose"


async def test_invitations_are_made_listed_and_revoked(world: ApiWorld) -> None:
    await two_homes(world)
    bearer = await world.token(LOOKER)
    made = await sent(world, "POST", "/invitations", bearer, {"terms": TERMS})
    assert made.status_code == 201, made.text
    listed = (await world.get("/invitations", bearer)).json()["invitations"]
    assert [one["invitation"] for one in listed] == [made.json()["invitation"]]
    assert made.json()["code"] not in str(listed)
    path = f"/invitations/{made.json()['invitation']}"
    assert (await sent(world, "DELETE", path, await world.token(OTHER))).status_code == 404
    assert (await sent(world, "DELETE", path, bearer)).status_code == 204
    assert (await world.get("/invitations", bearer)).json()["invitations"][0]["state"] == "revoked"


async def test_webhooks_are_off_until_configured(world: ApiWorld) -> None:
    await two_homes(world)
    body = {"purpose": "maintenance", "url": "https://hooks.example.invalid/alerts"}
    refused = await sent(world, "POST", "/webhooks", await world.token(LOOKER), body)
    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/unavailable")


async def test_webhooks_are_ones_own(world: ApiWorld, store, tmp_path) -> None:
    async with api_world(store, tmp_path, sections={"webhooks": {"enabled": True}}) as enabled:
        await two_homes(enabled)
        bearer, other = await enabled.token(LOOKER), await enabled.token(OTHER)
        body = {"purpose": "maintenance", "url": "https://hooks.example.invalid/alerts"}
        made = await sent(enabled, "POST", "/webhooks", bearer, body)
        assert made.status_code == 201, made.text
        listed = (await enabled.get("/webhooks", bearer)).json()["webhooks"]
        assert [(one["webhook"], one["url"]) for one in listed] == [(made.json()["webhook"], body["url"])]
        path = f"/webhooks/{made.json()['webhook']}"
        for bearer_, statuses in ((other, (404, 404)), (bearer, (202, 204))):
            tested = await sent(enabled, "POST", f"{path}/test", bearer_)
            removed = await sent(enabled, "DELETE", path, bearer_)
            assert (tested.status_code, removed.status_code) == statuses
        near = await sent(enabled, "POST", "/webhooks", bearer, body | {"url": "http://127.0.0.1:1/x"})
        assert near.status_code == 422
        assert "127.0.0.1" not in near.text


@pytest.mark.parametrize("path", ["/access-requests", "/invitations", "/webhooks"])
async def test_asking_needs_the_scope_and_a_session_its_csrf_token(world: ApiWorld, path: str) -> None:
    await two_homes(world)
    reader = await world.token(LOOKER, scopes=frozenset({Scope.READ}))
    assert (await sent(world, "POST", path, reader, {})).status_code == 403
    signed = await world.sign_in(LOOKER, Role.RECIPIENT)
    for headers, status in (
        (signed.cookie, 403),
        (signed.cookie | {"X-CSRF-Token": "A" * 43}, 403),
        (signed.headers, 422),
        (signed.headers | {"Origin": "https://elsewhere.example.invalid"}, 403),
        (signed.headers | {"Origin": world.base}, 422),
        (signed.headers | {"Sec-Fetch-Site": "cross-site"}, 403),
    ):
        answer = await world.client.post(f"/api/v1{path}", json={}, headers=headers)
        assert (answer.status_code, headers) == (status, headers)


async def open_alerts(world: ApiWorld, bearer: str) -> list[int | None]:
    return [site["alerts_open"] for site in (await world.get("/fleet", bearer)).json()["sites"]]


async def test_alerts_are_shown_where_the_class_is_granted(world: ApiWorld) -> None:
    await two_homes(world)
    await world.admin.execute(
        "INSERT INTO readings.alert (alert_key, device_key, kind, severity, opened_at, found_at)"
        " VALUES (7, $1, 2, 3, now() - interval '3 hours', now() - interval '3 hours')",
        DEVICE,
    )
    bearer = await world.token(LOOKER)
    assert (await world.get("/alerts", bearer, **RANGE)).json()["alerts"] == []
    assert await open_alerts(world, bearer) == [None, None]
    await world.admin.execute("UPDATE consent.active_grant SET classes = '{alert}'")
    assert sorted(await open_alerts(world, bearer)) == [0, 1]
    (alert,) = (await world.get("/alerts", bearer, **RANGE)).json()["alerts"]
    assert (alert["kind"], alert["severity"], alert["closed"]) == ("stale", 3, None)
    assert (await world.get("/alerts", await world.token(OTHER), **RANGE)).json()["alerts"] == []


async def test_own_reads_are_listed_once_each_whoever_they_were_of(world: ApiWorld) -> None:
    await two_homes(world)
    bearer = await world.token(LOOKER)
    for _ in range(3):
        await world.get("/series", bearer, **lately())
    await world.admin.execute(
        "UPDATE audit.read SET way = 'preview' WHERE read_key IN (SELECT min(read_key) FROM audit.read)"
    )
    first = (await world.get("/reads", bearer, limit=2)).json()
    second = (await world.get("/reads", bearer, limit=2, cursor=first["next"])).json()
    reads = first["reads"] + second["reads"]
    assert len(reads) == 3
    assert second["next"] is None
    assert {read["way"] for read in reads} == {"view"}
    assert reads[0]["at"] > reads[1]["at"] > reads[2]["at"]
    assert (await world.get("/reads", await world.token(OTHER))).json()["reads"] == []
