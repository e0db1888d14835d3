"""The registry as ingest sees it: everything by surrogate key, serials and names only as blind indices.

The role behind it reads `consent`, adds devices, and seals their serials into a vault that it cannot read.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import numpy as np
import numpy.typing as npt
import polars as pl

from telemetry.errors import StoreError
from telemetry.model.batch import Withheld
from telemetry.model.fields import FIELD_NAMES, DeviceKind
from telemetry.model.identity import (
    BLIND_BYTES,
    DEVICE_SCHEMA,
    FROM_EVER_US,
    ChangeKind,
    Device,
    Enrolled,
    Enrolment,
    Gateway,
    NewDevice,
    device_frame,
)
from telemetry.ports import RegistryChanges
from telemetry.privacy.plan import DATA_CLASSES, Plan, PlanClass
from telemetry.store.connection import Connect
from telemetry.store.failures import reported
from telemetry.store.sql import queries

_ENROL_AT_ONCE: Final = 5_000  # rows of one transaction: a sealed serial has 1.2 kB, and locks are held meanwhile
_LOAD_INSTEAD: Final = 20_000  # changed keys: loading everything is quicker than so many by index

# Binary COPY (PostgreSQL documentation, COPY, "Binary Format"): header, one record per row, a trailer of -1.
_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TRAILER: Final = b"\xff\xff"
_COPY_FIELDS: Final = (
    ("device_key", ">i8", 8),
    ("site_key", ">i8", 8),
    ("gateway_key", ">i8", 8),
    ("kind", ">i2", 2),
    ("serial_blind", f"({BLIND_BYTES},)u1", BLIND_BYTES),
    ("plan_class", ">i4", 4),
)
_COPY_RECORD: Final = np.dtype(
    [("fields", ">i2")] + [part for name, form, _ in _COPY_FIELDS for part in ((f"{name}_length", ">i4"), (name, form))]
)


class PostgresRegistryStore:
    """A ports.RegistryStore over one connection of the role ``telemetry_ingest``. One event loop.

    Connects when first used, and again after the connection was lost; callers wait for one another.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()
        self._sql = queries("registry")

    async def close(self) -> None:
        """Disconnect, once nobody uses the connection any more."""
        async with self._turn:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None

    async def load(self) -> tuple[Sequence[Gateway], pl.DataFrame, Plan]:
        """All gateways, all devices (DEVICE_SCHEMA) and the current plan, of one snapshot."""
        async with self._snapshot("loading the registry") as connection:
            version = await connection.fetchval(self._sql["version"])
            gateways = await connection.fetch(self._sql["gateways"])
            devices = await self._devices(connection)
            classes = await self._classes(connection, 0)
        return [_gateway(row) for row in gateways], devices, Plan.of(version, classes)

    async def changes(self, plan: Plan) -> RegistryChanges | None:
        """What is new since ``plan``, of one snapshot; None where that cannot be told and all must be loaded."""
        async with self._snapshot("reading changes of the registry") as connection:
            state = await connection.fetchrow(self._sql["state"])
            if plan.version < state["feed_from"]:
                return None
            keys: dict[ChangeKind, list[int]] = {kind: [] for kind in ChangeKind}
            changed = await connection.fetch(self._sql["changes"], plan.version, _LOAD_INSTEAD)
            for row in changed:
                keys[ChangeKind(row["kind"])].append(row["key"])
            if keys[ChangeKind.ALL] or len(changed) == _LOAD_INSTEAD:
                return None
            sites = await self._sites(connection, keys)
            wanted = keys[ChangeKind.GATEWAY]
            gateways = await connection.fetch(self._sql["gateways_of"], wanted, sites)
            devices = await connection.fetch(self._sql["devices_of"], sites) if sites else ()
            return RegistryChanges(
                plan=plan.extended(state["version"], await self._classes(connection, plan.classes)),
                gateways=[_gateway(row) for row in gateways],
                devices=device_frame([_device(row) for row in devices]),
                sites=sites,
                gone_gateways=sorted(set(wanted) - {row["gateway_key"] for row in gateways}),
            )

    async def _sites(self, connection: asyncpg.Connection, keys: Mapping[ChangeKind, list[int]]) -> list[int]:
        """The sites that changed, by themselves or with their owner."""
        sites = set(keys[ChangeKind.SITE])
        if owners := keys[ChangeKind.OWNER]:
            sites |= {row["site_key"] for row in await connection.fetch(self._sql["sites_of"], owners)}
        return sorted(sites)

    async def _devices(self, connection: asyncpg.Connection) -> pl.DataFrame:
        stream = bytearray()

        async def receive(data: bytes) -> None:
            stream.extend(data)

        await connection.copy_from_query(self._sql["copy_devices"], output=receive, format="binary")
        return devices_from_copy(stream)

    async def _classes(self, connection: asyncpg.Connection, first: int) -> dict[int, PlanClass]:
        """Plan classes from number ``first`` on; those before never change."""
        rows = await connection.fetch(self._sql["classes"], first)
        return {row["plan_class"]: plan_class_of(row) for row in rows}

    async def enrol(self, devices: Sequence[NewDevice]) -> Enrolled:
        """Insert devices and their sealed serials; where (site, blind index) exists already, the existing one.

        Safe to call by several workers at once, and again after StoreUnavailable.
        """
        parts = [
            await self._enrol(devices[start : start + _ENROL_AT_ONCE])
            for start in range(0, len(devices), _ENROL_AT_ONCE)
        ]
        if len({part.version for part in parts}) > 1:  # the plan changed in between: all of one version, or none
            return await self.enrol(devices)
        return Enrolled(
            devices=[device for part in parts for device in part.devices],
            refused=sum(part.refused for part in parts),
            elsewhere=sum(part.elsewhere for part in parts),
            version=parts[0].version if parts else 0,
        )

    async def owner_public_keys(self, owner_keys: Sequence[int]) -> Mapping[int, bytes]:
        """The public key of each owner, to seal to; owners who are unknown or erased are left out."""
        async with self._connected("reading public keys") as connection:
            rows = await connection.fetch(self._sql["public_keys"], list(owner_keys))
        return {row["owner_key"]: row["public_key"] for row in rows}

    @asynccontextmanager
    async def _snapshot(self, what: str) -> AsyncIterator[asyncpg.Connection]:
        async with (
            self._connected(what) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    @asynccontextmanager
    async def _connected(self, what: str) -> AsyncIterator[asyncpg.Connection]:
        async with self._turn:
            with reported(what):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect()
                connection = self._connection
                try:
                    yield connection
                except BaseException:
                    # Its state is unknown (a statement may still run): the next caller gets a new one.
                    self._connection = None
                    connection.terminate()
                    raise

    async def _enrol(self, devices: Sequence[NewDevice]) -> Enrolled:
        wanted = {(device.site_key, device.serial_blind): device for device in devices}
        added: list[int] = []
        elsewhere = 0
        async with self._connected("enrolling devices") as connection, connection.transaction():
            # One statement after another: each must see what others committed while the first one waited.
            await connection.execute(self._sql["lock_enrolment"], [one.gateway_key for one in devices])
            # Whoever changes classes waits for this lock: they cannot be newer than this version when it is read.
            version = await connection.fetchval(self._sql["version"])
            found = await self._find(connection, wanted)
            absent = [device for place, device in wanted.items() if place not in found]
            if absent:
                added = await self._insert(connection, absent)
                elsewhere = await connection.fetchval(self._sql["count_elsewhere"], added)
                found |= await self._find(connection, {(one.site_key, one.serial_blind) for one in absent})
        return Enrolled(list(found.values()), len(wanted) - len(found), elsewhere, version)

    async def _find(
        self, connection: asyncpg.Connection, places: Collection[tuple[int, bytes]]
    ) -> dict[tuple[int, bytes], Device]:
        sites, blinds = [site for site, _ in places], [blind for _, blind in places]
        rows = await connection.fetch(self._sql["find_devices"], sites, blinds)
        return {(row["site_key"], row["serial_blind"]): _device(row) for row in rows}

    async def _insert(self, connection: asyncpg.Connection, absent: Sequence[NewDevice]) -> list[int]:
        """Add as many as each gateway has room for, and seal the serials of those. The device keys added."""
        rows = await connection.fetch(self._sql["room"], list({one.gateway_key for one in absent}))
        rooms = {(row["gateway_key"], row["site_key"]): row for row in rows}
        left = {place: row["room"] for place, row in rooms.items()}
        columns: list[tuple[int, int, int, int, bytes, int]] = []
        for one in absent:
            place = (one.gateway_key, one.site_key)
            if left.get(place, 0) > 0:
                left[place] -= 1
                plan_class = rooms[place]["plan_classes"][one.kind - 1]
                columns.append(
                    (one.device_key, one.site_key, one.gateway_key, int(one.kind), one.serial_blind, plan_class)
                )
        if not columns:
            return []
        inserted = await connection.fetch(
            self._sql["insert_devices"], *(list(column) for column in zip(*columns, strict=True))
        )
        added = [row["device_key"] for row in inserted]
        new = set(added)
        sealed = [
            (rooms[one.gateway_key, one.site_key]["owner_key"], one.device_key, one.sealed_serial)
            for one in absent
            if one.device_key in new
        ]
        if sealed:
            await connection.execute(self._sql["seal_serials"], *(list(column) for column in zip(*sealed, strict=True)))
        return added


def devices_from_copy(stream: bytes | bytearray) -> pl.DataFrame:
    """The devices (DEVICE_SCHEMA) in the binary COPY stream of the query `copy_devices`.

    Raises:
        StoreError: the stream does not hold records of the width expected.

    """
    if stream[: len(_COPY_HEADER)] != _COPY_HEADER or stream[-2:] != _COPY_TRAILER:
        raise StoreError("the device table came in another form than expected", remedy="`telemetry migrate`")
    body = memoryview(stream)[len(_COPY_HEADER) : -2]
    if len(body) % _COPY_RECORD.itemsize:
        raise StoreError("a device's row has another width than expected", remedy="`telemetry migrate`")
    records: npt.NDArray[np.void] = np.frombuffer(body, dtype=_COPY_RECORD)
    for name, _, length in _COPY_FIELDS:
        if not (records[f"{name}_length"] == length).all():
            raise StoreError(f"a device's {name} has another width than expected", remedy="`telemetry migrate`")
    columns: dict[str, npt.NDArray[Any]] = {
        "device_key": records["device_key"].astype(np.int64),
        "site_key": records["site_key"].astype(np.int64),
        "gateway_key": records["gateway_key"].astype(np.int64),
        "kind": records["kind"].astype(np.uint8),
        "serial_blind": np.ascontiguousarray(records["serial_blind"]),
        "plan_class": records["plan_class"].astype(np.int32),
    }
    return pl.DataFrame([pl.Series(name, columns[name], dtype=dtype) for name, dtype in DEVICE_SCHEMA.items()])


def _gateway(row: Mapping[str, Any]) -> Gateway:
    return Gateway(
        gateway_key=row["gateway_key"],
        site_key=row["site_key"],
        owner_key=row["owner_key"],
        name_blind=row["name_blind"],
        enrolment=Enrolment(row["enrolment"]),
        device_limit=row["device_limit"],
        backfill_us=row["backfill_us"],
        revoked=row["revoked"],
        erased=row["erased"],
        tenure_from_us=FROM_EVER_US if row["tenure_from_us"] is None else row["tenure_from_us"],
    )


def plan_class_of(row: Mapping[str, Any]) -> PlanClass:
    """A plan class from its row.

    Raises:
        StoreError: it was compiled for another catalogue.

    """
    if len(row["keep"]) != len(FIELD_NAMES) or len(row["retention_days"]) != len(DATA_CLASSES):
        raise StoreError("a plan class was compiled for another catalogue", remedy="`telemetry migrate`")
    withhold = row["withhold"] and Withheld(row["withhold"])
    return PlanClass(row["keep"], row["kept_resolution"], tuple(row["retention_days"]), withhold)


def _device(row: Mapping[str, Any]) -> Device:
    return Device(
        device_key=row["device_key"],
        site_key=row["site_key"],
        gateway_key=row["gateway_key"],
        kind=DeviceKind(row["kind"]),
        serial_blind=row["serial_blind"],
        plan_class=row["plan_class"],
    )
