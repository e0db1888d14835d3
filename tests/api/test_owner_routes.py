"""What an owner settles and sees, over real HTTP."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest

from telemetry.access.principal import Role, Scope
from telemetry.model.requests import RequestState
from telemetry.model.shown import shown_key
from telemetry.privacy.keys import Purpose
from tests.support import consents
from tests.support.api_world import ApiWorld, quarter, text
from tests.support.owned_home import INSTALLER, NAME, SERIALS, OwnedHome, asked, lately, owned_home, registered
from tests.support.sharing import terms

DAY = timedelta(days=1)


@pytest.fixture
async def home(world: ApiWorld) -> OwnedHome:
    made = await owned_home(world)
    await world.quarters(made.devices[0], 8)
    return made


def problem(answer) -> str:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.json()["type"].removeprefix("/problems/")


class TestGrants:
    async def test_one_is_made_with_receipt_and_sentences_and_serves_the_recipient_at_once(self, home):
        made = await home.grant(classes=["alert"], resolution="raw", history_s=3600)
        assert made["grant"]["version"] == 1
        assert made["receipt"].count(".") == 2
        assert any("Alerts come in real time" in sentence for sentence in made["sees"])
        assert "for maintenance" in made["grant"]["says"]
        listed = (await home.ask("GET", "/me/grants")).json()
        assert [one["grant"] for one in listed["grants"]] == [made["grant"]["grant"]]
        assert listed["sees"] == {shown_key("recipient", INSTALLER): listed["sees"][shown_key("recipient", INSTALLER)]}
        devices = await home.world.get("/series", await home.installer(), purpose="maintenance", **_range())
        assert len(devices.json()["devices"]) == 2

    async def test_a_solar_curve_has_to_be_confirmed_by_its_number(self, home):
        body = {"recipient": "recipient-1", "terms": asked(resolution="PT15M")}
        answer = await home.ask("POST", "/me/grants", body)
        assert (answer.status_code, problem(answer)) == (409, "solar-unconfirmed")
        told = answer.json()
        assert told["error_km"] > 0
        assert "confirm_solar_km" in told["detail"]
        assert "--confirm" not in told["detail"]
        assert (await home.ask("GET", "/me/grants")).json()["grants"] == []
        wrong = await home.ask("POST", "/me/grants", body | {"confirm_solar_km": told["error_km"] + 1})
        assert problem(wrong) == "solar-unconfirmed"
        right = await home.ask("POST", "/me/grants", body | {"confirm_solar_km": told["error_km"]})
        assert right.status_code == 201
        assert any("the owner confirmed that" in sentence for sentence in right.json()["sees"])

    async def test_a_change_names_the_version_it_is_of_and_an_outdated_one_is_refused(self, home):
        name = (await home.grant())["grant"]["grant"]
        read = await home.ask("GET", f"/me/grants/{name}")
        tag = read.headers["etag"]
        first = await home.ask(
            "PUT", f"/me/grants/{name}", {"terms": asked(resolution="P1M")}, headers={"If-Match": tag}
        )
        assert (first.status_code, first.json()["grant"]["version"]) == (200, 2)
        assert first.headers["etag"] != tag
        second = await home.ask("PUT", f"/me/grants/{name}", {"terms": asked()}, headers={"If-Match": tag})
        assert (second.status_code, problem(second)) == (412, "precondition-failed")
        unnamed = await home.ask("PUT", f"/me/grants/{name}", {"terms": asked()})
        assert (unnamed.status_code, problem(unnamed)) == (428, "precondition-required")
        whatever = await home.ask("PUT", f"/me/grants/{name}", {"terms": asked()}, headers={"If-Match": "*"})
        assert whatever.json()["grant"]["version"] == 3
        malformed = await home.ask("PUT", f"/me/grants/{name}", {"terms": asked()}, headers={"If-Match": "3"})
        assert problem(malformed) == "invalid-request"

    async def test_of_two_changes_at_once_from_one_version_one_is_made(self, home):
        name = (await home.grant())["grant"]["grant"]
        changes = [
            home.ask("PUT", f"/me/grants/{name}", {"terms": asked(resolution=one)}, headers={"If-Match": '"1"'})
            for one in ("P1M", "P1D", "P1M")
        ]
        answers = await asyncio.gather(*changes)
        codes = sorted(answer.status_code for answer in answers)
        assert codes.count(412) >= 1
        history = (await home.ask("GET", f"/me/grants/{name}/history")).json()["versions"]
        assert [one["version"] for one in history] == [1, 2]

    async def test_withdrawal_is_one_request_and_stays_in_the_history(self, home):
        name = (await home.grant())["grant"]["grant"]
        token = await home.installer()
        ended = await home.ask("DELETE", f"/me/grants/{name}")
        assert (ended.status_code, ended.json()["grant"]["state"]) == (200, "withdrawn")
        assert "nothing of this owner" in " ".join(ended.json()["sees"])
        seen = await home.world.get("/series", token, purpose="maintenance", **_range())
        assert seen.json()["devices"] == []
        history = (await home.ask("GET", f"/me/grants/{name}/history")).json()["versions"]
        assert [one["state"] for one in history] == ["active", "withdrawn"]
        receipts = [
            (await home.ask("GET", f"/me/grants/{name}/receipt", params={"version": version})).json()["receipt"]
            for version in (1, 2)
        ]
        assert len(set(receipts)) == 2
        assert (await home.ask("DELETE", f"/me/grants/{name}")).status_code == 404

    async def test_anothers_grant_looks_like_none_on_every_route(self, home):
        name = (await home.grant())["grant"]["grant"]
        other, _, _ = await registered(home.world)
        token = await home.world.token(other, Role.OWNER)
        for method, tail, body in (
            ("GET", "", None),
            ("PUT", "", {"terms": asked()}),
            ("DELETE", "", None),
            ("GET", "/history", None),
            ("GET", "/receipt", None),
        ):
            headers = {"If-Match": "*"}
            answers = [
                await home.ask(method, f"/me/grants/{one}{tail}", body, token, headers=headers)
                for one in (name, "c_00c0ffee00c0ffee")
            ]
            assert [one.status_code for one in answers] == [404, 404], (method, tail)
            bodies = [one.json() | {"request_id": ""} for one in answers]
            assert bodies[0] == bodies[1]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"fields": ["made_up_field"]},
            {"sites": ["s_00"]},
            {"kinds": ["made-up"]},
            {"classes": []},
            {"history_s": -1},
            {"until": "2020-01-01T00:00:00Z", "start": "2021-01-01T00:00:00Z"},
            {"until": "tomorrow"},
            {"made": "up"},
            {"classes": ["production", "production"]},
            {"sites": ["s_00c0ffee00c0ffee", "s_00c0ffee00c0ffee"]},
        ],
    )
    async def test_what_is_malformed_is_refused_and_never_repeated(self, home, wrong):
        answer = await home.ask("POST", "/me/grants", {"recipient": "recipient-1", "terms": asked() | wrong})
        assert (answer.status_code, problem(answer)) == (422, "invalid-request")
        assert "made_up_field" not in answer.text
        assert "tomorrow" not in answer.text

    async def test_a_foreign_site_and_an_unknown_recipient_are_not_found(self, home):
        _, foreign, _ = await registered(home.world)
        for body in (
            {"recipient": "recipient-1", "terms": asked(sites=[shown_key("site", foreign)])},
            {"recipient": "nobody-here", "terms": asked()},
        ):
            answer = await home.ask("POST", "/me/grants", body)
            assert (answer.status_code, problem(answer)) == (404, "not-found")

    async def test_who_may_be_granted_is_listed_by_page_without_closed_ones(self, home):
        first = (await home.ask("GET", "/me/recipients", params={"limit": 1})).json()
        assert [one["handle"] for one in first["recipients"]] == ["recipient-1"]
        second = (await home.ask("GET", "/me/recipients", params={"limit": 1, "cursor": first["next"]})).json()
        assert ([one["handle"] for one in second["recipients"]], second["next"]) == (["recipient-2"], None)
        await home.world.admin.execute("UPDATE consent.recipient SET closed_at = now() WHERE handle = 'recipient-2'")
        assert len((await home.ask("GET", "/me/recipients")).json()["recipients"]) == 1


class TestRequests:
    TEXT = "Example text: a fault is reported"

    async def test_an_owner_reads_what_is_asked_in_words_and_accepts(self, home):
        name = await home.requested(self.TEXT)
        (request,) = (await home.ask("GET", "/me/access-requests")).json()["requests"]
        assert (request["request"], request["text"], request["reason"]) == (name, self.TEXT, "fault")
        assert any("by days" in sentence for sentence in request["says"])
        assert request["recipient"]["handle"] == "recipient-1"
        answer = await home.ask("POST", f"/me/access-requests/{name}/accept", {})
        assert answer.status_code == 200, answer.text
        assert answer.json()["receipt"]
        assert (await home.ask("GET", "/me/access-requests")).json()["requests"] == []
        (told,) = await home.world.context.requests.asked(INSTALLER)
        assert told.state is RequestState.ACCEPTED

    async def test_less_may_be_accepted_and_more_may_not(self, home):
        name = await home.requested()
        more = await home.ask("POST", f"/me/access-requests/{name}/accept", {"terms": asked(extremes=True)})
        assert (more.status_code, problem(more)) == (409, "conflict")
        assert "extremes" in more.json()["detail"]
        less = await home.ask(
            "POST", f"/me/access-requests/{name}/accept", {"terms": asked(resolution="P1M", sites=[home.site_name])}
        )
        assert less.json()["grant"]["terms"]["resolution"] == "P1M"

    async def test_what_has_to_be_confirmed_leaves_it_open(self, home):
        name = await home.requested(resolution="PT15M")
        answer = await home.ask("POST", f"/me/access-requests/{name}/accept", {})
        assert problem(answer) == "solar-unconfirmed"
        (request,) = (await home.ask("GET", "/me/access-requests")).json()["requests"]
        assert any("whoever agrees confirms that" in sentence for sentence in request["says"])
        confirmed = {"confirm_solar_km": answer.json()["error_km"]}
        assert (await home.ask("POST", f"/me/access-requests/{name}/accept", confirmed)).status_code == 200

    async def test_declined_ones_are_gone_and_foreign_ones_never_there(self, home):
        name = await home.requested()
        other, _, _ = await registered(home.world)
        token = await home.world.token(other, Role.OWNER)
        for act in ("accept", "decline"):
            foreign = await home.ask("POST", f"/me/access-requests/{name}/{act}", {}, token)
            assert foreign.status_code == 404
        assert (await home.ask("POST", f"/me/access-requests/{name}/decline")).status_code == 204
        assert (await home.ask("POST", f"/me/access-requests/{name}/accept", {})).status_code == 404
        (told,) = await home.world.context.requests.asked(INSTALLER)
        assert told.state is RequestState.PENDING

    async def test_a_blocked_recipients_requests_are_not_shown(self, home):
        await home.requested()
        blocked = await home.ask("POST", "/me/access-blocks", {"recipient": "recipient-1"})
        assert [one["handle"] for one in blocked.json()["blocked"]] == ["recipient-1"]
        assert (await home.ask("GET", "/me/access-requests")).json()["requests"] == []
        name = blocked.json()["blocked"][0]["recipient"]
        assert (await home.ask("DELETE", f"/me/access-blocks/{name}")).json()["blocked"] == []
        assert (await home.ask("DELETE", f"/me/access-blocks/{name}")).status_code == 404
        assert len((await home.ask("GET", "/me/access-requests")).json()["requests"]) == 1

    async def test_an_invitation_is_looked_at_then_accepted_once(self, home):
        made = await home.world.context.requests.invite(INSTALLER, terms(), lifetime=DAY)
        looked = await home.ask("POST", "/me/invitations/look", {"code": made.secret})
        assert looked.json()["recipient"]["handle"] == "recipient-1"
        assert any("by days" in sentence for sentence in looked.json()["says"])
        accepted = await home.ask("POST", "/me/invitations/accept", {"code": made.secret})
        assert accepted.status_code == 200
        for act in ("look", "accept"):
            assert (await home.ask("POST", f"/me/invitations/{act}", {"code": made.secret})).status_code == 404
            assert (await home.ask("POST", f"/me/invitations/{act}", {"code": "A" * 43})).status_code == 404


class TestOwnData:
    async def test_series_have_real_serials_and_what_is_kept(self, home):
        answer = await home.ask("GET", "/me/series", params=_range())
        told = answer.json()
        assert {device["serial"] for device in told["devices"]} == set(SERIALS)
        assert [series["value"] for series in told["series"]] == [[100.0 + n for n in range(7, -1, -1)]]
        assert "purpose" not in told or told["purpose"] is None

    async def test_pages_and_formats_are_the_recipients(self, home):
        one = _range(limit=1)
        first = (await home.ask("GET", "/me/series", params=one)).json()
        second = (await home.ask("GET", "/me/series", params=one | {"cursor": first["next"]})).json()
        named = [page["devices"][0]["device"] for page in (first, second)]
        assert len(set(named)) == 2
        csv = await home.ask("GET", "/me/series", params=_range(format="csv"))
        assert csv.headers["content-type"].startswith("text/csv")
        assert csv.text.count("\r\n") == 9

    async def test_latest_is_the_last_window_of_each_field(self, home):
        values = (await home.ask("GET", "/me/latest")).json()["values"]
        assert [(one["field"], one["value"], one["start"]) for one in values] == [
            ("ac_power_w", 100.0, text(quarter()))
        ]

    async def test_an_export_holds_all_of_it(self, home):
        answer = await home.ask("GET", "/me/export", params=_range(format="jsonl"))
        assert answer.text.count("\n") == 8

    async def test_homes_and_devices_are_named(self, home):
        assert (await home.ask("GET", "/me/sites")).json() == {"sites": [{"site": home.site_name, "name": NAME}]}
        devices = (await home.ask("GET", "/me/devices")).json()["devices"]
        assert {device["serial"] for device in devices} == set(SERIALS)

    async def test_another_owner_sees_none_of_it(self, home):
        other, _, _ = await registered(home.world)
        token = await home.world.token(other, Role.OWNER)
        told = (await home.ask("GET", "/me/series", token=token, params=_range())).json()
        assert told["series"] == []
        devices = [shown_key("device", device) for device in home.devices]
        assert not {device["device"] for device in told["devices"]} & set(devices)
        named = await home.ask("GET", "/me/series", token=token, params=_range(devices=devices[0]))
        unknown = await home.ask("GET", "/me/series", token=token, params=_range(devices="d_00c0ffee00c0ffee"))
        assert (named.status_code, unknown.status_code) == (404, 404)


class TestPreview:
    def body(self, **more):
        return lately(recipient="recipient-1", purpose="maintenance", resolution="PT15M", **more)

    async def test_what_is_granted_is_shown_with_the_very_bytes_of_the_recipient(self, home):
        await self.granted(home)
        body = self.body()
        seen = await home.world.get(
            "/series", await home.installer(), purpose="maintenance", from_=body["from"], to=body["to"]
        )
        preview = (await home.ask("POST", "/me/preview", body)).json()
        assert preview["series"] == seen.json()["series"] != []
        assert preview["devices"] == seen.json()["devices"]
        assert SERIALS[0] not in str(preview)

    async def granted(self, home, **changes):
        made = asked(fields=["ac_power_w"], classes=[], resolution="PT15M", data_from=text(datetime.now(UTC) - DAY))
        body = {"recipient": "recipient-1", "terms": made | changes}
        km = (await home.ask("POST", "/me/grants", body)).json()["error_km"]
        answer = await home.ask("POST", "/me/grants", body | {"confirm_solar_km": km})
        assert answer.status_code == 201, answer.text

    async def test_proposed_terms_show_what_the_grant_then_shows(self, home):
        proposed = asked(fields=["ac_power_w"], classes=[], resolution="PT15M", serial="pseudonym")
        preview = await home.ask("POST", "/me/preview", self.body(terms=proposed))
        assert preview.status_code == 200, preview.text
        told = preview.json()
        assert told["error_km"] > 0
        assert any("whoever agrees confirms that" in sentence for sentence in told["sees"])
        assert (await home.ask("GET", "/me/grants")).json()["grants"] == []
        await self.granted(home, serial="pseudonym")
        body = self.body()
        seen = await home.world.get(
            "/series", await home.installer(), purpose="maintenance", from_=body["from"], to=body["to"]
        )
        assert seen.json()["series"] == told["series"] != []
        assert seen.json()["devices"] == told["devices"]

    async def test_a_proposed_change_stands_in_for_the_grant_it_changes(self, home):
        await self.granted(home)
        name = (await home.ask("GET", "/me/grants")).json()["grants"][0]["grant"]
        coarse = asked(fields=["ac_power_w"], classes=[], resolution="P1D")
        changed = (await home.ask("POST", "/me/preview", self.body(terms=coarse, grant=name))).json()
        beside = (await home.ask("POST", "/me/preview", self.body(terms=coarse))).json()
        assert (changed["series"], len(beside["series"])) == ([], 1)

    async def test_what_is_not_granted_is_in_neither(self, home):
        preview = (await home.ask("POST", "/me/preview", self.body())).json()
        assert (preview["devices"], preview["series"]) == ([], [])
        assert "nothing of this owner" in " ".join(preview["sees"])

    async def test_proposals_are_about_the_own_home_alone(self, home):
        other, _, devices = await registered(home.world)
        await home.world.quarters(devices[0], 8)
        await consents.add_grant(home.world.admin, 77, other, INSTALLER)
        proposed = asked(fields=["ac_power_w"], classes=[], resolution="PT15M")
        told = (await home.ask("POST", "/me/preview", self.body(terms=proposed))).json()
        assert len(told["devices"]) == len(home.devices)

    async def test_what_stands_is_about_the_own_home_alone(self, home):
        other, _, devices = await registered(home.world)
        await home.world.quarters(devices[0], 8)
        await consents.add_grant(home.world.admin, 78, other, INSTALLER)
        assert (await home.ask("POST", "/me/preview", self.body())).json()["devices"] == []
        await self.granted(home)
        told = (await home.ask("POST", "/me/preview", self.body())).json()
        assert (len(told["devices"]), len(told["series"])) == (len(home.devices), 1)

    async def test_what_would_be_refused_is_refused_in_a_preview(self, home):
        fine = asked(fields=["ac_power_w"], classes=[], resolution="PT1M")
        answer = await home.ask("POST", "/me/preview", self.body(terms=fine))
        assert (answer.status_code, problem(answer)) == (409, "conflict")

    async def test_a_restriction_shows_in_previews_of_proposals(self, home):
        await home.ask("POST", "/me/restriction")
        proposed = asked(fields=["ac_power_w"], classes=[], resolution="P1D")
        preview = (await home.ask("POST", "/me/preview", self.body(terms=proposed))).json()
        assert preview["devices"] == []

    async def test_it_is_recorded_as_a_preview(self, home):
        await self.granted(home)
        await home.ask("POST", "/me/preview", self.body())
        (read,) = (await home.ask("GET", "/me/reads")).json()["reads"]
        assert (read["way"], read["recipient"]) == ("preview", "recipient-1")


class TestWhoLooked:
    async def test_reads_are_told_with_fields_and_range_newest_first_by_page(self, home):
        await home.grant(classes=["alert"], resolution="raw", history_s=3600)
        token = await home.installer()
        for hours in (1, 2, 3):
            await home.world.get(
                "/series",
                token,
                purpose="maintenance",
                from_=text(quarter(4 * hours)),
                to=text(quarter()),
                fields="alert_code,ac_power_w",
            )
        first = (await home.ask("GET", "/me/reads", params={"limit": 2})).json()
        assert [read["from"] for read in first["reads"]] == [text(quarter(12)), text(quarter(8))]
        assert "ac_power_w" not in first["reads"][0]["fields"]
        rest = (await home.ask("GET", "/me/reads", params={"limit": 2, "cursor": first["next"]})).json()
        assert ([read["from"] for read in rest["reads"]], rest["next"]) == ([text(quarter(4))], None)
        other = (await home.ask("GET", "/me/reads", params={"recipient": shown_key("recipient", 2)})).json()
        assert other["reads"] == []


class TestOwnAffairs:
    async def test_keeping_is_settled_whole(self, home):
        before = (await home.ask("GET", "/me/keeping")).json()
        assert before["finest"] == "PT15M"
        changed = before | {"never": ["ac_power_w"], "retention_days": {"grid": 30}}
        assert (await home.ask("PUT", "/me/keeping", changed)).json() == changed
        assert (await home.ask("GET", "/me/keeping")).json() == changed
        raw = await home.ask("PUT", "/me/keeping", {"finest": "raw", "wished": "raw"})
        assert problem(raw) == "invalid-request"

    async def test_a_restriction_begins_once_and_is_lifted_once(self, home):
        assert (await home.ask("POST", "/me/restriction")).status_code == 201
        assert problem(await home.ask("POST", "/me/restriction")) == "conflict"
        assert (await home.ask("GET", "/me")).json()["restricted"] is True
        assert (await home.ask("DELETE", "/me/restriction")).status_code == 200
        assert problem(await home.ask("DELETE", "/me/restriction")) == "conflict"
        assert (await home.ask("GET", "/me")).json()["restricted"] is False

    async def test_objections_are_named_by_what_they_are_about(self, home):
        key = shown_key("recipient", INSTALLER)
        for body in ({"purpose": "billing"}, {"purpose": "billing", "recipient": key}):
            assert (await home.ask("POST", "/me/objections", body)).status_code == 201
            assert problem(await home.ask("POST", "/me/objections", body)) == "conflict"
        listed = (await home.ask("GET", "/me/objections")).json()["objections"]
        assert [one["objection"] for one in listed] == ["billing", f"billing.{key}"]
        assert (await home.ask("DELETE", f"/me/objections/billing.{key}")).status_code == 200
        assert (await home.ask("DELETE", f"/me/objections/billing.{key}")).status_code == 404
        assert (await home.ask("DELETE", "/me/objections/made_up")).status_code == 404


ROUTES = [
    ("GET", "/me", None, None),
    ("GET", "/me/sites", "see", None),
    ("GET", "/me/devices", "see", None),
    ("GET", "/me/series?from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z", "see", None),
    ("GET", "/me/latest", "see", None),
    ("GET", "/me/export?from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z", "see", None),
    ("POST", "/me/preview", "see", {}),
    ("GET", "/me/keeping", None, None),
    ("PUT", "/me/keeping", "rights", {}),
    ("GET", "/me/recipients", None, None),
    ("GET", "/me/grants", None, None),
    ("POST", "/me/grants", "share", {}),
    ("GET", "/me/grants/c_00c0ffee00c0ffee", None, None),
    ("PUT", "/me/grants/c_00c0ffee00c0ffee", "share", {"terms": asked()}),
    ("DELETE", "/me/grants/c_00c0ffee00c0ffee", "share", None),
    ("GET", "/me/grants/c_00c0ffee00c0ffee/history", None, None),
    ("GET", "/me/grants/c_00c0ffee00c0ffee/receipt", None, None),
    ("GET", "/me/access-requests", "share", None),
    ("POST", "/me/access-requests/q_00c0ffee00c0ffee/accept", "share", {}),
    ("POST", "/me/access-requests/q_00c0ffee00c0ffee/decline", "share", None),
    ("GET", "/me/access-blocks", "share", None),
    ("POST", "/me/access-blocks", "share", {}),
    ("DELETE", "/me/access-blocks/r_00c0ffee00c0ffee", "share", None),
    ("POST", "/me/connection-codes", "share", None),
    ("POST", "/me/invitations/look", "share", {}),
    ("POST", "/me/invitations/accept", "share", {}),
    ("GET", "/me/reads", None, None),
    ("GET", "/me/restriction", None, None),
    ("POST", "/me/restriction", "rights", None),
    ("DELETE", "/me/restriction", "rights", None),
    ("GET", "/me/objections", None, None),
    ("POST", "/me/objections", "rights", {}),
    ("DELETE", "/me/objections/billing", "rights", None),
]


class TestWhoMay:
    async def test_a_member_may_do_what_its_rights_are_for_on_every_route(self, home):
        every = ("see", "share", "rights")
        for right in every:
            token = await home.member(right)
            for method, path, needed, body in ROUTES:
                status = (await home.ask(method, path, body, token)).status_code
                permitted = needed in (None, right)
                assert (status != 403) == permitted, (right, method, path, status)

    async def test_the_routes_are_all_that_there_are(self, home):
        document = (await home.world.client.get("/api/openapi.json")).json()
        declared = {
            (method.upper(), path.removeprefix("/api/v1"))
            for path, operations in document["paths"].items()
            if path.startswith("/api/v1/me")
            for method in operations
        }

        names = {"c": "{grant}", "q": "{request}", "r": "{recipient}"}
        plain = [
            (method, re.sub(r"/([cqr])_[0-9a-f]+", lambda found: f"/{names[found[1]]}", path.partition("?")[0]))
            for method, path, _, _ in ROUTES
        ]
        named = {(method, path.replace("objections/billing", "objections/{objection}")) for method, path in plain}
        assert named == declared

    async def test_recipients_and_operators_may_none_of_it_and_nobody_unknown(self, home):
        for token in (await home.installer(), await home.world.token(0, Role.OPERATOR)):
            for method, path, _, body in ROUTES:
                answer = await home.ask(method, path, body, token)
                assert (answer.status_code, problem(answer)) == (403, "not-permitted"), (method, path)
        assert (await home.ask("GET", "/me", token="tlm_" + "A" * 43)).status_code == 401

    async def test_a_token_that_reads_settles_nothing(self, home):
        token = await home.world.token(home.owner, Role.OWNER, scopes=frozenset({Scope.READ}))
        for method, path, _, body in ROUTES:
            status = (await home.ask(method, path, body, token)).status_code
            changes = method != "GET" and path not in {"/me/preview", "/me/invitations/look"}
            assert (status == 403) == (changes or "/export" in path), (method, path)


class TestWhatIsWrittenDown:
    async def test_a_requests_text_is_nowhere_in_clear(self, home):
        secret = "Example words that are sealed"
        await home.requested(secret)
        tables = await home.world.admin.fetch(
            "SELECT schemaname || '.' || tablename AS name FROM pg_tables"
            " WHERE schemaname IN ('access', 'consent', 'vault', 'audit')"
        )
        for table in tables:
            rows = await home.world.admin.fetch(f"SELECT t::text AS row FROM {table['name']} AS t")
            assert not [row for row in rows if secret in row["row"] or secret.encode().hex() in row["row"]], table
        opened = await home.ask("GET", "/me/access-requests")
        assert secret in opened.text
        count = await home.world.admin.fetchval(
            "SELECT count(*) FROM audit.event WHERE action = 'request.reveal' AND owner_key = $1", home.owner
        )
        assert count == 1
        assert Purpose.REQUEST_TEXT == "request.text"


def _range(**more):
    return {"from": text(quarter(20)), "to": text(datetime.now(UTC))} | more
