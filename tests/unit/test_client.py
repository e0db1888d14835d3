"""The client against a server that answers what the test says: what it asks again, and what it never does."""

import ast
import inspect
import itertools
import json
import logging
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import client
from telemetry.client import errors as client_errors
from telemetry.client import wire
from telemetry.client.drive import checked_base
from telemetry.client.events import EventParser
from tests.support.scripted_http import Answer, scripted_http

TOKEN = "tlm_" + "k" * 43
NONE = Answer(body=b'{"sites":[]}')
SINCE, UNTIL = datetime(2026, 11, 24, tzinfo=UTC), datetime(2026, 11, 25, tzinfo=UTC)
# The first wait is short, so that tests are.
BRISK = wire.Patience(retries=2, first_s=0.01)


def problem(status: int, slug: str, **headers: str) -> Answer:
    told = {"type": f"/problems/{slug}", "title": "t", "status": status, "detail": "d", "request_id": "r1"}
    return Answer(status, json.dumps(told).encode(), {name.replace("_", "-"): value for name, value in headers.items()})


def opened(base: str, **more: Any) -> client.Client:
    return client.Client(base, TOKEN, **{"retry": BRISK} | more)


@dataclass
class Slept:
    """Stands in for the clock: how long was waited for, which then takes no time."""

    waits: list[float] = field(default_factory=list)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> Slept:
    found = Slept()
    monkeypatch.setattr("telemetry.client.drive.time.sleep", found.waits.append)
    return found


@pytest.mark.parametrize(
    ("status", "slug", "kind"),
    [
        (401, "not-authenticated", client.NotAuthenticated),
        (403, "not-permitted", client.NotPermitted),
        (404, "not-found", client.NotFound),
        (409, "conflict", client.Conflict),
        (410, "gone", client.CursorExpired),
        (422, "invalid-request", client.InvalidRequest),
        (422, "too-costly", client.TooCostly),
        (418, "a-later-kind", client.Problem),
    ],
)
def test_each_kind_of_problem_is_an_error_of_its_own(status: int, slug: str, kind: type[client.Problem]) -> None:
    with scripted_http(problem(status, slug)) as server, opened(server.base) as api:
        with pytest.raises(client.Problem) as caught:
            api.fleet()
        assert (type(caught.value), caught.value.slug, caught.value.status) == (kind, slug, status)
        assert caught.value.request_id == "r1"


def test_faults_of_a_request_say_where() -> None:
    told = {"type": "/problems/invalid-request", "title": "t", "status": 422, "detail": "d", "request_id": "r"}
    body = json.dumps(told | {"errors": [{"location": "query.to", "message": "m"}]}).encode()
    with scripted_http(Answer(422, body)) as server, opened(server.base) as api:
        with pytest.raises(client.InvalidRequest) as caught:
            api.fleet()
        assert caught.value.faults == (client_errors.Fault("query.to", "m"),)


def test_a_read_is_asked_again_after_as_long_as_retry_after_says(slept: Slept) -> None:
    limited = problem(429, "rate-limited", Retry_After="7")
    with (
        scripted_http(limited, problem(503, "unavailable", Retry_After="2"), NONE) as server,
        opened(server.base) as api,
    ):
        assert api.fleet() == ()
    assert slept.waits == [7.0, 2.0]


def test_without_retry_after_the_limit_that_is_used_up_says_how_long(slept: Slept) -> None:
    limited = problem(429, "rate-limited", RateLimit='"requests";r=5;t=40, "rows";r=0;t=9')
    with scripted_http(limited, NONE) as server, opened(server.base) as api:
        assert api.fleet() == ()
    assert slept.waits == [9.0]


def test_a_wait_that_is_too_long_is_left_to_the_caller(slept: Slept) -> None:
    with (
        scripted_http(problem(429, "rate-limited", Retry_After="3600")) as server,
        opened(server.base) as api,
        pytest.raises(client.RateLimited) as caught,
    ):
        api.fleet()
    assert caught.value.retry_after_s == 3600
    assert slept.waits == []


def test_it_is_asked_again_a_bounded_number_of_times(slept: Slept) -> None:
    with (
        scripted_http(*[problem(503, "unavailable")] * 3) as server,
        opened(server.base) as api,
        pytest.raises(client.Unavailable),
    ):
        api.fleet()
    assert len(slept.waits) == 2


def test_waits_grow(slept: Slept) -> None:
    patience = wire.Patience(retries=9, first_s=1, most_s=10, chance=lambda: 1.0)
    waits = [patience.wait_s(client.Unreachable("x")) for _ in range(6)]
    assert waits == [1, 2, 4, 8, 10, 10]
    assert wire.Patience(chance=lambda: 0.0).wait_s(client.Unreachable("x")) == 0.125


def test_a_lost_connection_is_tried_again() -> None:
    with scripted_http(Answer(cut=0), Answer(body=b'{"sites":[]}', cut=4), NONE) as server, opened(server.base) as api:
        assert api.fleet() == ()


def a_change() -> wire.Plan[int]:
    return (yield wire.Request("POST", "/invitations", body={"purpose": "maintenance"})).status


@pytest.mark.parametrize("answer", [problem(503, "unavailable", Retry_After="0"), Answer(cut=0)])
def test_what_changes_something_is_never_asked_again(answer: Answer, slept: Slept) -> None:
    with scripted_http(answer) as server, opened(server.base) as api:
        with pytest.raises(client.ClientError):
            api._run(a_change())
        assert len(server.asked) == 1
    assert slept.waits == []


def test_other_refusals_are_not_asked_again(slept: Slept) -> None:
    with scripted_http(problem(404, "not-found")) as server, opened(server.base) as api, pytest.raises(client.NotFound):
        api.fleet()
    assert slept.waits == []


def test_pages_are_followed_to_the_address_that_was_asked_and_no_other() -> None:
    first = Answer(
        body=b'{"sites":[{"site":"s_a","kinds":[{"kind":"meter"}]}]}',
        headers={"Link": '<https://elsewhere.example/api/v1/other?limit=1000&cursor=abc>; rel="next"'},
    )
    second = Answer(body=b'{"sites":[{"site":"s_b","kinds":[]}],"next":null}')
    with scripted_http(first, second) as server, opened(server.base) as api:
        assert [site.site for site in api.fleet()] == ["s_a", "s_b"]
        assert [asked.path for asked in server.asked] == [
            "/api/v1/fleet?limit=1000",
            "/api/v1/fleet?limit=1000&cursor=abc",
        ]


def test_what_a_later_version_adds_is_passed_over() -> None:
    body = b'{"sites":[{"site":"s_a","kinds":[],"colour":"green"}],"total":1}'
    with scripted_http(Answer(body=body)) as server, opened(server.base) as api:
        assert api.fleet() == (client.Site("s_a", ()),)


@pytest.mark.parametrize("answer", [Answer(body=b"<html>"), Answer(500, b"<html>"), Answer(body=b'{"sites":7}')])
def test_what_is_no_answer_of_the_api_is_told(answer: Answer) -> None:
    with scripted_http(answer) as server, opened(server.base) as api, pytest.raises(client.NotAnApi):
        api.fleet()


def test_a_part_of_an_export_is_never_left_under_its_name(tmp_path: Path, slept: Slept) -> None:
    target = tmp_path / "fleet.csv"
    with scripted_http(Answer(body=b"site,device\r\n", cut=6)) as server, opened(server.base) as api:
        with pytest.raises(client.Unreachable) as caught:
            api.export(target, SINCE, UNTIL, "csv")
        assert caught.value.begun
    assert list(tmp_path.iterdir()) == []
    assert slept.waits == [], "an export that was broken off is not asked for again"


def test_an_export_replaces_the_file_once_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "fleet.csv"
    target.write_bytes(b"of yesterday")
    with scripted_http(problem(503, "unavailable", Retry_After="0"), Answer(body=b"whole")) as server:
        with opened(server.base) as api:
            api.export(target, SINCE, UNTIL, "csv")
        assert server.asked[-1].headers["accept"] == "text/csv"
    assert target.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [target]


def test_the_token_is_sent_and_nowhere_told(caplog: pytest.LogCaptureFixture, slept: Slept) -> None:
    cookie = {"Set-Cookie": "session=secret-of-a-session; Path=/"}
    with (
        caplog.at_level(logging.DEBUG),
        scripted_http(
            Answer(cut=0), Answer(body=b'{"sites":[]}', headers=cookie), problem(401, "not-authenticated")
        ) as server,
        opened(server.base) as api,
    ):
        api.fleet()
        with pytest.raises(client.NotAuthenticated) as caught:
            api.fleet()
        assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {TOKEN}"}
        told = [repr(api), str(caught.value), repr(caught.value), caplog.text, *(asked.path for asked in server.asked)]
    assert "httpcore" in {record.name.split(".")[0] for record in caplog.records}, "nothing was logged at all"
    for secret in (TOKEN, "secret-of-a-session"):
        assert [text for text in told if secret in text] == []


@pytest.mark.parametrize(
    "url",
    ["http://example.org", "http://192.0.2.1:8420", "ftp://example.org", "example.org", "https://a:b@example.org"],
)
def test_a_token_is_not_sent_in_clear(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        client.Client(url, TOKEN)


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.0.0.1:1/", "http://[::1]:1", "https://example.org"])
def test_addresses_that_may_be_used(url: str) -> None:
    assert checked_base(url) == url.rstrip("/")


def test_an_instant_needs_a_zone() -> None:
    with opened("http://127.0.0.1:1") as api, pytest.raises(ValueError, match="time zone"):
        api.series(datetime(2026, 1, 1), UNTIL)  # noqa: DTZ001 - this is the mistake


def test_names_cannot_leave_their_place_in_an_address() -> None:
    with scripted_http(*[problem(404, "not-found")] * 2) as server, opened(server.base) as api:
        for name in ("../grants?x=1", "a/b"):
            with pytest.raises(client.NotFound):
                api.site(name)
        assert [asked.path for asked in server.asked] == ["/api/v1/sites/..%2Fgrants%3Fx%3D1", "/api/v1/sites/a%2Fb"]


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, inspect.Signature]:
        skipped = {"close", "live", "login", "logout"}
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: inspect.signature(made) for name, made in found if name[0] != "_" and name not in skipped}

    for one, other in ((client.Client, client.AsyncClient), (client.OwnerClient, client.AsyncOwnerClient)):
        assert calls(one) == calls(other)
        assert all(made.__doc__ for _, made in inspect.getmembers(one, inspect.isfunction) if made.__name__[0] != "_")


def test_the_client_needs_nothing_of_the_service() -> None:
    code = "import sys, telemetry.client; print('\\n'.join(sorted(sys.modules)))"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in listed if name.startswith("telemetry")}
    assert {name for name in ours if not name.startswith("telemetry.client")} == {"telemetry"}
    server = {"fastapi", "starlette", "uvicorn", "asyncpg", "pydantic", "cryptography", "pyarrow", "aiomqtt", "h3"}
    assert {name.split(".")[0] for name in listed} & server == set()
    assert "telemetry.client.clients" in ours


def test_every_kind_of_error_is_offered() -> None:
    tree = ast.parse(Path(client_errors.__file__).read_text())
    kinds = {node.name for node in tree.body if isinstance(node, ast.ClassDef)} - {"Told", "Fault"}
    assert kinds <= set(client.__all__)


EVENTS = (
    b": nothing new\n\n"
    b'event: batch\r\ndata: {"a":\r\ndata: 1}\r\n\r\n'
    b"data: plain\r\n\r\n"
    b"event: end\rdata: \xc3\xa4\r\r"
    b"event: without-data\n\n"
    b"event: unfinished\ndata: x\n"
)


@given(st.lists(st.integers(0, len(EVENTS)), max_size=12))
def test_events_are_the_same_however_bytes_are_cut(cuts: list[int]) -> None:
    # HTML, 9.2.6: lines end with CR, LF or both; an event without an empty line after it is none.
    parser, found, edges = EventParser(), [], sorted({0, len(EVENTS), *cuts})
    for begin, end in itertools.pairwise(edges):
        found += parser.feed(EVENTS[begin:end])
    assert [(event.name, event.data) for event in found] == [
        ("batch", '{"a":\n1}'),
        ("message", "plain"),
        ("end", "ä"),
    ]
