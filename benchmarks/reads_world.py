"""Homes and their windows for the stage ``reads``: generated, and loaded straight into the partitions of the series.

One recipient is granted production (inverter) and grid power (meter) of ``homes``; as many again by a fifth are
another recipient's, and a fifth granted to nobody. Rows lie in the order in which the rollup writes them: window by
window. Units are window values.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from telemetry.model.fields import FIELD_INDEX
from telemetry.store.copying import POSTGRES_EPOCH_US

QUARTER_US: Final = 900_000_000
DAY: Final = 96
FIELDS: Final = ("ac_power_w", "grid_power_w")  # of the inverter, and of the meter
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_FORMS: Final = (
    ("device_key", ">i8"),
    ("window_start", ">i8"),
    ("effective_at", ">i8"),
    ("amount", ">i8"),
    ("covered_ms", ">i8"),
    ("lowest", ">i8"),
    ("highest", ">i8"),
    ("resolution", ">i2"),
    ("grid", ">i2"),
    ("field", ">i2"),
)
_RECORD: Final = np.dtype([("fields", ">i2"), *(part for n, f in _FORMS for part in ((f"{n}_length", ">i4"), (n, f)))])
PEOPLE: Final = """
INSERT INTO consent.recipient (recipient_key, handle, kind) VALUES (1, 'benchmark', 'installer'),
    (2, 'another', 'installer');
INSERT INTO consent.owner (owner_key, region, public_key)
    SELECT n, 'default', decode(repeat('00', 1216), 'hex') FROM generate_series(1, $all) AS n;
INSERT INTO consent.site (site_key, owner_key) SELECT n, n FROM generate_series(1, $all) AS n;
INSERT INTO consent.gateway (gateway_key, site_key, name_blind, backfill_us)
    SELECT n, n, decode(lpad(to_hex(n), 32, '0'), 'hex'), 0 FROM generate_series(1, $all) AS n;
INSERT INTO consent.device (device_key, site_key, gateway_key, kind, serial_blind)
    SELECT 10 * n + d, n, n, 1 + 5 * d, decode(lpad(to_hex(10 * n + d), 32, '0'), 'hex')
    FROM generate_series(1, $all) AS n, generate_series(0, 1) AS d;
INSERT INTO consent.site_place (site_key, cell7, country, region, timezone)
    SELECT n, 608693241318998015, 'DE', 'DE-BE', 'Europe/Berlin' FROM generate_series(1, $all) AS n;
INSERT INTO consent.site_label (recipient_key, site_key, granted, label)
    SELECT 1, n, 5, 599685771850416127 FROM generate_series(1, $homes) AS n;
INSERT INTO consent.relation (owner_key, recipient_key)
    SELECT n, CASE WHEN n <= $homes THEN 1 ELSE 2 END FROM generate_series(1, $granted) AS n;
INSERT INTO consent.grant_version (grant_key, version, owner_key, recipient_key, state, purpose, classes, fields,
        resolution, serial, place, extremes, data_from, start, epoch, policy)
    SELECT n, 1, n, CASE WHEN n <= $homes THEN 1 ELSE 2 END, 'active', 'maintenance', '{production,grid}', '{}', 2,
        'pseudonym', 'cell5', false, '2020-01-01', '2020-01-01', 1, '2026-11'
    FROM generate_series(1, $granted) AS n;
"""


@dataclass(frozen=True, slots=True)
class Size:
    """``homes`` of the recipient, with windows of ``days`` up to the last quarter of an hour that is shown."""

    homes: int
    days: int

    @property
    def others(self) -> int:
        """Homes of another recipient, and as many granted to nobody."""
        return self.homes // 5


def last_quarter_us() -> int:
    """The end of the last window that is shown now."""
    return int(time.time() * 1e6 - 300_000_000) // QUARTER_US * QUARTER_US


async def add_people(admin: Any, size: Size) -> None:
    """Owners, sites, devices, places and grants."""
    numbers = {"homes": size.homes, "granted": size.homes + size.others, "all": size.homes + 2 * size.others}
    text = PEOPLE
    for name, number in numbers.items():
        text = text.replace(f"${name}", str(number))
    await admin.execute(text)


def _month(us: int) -> tuple[int, int]:
    at = datetime.fromtimestamp(us / 1e6, UTC)
    return at.year, at.month


def rows_of(devices: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> bytes:
    """These windows of all devices as rows of a binary COPY, window by window."""
    start, device = (part.ravel() for part in np.meshgrid(starts, devices, indexing="ij"))
    record = np.zeros(device.size, _RECORD)
    record["fields"] = len(_FORMS)
    for name, form in _FORMS:
        record[f"{name}_length"] = np.dtype(form).itemsize
    of_day = start % 86_400_000_000 / 86_400_000_000
    sun = np.maximum(0.0, np.sin((of_day - 0.25) * 2 * np.pi)) * (2000 + device % 3000)
    load = 200 + (device * 7919 + start // QUARTER_US * 104_729) % 900
    inverter = device % 10 == 0
    watts = np.where(inverter, sun, load - sun).astype(np.int64)
    record["device_key"], record["window_start"] = device, start - POSTGRES_EPOCH_US
    record["effective_at"] = start + QUARTER_US - POSTGRES_EPOCH_US
    record["amount"], record["covered_ms"] = watts * 900_000, 900_000
    record["lowest"], record["highest"] = watts - 50, watts + 50
    record["resolution"] = 2
    record["field"] = np.where(inverter, FIELD_INDEX[FIELDS[0]], FIELD_INDEX[FIELDS[1]])
    return record.tobytes()


def _stream(devices: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> Iterator[bytes]:
    yield _HEADER
    for first in range(0, starts.size, DAY):
        yield rows_of(devices, starts[first : first + DAY])
    yield b"\xff\xff"


async def load(admin: Any, size: Size) -> int:
    """The windows of all homes (others' of this month and the last), indexes after; how many there are."""
    until = last_quarter_us()
    starts = np.arange(until - size.days * DAY * QUARTER_US, until, QUARTER_US)
    months = sorted({_month(int(us)) for us in starts[:: DAY // 2]} | {_month(int(starts[-1]))})
    rows = 0
    for year, month in months:
        first = datetime(year, month, 1, tzinfo=UTC)
        after = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        inside = starts[(starts >= first.timestamp() * 1e6) & (starts < after.timestamp() * 1e6)]
        homes = np.arange(1, size.homes + (2 * size.others if (year, month) in months[-2:] else 0) + 1)
        devices = np.concatenate([10 * homes, 10 * homes + 1])
        rows += devices.size * inside.size
        name = f"series_{year}{month:02}"
        async with admin.transaction():
            await admin.execute("SET LOCAL maintenance_work_mem = '512MB'")
            await admin.execute("SET LOCAL ROLE telemetry_owner")
            await admin.execute(f"CREATE TABLE readings.{name} (LIKE readings.series INCLUDING ALL EXCLUDING INDEXES)")
            await admin.execute("RESET ROLE")
            await admin.copy_to_table(
                name,
                schema_name="readings",
                columns=[column for column, _ in _FORMS],
                source=_async(_stream(devices, inside)),
                format="binary",
            )
            await admin.execute(
                f"ALTER TABLE readings.{name} ADD PRIMARY KEY"
                " (device_key, window_start, resolution, grid, field, effective_at)"
            )
            await admin.execute("SET LOCAL ROLE telemetry_owner")
            await admin.execute(
                f"ALTER TABLE readings.series ATTACH PARTITION readings.{name}"
                f" FOR VALUES FROM ('{first}') TO ('{after}')"
            )
    return rows


async def add_windows(admin: Any, size: Size, start_us: int) -> None:
    """A newer version of one window of all homes, as the pass after it would write one."""
    homes = np.arange(1, size.homes + 1)
    rows = rows_of(np.concatenate([10 * homes, 10 * homes + 1]), np.array([start_us]))
    record = np.frombuffer(rows, _RECORD).copy()
    record["effective_at"] += 1
    columns = [column for column, _ in _FORMS]
    parts = iter([_HEADER, record.tobytes(), b"\xff\xff"])
    await admin.copy_to_table("series", schema_name="readings", columns=columns, source=_async(parts), format="binary")


async def _async(parts: Iterator[bytes]) -> Any:
    for part in parts:
        yield part
        await asyncio.sleep(0)
