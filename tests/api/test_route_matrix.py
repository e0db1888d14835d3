"""Every route by every kind of asker, on own, foreign and missing objects: who may, and that others are told nothing.

The routes are the application's own: one without a row here fails. An asker that is not known is 401, one that may not
is 403 whatever it asks for, and an object of somebody else is answered as one that does not exist, byte by byte.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from telemetry.api.app import framework
from telemetry.embedded.postgres import EmbeddedPostgres
from tests.support.access import FAST
from tests.support.api_fuzz import operations
from tests.support.api_received import whole
from tests.support.api_town import ADVISER, INSTALLER, Asker, Home, Town, a_town, lately
from tests.support.owned_home import asked
from tests.support.store import Store

in_module = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Call:
    """What of a request is about an object."""

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


Make = Callable[[Town], Awaitable[Call]]


@dataclass(frozen=True)
class Row:
    """``needs``: what an asker must be able to do; None for anybody. ``status``: of what succeeds. ``own``: a request
    that succeeds, made anew for each; ``foreign``: the same about somebody else's; ``missing``: about nothing.
    """

    needs: str | None
    own: Make
    status: int = 200
    foreign: Make | None = None
    missing: Make | None = None


def just(**parts: Any) -> Make:
    async def make(_: Town) -> Call:
        return Call(**parts)

    return make


RANGE = {name.rstrip("_"): value for name, value in lately().items()}
MAINTENANCE = {"purpose": "maintenance"}
NOTHING = just(query={})
NO_ONE, NO_KEY = "a" * 27, "00c0ffee00c0ffee"


def token(name: str, more: Mapping[str, Any] = {}, *, query: bool = False) -> dict[str, Make]:
    """A site or device in the path, or in the query."""

    def about(value: Callable[[Town], str]) -> Make:
        async def make(made: Town) -> Call:
            if query:
                return Call(query=MAINTENANCE | more | {f"{name}s": value(made)})
            return Call(path={name: value(made)}, query=MAINTENANCE | more)

        return make

    kind = {"site": "site_", "device": "dev_"}[name]
    return {
        "own": about(lambda made: getattr(made.own, name)),
        "foreign": about(lambda made: getattr(made.other, name)),
        "missing": about(lambda _: kind + NO_ONE),
    }


def named(parameter: str, letter: str, make: Callable[[Town, bool], Awaitable[str]], **more: Any) -> dict[str, Make]:
    """An object in the path that ``make`` makes, of the asker's own or of another's."""

    def of(own: bool) -> Make:
        async def one(made: Town) -> Call:
            return Call(path={parameter: await make(made, own)}, **more)

        return one

    return {"own": of(True), "foreign": of(False), "missing": just(path={parameter: f"{letter}_{NO_KEY}"}, **more)}


def home(made: Town, own: bool) -> Home:
    return made.own if own else made.other


async def grant(made: Town, own: bool) -> str:
    return await made.grant(home(made, own))


async def received(made: Town, own: bool) -> str:
    return await made.request(home(made, own))


async def sent(made: Town, own: bool) -> str:
    return await made.request(made.own, INSTALLER if own else ADVISER)


async def webhook(made: Town, own: bool) -> str:
    return await made.webhook(INSTALLER if own else ADVISER)


async def invitation(made: Town, own: bool) -> str:
    return (await made.invitation(INSTALLER if own else ADVISER))[0]


async def objection(made: Town) -> Call:
    return Call(path={"objection": await made.objection(made.own)})


async def invited(made: Town) -> Call:
    return Call(body={"code": (await made.invitation())[1]})


async def asking_at(made: Town, site: str) -> Call:
    body = {"terms": asked(), "reason": "fault", "site": site}
    return Call(body=body)


async def restricted(made: Town) -> Call:
    await made.world.admin.execute("DELETE FROM consent.restriction")
    await made.as_owner(made.own, "POST", "/me/restriction")
    return Call()


async def unrestricted(made: Town) -> Call:
    await made.world.admin.execute("DELETE FROM consent.restriction")
    return Call()


async def unobjected(made: Town) -> Call:
    await made.world.admin.execute("DELETE FROM consent.objection")
    return Call(body={"purpose": "application"})


async def new_handle(_: Town) -> Call:
    return Call(body={"handle": f"example-{secrets.token_hex(6)}", "kind": "installer"})


async def new_recipient(made: Town) -> Call:
    operator = next(one for one in made.askers if one.name == "operator")
    answer = await made.send("POST", "/operator/recipients", operator.headers, body=(await new_handle(made)).body)
    return Call(path={"recipient": answer.json()["recipient"]})


async def blocked(made: Town) -> Call:
    await made.as_owner(made.own, "POST", "/me/access-blocks", {"recipient": f"recipient-{ADVISER}"})
    return Call(path={"recipient": f"r_{ADVISER:016x}"})


def seeing(site_of: Callable[[Town], str]) -> Make:
    async def make(made: Town) -> Call:
        return await asking_at(made, site_of(made))

    return make


async def signed(made: Town) -> Call:
    headers, _ = await made.session(INSTALLER)
    return Call(headers=headers)


async def own_session(made: Town) -> Call:
    headers, name = await made.session(INSTALLER)
    return Call(path={"session": name}, headers=headers)


async def others_session(made: Town) -> Call:
    _, other = await made.session(INSTALLER)
    headers, _ = await made.session(INSTALLER)
    return Call(path={"session": other}, headers=headers)


async def no_session(made: Town) -> Call:
    headers, _ = await made.session(INSTALLER)
    return Call(path={"session": f"e_{NO_KEY}"}, headers=headers)


def as_person(**body: Any) -> Make:
    """As one who signed up, with what is wrong."""

    async def make(made: Town) -> Call:
        await made.world.admin.execute("TRUNCATE access.attempt")
        return Call(body=body, headers=made.person)

    return make


def unthrottled(**body: Any) -> Make:
    async def make(made: Town) -> Call:
        await made.world.admin.execute("TRUNCATE access.attempt")
        return Call(body=body)

    return make


def token_of(recipient: int | None) -> Make:
    async def make(made: Town) -> Call:
        name = f"t_{NO_KEY}" if recipient is None else await made.issued(recipient)
        headers, _ = await made.session(INSTALLER)
        return Call(path={"token": name}, headers=headers)

    return make


TOKENS = {"own": token_of(INSTALLER), "foreign": token_of(ADVISER), "missing": token_of(None)}
WRONG_ONE = "some words that are wrong"
WRONG = 422  # a wrong password or code, of who is logged in
PREVIEW = {"recipient": f"recipient-{INSTALLER}", "purpose": "maintenance"} | RANGE
ANY_VERSION = {"If-Match": "*"}
READ, LIVE, EXPORT, MANAGE = (f"recipient {scope}" for scope in ("read", "live", "export", "manage"))
OWN, SEE, SHARE, SHARING, EXERCISING = (
    "owner read", "owner see read", "owner share read", "owner share manage", "owner rights manage",
)  # fmt: skip
RUN, LOOK = "operator manage", "operator read"
GRANT = {"recipient": f"recipient-{ADVISER}", "terms": asked(purpose="billing")}

TABLE: dict[str, Row] = {
    # Recipients
    "read_fleet": Row(READ, just(query=MAINTENANCE)),
    "read_site": Row(READ, **token("site")),
    "list_devices": Row(READ, **token("site")),
    "read_device": Row(READ, **token("device")),
    "read_series": Row(READ, **token("device", RANGE, query=True)),
    "read_latest": Row(READ, **token("site", query=True)),
    "read_changes": Row(READ, **token("site", {"from": RANGE["from"]}, query=True)),
    "list_grants": Row(READ, just(query=MAINTENANCE)),
    "read_live": Row(LIVE, **token("device", query=True)),
    "read_export": Row(EXPORT, **token("device", RANGE, query=True)),
    "list_alerts": Row(READ, **token("device", RANGE, query=True)),
    "list_own_reads": Row(READ, NOTHING),
    "list_access_requests": Row(READ, NOTHING),
    "make_access_request": Row(
        MANAGE,
        seeing(lambda made: made.own.site),
        201,
        seeing(lambda made: made.other.site),
        seeing(lambda _: "site_" + NO_ONE),
    ),
    "take_back_request": Row(MANAGE, status=204, **named("request", "q", sent)),
    "list_invitations": Row(READ, NOTHING),
    "make_invitation": Row(MANAGE, just(body={"terms": asked()}), 201),
    "revoke_invitation": Row(MANAGE, status=204, **named("invitation", "i", invitation)),
    "list_webhooks": Row(READ, NOTHING),
    "add_webhook": Row(MANAGE, just(body=MAINTENANCE | {"url": "https://hooks.example.invalid/alerts"}), 201),
    "remove_webhook": Row(MANAGE, status=204, **named("webhook", "w", webhook)),
    "test_webhook": Row(MANAGE, status=202, **named("webhook", "w", webhook)),
    "read_alert_mails": Row("recipient person", NOTHING),
    "set_alert_mails": Row("recipient person", just(body={"purposes": ["maintenance"]})),
    # Owners
    "list_home_alerts": Row(SEE, just(query=RANGE)),
    "read_home_alert_mails": Row("owner person see", NOTHING),
    "set_home_alert_mails": Row("owner person see", just(body={"wanted": True})),
    "read_me": Row(OWN, NOTHING),
    "list_own_sites": Row(SEE, NOTHING),
    "list_own_devices": Row(SEE, NOTHING),
    "read_keeping": Row(OWN, NOTHING),
    "set_keeping": Row(EXERCISING, just(body={"finest": "PT15M"})),
    "list_recipients_to_grant": Row(OWN, NOTHING),
    "read_restriction": Row(OWN, NOTHING),
    "begin_restriction": Row(EXERCISING, unrestricted, 201),
    "lift_restriction": Row(EXERCISING, restricted),
    "list_objections": Row(OWN, NOTHING),
    "make_objection": Row(EXERCISING, unobjected, 201),
    "end_objection": Row(EXERCISING, objection, missing=just(path={"objection": f"application.r_{NO_KEY}"})),
    "list_reads": Row(OWN, NOTHING),
    "read_own_series": Row(SEE, just(query=RANGE)),
    "read_own_latest": Row(SEE, NOTHING),
    "read_own_export": Row("owner see export", just(query=RANGE)),
    "preview": Row(SEE, just(body=PREVIEW)),
    "list_own_grants": Row(OWN, NOTHING),
    "make_grant": Row(SHARING, just(body=GRANT), 201),
    "read_own_grant": Row(OWN, **named("grant", "c", grant)),
    "change_grant": Row(
        SHARING, **named("grant", "c", grant, body={"terms": asked(purpose="billing")}, headers=ANY_VERSION)
    ),
    "withdraw_grant": Row(SHARING, **named("grant", "c", grant)),
    "read_grant_history": Row(OWN, **named("grant", "c", grant)),
    "read_receipt": Row(OWN, **named("grant", "c", grant)),
    "list_received_requests": Row(SHARE, NOTHING),
    "accept_request": Row(SHARING, **named("request", "q", received, body={})),
    "decline_request": Row(SHARING, status=204, **named("request", "q", received)),
    "list_blocks": Row(SHARE, NOTHING),
    "block_recipient": Row(SHARING, just(body={"recipient": f"recipient-{ADVISER}"}), 201),
    "unblock_recipient": Row(SHARING, blocked, missing=just(path={"recipient": f"r_{NO_KEY}"})),
    "make_connection_code": Row(SHARING, NOTHING, 201),
    "look_at_invitation": Row(SHARE, invited, missing=just(body={"code": "A" * 43})),
    "accept_invitation": Row(SHARING, invited, missing=just(body={"code": "A" * 43})),
    # Operators
    "read_fleet_health": Row(LOOK, NOTHING),
    "read_ingest": Row(LOOK, NOTHING),
    "read_quarantine": Row(LOOK, NOTHING),
    "list_recipients": Row(LOOK, NOTHING),
    "add_recipient": Row(RUN, new_handle, 201),
    "close_recipient": Row(RUN, new_recipient, missing=just(path={"recipient": f"r_{NO_KEY}"})),
    "issue_token": Row(RUN, just(body={"recipient": f"r_{ADVISER:016x}"}), 201),
    # People and their tokens
    "sign_up": Row(None, unthrottled(email="a@example.test", of_age=True, name="Example"), 202),
    "verify": Row(None, unthrottled(code="A" * 43, password=WRONG_ONE), WRONG),
    "login": Row(None, unthrottled(email="a@example.test", password=WRONG_ONE), 401),
    "logout": Row("person", signed, 204),
    "read_session": Row("person", NOTHING),
    "forget_password": Row(None, unthrottled(email="a@example.test"), 202),
    "reset_password": Row(None, unthrottled(code="A" * 43, password=WRONG_ONE), WRONG),
    "change_password": Row("person", as_person(password=WRONG_ONE, new_password=WRONG_ONE), WRONG),
    "propose_totp": Row("person", as_person(password=WRONG_ONE), WRONG),
    "confirm_totp": Row("person", as_person(code="123456"), WRONG),
    "remove_totp": Row("person", as_person(password=WRONG_ONE, code="123456"), WRONG),
    "renew_recovery_codes": Row("person", as_person(password=WRONG_ONE, code="123456"), WRONG),
    "list_sessions": Row("person", NOTHING),
    "end_session": Row("person", own_session, 204, others_session, no_session),
    "list_tokens": Row("manage", NOTHING),
    "issue_own_token": Row("person manage", just(body={}), 201),
    "rotate_token": Row("", status=201, **TOKENS),
    "revoke_token": Row("", status=204, **TOKENS),
    # Anybody
    "read_health": Row(None, NOTHING),
    "read_readiness": Row(None, NOTHING),
}
DOCUMENT = framework().openapi()
OPERATIONS = operations(DOCUMENT)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(migrated: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    store, directory = Store(migrated), tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("telemetry.access.passwords.PARAMETERS", FAST)  # the cost of a hash is tested where hashes are
        async with a_town(store, directory) as town:
            yield town
    await store.close()


async def send(made: Town, name: str, asker: Asker, call: Call) -> httpx.Response:
    method, _, path = OPERATIONS[name].partition(" ")
    for parameter, value in call.path.items():
        path = path.replace("{" + parameter + "}", value)
    headers, asked = dict(asker.headers) | dict(call.headers), dict(call.query)
    if "Cookie" in call.headers:  # as somebody of this kind
        headers.pop("Authorization", None)
    if name == "read_live":
        async with made.world.client.stream(method, path, params=asked, headers=headers) as answer:
            if answer.status_code != 200:
                await answer.aread()
            return answer
    return await made.world.client.request(method, path, params=asked, json=call.body, headers=headers)


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert set(TABLE) == set(OPERATIONS)


def may(row: Row, asker: Asker) -> bool:
    return row.needs is None or (asker.can is not None and set(row.needs.split()) <= asker.can)


@pytest.mark.parametrize("name", TABLE)
@in_module
async def test_who_may_is_answered_and_who_may_not_is_refused_whatever_it_asks_for(made: Town, name: str) -> None:
    row = TABLE[name]
    found, wanted = {}, {}
    call = await row.own(made)
    idle = replace(call, headers={})  # of those that may not, nobody uses it up
    # Whoever it is, where anybody may: these are throttled.
    for asker in made.askers if row.needs is not None else made.askers[:1] + made.askers[-5:-3]:
        fresh = may(row, asker) and not OPERATIONS[name].startswith("GET ")
        answer = await send(made, name, asker, await row.own(made) if fresh else call if may(row, asker) else idle)
        found[asker.name] = (answer.status_code, answer.text if answer.status_code >= 500 else "")
        refused = 401 if asker.can is None else 403
        wanted[asker.name] = (row.status if may(row, asker) else refused, "")
    assert found == wanted


REFUSED = [name for name, row in TABLE.items() if row.needs is not None]


@pytest.mark.parametrize("name", [name for name in REFUSED if TABLE[name].foreign or TABLE[name].missing])
@in_module
async def test_a_refusal_does_not_depend_on_what_is_asked_for(made: Town, name: str) -> None:
    row = TABLE[name]
    strangers = [one for one in made.askers if one.can is not None and not may(row, one)][:1]
    nobody = next(one for one in made.askers if one.name == "revoked token")
    made_calls = [await make(made) for make in (row.own, row.foreign, row.missing) if make is not None]
    calls = [replace(call, headers={}) for call in made_calls]
    for asker in (*strangers, nobody):
        assert len({whole(await send(made, name, asker, call)) for call in calls}) == 1


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.missing])
@in_module
async def test_what_is_foreign_is_answered_as_what_does_not_exist(made: Town, name: str) -> None:
    row = TABLE[name]
    asker = next(one for one in made.askers if may(row, one))
    assert row.missing is not None
    missing = await send(made, name, asker, await row.missing(made))
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/not-found")
    if row.foreign is not None:
        foreign = await send(made, name, asker, await row.foreign(made))
        assert whole(foreign) == whole(missing)
        # The control: it exists, for whom it is.
        own = await send(made, name, asker, await row.own(made))
        assert own.status_code == row.status
