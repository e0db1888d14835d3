"""Replays publish exactly what the recordings hold; compared with a plain reading of the same files."""

import asyncio
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from device_sim import ledger
from device_sim.link import Broker, Credential
from device_sim.mappings import find_mapping
from device_sim.replay import ReplaySettings, run
from tests.support.plain_broker import PlainBroker
from tests.support.shared_data import shared_data


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[PlainBroker]:
    made = PlainBroker(tmp_path)
    yield made
    made.kill()


def settings(broker: PlainBroker, tmp_path: Path, mapping: str, *files: Path, **more: object) -> ReplaySettings:
    return ReplaySettings(
        files=files,
        mapping=find_mapping(mapping),
        broker=Broker(port=broker.port),
        ledger=tmp_path / "run.jsonl",
        **more,  # type: ignore[arg-type]
    )


async def test_inverters_with_serials(broker: PlainBroker, tmp_path: Path) -> None:
    path = shared_data("inverter-serials", "TAEFC1044741.csv.gz")
    file = pl.read_csv(path).unique(["sensor", "ts"]).select(
        pl.col("sensor").alias("serial"),
        pl.col("ts").str.to_datetime("%Y-%m-%d %H:%M:%S", time_zone="UTC").dt.epoch("us"),
        (pl.col("meas_val_f") * 1000.0).alias("ac_power_w"),
    ).sort("serial", "ts")  # fmt: skip

    result = await run(settings(broker, tmp_path, "inverter-serials", path))

    assert result.summary.complete
    assert result.expected.distinct == file.height == 34_582
    assert result.summary.figures.published == result.expected.readings
    sent = ledger.read(tmp_path / "run.jsonl").distinct()
    assert sent["acknowledged"].all()
    assert sent.select("serial", "ts", "ac_power_w").equals(file)
    assert set(sent["gateway"]) == {"gw-inverters"}


async def test_normalised_power_without_the_rows_that_hold_no_value(broker: PlainBroker, tmp_path: Path) -> None:
    paths = [shared_data("pv-1min", f"ac_power_inv_{name}.csv") for name in ("2173", "7539_outliers")]
    file = pl.concat(
        pl.read_csv(path)
        .drop_nulls("value_normalized")
        .select(
            pl.lit(f"INV0000{path.name[13:17]}").alias("serial"),
            pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S%:z").dt.epoch("us").alias("ts"),
            (pl.col("value_normalized") * 5000.0).alias("ac_power_w"),
        )
        for path in paths
    ).sort("serial", "ts")

    result = await run(settings(broker, tmp_path, "pv-1min", *paths, format="columns"))

    assert result.expected.without_value == 1254
    assert result.expected.distinct == result.summary.figures.acknowledged == file.height
    sent = ledger.read(tmp_path / "run.jsonl").distinct()
    assert sent.select("serial", "ts", "ac_power_w").equals(file)


async def test_decimal_commas_and_rows_without_times(broker: PlainBroker, tmp_path: Path) -> None:
    path = shared_data("openems-sim", "timedata.csv")
    lines = path.read_text().splitlines()[1:]

    result = await run(settings(broker, tmp_path, "openems-sim", path))

    assert result.summary.complete
    sent = ledger.read(tmp_path / "run.jsonl").distinct().sort("ts")
    assert sent.height == len(lines)
    assert (sent["ts"].diff().drop_nulls() == 300_000_000).all()
    for column, name in enumerate(("battery_soc_pct", "battery_power_w", "ac_power_w", "load_power_w", "grid_power_w")):
        assert sent[name].to_list() == [float(line.split(";")[column].replace(",", ".")) for line in lines]


async def test_a_home_by_the_hour(broker: PlainBroker, tmp_path: Path) -> None:
    paths = [shared_data("home-hourly", f"{name}.csv.gz") for name in ("Building_1", "charger_1_1")]
    building, charger = (pl.read_csv(path) for path in paths)

    result = await run(settings(broker, tmp_path, "home-hourly", *paths, readings_per_message=500))

    sent = ledger.read(tmp_path / "run.jsonl").distinct().sort("ts")
    load = sent.drop_nulls("load_power_w")["load_power_w"]
    assert load.to_list() == (building["non_shiftable_load"].drop_nulls() * 1000.0).to_list()
    assert sent.drop_nulls("ev_soc_pct")["ev_soc_pct"].to_list() == charger["current_soc"].drop_nulls().to_list()
    assert result.expected.distinct == sent.height


async def test_moved_in_time_and_limited_and_as_the_gateway_one_likes(broker: PlainBroker, tmp_path: Path) -> None:
    path = shared_data("pv-1min", "ac_power_inv_7539_outliers.csv")
    until = datetime(2026, 5, 1, 12, tzinfo=UTC)

    result = await run(
        settings(broker, tmp_path, "pv-1min", path, limit=100, until=until, credentials=(Credential("gw-7", "secret"),))
    )

    assert result.summary.figures.acknowledged == result.expected.distinct == 100
    sent = ledger.read(tmp_path / "run.jsonl").distinct().sort("ts")
    assert set(sent["gateway"]) == {"gw-7"}
    assert sent["ts"][-1] == until.timestamp() * 1e6
    original = pl.read_csv(path).head(100)["timestamp"].str.to_datetime("%Y-%m-%d %H:%M:%S%:z").dt.epoch("us")
    assert sent["ts"].diff().drop_nulls().to_list() == original.diff().drop_nulls().to_list()


async def test_the_command_prints_what_it_expects_and_what_became_of_it(broker: PlainBroker, tmp_path: Path) -> None:
    path = tmp_path / "day.csv"
    path.write_text("sensor,meas_name,ts,meas_val_f\n" + "INV00000042,ac_power,2026-05-01 12:00:00,1.5\n" * 2)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "device_sim", "replay", str(path), "--mapping", "inverter-serials",
        "--port", str(broker.port), "--json", "--quiet",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 60)

    printed = json.loads(output)
    assert process.returncode == 0
    assert (printed["rows"], printed["distinct"], printed["repeated"], printed["published"]) == (2, 1, 1, 2)
    assert printed["acknowledged"] == 2
