"""What holds for every request: problems, headers, sizes, the log, TLS, and what is told when something fails."""

import asyncio
import io
import json
import socket
import ssl
from pathlib import Path

import httpx
import pytest

from telemetry.access.principal import Role
from telemetry.api import app
from telemetry.api.problems import PROBLEMS
from telemetry.api.routes import recipients
from telemetry.api.server import listen
from telemetry.config import load_config
from telemetry.errors import ConfigurationError
from telemetry.observe import install_logging
from tests.api.homes import LOOKER, OWNER, lately, two_homes
from tests.support.api_world import PATIENCE_S, ApiWorld, api_world
from tests.support.certificates import make_certificates

SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class TestProblems:
    async def test_each_has_a_page_and_links_to_it(self, world: ApiWorld) -> None:
        for slug, problem in PROBLEMS.items():
            page = await world.client.get(f"/problems/{slug}")
            assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert str(problem.status) in page.text
        assert (await world.client.get("/problems/none-such")).status_code == 404

    @pytest.mark.parametrize(
        ("method", "path", "status", "slug"),
        [
            ("GET", "/api/v1/none-such", 404, "not-found"),
            ("GET", "/api/v1/fleet/", 404, "not-found"),
            ("POST", "/api/v1/fleet", 405, "method-not-allowed"),
            ("GET", "/api/v1/fleet?limit=0", 422, "invalid-request"),
            ("GET", "/api/v1/fleet?fileds=x", 422, "invalid-request"),
            ("GET", "/api/v1/series?from=x&to=y", 422, "invalid-request"),
            ("GET", "/api/v1/series?from=1700000000&to=2026-01-01T00:00:00", 422, "invalid-request"),
            ("GET", "/api/v1/fleet?tz=Mars/Olympus", 422, "invalid-request"),
        ],
    )
    async def test_they_are_problem_documents(
        self, world: ApiWorld, method: str, path: str, status: int, slug: str
    ) -> None:
        await two_homes(world)
        headers = {"Authorization": f"Bearer {await world.token(LOOKER)}"}
        answer = await world.client.request(method, path, headers=headers)
        told = answer.json()
        assert (answer.status_code, told["status"], told["type"]) == (status, status, f"/problems/{slug}")
        assert answer.headers["content-type"] == "application/problem+json"
        assert told["request_id"] == answer.headers["x-request-id"]

    async def test_what_was_given_is_not_repeated(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer = await world.token(LOOKER)
        canary = "canary00000042"
        for parameters in ({"tz": canary}, {canary: "x"}, {"limit": canary}, {"cursor": canary}, {"purpose": canary}):
            answer = await world.get("/fleet", bearer, **parameters)
            assert answer.status_code == 422
            assert canary not in answer.text
        for parameters in ({"fields": canary}, {"resolution": canary}, {"from_": canary}, {"format": canary}):
            answer = await world.get("/series", bearer, **(lately() | parameters))
            assert answer.status_code == 422
            assert canary not in answer.text
        body = {canary: canary, "terms": {canary: 1}, "reason": canary}
        answer = await world.client.post(
            "/api/v1/access-requests", json=body, headers={"Authorization": f"Bearer {bearer}"}
        )
        assert answer.status_code == 422
        assert canary not in answer.text

    async def test_allow_lists_all_methods_of_an_address(self, world: ApiWorld) -> None:
        answer = await world.client.put("/api/v1/invitations", json={})
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


class TestBodies:
    @pytest.mark.parametrize("chunked", [False, True])
    async def test_one_that_is_too_large_is_refused(self, world: ApiWorld, chunked: bool) -> None:
        await two_homes(world)
        large = b'{"a": "' + b"x" * 100_000 + b'"}'

        async def parts():
            for start in range(0, len(large), 8192):
                yield large[start : start + 8192]

        headers = {"Authorization": f"Bearer {await world.token(LOOKER)}", "Content-Type": "application/json"}
        answer = await world.client.post("/api/v1/invitations", content=parts() if chunked else large, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
    async def test_one_of_another_type_is_refused(self, world: ApiWorld, kind: str) -> None:
        headers = {"Authorization": f"Bearer {await world.token(role=Role.OPERATOR)}", "Content-Type": kind}
        answer = await world.client.post("/api/v1/invitations", content=b"{}", headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (415, "/problems/unsupported-media-type")

    async def test_one_that_is_no_json_is_refused(self, world: ApiWorld) -> None:
        await two_homes(world)
        headers = {"Authorization": f"Bearer {await world.token(LOOKER)}", "Content-Type": "application/json"}
        answer = await world.client.post("/api/v1/invitations", content=b"{nonsense", headers=headers)
        assert (answer.status_code, answer.json()["errors"][0]["message"]) == (422, "this is not JSON")


class TestHeaders:
    async def test_every_answer_has_them_and_is_not_stored(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer = await world.token(LOOKER)
        for answer in (
            await world.get("/fleet", bearer),
            await world.get("/fleet"),
            await world.get("/none-such"),
            await world.client.get("/healthz"),
            await world.get("/export", bearer, **lately()),
        ):
            assert answer.headers.items() >= SECURITY.items()
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")
            assert len(answer.headers["x-request-id"]) == 15
            assert "server" not in answer.headers
            assert "access-control-allow-origin" not in answer.headers

    async def test_the_documents_page_loads_nothing_from_elsewhere(self, world: ApiWorld) -> None:
        page = await world.client.get("/api/docs")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for forbidden in ("<script", "http://", "https://", "src=", "@import", "url("):
            assert forbidden not in page.text
        assert "/api/v1/series" in page.text


class TestTheDocument:
    def test_every_operation_has_a_name_of_its_own_and_the_statuses_that_it_gives(self) -> None:
        made = app.framework().openapi()
        names = []
        for path, operations in made["paths"].items():
            for method, operation in operations.items():
                names.append(operation["operationId"])
                statuses = set(operation["responses"])
                assert {"500", "503"} <= statuses
                if operation.get("security"):
                    assert {"401", "403", "429"} <= statuses, (path, method)
                if "requestBody" in operation:
                    assert {"413", "415", "422"} <= statuses, (path, method)
                for status, answer in operation["responses"].items():
                    assert int(status) < 400 or list(answer["content"]) == ["application/problem+json"]
        assert len(names) == len(set(names))
        assert names == [name for name in app.templates() if name in set(names)] or len(names) > 20

    def test_all_references_lead_somewhere(self) -> None:
        made = app.framework().openapi()
        schemas = made["components"]["schemas"]
        wanted = {part.split('"')[0] for part in json.dumps(made).split("#/components/schemas/")[1:]}
        assert wanted <= set(schemas)


class TestFailures:
    async def test_without_a_database_it_is_not_available_and_says_when_to_ask_again(
        self, world: ApiWorld, store, tmp_path: Path
    ) -> None:
        nowhere = f"postgresql:///telemetry?host={tmp_path}&port=1"
        async with api_world(store, tmp_path, dsn=lambda _: nowhere) as cut_off:
            assert (await cut_off.client.get("/healthz")).status_code == 200
            ready = await cut_off.client.get("/readyz")
            asked = await cut_off.get("/fleet", "tlm_" + "A" * 43)
            for answer in (ready, asked):
                assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
                assert int(answer.headers["retry-after"]) > 0
                assert str(tmp_path) not in answer.text

    async def test_a_defect_is_told_and_logged_without_what_it_held(self, world: ApiWorld, monkeypatch) -> None:
        async def broken(*_args, **_more):
            raise RuntimeError("canary00000042")

        await two_homes(world)
        monkeypatch.setattr(recipients, "fleet", broken)
        into = io.StringIO()
        undo = install_logging(level="debug", stream=into)
        try:
            answer = await world.get("/fleet", await world.token(LOOKER))
        finally:
            undo()
        assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal")
        lines = [json.loads(line) for line in into.getvalue().splitlines()]
        (line,) = [each for each in lines if each["event"] == "request_answered"]
        assert line["error"]["class"] == "RuntimeError"
        assert str(line["request"]) == answer.json()["request_id"] == answer.headers["x-request-id"]
        assert "canary" not in into.getvalue() + answer.text


class TestTheLog:
    async def test_it_holds_templates_and_no_name_token_address_or_query(self, world: ApiWorld) -> None:
        await two_homes(world)
        bearer = await world.token(LOOKER)
        told = (await world.get("/latest", bearer)).json()["devices"][0]
        into = io.StringIO()
        undo = install_logging(level="debug", stream=into)
        try:
            await world.get(f"/sites/{told['site']}", bearer)
            await world.get(f"/devices/{told['device']}", bearer)
            await world.get("/series", bearer, **lately(devices=told["device"]))
            await world.get(f"/{told['device']}", bearer)
            await world.client.get("/api/v1/fleet?purpose=x", headers={"Authorization": "Bearer " + "x" * 50})
        finally:
            undo()
        text = into.getvalue()
        lines = [json.loads(line) for line in text.splitlines()]
        routes = [line["route"] for line in lines if line["event"] == "request_answered"]
        assert routes == [
            "/api/v1/sites/{site}",
            "/api/v1/devices/{device:path}",
            "/api/v1/series",
            "unknown",
            "/api/v1/fleet",
        ]
        for secret in (told["site"], told["device"], bearer, "127.0.0.1", "maintenance", "x" * 50, "httpx"):
            assert secret not in text

    async def test_metrics_count_by_template(self, world: ApiWorld) -> None:
        await world.get("/sites/nobody")
        metrics = world.context.observer.metrics.registry
        labels = {"route": "/api/v1/sites/{site}", "method": "GET", "status": "401"}
        assert metrics.get_sample_value("telemetry_api_requests_total", labels) == 1


class TestTls:
    async def test_over_tls_answers_ask_for_it_from_then_on(self, world: ApiWorld, store, tmp_path: Path) -> None:
        made = await asyncio.to_thread(make_certificates, tmp_path / "tls")
        files = {"cert_file": made.server_cert, "key_file": made.server_key}
        async with api_world(store, tmp_path, **files) as secure:
            trusting = await asyncio.to_thread(ssl.create_default_context, cafile=str(made.ca))
            url = secure.base.replace("http://127.0.0.1", "https://localhost")
            async with httpx.AsyncClient(base_url=url, verify=trusting, timeout=PATIENCE_S) as client:
                answer = await client.get("/healthz")
            assert answer.status_code == 200
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
            assert "strict-transport-security" not in (await world.client.get("/healthz")).headers

    async def test_a_certificate_that_cannot_be_read_is_told_at_the_start(self, store, tmp_path: Path) -> None:
        (tmp_path / "none.pem").write_text("nothing")
        files = {"cert_file": tmp_path / "none.pem", "key_file": tmp_path / "none.pem"}
        with pytest.raises(ConfigurationError):
            async with api_world(store, tmp_path, **files):
                pass


class TestConfiguration:
    @pytest.mark.parametrize(
        "api",
        [
            {"address": "0.0.0.0"},
            {"address": "0.0.0.0", "trusted_proxies": ["192.0.2.1"], "cookie_secure": False},
            {"cert_file": "cert.pem"},
            {"workers": 2},
        ],
    )
    def test_what_would_be_open_is_refused(self, api: dict) -> None:
        with pytest.raises(ConfigurationError):
            load_config(api=api)

    def test_a_proxy_or_tls_is_enough(self) -> None:
        load_config(api={"address": "0.0.0.0", "trusted_proxies": ["192.0.2.1"]})
        load_config(api={"address": "0.0.0.0", "cert_file": "cert.pem", "key_file": "key.pem"})


class TestProxies:
    async def test_only_a_trusted_proxy_says_that_a_request_came_over_tls(
        self, world: ApiWorld, store, tmp_path: Path
    ) -> None:
        forwarded = {"X-Forwarded-Proto": "https"}
        async with api_world(store, tmp_path, trusted_proxies=["127.0.0.1"]) as behind:
            trusted = await behind.client.get("/healthz", headers=forwarded)
        async with api_world(store, tmp_path, trusted_proxies=["192.0.2.1"]) as elsewhere:
            stranger = await elsewhere.client.get("/healthz", headers=forwarded)
        direct = await world.client.get("/healthz", headers=forwarded)
        hsts = ["strict-transport-security" in answer.headers for answer in (trusted, stranger, direct)]
        assert hsts == [True, False, False]


class TestSessions:
    async def test_an_origin_that_is_configured_is_the_only_one(self, world: ApiWorld, store, tmp_path: Path) -> None:
        async with api_world(store, tmp_path, origin="https://energy.example.invalid") as named:
            await two_homes(named)
            signed = await named.sign_in(OWNER)
            for origin, status in (("https://energy.example.invalid", 422), (named.base, 403)):
                answer = await named.client.put(
                    "/api/v1/me/keeping", json={"nonsense": 1}, headers=signed.headers | {"Origin": origin}
                )
                assert answer.status_code == status


async def test_connections_send_at_once_what_there_is() -> None:
    """With Nagle's algorithm a body waits until its headers are acknowledged: 40 ms an answer."""
    listener = listen(load_config(embedded=True, api={"port": 0}).api)
    connected: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set_result(bool(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
        writer.close()

    async with await asyncio.start_server(serve, sock=listener) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await connected
        writer.close()
        await writer.wait_closed()
