"""Two registered homes, two recipients, an operator, and askers of every kind: for what holds for every route."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx

from telemetry.access.principal import ALL_SCOPES, Role, Scope
from telemetry.model.requests import RequestReason
from telemetry.model.shown import shown_key
from tests.support import consents
from tests.support.access import PASSWORD, code_in
from tests.support.api_world import PATIENCE_S, ApiWorld, api_world, quarter, text
from tests.support.mail_server import MailServer
from tests.support.owned_home import asked, registered
from tests.support.sharing import terms
from tests.support.store import Store

INSTALLER, ADVISER = 1, 2
HOUR: Final = 3600
Capabilities = frozenset[str]


@dataclass(frozen=True)
class Asker:
    """``can``: the role, and what the role may do; None for whoever is not known."""

    name: str
    headers: Mapping[str, str] = field(default_factory=dict)
    can: Capabilities | None = None


@dataclass
class Home:
    """``token``: of the owner. ``site`` and ``device``: as the installer names them."""

    owner: int
    site_key: int
    devices: tuple[int, ...]
    token: str
    site: str = ""
    device: str = ""


@dataclass
class Town:
    """``own``: the home that askers speak for; ``other``: somebody else's, of which the adviser sees something.
    ``person``: headers of somebody who signed up by mail, with no home yet.
    """

    world: ApiWorld
    own: Home
    other: Home
    askers: list[Asker] = field(default_factory=list)
    person: Mapping[str, str] = field(default_factory=dict)

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], *, body: Any = None, query: Mapping[str, Any] = {}
    ) -> httpx.Response:
        """A request below /api/v1."""
        return await self.world.client.request(
            method, f"/api/v1{path}", json=body, params=dict(query), headers=dict(headers)
        )

    async def as_owner(self, home: Home, method: str, path: str, body: Any = None) -> Any:
        """What an owner's own machine does over HTTP."""
        answer = await self.send(method, path, {"Authorization": f"Bearer {home.token}"}, body=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def grant(self, home: Home) -> str:
        """A new grant of a home's to the adviser, by name."""
        body = {"recipient": f"recipient-{ADVISER}", "terms": asked(purpose="billing")}
        name: str = (await self.as_owner(home, "POST", "/me/grants", body))["grant"]["grant"]
        return name

    async def request(self, home: Home, recipient: int = INSTALLER) -> str:
        """A new request of a recipient's to a home's owner, by name."""
        # One that is open already would hide the next.
        await self.world.admin.execute("TRUNCATE access.request, consent.request CASCADE")
        code = (await self.as_owner(home, "POST", "/me/connection-codes"))["code"]
        ask = self.world.context.requests.ask
        made = await ask(recipient, terms(purpose="billing"), RequestReason.FAULT, to=code, text="")
        return shown_key("request", made.request_key)

    async def invitation(self, recipient: int = INSTALLER) -> tuple[str, str]:
        """A new invitation's name and code."""
        await self.world.admin.execute("DELETE FROM access.invitation")  # a hundred may be open
        invite = self.world.context.requests.invite
        made = await invite(recipient, terms(purpose="billing"), lifetime=timedelta(hours=1))
        return shown_key("invitation", made.invitation_key), made.secret

    async def webhook(self, recipient: int = INSTALLER) -> str:
        """A new webhook's name."""
        url = f"https://hooks.example.invalid/{secrets.token_hex(4)}"
        made = await self.world.context.webhooks.add(recipient, terms().purpose, url)
        return shown_key("webhook", made.webhook_key)

    async def session(self, key: int, role: Role = Role.RECIPIENT) -> tuple[dict[str, str], str]:
        """A new person's session: headers, and its name."""
        headers = (await self.world.sign_in(key, role)).headers
        key = await self.world.admin.fetchval("SELECT session_key FROM access.session ORDER BY begun_at DESC LIMIT 1")
        return headers, shown_key("session", key)

    async def issued(self, key: int) -> str:
        """A new token of a recipient's, by name."""
        return shown_key("token", self.world.issued[await self.world.token(key)])

    async def objection(self, home: Home) -> str:
        """An objection of a home's owner to a purpose of the adviser's, by name."""
        await self.world.admin.execute("DELETE FROM consent.objection WHERE owner_key = $1", home.owner)
        body = {"purpose": "application", "recipient": f"recipient-{ADVISER}"}
        made = await self.as_owner(home, "POST", "/me/objections", body)
        name: str = made["objections"][0]["objection"]
        return name


async def _home(world: ApiWorld) -> Home:
    owner, site, devices = await registered(world)
    return Home(owner, site, devices, await world.token(owner, Role.OWNER))


async def signed_up(world: ApiWorld, server: MailServer) -> dict[str, str]:
    """The headers of somebody who signed up, by mail."""
    await world.admin.execute("TRUNCATE access.attempt, access.sign_up, access.claim CASCADE")
    async with httpx.AsyncClient(base_url=world.base, timeout=PATIENCE_S) as client:
        asked = {"email": "someone@example.test", "of_age": True, "name": "Example Person"}
        await client.post("/api/v1/auth/sign-up", json=asked)
        await world.context.access.people.letters.drained()
        secret = {"password": PASSWORD}
        await client.post("/api/v1/auth/verify", json=secret | {"code": code_in(server.mails[-1])})
        told = await client.post("/api/v1/auth/login", json=secret | {"email": asked["email"]})
        assert told.status_code == 200, told.text
        return {"Cookie": f"session={client.cookies['session']}", "X-CSRF-Token": told.json()["csrf"]}


async def town(world: ApiWorld, server: MailServer | None = None) -> Town:
    """``world`` with webhooks and mail enabled and without limits that come in the way."""
    for recipient in (INSTALLER, ADVISER):
        await consents.add_recipient(world.admin, recipient)
    made = Town(world, await _home(world), await _home(world))
    for key, home, recipient in ((1, made.own, INSTALLER), (2, made.other, ADVISER)):
        more = {"classes": ["production", "alert"], "place": "region", "serial": "pseudonym", "extremes": True}
        await consents.add_grant(world.admin, key, home.owner, recipient, **more)
        for device in home.devices:
            await world.quarters(device, 6, lowest=1, highest=2)
            await world.admin.execute(
                "INSERT INTO readings.alert (alert_key, device_key, kind, severity, opened_at, found_at)"
                " VALUES ($1, $1, 2, 3, now() - interval '3 hours', now() - interval '3 hours')",
                device,
            )
        told = await world.get("/series", await world.token(recipient), **lately())
        first = told.json()["devices"][0]
        home.site, home.device = first["site"], first["device"]
    made.askers = await _askers(made)
    if server is not None:
        made.person = await signed_up(world, server)
    return made


def lately() -> dict[str, str]:
    """The last hours, for ``ApiWorld.get``."""
    return {"from_": text(quarter(8)), "to": text(quarter(-1))}


async def _askers(made: Town) -> list[Asker]:
    world, owner = made.world, made.own.owner
    every, rights = frozenset(str(scope) for scope in ALL_SCOPES), frozenset({"see", "share", "rights"})

    async def machine(name: str, key: int, role: Role, *scopes: Scope, holding: Capabilities = frozenset()) -> Asker:
        told = frozenset(scopes) or ALL_SCOPES
        bearer = await world.token(key, role, scopes=told, purposes=None)
        can = frozenset(str(scope) for scope in told) | {role.value} | holding
        return Asker(name, {"Authorization": f"Bearer {bearer}"}, can)

    async def member(right: str) -> Asker:
        async with world.context.sharing.open() as sharing, sharing.settling() as settlement:
            key = await settlement.add_member(owner, "Example Member", [right])
        signed = await world.sign_in(owner, Role.OWNER, member_key=key)
        return Asker(f"member who may {right}", signed.headers, every | {"owner", "person", right})

    signed = {role: await world.sign_in(key, role) for role, key in ((Role.OWNER, owner), (Role.RECIPIENT, INSTALLER))}
    made_askers = [
        Asker("owner", signed[Role.OWNER].headers, every | rights | {"owner", "person"}),
        Asker("recipient", signed[Role.RECIPIENT].headers, every | {"recipient", "person"}),
        *[await member(right) for right in sorted(rights)],
        *[await machine(f"recipient's token to {scope}", INSTALLER, Role.RECIPIENT, scope) for scope in Scope],
        await machine("owner's token to read", owner, Role.OWNER, Scope.READ, holding=rights),
        await machine("owner's token to export", owner, Role.OWNER, Scope.EXPORT, holding=rights),
        await machine("operator", 0, Role.OPERATOR),
        await machine("operator's token to read", 0, Role.OPERATOR, Scope.READ),
    ]
    return made_askers + await unknown_askers(made)


async def unknown_askers(made: Town) -> list[Asker]:
    """Nobody, and those whose token or session counts no longer."""
    world = made.world
    expired, revoked = [await world.token(INSTALLER) for _ in range(2)]
    await world.revoke(revoked)
    await world.admin.execute(
        "UPDATE access.token SET issued_at = now() - interval '2 days', expires_at = now() - interval '1 day'"
        " WHERE token_key = $1",
        world.issued[expired],
    )
    ended = await world.sign_in(made.own.owner, Role.OWNER)
    # The last session made: what ends one by itself is its time.
    await world.admin.execute(
        "UPDATE access.session SET expires_at = now() - interval '1 minute' WHERE begun_at ="
        " (SELECT max(begun_at) FROM access.session)"
    )
    return [
        Asker("anonymous"),
        Asker("made-up token", {"Authorization": "Bearer tlm_" + "A" * 43}),
        Asker("expired token", {"Authorization": f"Bearer {expired}"}),
        Asker("revoked token", {"Authorization": f"Bearer {revoked}"}),
        Asker("ended session", ended.headers),
    ]


@asynccontextmanager
async def a_town(store: Store, directory: Path, **api: Any) -> AsyncIterator[Town]:
    """A town behind an API of its own, with mail and webhooks, and without limits that come in the way."""
    free = {"requests_per_minute": 10**6, "rows_per_hour": 10**9, "concurrent": 1000, "streams": 1000}
    async with MailServer() as server:
        mail = server.config(link_base="https://example.test").model_dump()
        sections = {"webhooks": {"enabled": True}, "mail": mail}
        async with api_world(store, directory, sections=sections, **free | api) as world:
            yield await town(world, server)
