"""/auth and /tokens over real HTTP, with a real database and a real mail server."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import pytest_asyncio

from telemetry.access.principal import Role, Scope
from telemetry.access.totp import code_at
from telemetry.api.problems import MEDIA_TYPE
from telemetry.model.shown import key_shown, shown_key
from tests.support import consents
from tests.support.access import FAST, PASSWORD, code_in
from tests.support.api_world import PATIENCE_S, ApiWorld, api_world
from tests.support.mail_server import MailServer

EMAIL = "someone@example.test"
OTHER = "other words and more"
LOOKER, ANOTHER, OWNER = 1, 2, 10


@dataclass
class Browser:
    """Keeps cookies, and sends the CSRF token of its session."""

    world: ApiWorld
    client: httpx.AsyncClient
    server: MailServer
    csrf: str = ""
    told: dict[str, Any] = field(default_factory=dict)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        sent = ({"X-CSRF-Token": self.csrf} if self.csrf else {}) | headers
        return await self.client.request(method, f"/api/v1{path}", json=body, headers=sent)

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.ask("POST", path, body)

    async def code(self, to: str = EMAIL) -> str:
        await self.world.context.access.people.letters.drained()
        return code_in([mail for mail in self.server.mails if mail["To"] == to][-1])

    async def sign_up(self, email: str = EMAIL, **more: Any) -> None:
        body = {"email": email, "of_age": True, "name": "Example Person"} | more
        assert (await self.post("/auth/sign-up", **body)).status_code == 202
        answer = await self.post("/auth/verify", code=await self.code(email), password=PASSWORD)
        assert answer.status_code == 204, answer.text

    async def login(self, email: str = EMAIL, **more: Any) -> httpx.Response:
        answer = await self.post("/auth/login", **{"email": email, "password": PASSWORD} | more)
        if answer.status_code == 200:
            self.told = answer.json()
            self.csrf = self.told["csrf"]
        return answer

    async def signed_in(self) -> "Browser":
        await self.sign_up()
        assert (await self.login()).status_code == 200
        return self

    async def with_totp(self) -> bytes:
        """A second factor switched on in this session; its secret."""
        await self.post("/auth/totp", password=PASSWORD)
        account = key_shown("session", self.told["session"])
        key = await self.world.admin.fetchval("SELECT account_key FROM access.session WHERE session_key = $1", account)
        secret = (await self.world.context.access.people.account_of(key)).totp_proposed
        assert secret is not None
        now = self.world.context.access.people.clock()
        assert (await self.post("/auth/totp/confirm", code=code_at(secret, now))).status_code == 200
        return secret


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """The cost of a hash is tested where hashes are."""
    monkeypatch.setattr("telemetry.access.passwords.PARAMETERS", FAST)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[MailServer]:
    async with MailServer() as made:
        yield made


@pytest_asyncio.fixture
async def world(store, tmp_path, server) -> AsyncIterator[ApiWorld]:
    mail = server.config(link_base="https://example.test").model_dump()
    async with api_world(store, tmp_path, sections={"mail": mail}) as made:
        await made.admin.execute("TRUNCATE access.attempt, access.sign_up, access.claim CASCADE")
        yield made


@pytest_asyncio.fixture
async def browser(world, server) -> AsyncIterator[Browser]:
    async with httpx.AsyncClient(base_url=world.base, timeout=PATIENCE_S) as client:
        yield Browser(world, client, server)


@pytest_asyncio.fixture
async def other(world, server) -> AsyncIterator[Browser]:
    async with httpx.AsyncClient(base_url=world.base, timeout=PATIENCE_S) as client:
        yield Browser(world, client, server)


def problem(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == MEDIA_TYPE, answer.text
    return answer.json()["type"].removeprefix("/problems/")


def alike(answer: httpx.Response) -> tuple[Any, ...]:
    """All of an answer but what is random or the time."""
    changing = {"x-request-id", "date"}
    headers = {name: value for name, value in answer.headers.items() if name not in changing}
    return answer.status_code, re.sub(r'"request_id":"[0-9a-f]+"', "", answer.text), headers


class TestComingIn:
    async def test_from_sign_up_to_a_session(self, browser):
        await browser.signed_in()
        told = (await browser.ask("GET", "/auth/session")).json()
        assert (told["role"], told["rights"], told["restricted"]) == ("owner", ["rights", "see", "share"], False)
        assert told["csrf"] == browser.csrf
        owner = key_shown("owner", told["key"])
        entries = await browser.world.admin.fetchval("SELECT count(*) FROM vault.entry WHERE owner_key = $1", owner)
        assert entries == 2  # name and address, sealed to the new owner's key

    async def test_the_cookies_are_out_of_reach_of_scripts_and_other_sites(self, browser):
        await browser.sign_up()
        cookies = (await browser.login()).headers.get_list("set-cookie")
        assert {cookie.partition("=")[0] for cookie in cookies} == {"session", "device"}
        for cookie in cookies:
            assert "HttpOnly" in cookie
            assert re.search(r"SameSite=(lax|strict)", cookie)

    async def test_over_tls_cookies_are_the_hosts_alone(self, store, tmp_path, server):
        sections = {"mail": server.config().model_dump()}
        async with (
            api_world(store, tmp_path, sections=sections, cookie_secure=True) as world,
            httpx.AsyncClient(base_url=world.base, timeout=PATIENCE_S) as client,
        ):
            browser = Browser(world, client, server)
            await world.admin.execute("TRUNCATE access.attempt CASCADE")
            await browser.sign_up()
            cookies = (await browser.login()).headers.get_list("set-cookie")
        assert {cookie.partition("=")[0] for cookie in cookies} == {"__Host-session", "__Host-device"}
        for cookie in cookies:
            assert "Secure" in cookie
            assert "Path=/" in cookie
            assert "Domain" not in cookie

    async def test_sign_up_answers_alike_for_known_and_unknown_addresses(self, browser, other):
        await browser.sign_up()
        answers = [
            await other.post("/auth/sign-up", email=email, of_age=True, name="Example")
            for email in (EMAIL, "unknown@example.test")
        ]
        assert alike(answers[0]) == alike(answers[1])
        assert answers[0].status_code == 202

    async def test_forgot_answers_alike_for_known_and_unknown_addresses(self, browser, other):
        await browser.sign_up()
        answers = [await other.post("/auth/password/forgot", email=email) for email in (EMAIL, "unknown@example.test")]
        assert alike(answers[0]) == alike(answers[1])
        assert answers[0].status_code == 202

    async def test_login_is_refused_alike_for_known_and_unknown_addresses(self, browser, other):
        await browser.sign_up()
        answers = [await other.login(email, password=OTHER) for email in (EMAIL, "unknown@example.test")]
        assert alike(answers[0]) == alike(answers[1])
        assert problem(answers[0]) == "not-authenticated"
        assert "set-cookie" not in answers[0].headers

    async def test_who_is_under_18_is_refused(self, browser):
        answer = await browser.post("/auth/sign-up", email=EMAIL, of_age=False, name="Example")
        assert (answer.status_code, problem(answer)) == (422, "invalid-request")

    async def test_too_many_tries_say_when_to_come_again(self, browser):
        answers = [await browser.login(password=OTHER) for _ in range(5)]
        assert problem(answers[-1]) == "rate-limited"
        assert int(answers[-1].headers["retry-after"]) >= 1

    async def test_with_a_second_factor_a_code_is_asked_for(self, browser, other):
        await browser.signed_in()
        secret = await browser.with_totp()
        answer = await other.login()
        assert (answer.status_code, problem(answer)) == (401, "second-factor-needed")
        # The step that switched it on is used; the next one is within the window.
        now = browser.world.context.access.people.clock().timestamp() + 30
        answer = await other.login(code=code_at(secret, browser.world.context.access.people.clock().fromtimestamp(now)))
        assert answer.status_code == 200, answer.text

    async def test_a_claim_makes_a_recipients_account(self, browser):
        await consents.add_recipient(browser.world.admin, LOOKER)
        from telemetry.access.records import Holder

        code, _ = await browser.world.context.access.claims.invite(Holder(Role.RECIPIENT, recipient_key=LOOKER))
        await browser.sign_up(code=code, name="")
        told = (await browser.login()).json()
        assert (told["role"], told["key"], told["rights"]) == ("recipient", shown_key("recipient", LOOKER), [])

    async def test_a_used_code_is_refused_without_being_quoted(self, browser):
        await browser.sign_up()
        code = await browser.code()
        answer = await browser.post("/auth/verify", code=code, password=PASSWORD)
        assert problem(answer) == "invalid-request"
        assert code not in answer.text

    async def test_an_unfit_password_is_told_without_being_quoted(self, browser):
        await browser.post("/auth/sign-up", email=EMAIL, of_age=True, name="Example")
        answer = await browser.post("/auth/verify", code=await browser.code(), password="password1234")
        assert problem(answer) == "invalid-request"
        assert "password1234" not in answer.text

    async def test_without_a_mail_server_signing_up_is_unavailable(self, store, tmp_path):
        async with api_world(store, tmp_path) as world:
            body = {"email": EMAIL, "of_age": True, "name": "Example"}
            answer = await world.client.post("/api/v1/auth/sign-up", json=body)
        assert (answer.status_code, problem(answer)) == (503, "unavailable")


class TestOtherSites:
    @pytest.mark.parametrize("path", ["/auth/login", "/auth/sign-up", "/auth/password/forgot", "/auth/verify"])
    async def test_no_page_of_another_site_asks(self, browser, path):
        body = {"email": EMAIL, "password": PASSWORD, "of_age": True, "name": "Example", "code": "A" * 43}
        wanted = {
            "/auth/login": ("email", "password"),
            "/auth/sign-up": ("email", "of_age", "name"),
            "/auth/password/forgot": ("email",),
            "/auth/verify": ("code", "password"),
        }[path]
        sent = {name: body[name] for name in wanted}
        answer = await browser.ask("POST", path, sent, Origin="https://elsewhere.example")
        assert (answer.status_code, problem(answer)) == (403, "not-permitted")

    async def test_nor_a_form(self, browser):
        answer = await browser.client.post("/api/v1/auth/login", data={"email": EMAIL, "password": PASSWORD})
        assert answer.status_code == 415

    @pytest.mark.parametrize("csrf", ["", "A" * 43])
    async def test_a_session_without_its_csrf_token_changes_nothing(self, browser, csrf):
        await browser.signed_in()
        browser.csrf = csrf
        answer = await browser.post("/auth/password", password=PASSWORD, new_password=OTHER)
        assert problem(answer) == "not-permitted"
        assert (await browser.ask("GET", "/auth/session")).status_code == 200


class TestOwnAccount:
    async def test_logging_out_ends_the_session(self, browser):
        await browser.signed_in()
        cookie = browser.client.cookies["session"]
        answer = await browser.post("/auth/logout")
        assert answer.status_code == 204
        assert "session" not in browser.client.cookies
        browser.client.cookies.set("session", cookie)
        assert (await browser.ask("GET", "/auth/session")).status_code == 401

    async def test_a_change_of_password_ends_other_sessions(self, browser, other):
        await browser.signed_in()
        await other.login()
        answer = await browser.post("/auth/password", password=PASSWORD, new_password=OTHER)
        assert answer.status_code == 204, answer.text
        assert (await other.ask("GET", "/auth/session")).status_code == 401
        assert (await browser.ask("GET", "/auth/session")).status_code == 200

    async def test_a_wrong_password_given_once_more_leaves_the_session(self, browser):
        await browser.signed_in()
        answer = await browser.post("/auth/password", password=OTHER, new_password=OTHER)
        assert problem(answer) == "invalid-request"
        assert (await browser.ask("GET", "/auth/session")).status_code == 200

    async def test_a_reset_ends_every_session(self, browser, other):
        await browser.signed_in()
        await other.post("/auth/password/forgot", email=EMAIL)
        answer = await other.post("/auth/password/reset", code=await browser.code(), password=OTHER)
        assert answer.status_code == 204, answer.text
        assert (await browser.ask("GET", "/auth/session")).status_code == 401
        assert (await other.login(password=OTHER)).status_code == 200

    async def test_the_second_factor_is_switched_on_renewed_and_off(self, browser):
        await browser.signed_in()
        secret = await browser.with_totp()
        people = browser.world.context.access.people
        ahead = people.clock().timestamp() + 30
        code = code_at(secret, people.clock().fromtimestamp(ahead))
        codes = (await browser.post("/auth/recovery-codes", password=PASSWORD, code=code)).json()["codes"]
        assert len(set(codes)) == 10
        body = {"password": PASSWORD, "code": codes[0]}
        assert (await browser.ask("DELETE", "/auth/totp", body)).status_code == 204
        browser.csrf = ""
        browser.client.cookies.clear()
        assert (await browser.login()).status_code == 200

    async def test_sessions_are_listed_and_ended(self, browser, other):
        await browser.signed_in()
        await other.login()
        listed = (await browser.ask("GET", "/auth/sessions")).json()["sessions"]
        assert {one["session"]: one["current"] for one in listed} == {
            browser.told["session"]: True,
            other.told["session"]: False,
        }
        path = f"/auth/sessions/{other.told['session']}"
        assert (await browser.ask("DELETE", path)).status_code == 204
        assert (await other.ask("GET", "/auth/session")).status_code == 401
        assert problem(await browser.ask("DELETE", path)) == "not-found"

    async def test_another_persons_session_looks_like_none(self, browser, other):
        await browser.signed_in()
        await other.sign_up("other@example.test")
        await other.login("other@example.test")
        foreign = await browser.ask("DELETE", f"/auth/sessions/{other.told['session']}")
        missing = await browser.ask("DELETE", "/auth/sessions/e_00c0ffee00c0ffee")
        assert (foreign.status_code, foreign.headers["content-type"]) == (404, missing.headers["content-type"])
        assert foreign.json() | {"request_id": ""} == missing.json() | {"request_id": ""}
        assert (await other.ask("GET", "/auth/session")).status_code == 200

    async def test_a_machine_has_no_account(self, browser):
        await consents.add_recipient(browser.world.admin, LOOKER)
        answer = await browser.ask("GET", "/auth/sessions", Authorization=f"Bearer {await browser.world.token(LOOKER)}")
        assert problem(answer) == "not-permitted"

    async def test_nobody_has_no_session(self, browser):
        answer = await browser.ask("GET", "/auth/session")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


class TestTokens:
    async def bearer(self, browser: Browser, secret: str, method: str, path: str) -> httpx.Response:
        url = f"{browser.world.base}/api/v1{path}"
        return await browser.world.client.request(method, url, headers={"Authorization": f"Bearer {secret}"})

    async def test_a_person_issues_rotates_and_revokes(self, browser):
        await browser.signed_in()
        issued = await browser.post("/tokens", scopes=["read", "manage"], days=7)
        assert issued.status_code == 201, issued.text
        old = issued.json()
        assert (await self.bearer(browser, old["secret"], "GET", "/tokens")).status_code == 200
        new = (await browser.post(f"/tokens/{old['token']}/rotate", overlap_hours=1)).json()
        listed = {one["token"]: one for one in (await browser.ask("GET", "/tokens")).json()["tokens"]}
        assert listed[old["token"]]["successor"] == new["token"]
        assert "secret" not in listed[new["token"]]
        for secret in (old["secret"], new["secret"]):
            assert (await self.bearer(browser, secret, "GET", "/tokens")).status_code == 200
        assert (await browser.ask("DELETE", f"/tokens/{new['token']}")).status_code == 204
        assert (await self.bearer(browser, new["secret"], "GET", "/tokens")).status_code == 401

    async def test_a_machine_rotates_and_ends_its_own(self, browser):
        await consents.add_recipient(browser.world.admin, LOOKER)
        secret = await browser.world.token(LOOKER, scopes=frozenset({Scope.READ}))
        own = shown_key("token", browser.world.issued[secret])
        new = await self.bearer(browser, secret, "POST", f"/tokens/{own}/rotate")
        assert new.status_code == 201, new.text
        path = f"/tokens/{new.json()['token']}"
        assert (await self.bearer(browser, new.json()["secret"], "DELETE", path)).status_code == 204
        assert (await self.bearer(browser, new.json()["secret"], "DELETE", path)).status_code == 401

    async def test_a_machine_gets_no_other_tokens_secret(self, browser):
        await consents.add_recipient(browser.world.admin, LOOKER)
        manage = await browser.world.token(LOOKER, scopes=frozenset({Scope.MANAGE}))
        reads = shown_key("token", browser.world.issued[await browser.world.token(LOOKER)])
        assert problem(await self.bearer(browser, manage, "POST", f"/tokens/{reads}/rotate")) == "not-found"
        answer = await browser.ask("POST", "/tokens", {}, Authorization=f"Bearer {manage}")
        assert problem(answer) == "not-permitted"

    async def test_a_machine_without_manage_ends_no_other(self, browser):
        await consents.add_recipient(browser.world.admin, LOOKER)
        first, second = [await browser.world.token(LOOKER, scopes=frozenset({Scope.READ})) for _ in range(2)]
        path = f"/tokens/{shown_key('token', browser.world.issued[second])}"
        assert problem(await self.bearer(browser, first, "DELETE", path)) == "not-found"
        assert problem(await self.bearer(browser, first, "GET", "/tokens")) == "not-permitted"

    async def test_anothers_token_looks_like_none(self, browser):
        await browser.signed_in()
        await consents.add_recipient(browser.world.admin, ANOTHER)
        foreign = shown_key("token", browser.world.issued[await browser.world.token(ANOTHER)])
        answers = []
        for token in (foreign, "t_00c0ffee00c0ffee"):
            for method, path in (("DELETE", f"/tokens/{token}"), ("POST", f"/tokens/{token}/rotate")):
                answer = await browser.ask(method, path)
                answers.append((answer.status_code, answer.json() | {"request_id": ""}))
        assert answers[:2] == answers[2:]
        assert answers[0][0] == 404

    async def test_a_members_token_is_bound_to_the_member(self, browser):
        world = browser.world
        await world.owner(OWNER)
        statement = "INSERT INTO consent.member (member_key, owner_key, rights) VALUES ($1, $2, '{see}')"
        await world.admin.execute(statement, 77, OWNER)
        signed = await world.sign_in(OWNER, member_key=77)
        issued = await world.client.post("/api/v1/tokens", json={}, headers=signed.headers)
        assert issued.status_code == 201, issued.text
        assert issued.json()["member"] == shown_key("member", 77)
        principal = await world.context.authenticator.machine(issued.json()["secret"])
        assert principal is not None
        assert principal.rights == {"see"}

    @pytest.mark.parametrize("body", [{"scopes": []}, {"scopes": ["all"]}, {"days": 0}, {"days": 367}, {"more": 1}])
    async def test_what_is_no_token_is_refused(self, browser, body):
        await browser.signed_in()
        answer = await browser.ask("POST", "/tokens", body)
        assert (answer.status_code, problem(answer)) == (422, "invalid-request")

    async def test_an_operator_without_a_second_factor_gets_none(self, browser):
        from telemetry.access.records import Holder

        code, _ = await browser.world.context.access.claims.invite(Holder(Role.OPERATOR))
        await browser.sign_up(code=code, name="")
        assert (await browser.login()).json()["restricted"] is True
        assert problem(await browser.post("/tokens")) == "not-permitted"
        await browser.with_totp()
        assert (await browser.post("/tokens", days=1)).status_code == 201


async def test_nothing_of_a_request_is_in_the_log(browser, capfd):
    """Addresses, passwords, codes and secrets never reach the access log."""
    await browser.signed_in()
    issued = (await browser.post("/tokens")).json()
    printed = "".join(capfd.readouterr())
    for text in (EMAIL, PASSWORD, issued["secret"], browser.csrf, browser.client.cookies["session"], "127.0.0.1"):
        assert text not in printed
