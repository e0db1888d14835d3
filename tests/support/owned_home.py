"""One home with real keys, sealed names and serials, registered as the service does it, and askers of each role."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from telemetry.access.principal import Role, Scope
from telemetry.model.requests import RequestReason
from telemetry.model.shown import shown_key
from telemetry.privacy.keys import Purpose, Sealer
from telemetry.store.administration import Administration
from telemetry.store.registration import NewGateway, NewOwner, NewSite
from tests.support import consents
from tests.support.api_world import ApiWorld, text
from tests.support.sharing import terms

INSTALLER, ADVISER = 1, 2
SERIALS = ("EXAMPLE-SERIAL-1", "EXAMPLE-SERIAL-2")
NAME = "Example Home"
"""What nobody but the owner may ever be shown."""


@dataclass
class OwnedHome:
    world: ApiWorld
    owner: int
    site: int
    devices: tuple[int, ...]
    token: str

    @property
    def site_name(self) -> str:
        return shown_key("site", self.site)

    async def ask(
        self, method: str, path: str, body: Any = None, token: str | None = None, **more: Any
    ) -> httpx.Response:
        """A request as the owner's machine, below /api/v1."""
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"} | more.pop("headers", {})
        return await self.world.client.request(method, f"/api/v1{path}", json=body, headers=headers, **more)

    async def grant(self, **changes: Any) -> dict[str, Any]:
        """A grant that was made over HTTP."""
        answer = await self.ask("POST", "/me/grants", {"recipient": "recipient-1", "terms": asked(**changes)})
        assert answer.status_code == 201, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def code(self) -> str:
        """A connection code that the owner made over HTTP."""
        answer = await self.ask("POST", "/me/connection-codes")
        assert answer.status_code == 201, answer.text
        code: str = answer.json()["code"]
        return code

    async def requested(self, text: str = "", **changes: Any) -> str:
        """The name of a request that the installer made with a code of the owner's."""
        made = await self.world.context.requests.ask(
            INSTALLER, terms(**changes), RequestReason.FAULT, to=await self.code(), text=text
        )
        return shown_key("request", made.request_key)

    async def member(self, *rights: str) -> str:
        """The token of a member of the household with these rights."""
        async with self.world.context.sharing.open() as sharing, sharing.settling() as settlement:
            key = await settlement.add_member(self.owner, "Example Member", rights)
        return await self.world.token(self.owner, Role.OWNER, member_key=key)

    async def installer(self, *scopes: Scope) -> str:
        """A token of the recipient."""
        return await self.world.token(INSTALLER, purposes=None, **({"scopes": frozenset(scopes)} if scopes else {}))


def asked(**changes: Any) -> dict[str, Any]:
    """Terms as they are sent: daily production for maintenance, nothing that has to be confirmed."""
    return {"purpose": "maintenance", "classes": ["production"], "resolution": "P1D"} | changes


def lately(**more: Any) -> dict[str, Any]:
    """A range that holds the last hours."""
    now = datetime.now(UTC)
    return {"from": text(now - timedelta(hours=6)), "to": text(now)} | more


async def owned_home(world: ApiWorld) -> OwnedHome:
    """A home with two inverters, of which nothing is granted, and two recipients."""
    await consents.add_recipient(world.admin, INSTALLER)
    await consents.add_recipient(world.admin, ADVISER)
    owner, site, devices = await registered(world)
    return OwnedHome(world, owner, site, devices, await world.token(owner, Role.OWNER))


async def registered(world: ApiWorld) -> tuple[int, int, tuple[int, ...]]:
    """A new owner with a site and two devices, by key."""
    operator = await world.store.connect("operator")
    administration = Administration(operator, world.context.blind, world.ring)
    owner = await administration.add_owner(NewOwner("Example Owner"))
    site = await administration.add_site(owner, NewSite(NAME, country="DE"))
    gateway = await administration.enrol_gateway(site, NewGateway())
    public = await world.admin.fetchval("SELECT public_key FROM consent.owner WHERE owner_key = $1", owner)
    devices = tuple(owner // 2 + n for n in (1, 2))
    for device, serial in zip(devices, SERIALS, strict=True):
        await world.admin.execute(
            "INSERT INTO consent.device (device_key, site_key, gateway_key, kind, serial_blind)"
            " VALUES ($1, $2, $3, 1, $4)",
            device,
            site,
            gateway.gateway_key,
            device.to_bytes(16, signed=True),
        )
        sealed = Sealer(public).seal(serial.encode(), purpose=Purpose.DEVICE_SERIAL, subject_key=device)
        await world.admin.execute(
            "INSERT INTO vault.entry (owner_key, subject_kind, subject_key, attribute, sealed)"
            " VALUES ($1, 'device', $2, 'serial', $3)",
            owner,
            device,
            sealed,
        )
    return owner, site, devices
