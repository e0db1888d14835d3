"""Windows of a series: what the rollup writes, and what views coarsen and show.

Everything is an integer, so that any grouping of windows gives the same bytes (rule 11). One row is one window of
one field of one device, in one version.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import polars as pl

from telemetry.model.fields import CATALOGUE, Field, FieldKind

UTC_GRID: Final = 0
SITE_GRID: Final = 1

LATENESS_US: Final = 5 * 60 * 1_000_000
HOLD_MAX_US: Final = 5 * 60 * 1_000_000
GAP_MAX_US: Final = 60 * 60 * 1_000_000

# `amount`: integral in step x ms, increment in steps, or the last value in steps (codes: as they are), by
# `aggregate_of`. `covered_ms`: the part of the window that the amount speaks for; for a last value 0 or the whole.
# `last_at`: instant of the last sample, for last values only. `lowest` and `highest`: in steps, power fields only.
# A window without any covered part has no row.
SERIES_SCHEMA: Final[Mapping[str, pl.DataType]] = {
    "device_key": pl.Int64(),
    "field": pl.UInt8(),  # index into FIELD_NAMES
    "resolution": pl.UInt8(),  # Resolution.rank
    "grid": pl.UInt8(),  # UTC_GRID or SITE_GRID
    "window_start": pl.Int64(),  # µs since 1970 UTC
    "effective_at": pl.Int64(),  # µs; see docs/decisions/0030-sharing-frame.md
    "amount": pl.Int64(),
    "covered_ms": pl.Int64(),
    "last_at": pl.Int64(),  # µs, nullable
    "lowest": pl.Int64(),  # nullable
    "highest": pl.Int64(),  # nullable
}


class Aggregate(StrEnum):
    """What a window holds of a field."""

    INTEGRAL = "integral"  # state: time-weighted (rule 12)
    INCREMENT = "increment"  # counter (rule 13)
    LAST = "last"  # status and state of charge (rule 14)


def aggregate_of(field: Field) -> Aggregate:
    """How a field is aggregated."""
    if field.kind is FieldKind.STATUS or field.name.endswith("_soc_pct"):
        return Aggregate.LAST
    return Aggregate.INCREMENT if field.kind is FieldKind.COUNTER else Aggregate.INTEGRAL


def has_extremes(field: Field) -> bool:
    """Whether minimum and maximum are kept: power fields."""
    return field.kind is FieldKind.STATE and field.name.endswith("_w") and not field.name.startswith("nominal_")


AGGREGATES: Final[tuple[Aggregate, ...]] = tuple(aggregate_of(field) for field in CATALOGUE)
