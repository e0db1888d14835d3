"""What recipients read, over real HTTP: only what is granted, and the same answer for all that is not."""

import asyncio
import io
from typing import Any

import httpx
import polars as pl
import pytest

from telemetry.access.principal import Role, Scope
from telemetry.model.sharing import SharingPurpose
from tests.api.homes import DEVICE, HOUR, LOOKER, OTHER, OWNER, SITE, lately, two_homes, withdraw
from tests.support import consents
from tests.support.api_world import ApiWorld, api_world, quarter, text

NAMED = ("/sites/{site}", "/sites/{site}/devices", "/devices/{device}")
LISTS = ("/fleet", "/latest", "/grants")


async def names(world: ApiWorld, bearer: str) -> dict[str, str]:
    """A site and a device of it, as they are shown."""
    told = (await world.get("/latest", bearer)).json()
    return {name: told["devices"][0][name] for name in ("site", "device")}


def without_id(answer: httpx.Response) -> tuple[int, str, list[tuple[str, str]]]:
    """All of an answer but for what is random or the time."""
    request_id = answer.headers["x-request-id"]
    headers = [(name, value) for name, value in answer.headers.multi_items() if name not in {"date", "ratelimit"}]
    return answer.status_code, answer.text.replace(request_id, ""), [(n, v.replace(request_id, "")) for n, v in headers]


class TestFleet:
    async def test_it_lists_sites_by_kind_with_what_is_shared_and_what_is_not(self, world: ApiWorld) -> None:
        await two_homes(world)
        told = (await world.get("/fleet", await world.token(LOOKER))).json()
        assert len(told["sites"]) == 2
        site = told["sites"][0]
        assert site["devices"] == 2
        assert [kind["kind"] for kind in site["kinds"]] == ["inverter"]
        assert site["kinds"][0]["shared"][0]["field"] == "ac_power_w"
        assert "ac_voltage_v" in site["kinds"][0]["not_shared"]
        assert site["last_seen"] == text(quarter(-1))

    async def test_pages_hold_every_site_once(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer, seen, cursor = await world.token(LOOKER), [], None
        for _ in range(3):
            answer = await world.get("/fleet", bearer, limit=1, cursor=cursor)
            seen += [site["site"] for site in answer.json()["sites"]]
            cursor = answer.json()["next"]
            if cursor is None:
                break
            assert 'rel="next"' in answer.headers["link"]
        assert len(seen) == len(set(seen)) == 2
        assert seen == sorted(seen)

    async def test_what_is_not_granted_is_in_no_list_and_no_count(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer = await world.token(LOOKER)
        await withdraw(world, 1)
        assert len((await world.get("/fleet", bearer)).json()["sites"]) == 1
        await withdraw(world, 2)
        for path in LISTS:
            gone = await world.get(path, bearer)
            never = await world.get(path, await world.token(OTHER))
            found = gone.json(), never.json()
            for each in found:
                each.pop("from", None), each.pop("to", None)
            assert found[0] == found[1]


class TestNames:
    async def test_a_site_and_its_devices_are_found_by_their_names(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer = await world.token(LOOKER)
        known = await names(world, bearer)
        assert (await world.get(f"/sites/{known['site']}", bearer)).json()["site"] == known["site"]
        devices = (await world.get(f"/sites/{known['site']}/devices", bearer)).json()["devices"]
        assert known["device"] in [device["device"] for device in devices]
        assert (await world.get(f"/devices/{known['device']}", bearer)).json()["device"] == known["device"]

    async def test_devices_of_a_site_come_in_pages(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer = await world.token(LOOKER)
        path = f"/sites/{(await names(world, bearer))['site']}/devices"
        first = (await world.get(path, bearer, limit=1)).json()
        second = (await world.get(path, bearer, limit=1, cursor=first["next"])).json()
        assert second["next"] is None
        assert first["devices"][0]["device"] < second["devices"][0]["device"]

    async def test_a_device_without_a_token_of_its_own_has_a_slash_in_its_name(self, world: ApiWorld) -> None:
        await two_homes(world)
        await world.admin.execute("UPDATE consent.active_grant SET serial = 'withheld'")
        bearer = await world.token(LOOKER)
        name = (await names(world, bearer))["device"]
        assert "/inverter-" in name
        assert (await world.get(f"/devices/{name}", bearer)).json()["device"] == name

    @pytest.mark.parametrize("path", NAMED)
    async def test_foreign_missing_and_withdrawn_are_the_same_answer(self, world: ApiWorld, path: str) -> None:
        await two_homes(world)
        bearer, other = await world.token(LOOKER), await world.token(OTHER)
        known = await names(world, bearer)
        missing = path.format(site="site_" + "a" * 27, device="dev_" + "a" * 27)
        nonsense = path.format(site="x", device="x/y-9")
        answers = [await world.get(path.format(**known), other)]
        answers += [await world.get(each, bearer) for each in (missing, nonsense)]
        await withdraw(world, 1, 2)
        answers.append(await world.get(path.format(**known), bearer))
        assert answers[0].status_code == 404
        assert [without_id(each) for each in answers] == [without_id(answers[0])] * 4


class TestSeries:
    @pytest.mark.parametrize("form", ["rows", "csv", "parquet", "arrow"])
    async def test_every_form_holds_the_rows_of_every_other(self, world: ApiWorld, form: str) -> None:
        await two_homes(world)
        bearer = await world.token(LOOKER)
        columns = (await world.get("/series", bearer, **lately())).json()["series"]
        expected = sorted(
            (s["device"], start, v) for s in columns for start, v in zip(s["start"], s["value"], strict=True)
        )
        answer = await world.get("/series", bearer, **lately(format=form))
        assert sorted(_rows(form, answer)) == expected
        assert len(expected) == 8

    async def test_a_time_zone_changes_how_times_are_written_and_nothing_else(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer = await world.token(LOOKER)
        utc = (await world.get("/series", bearer, **lately())).json()["series"]
        there = (await world.get("/series", bearer, **lately(tz="Asia/Kolkata"))).json()["series"]
        assert there[0]["start"][0].endswith("+05:30")
        assert [each["value"] for each in utc] == [each["value"] for each in there]

    async def test_pages_by_devices_hold_every_row_once(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer, found, cursor = await world.token(LOOKER), [], None
        for _ in range(6):
            told = (await world.get("/series", bearer, **lately(limit=1, cursor=cursor))).json()
            found += [value for series in told["series"] for value in series["value"]]
            cursor = told["next"]
            if cursor is None:
                break
        assert sorted(found) == [100, 101, 102, 103, 200, 201, 202, 203]

    async def test_what_could_be_too_large_is_refused_before_it_is_read(self, world: ApiWorld) -> None:
        await two_homes(world)
        before = await world.admin.fetchval("SELECT count(*) FROM audit.read")
        asked = {"from_": "2020-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z", "resolution": "PT1M"}
        answer = await world.get("/series", await world.token(LOOKER), **asked)
        assert answer.status_code == 422
        assert answer.json()["type"] == "/problems/too-costly"
        assert await world.admin.fetchval("SELECT count(*) FROM audit.read") == before

    async def test_each_read_is_recorded_for_the_owner(self, world: ApiWorld) -> None:
        await two_homes(world)
        await world.get("/series", await world.token(LOOKER), **lately())
        assert await world.admin.fetchval("SELECT count(*) FROM audit.read WHERE way = 'view'") == 2


def _rows(form: str, answer: httpx.Response) -> list[tuple[Any, ...]]:
    if form == "rows":
        return [(row["device"], row["start"], row["value"]) for row in answer.json()["rows"]]
    body = io.BytesIO(answer.content)
    if form == "csv":
        return pl.read_csv(body).select("device", "start", "value").rows()
    frame = pl.read_parquet(body) if form == "parquet" else pl.read_ipc_stream(body)
    return [(device, text(start), value) for device, start, value in frame.select("device", "start", "value").rows()]


class TestLatestAndChanges:
    async def test_latest_is_the_last_window_of_each_field(self, world: ApiWorld) -> None:
        await two_homes(world)
        told = (await world.get("/latest", await world.token(LOOKER))).json()
        assert sorted(series["value"] for series in told["series"]) == [[100.0], [200.0]]

    async def test_a_cursor_of_changes_goes_on(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer = await world.token(LOOKER)
        first = await world.get("/changes", bearer, from_=text(quarter(10)))
        assert first.status_code == 200
        assert sorted(len(series["value"]) for series in first.json()["series"]) == [4, 4]
        again = await world.get("/changes", bearer, from_=text(quarter(10)), cursor=first.json()["next"])
        assert again.status_code == 200
        assert len(again.json()["next"]) == len(first.json()["next"])


class TestGrants:
    async def test_terms_and_names_of_sites_and_no_key(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer = await world.token(LOOKER)
        answer = await world.get("/grants", bearer)
        grants = answer.json()["grants"]
        sites = {site["site"] for site in (await world.get("/fleet", bearer)).json()["sites"]}
        assert {site for grant in grants for site in grant["sites"]} == sites
        assert [grant["fields"] for grant in grants] == [["ac_power_w"]] * 2
        assert all(grant["grant"].startswith("grant_") for grant in grants)
        for key in (OWNER, SITE, DEVICE):
            assert f"{key:016x}" not in answer.text

    @pytest.mark.parametrize(
        "denial",
        [
            "UPDATE consent.policy SET expires_at = now() WHERE policy = 'other'",
            "INSERT INTO consent.restriction (owner_key) VALUES (10)",
            "INSERT INTO consent.objection (owner_key, purpose) VALUES (10, 'maintenance')",
            "UPDATE consent.active_grant SET until = now() WHERE grant_key = 1",
        ],
    )
    async def test_what_is_denied_is_not_listed(self, world: ApiWorld, denial: str) -> None:
        await two_homes(world)
        await world.admin.execute("INSERT INTO consent.policy (policy) VALUES ('other')")
        await world.admin.execute("UPDATE consent.active_grant SET policy = 'other' WHERE grant_key = 1")
        bearer = await world.token(LOOKER)
        assert len((await world.get("/grants", bearer)).json()["grants"]) == 2
        await world.admin.execute(denial)
        assert len((await world.get("/grants", bearer)).json()["grants"]) == 1

    async def test_they_come_in_pages(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer = await world.token(LOOKER)
        first = (await world.get("/grants", bearer, limit=1)).json()
        second = (await world.get("/grants", bearer, limit=1, cursor=first["next"])).json()
        assert second["next"] is None
        assert first["grants"][0]["grant"] < second["grants"][0]["grant"]


class TestWhoAsks:
    async def test_a_route_is_for_its_role_and_scope_whatever_is_asked(self, world: ApiWorld) -> None:
        await two_homes(world)
        for bearer in (
            await world.token(OWNER, Role.OWNER),
            await world.token(role=Role.OPERATOR),
            await world.token(LOOKER, scopes=frozenset({Scope.MANAGE})),
        ):
            for path in (*LISTS, "/sites/x", "/devices/x"):
                answer = await world.get(path, bearer)
                assert (answer.status_code, answer.json()["type"]) == (403, "/problems/not-permitted")

    async def test_wrong_unknown_and_revoked_tokens_are_the_same_answer(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer = await world.token(LOOKER)
        await world.revoke(bearer)
        answers = [await world.get("/fleet", each) for each in (None, "x", "tlm_" + "A" * 43, bearer)]
        assert answers[0].status_code == 401
        assert answers[0].headers["www-authenticate"] == "Bearer"
        assert [without_id(each) for each in answers] == [without_id(answers[0])] * 4

    async def test_a_person_reads_with_a_session_as_a_machine_with_a_token(self, world: ApiWorld) -> None:
        await two_homes(world)
        signed = await world.sign_in(LOOKER, Role.RECIPIENT)
        person = await world.client.get("/api/v1/fleet?purpose=maintenance", headers=signed.cookie)
        assert person.json() == (await world.get("/fleet", await world.token(LOOKER))).json()

    async def test_a_request_is_for_one_purpose(self, world: ApiWorld) -> None:
        await two_homes(world)
        free = await world.token(LOOKER, purposes=None)
        assert (await world.get("/fleet", free)).status_code == 422
        assert len((await world.get("/fleet", free, purpose="maintenance")).json()["sites"]) == 2
        assert (await world.get("/fleet", free, purpose="billing")).json()["sites"] == []
        bound = await world.token(LOOKER, purposes=frozenset({SharingPurpose.MAINTENANCE}))
        assert (await world.get("/fleet", bound, purpose="billing")).status_code == 422


class TestCursors:
    async def test_a_cursor_is_of_one_recipient_and_one_query(self, world: ApiWorld) -> None:
        await two_homes(world)
        await consents.add_grant(world.admin, 9, OWNER, OTHER)
        bearer = await world.token(LOOKER)
        cursor = (await world.get("/fleet", bearer, limit=1)).json()["next"]
        assert (await world.get("/fleet", await world.token(LOOKER), limit=1, cursor=cursor)).status_code == 200
        for refused in (
            await world.get("/fleet", await world.token(OTHER), limit=1, cursor=cursor),
            await world.get("/fleet", bearer, limit=2, cursor=cursor),
            await world.get("/grants", bearer, limit=1, cursor=cursor),
            await world.get("/fleet", bearer, limit=1, cursor=cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB")),
        ):
            assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-request")


class TestETags:
    async def test_an_unchanged_answer_is_not_sent_again(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer = await world.token(LOOKER)
        asked = {"Authorization": f"Bearer {bearer}"}
        first = await world.client.get("/api/v1/fleet", headers=asked)
        again = await world.client.get("/api/v1/fleet", headers=asked | {"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        await withdraw(world, 1)
        changed = await world.client.get("/api/v1/fleet", headers=asked | {"If-None-Match": first.headers["etag"]})
        assert changed.status_code == 200

    async def test_two_recipients_etags_of_equal_answers_differ(self, world: ApiWorld) -> None:
        await two_homes(world)
        await withdraw(world, 1, 2)
        answers = [await world.get("/fleet", await world.token(each)) for each in (LOOKER, OTHER)]
        assert answers[0].content == answers[1].content
        assert answers[0].headers["etag"] != answers[1].headers["etag"]


class TestLimits:
    async def test_requests_a_minute(self, world: ApiWorld, store, tmp_path) -> None:
        async with api_world(store, tmp_path, requests_per_minute=3) as narrow:
            await two_homes(narrow)
            bearer = await narrow.token(LOOKER)
            answers = [await narrow.get("/fleet", bearer) for _ in range(4)]
            assert [each.status_code for each in answers] == [200, 200, 200, 429]
            assert 1 <= int(answers[3].headers["retry-after"]) <= 20
            assert answers[3].headers["ratelimit-policy"].startswith('"requests";q=3;w=60')
            assert answers[3].headers["ratelimit"].startswith('"requests";r=0;t=')
            assert (await narrow.get("/fleet", await narrow.token(LOOKER))).status_code == 200

    async def test_rows_an_hour(self, world: ApiWorld, store, tmp_path) -> None:
        async with api_world(store, tmp_path, rows_per_hour=1000) as narrow:
            await two_homes(narrow, quarters=600)
            bearer = await narrow.token(LOOKER)
            asked = {"from_": text(quarter(700)), "to": text(quarter() + HOUR), "fields": "ac_power_w"}
            assert (await narrow.get("/series", bearer, **asked)).status_code == 200
            refused = await narrow.get("/series", bearer, **asked)
            assert refused.status_code == 429
            assert '"rows";r=0;' in refused.headers["ratelimit"]

    async def test_requests_at_once(self, world: ApiWorld, store, tmp_path) -> None:
        async with api_world(store, tmp_path, concurrent=1) as narrow:
            await two_homes(narrow)
            bearer = await narrow.token(LOOKER)
            answers = await asyncio.gather(*(narrow.get("/fleet", bearer) for _ in range(6)))
            statuses = sorted(each.status_code for each in answers)
            assert statuses[0] == 200
            assert statuses[-1] == 429
            assert (await narrow.get("/fleet", bearer)).status_code == 200


async def test_the_first_recipient_ever_may_look_before_there_is_any_owner(world: ApiWorld) -> None:
    await consents.add_recipient(world.admin, LOOKER)
    await (await world.store.admin("keys")).execute("TRUNCATE keys.owner_key, keys.recipient_key, keys.kek CASCADE")
    told = await world.get("/fleet", await world.token(LOOKER))
    assert (told.status_code, told.json()["sites"]) == (200, [])
