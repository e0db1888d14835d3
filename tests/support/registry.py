"""A migrated PostgreSQL with keys, and the registry opened as each role, for tests."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.model.fields import DeviceKind
from telemetry.model.identity import Enrolment, NewDevice, new_key
from telemetry.privacy.keys import BlindIndex, Purpose, Sealer
from telemetry.store.administration import Administration
from telemetry.store.connection import Connect, connector
from telemetry.store.keks import KeystoreKeks
from telemetry.store.keyring import KeyRing
from telemetry.store.keystore import BLIND_INDEX, FileKeystore, role_password
from telemetry.store.migrate import ROLES, migrate
from telemetry.store.registration import NewGateway, NewOwner, NewSite
from telemetry.store.registry import PostgresRegistryStore


@dataclass
class Home:
    """An owner, a site and a gateway, by key."""

    owner_key: int
    site_key: int
    gateway_key: int
    gateway_name: str


@dataclass
class RegistryWorld:
    postgres: EmbeddedPostgres
    keystore: FileKeystore
    blind: BlindIndex
    administration: Administration
    ring: KeyRing
    store: Any
    ingest: Any
    stack: AsyncExitStack

    async def connect(self, role: str, database: str = "telemetry") -> Any:
        return await self.connector(role, database)()

    def connector(self, role: str, database: str = "telemetry") -> Connect:
        return connector(self.postgres.dsn(database, role, role_password(self.keystore, role)))

    def worker(self) -> PostgresRegistryStore:
        """The store of another ingest process."""
        store = PostgresRegistryStore(self.connector("telemetry_ingest"))
        self.stack.push_async_callback(store.close)
        return store

    async def admin(self, database: str = "telemetry") -> Any:
        return await asyncpg.connect(**self.postgres.connect_kwargs(database))

    async def home(self, *, device_limit: int = 256, enrolment: Enrolment = Enrolment.AUTO, name: str = "") -> Home:
        owner_key = await self.administration.add_owner(NewOwner("Example Owner"))
        site_key = await self.administration.add_site(owner_key, NewSite("Example Home"))
        gateway = await self.administration.enrol_gateway(
            site_key, NewGateway(name, enrolment=enrolment, device_limit=device_limit)
        )
        return Home(owner_key, site_key, gateway.gateway_key, gateway.name)

    async def device(self, home: Home, serial: str, kind: DeviceKind = DeviceKind.INVERTER) -> NewDevice:
        """A device as ingest proposes it: the serial sealed to the owner's public key."""
        public = await self.store.owner_public_keys([home.owner_key])
        return new_device(self.blind, Sealer(public[home.owner_key]), home, serial, kind)


def new_device(
    blind: BlindIndex, sealer: Sealer, home: Home, serial: str, kind: DeviceKind = DeviceKind.INVERTER
) -> NewDevice:
    device_key = new_key()
    return NewDevice(
        device_key=device_key,
        site_key=home.site_key,
        gateway_key=home.gateway_key,
        kind=kind,
        serial_blind=blind.serial(serial),
        sealed_serial=sealer.seal(serial.encode(), purpose=Purpose.DEVICE_SERIAL, subject_key=device_key),
    )


@asynccontextmanager
async def registry_world(postgres: EmbeddedPostgres, keys: Path) -> AsyncIterator[RegistryWorld]:
    keystore = FileKeystore(keys)
    keystore.create()
    passwords = {role: role_password(keystore, role) for role in ROLES}
    await migrate(lambda database: asyncpg.connect(**postgres.connect_kwargs(database)), passwords)
    blind = BlindIndex(keystore.secret(BLIND_INDEX))
    async with AsyncExitStack() as stack:

        async def opened(role: str, database: str) -> Any:
            connection = await asyncpg.connect(**postgres.connect_kwargs(database, role, passwords[role]))
            stack.push_async_callback(connection.close)
            return connection

        ring = KeyRing(await opened("telemetry_keys", "keys"), KeystoreKeks(keystore))
        administration = Administration(await opened("telemetry_operator", "telemetry"), blind, ring)
        ingest = await opened("telemetry_ingest", "telemetry")
        world = RegistryWorld(postgres, keystore, blind, administration, ring, None, ingest, stack)
        world.store = world.worker()
        yield world


def random_serial() -> str:
    """A made-up serial that no other test uses."""
    return f"INV{secrets.randbelow(10**8):08d}{secrets.token_hex(4)}"
