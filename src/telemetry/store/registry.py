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
from telemetry.model.fields import DeviceKind
from telemetry.model.identity import BLIND_BYTES, DEVICE_SCHEMA, Device, Enrolled, Enrolment, Gateway, NewDevice
from telemetry.privacy.plan import Plan
from telemetry.store.connection import Connect
from telemetry.store.failures import reported
from telemetry.store.sql import queries

_ENROL_AT_ONCE: Final = 5_000  # rows of one transaction: a sealed serial has 1.2 kB, and locks are held meanwhile

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
        stream = bytearray()

        async def receive(data: bytes) -> None:
            stream.extend(data)

        async with (
            self._connected("loading the registry") as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            version = await connection.fetchval(self._sql["version"])
            gateways = await connection.fetch(self._sql["gateways"])
            await connection.copy_from_query(self._sql["copy_devices"], output=receive, format="binary")
        return [_gateway(row) for row in gateways], devices_from_copy(stream), Plan.default(version)

    async def enrol(self, devices: Sequence[NewDevice]) -> Enrolled:
        """Insert devices and their sealed serials; where (site, blind index) exists already, the existing one.

        Safe to call by several workers at once, and again after StoreUnavailable.
        """
        found: list[Device] = []
        refused = elsewhere = 0
        for start in range(0, len(devices), _ENROL_AT_ONCE):
            part = await self._enrol(devices[start : start + _ENROL_AT_ONCE])
            found.extend(part.devices)
            refused += part.refused
            elsewhere += part.elsewhere
        return Enrolled(found, refused, elsewhere)

    async def owner_public_keys(self, owner_keys: Sequence[int]) -> Mapping[int, bytes]:
        """The public key of each owner, to seal to; owners who are unknown or erased are left out."""
        async with self._connected("reading public keys") as connection:
            rows = await connection.fetch(self._sql["public_keys"], list(owner_keys))
        return {row["owner_key"]: row["public_key"] for row in rows}

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
            found = await self._find(connection, wanted)
            absent = [device for place, device in wanted.items() if place not in found]
            if absent:
                added = await self._insert(connection, absent)
                elsewhere = await connection.fetchval(self._sql["count_elsewhere"], added)
                found |= await self._find(connection, {(one.site_key, one.serial_blind) for one in absent})
        return Enrolled(list(found.values()), refused=len(wanted) - len(found), elsewhere=elsewhere)

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
                plan_class = rooms[place]["device_plan_class"]
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
    )


def _device(row: Mapping[str, Any]) -> Device:
    return Device(
        device_key=row["device_key"],
        site_key=row["site_key"],
        gateway_key=row["gateway_key"],
        kind=DeviceKind(row["kind"]),
        serial_blind=row["serial_blind"],
        plan_class=row["plan_class"],
    )
