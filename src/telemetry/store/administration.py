"""What an operator does with owners, sites, gateways and devices. Every change leaves a row in audit.event.

Names and serials go in sealed and come out only by ``reveal``, which needs the owner's key and is recorded before
the first value is returned.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from telemetry.errors import RegistryError
from telemetry.model.identity import ChangeKind, Enrolment
from telemetry.privacy.keys import BlindIndex, Opener, Purpose, Sealer
from telemetry.store.failures import reported
from telemetry.store.keyring import KeyRing
from telemetry.store.registration import (
    IssuedGateway,
    NewGateway,
    NewOwner,
    NewSite,
    OwnerRef,
    Registration,
    check_limits,
    new_credential,
)
from telemetry.store.sql import queries

Row = dict[str, Any]


class Administration:
    """The registry for the role ``telemetry_operator``. One event loop, one caller at a time.

    ``ring`` is needed to add owners and to reveal; without it both are refused.
    """

    def __init__(self, connection: asyncpg.Connection, blind: BlindIndex, ring: KeyRing | None = None) -> None:
        self._connection = connection
        self._blind = blind
        self._ring = ring
        self._sql = queries("administration")

    async def add_owner(self, new: NewOwner) -> int:
        """The new owner's key."""
        async with self.registering() as registration:
            return registration.owner(new).owner_key

    async def add_site(self, owner_key: int, new: NewSite) -> int:
        """The new site's key. Raises RegistryError when the owner is unknown or erased."""
        async with self.registering() as registration:
            owner = await self._owner("owner_of_owner", owner_key, "owner")
            return registration.site(owner, new)

    async def enrol_gateway(self, site_key: int, new: NewGateway) -> IssuedGateway:
        """The new gateway with its credential. Raises RegistryError for an unknown site or a name given before."""
        async with self.registering() as registration:
            owner = await self._owner("owner_of_site", site_key, "site")
            return registration.gateway(owner, site_key, new)

    async def revoke_gateway(self, gateway_key: int) -> None:
        """From now on the gateway's messages are quarantined. Its name is not given again."""
        async with self.registering() as registration:
            if await self._connection.fetchval(self._sql["revoke_gateway"], gateway_key) is None:
                raise RegistryError("the gateway is unknown or revoked already", remedy="`telemetry gateway list`")
            registration.events.append(("gateway.revoke", None, gateway_key, 1))
            registration.changes.append((ChangeKind.GATEWAY, gateway_key))

    async def set_gateway(
        self,
        gateway_key: int,
        *,
        enrolment: Enrolment | None = None,
        device_limit: int | None = None,
        backfill_us: int | None = None,
    ) -> None:
        """Change what is given; the rest stays. Devices enrolled beyond a lower limit stay too."""
        check_limits(device_limit, backfill_us)
        async with self.registering() as registration:
            arguments = (gateway_key, enrolment and enrolment.value, device_limit, backfill_us)
            if await self._connection.fetchval(self._sql["set_gateway"], *arguments) is None:
                raise RegistryError("the gateway is unknown", remedy="`telemetry gateway list`")
            registration.events.append(("gateway.set", None, gateway_key, 1))
            registration.changes.append((ChangeKind.GATEWAY, gateway_key))

    async def renew_credential(self, gateway_key: int) -> str:
        """A new credential, in place of one that was lost or has leaked; the broker is told by the caller."""
        async with self.registering() as registration:
            if not await self._connection.fetchval(self._sql["is_enrolled"], gateway_key):
                raise RegistryError("the gateway is unknown or revoked", remedy="`telemetry gateway list`")
            registration.events.append(("gateway.renew", None, gateway_key, 1))
        return new_credential()

    async def gateway_named(self, name: str) -> int:
        """The key of the gateway with this name, revoked ones included. Raises RegistryError when unknown."""
        with reported("looking up a gateway"):
            key: int | None = await self._connection.fetchval(self._sql["gateway_by_name"], self._blind.gateway(name))
        if key is None:
            raise RegistryError("no gateway has this name", remedy="`telemetry gateway list --reveal`")
        return key

    async def known_names(self, names: Sequence[str]) -> set[str]:
        """Those of ``names`` that a gateway has or had."""
        by_blind = {self._blind.gateway(name): name for name in names}
        with reported("looking up gateways"):
            rows = await self._connection.fetch(self._sql["known_names"], list(by_blind))
        return {by_blind[row["name_blind"]] for row in rows}

    async def owners(self) -> list[Row]:
        """owner_key, region, created_at, erased, sites."""
        return await self._rows("owners")

    async def sites(self, owner_key: int | None = None) -> list[Row]:
        """site_key, owner_key, created_at, sold, gateways, devices."""
        return await self._rows("sites", owner_key)

    async def gateways(self, site_key: int | None = None) -> list[Row]:
        """gateway_key, site_key, owner_key, enrolment, device_limit, backfill_us,
        enrolled_at, revoked, devices.
        """
        return await self._rows("gateways", site_key)

    async def devices(
        self, *, site_key: int | None = None, gateway_key: int | None = None, limit: int | None = None
    ) -> list[Row]:
        """device_key, site_key, gateway_key, owner_key, kind, enrolled_at, retired,
        elsewhere: another site has its serial.
        """
        return await self._rows("devices", site_key, gateway_key, limit)

    async def reveal(self, purpose: Purpose, subjects: Sequence[tuple[int, int]]) -> Mapping[int, str]:
        """Open one attribute of (owner_key, subject_key) pairs: subject_key → value, where one is stored.

        Raises:
            RegistryError: an owner's key is gone.
            UnsealError: an entry was changed or moved, or the key-encryption key is another.

        """
        ring = self._needed_ring()
        openers: dict[int, Opener] = {}
        counts: dict[int, int] = {}
        for owner_key, _ in subjects:
            counts[owner_key] = counts.get(owner_key, 0) + 1
        for owner_key in counts:
            openers[owner_key] = await ring.opener(owner_key)
        kind, attribute = purpose.value.split(".")
        owners, keys = [owner for owner, _ in subjects], [key for _, key in subjects]
        with reported("reading the vault"):
            rows = await self._connection.fetch(self._sql["entries"], kind, attribute, owners, keys)
            # Committed before anything is shown: a look that left no trace would be no use to the owner.
            await self._record([(f"{kind}.reveal", owner, None, count) for owner, count in counts.items()])
        opened = {}
        for row in rows:
            value = openers[row["owner_key"]].open(row["sealed"], purpose=purpose, subject_key=row["subject_key"])
            opened[row["subject_key"]] = value.decode()
        return opened

    @asynccontextmanager
    async def registering(self) -> AsyncIterator[Registration]:
        """One transaction: what the registration holds at the end is written, with its audit.

        What workers must know (``registration.changes``) gets a new version; the rest does not disturb them.

        ``write`` may be called in between to write what has come together so far.
        """
        registration = Registration(self._blind)
        with reported("changing the registry"):
            async with self._connection.transaction():
                yield registration
                await self.write(registration)
                if registration.changes:
                    await self._connection.fetchval(self._sql["bump_version"], *_columns(registration.changes))

    async def write(self, registration: Registration) -> None:
        """Write and clear the registration's rows, within the transaction of ``registering``.

        Owners' keys are committed first, in their own database: a wrapped key without an owner is harmless, an
        owner without a key is lost.
        """
        if registration.secrets:
            await self._needed_ring().add(registration.secrets)
        sql, execute = self._sql, self._connection.execute
        for name, rows in (
            ("add_owners", registration.owners),
            ("add_sites", registration.sites),
            ("add_places", registration.places),
            ("add_entries", registration.entries),
        ):
            if rows:
                await execute(sql[name], *_columns(rows))
        if registration.gateways:
            added = await self._connection.fetch(sql["add_gateways"], *_columns(registration.gateways))
            if len(added) != len(registration.gateways):
                raise RegistryError(
                    "a gateway of this name exists or existed", remedy="choose another, or leave it out"
                )
        await self._record(registration.events)
        registration.clear()

    async def _record(self, events: Sequence[tuple[str, int | None, int | None, int]]) -> None:
        if events:
            await self._connection.execute(self._sql["record"], *_columns(events))

    async def _owner(self, statement: str, key: int, what: str) -> OwnerRef:
        row = await self._connection.fetchrow(self._sql[statement], key)
        if row is None:
            raise RegistryError(f"the {what} is unknown or erased", remedy=f"`telemetry {what} list`")
        return OwnerRef(row["owner_key"], Sealer(row["public_key"]))

    async def _rows(self, statement: str, *arguments: object) -> list[Row]:
        with reported("reading the registry"):
            return [dict(row) for row in await self._connection.fetch(self._sql[statement], *arguments)]

    def _needed_ring(self) -> KeyRing:
        if self._ring is None:
            raise RegistryError(
                "this needs the owners' keys",
                remedy="run it where the keystore holds kek and telemetry_keys' password",
            )
        return self._ring


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
