"""Recordings through broker, worker and database: exactly the files' readings, once, and no serial anywhere."""

import csv
import gzip
import io
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import polars as pl

from device_sim import replay
from device_sim.link import Broker, Credential
from device_sim.mappings import find_mapping
from telemetry.config import load_config
from telemetry.demo import places
from telemetry.maintenance.scan import ScanReport, scan
from telemetry.maintenance.scan_places import FilePlace
from tests.support.shared_data import shared_data
from tests.support.system import System, system

_BACKFILL_US = 30 * 365 * 86_400 * 1_000_000  # the recordings reach back to 2010
_NOMINAL_W = 5_000.0
_NO_VALUE_W = -1e9  # the site's logger writes -1,000,000 kW where it has none: quarantined by rule 4, as `empty`
_PV_SERIALS = {"ac_power_inv_2173.csv": "INV00002173", "ac_power_inv_7539_outliers.csv": "INV00007539"}

Row = tuple[str, int, float]


def micros(text: str) -> int:
    """The times of both recordings are UTC, with an offset or without."""
    return round(datetime.fromisoformat(text if "+" in text else f"{text}+00:00").timestamp()) * 1_000_000


def site_rows(path: Path) -> Iterator[Row]:
    """(serial, ts, W) of the site's inverters; the file has kW and, in one column, serial and model."""
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            if row["meas_name"] == "ac_power" and row["meas_val_f"]:
                yield row["sensor"], micros(row["ts"]), float(row["meas_val_f"]) * 1000.0


def pv_rows(folder: Path) -> Iterator[Row]:
    """The same of two inverters whose files have the share of the nominal power."""
    for name, serial in _PV_SERIALS.items():
        for row in csv.DictReader(io.StringIO((folder / name).read_text())):
            if row["value_normalized"]:
                yield serial, micros(row["timestamp"]), float(row["value_normalized"]) * _NOMINAL_W


def distinct(gateway: str, rows: Iterator[Row]) -> pl.DataFrame:
    """The first of each (serial, instant), in a frame that the checker takes."""
    first: dict[tuple[str, int], float] = {}
    for serial, ts, power in rows:
        first.setdefault((serial, ts), power)
    return pl.DataFrame(
        [(gateway, serial, ts, power) for (serial, ts), power in first.items()],
        schema={"gateway": pl.String, "serial": pl.String, "ts": pl.Int64, "ac_power_w": pl.Float64},
        orient="row",
    )


async def play(found: System, gateway: Credential, mapping: str, files: list[Path]) -> replay.ReplayResult:
    result = await replay.run(
        replay.ReplaySettings(
            files=tuple(files),
            mapping=find_mapping(mapping),
            broker=Broker(port=found.broker.port),
            credentials=(gateway,),
        )
    )
    assert result.summary.complete
    return result


async def search(found: System, serials: set[str]) -> ScanReport:
    """Every table of every database, every file of the servers and of the broker, the worker's log."""
    await found.execute("CHECKPOINT")  # so that the files hold what memory holds
    config = load_config(found.worker.config)
    where = [*places(config, found.postgres), FilePlace("log", found.worker.log)]
    return await scan(where, sorted(serials), self_test=True)


async def test_recordings_are_stored_exactly_and_twice_changes_nothing(seed: int) -> None:
    site = shared_data("inverter-serials", "TAEFC1044741.csv.gz")
    folder = shared_data("pv-1min")
    pv = [folder / name for name in _PV_SERIALS]
    async with system(seed=seed) as found:
        one, two = await found.enrol(2, backfill_us=_BACKFILL_US)
        recorded = pl.concat([distinct(one.username, site_rows(site)), distinct(two.username, pv_rows(folder))])
        expected = recorded.filter(pl.col("ac_power_w") != _NO_VALUE_W)
        assert (recorded.height, expected.height) == (36_828, 36_825)

        for _ in range(2):
            await play(found, one, "inverter-serials", [site])
            await play(found, two, "pv-1min", pv)
            await found.drain()
            async with found.checker() as checker:
                report = await checker.compare_readings(expected)
            assert report.exact, report
            assert report.stored == expected.height
        assert await found.worker.metric("telemetry_readings_duplicate_total") >= expected.height
        (held,) = await found.fetch(
            "SELECT sum(readings)::bigint AS readings, array_agg(DISTINCT reason) AS reasons FROM readings.quarantine"
        )
        assert (held["readings"], held["reasons"]) == (recorded.height - expected.height, ["empty"])

        serials = set(expected["serial"].unique().to_list())
        serials |= {serial.partition("_")[0] for serial in serials}
        page = str(await found.worker.metrics())
        assert not [serial for serial in serials if serial in page]
        await found.worker.stop()
        await found.broker.stop()  # its queues are in its file now
        result = await search(found, serials)
        assert result.clean, [(each.place, each.canary, each.form) for each in result.findings] or result.skipped
        assert result.control
        assert {"database", "data directory", "log"} <= {each.place for each in result.searched}
