"""What devices made, read from the series for the judgement of production: one field of each, if it is fine enough."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from telemetry.alerts.book import Subject
from telemetry.alerts.production import SPAN_DAYS, Sums
from telemetry.model.fields import FIELD_INDEX, DeviceKind
from telemetry.model.sharing import RESOLUTIONS, Resolution
from telemetry.privacy.resolution import coarsen
from telemetry.store.series import newest, read_stored

# What an inverter made, by how surely it is that and nothing else (a hybrid's AC side holds the battery too).
FIELDS: Final = ("energy_total_wh", "dc_power_w", "ac_power_w")
_LIMIT: Final = "power_limit_pct"
_HELD_BACK_PCT: Final = 98.0  # below it somebody told the device to make less
_WHOLE: Final = 0.9
_DAY_US: Final = 86_400_000_000
_FINE: Final = (Resolution.PT1M.rank, Resolution.PT15M.rank, Resolution.PT30M.rank, Resolution.PT1H.rank)
OPEN_DAYS: Final = 60  # so long after its begin what is open is taken for usual


def judged(subject: Subject) -> bool:
    """Whether the device's production can be judged: an inverter of which a suitable field is kept hourly or finer."""
    return subject.kind == DeviceKind.INVERTER and any(subject.rank(name) in _FINE for name in FIELDS)


async def read_sums(connection: Any, devices: Sequence[int], now_us: int, *, more_days: int = 0) -> dict[int, Sums]:
    """Device → what it made since ``SPAN_DAYS`` ago, in windows that are known whole."""
    from_us = now_us - (SPAN_DAYS + more_days) * _DAY_US
    rows = await read_stored(
        connection,
        devices=devices,
        fields=[*FIELDS, _LIMIT],
        from_us=from_us,
        to_us=now_us,
        resolutions=_FINE,
    )
    return await asyncio.to_thread(_of_devices, rows)


def _of_devices(rows: pl.DataFrame) -> dict[int, Sums]:
    latest = newest(rows).filter(pl.col("covered_ms") > 0).drop("slots")
    minutely = pl.col("resolution") == Resolution.PT1M.rank
    latest = pl.concat([latest.filter(~minutely), coarsen(latest.filter(minutely), Resolution.PT15M)])
    found = {}
    for (device,), part in latest.partition_by("device_key", as_dict=True).items():
        if (sums := _sums(part)) is not None:
            found[int(device)] = sums
    return found


def _sums(rows: pl.DataFrame) -> Sums | None:
    """Of the first field that has windows of most of the days, at the resolution that most windows have."""
    limit = FIELD_INDEX[_LIMIT]
    mean = pl.col("amount") / pl.col("covered_ms") * 0.1  # in steps of a tenth
    held = rows.filter((pl.col("field") == limit) & (mean < _HELD_BACK_PCT))["window_start"]
    for name in FIELDS:
        part = rows.filter((pl.col("field") == FIELD_INDEX[name]) & ~pl.col("window_start").is_in(held.implode()))
        if part.is_empty():
            continue
        rank = part["resolution"].mode().min()
        minutes = RESOLUTIONS[int(rank)].minutes or 60  # type: ignore[arg-type]
        length_ms = minutes * 60_000
        whole = part.filter((pl.col("resolution") == rank) & (pl.col("covered_ms") >= _WHOLE * length_ms))
        if whole.height:
            ordered = whole.sort("window_start")
            scale = length_ms / ordered["covered_ms"].to_numpy()
            made = np.maximum(ordered["amount"].to_numpy().astype(np.float64) * scale, 0.0)
            return Sums(ordered["window_start"].to_numpy(), made, minutes)
    return None
