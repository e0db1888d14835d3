"""The series in PostgreSQL: windows read and written, and readings read back, as frames.

Every function takes a connection and works in whatever transaction that has: views read grants and data in one
snapshot. What a role sees is up to row-level security.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from telemetry.model.batch import READING_SCHEMA
from telemetry.model.fields import FIELD_BY_NAME, FIELD_INDEX, FIELD_NAMES, FieldKind
from telemetry.model.series import SERIES_SCHEMA
from telemetry.store.copying import POSTGRES_EPOCH_US, copied
from telemetry.store.sql import queries

ALL_SLOTS: Final = (1 << 60) - 1
FOREVER_US: Final = 9_000_000_000_000_000_000 // 1000  # the year 2255
_NULL: Final = -(2**63)  # also what '-infinity' is on the wire
_QUERIES: Final = queries("series")
_STORED: Final[Mapping[str, pl.DataType]] = {**SERIES_SCHEMA, "slots": pl.Int64()}
_COLUMNS: Final = (
    *((name, ">i8") for name in ("device_key", "window_start", "effective_at", "amount", "covered_ms")),
    *((name, ">i8") for name in ("last_at", "lowest", "highest", "slots")),
    *((name, ">i2") for name in ("resolution", "grid", "field")),
)
_SHIFTED: Final = dict.fromkeys(("window_start", "effective_at", "last_at"), POSTGRES_EPOCH_US)
_NULLABLE: Final = frozenset({"last_at", "lowest", "highest"})
_TYPES: Final = {name: np.uint8 if kind == pl.UInt8() else np.int64 for name, kind in _STORED.items()}
_WRITE_AT_ONCE: Final = 10_000  # rows of one statement: the driver encodes them in the event loop
ALL_RANKS: Final = (1, 2, 3, 4, 5, 6)


async def read_series(
    connection: Any,
    *,
    devices: Sequence[int],
    fields: Sequence[str],
    from_us: int,
    to_us: int,
    resolutions: Sequence[int] = ALL_RANKS,
    effective_us: int = FOREVER_US,
) -> pl.DataFrame:
    """Windows that start in [from, to), in every version effective at ``effective_us``: SERIES_SCHEMA, in any order.

    ``privacy.resolution.latest_effective`` picks the version. ``resolutions``: Resolution.rank of those wanted.
    """
    found = await read_stored(
        connection,
        devices=devices,
        fields=fields,
        from_us=from_us,
        to_us=to_us,
        resolutions=resolutions,
        effective_us=effective_us,
    )
    return found.drop("slots")


async def read_stored(
    connection: Any,
    *,
    devices: Sequence[int],
    fields: Sequence[str] = FIELD_NAMES,
    from_us: int,
    to_us: int,
    resolutions: Sequence[int] = ALL_RANKS,
    effective_us: int = FOREVER_US,
) -> pl.DataFrame:
    """As ``read_series``, with the slots covered: privacy.rollup.ROLLUP_SCHEMA."""
    arguments = (
        list(devices),
        [FIELD_INDEX[name] for name in fields],
        list(resolutions),
        from_us,
        to_us,
        effective_us,
    )
    columns = await copied(connection, _QUERIES["read"], arguments, _COLUMNS)
    return pl.DataFrame([_stored(name, columns[name]) for name in _STORED])


def _stored(name: str, values: npt.NDArray[Any]) -> pl.Series:
    """A column as it is kept here. Series, not expressions: most reads are of a few hundred rows."""
    by = _SHIFTED.get(name, 0)
    if name not in _NULLABLE:
        return pl.Series(name, values + by if by else values.astype(_TYPES[name], copy=False), dtype=_STORED[name])
    missing = values == _NULL
    if missing.all():
        return pl.Series(name, [None], dtype=pl.Int64).new_from_index(0, values.size)
    found = pl.Series(name, values + by, dtype=pl.Int64)
    return found.scatter(np.flatnonzero(missing), None) if missing.any() else found


def newest(versions: pl.DataFrame) -> pl.DataFrame:
    """Of each window the newest version, effective or not yet, empty ones included."""
    key = ["device_key", "field", "resolution", "grid", "window_start"]
    return versions.sort(*key, "effective_at").unique(key, keep="last", maintain_order=True)


async def write_series(connection: Any, rows: pl.DataFrame) -> int:
    """Write versions of windows (ROLLUP_SCHEMA); one that is there already under the same effective_at is replaced."""
    if rows.is_empty():
        return 0
    ordered = rows.sort("device_key", "window_start", "resolution", "grid", "field")
    months = ordered["window_start"].unique().to_list()
    await connection.fetchval(_QUERIES["ensure"], months)
    for part in ordered.iter_slices(_WRITE_AT_ONCE):
        await connection.execute(_QUERIES["write"], *(part[name].to_list() for name in _STORED))
    return ordered.height


async def delete_windows(connection: Any, windows: pl.DataFrame) -> int:
    """Delete all versions of windows, given by their key."""
    gone = 0
    key = ("device_key", "field", "resolution", "grid", "window_start")
    for part in windows.select(key).unique().iter_slices(_WRITE_AT_ONCE):
        done = await connection.execute(_QUERIES["delete_windows"], *(part[name].to_list() for name in key))
        gone += int(done.split()[-1])
    return gone


async def read_hot(
    connection: Any, devices: Sequence[int], fields: Sequence[str], from_us: int, to_us: int
) -> pl.DataFrame:
    """Hot and late readings of [from, to), unique by (ts, device): a reading frame with the columns of ``fields``."""
    parts = [
        await read_rows(connection, table, devices=devices, fields=fields, from_us=from_us, to_us=to_us)
        for table in ("hot", "late")
    ]
    return pl.concat(parts)


async def read_rows(
    connection: Any,
    table: str,
    *,
    devices: Sequence[int] | None,
    fields: Sequence[str],
    from_us: int,
    to_us: int,
    received: tuple[int, int] | None = None,
) -> pl.DataFrame:
    """Readings of ``readings.hot`` or ``readings.late``; of the latter those received in hours [from, to) µs."""
    codes = {name: FIELD_BY_NAME[name].kind is FieldKind.STATUS for name in fields}
    wanted = [f"coalesce({name}, {-1 if code else chr(39) + 'NaN' + chr(39)})" for name, code in codes.items()]
    text = _QUERIES["read_rows"].format(
        table=_table(table), columns=", ".join([*wanted, "0::smallint"]), more=_received(received)
    )
    form = [("ts", ">i8"), ("device_key", ">i8"), ("plan_version", ">i8")]
    form += [*((name, ">i8" if code else ">f8") for name, code in codes.items()), ("_", ">i2")]
    columns = await copied(connection, text, (from_us, to_us, devices if devices is None else list(devices)), form)
    frame = pl.DataFrame({name: pl.Series(columns[name]) for name in (*READING_SCHEMA, *codes)})
    nulls = [
        pl.when(pl.col(name) >= 0).then(pl.col(name)).alias(name) if code else pl.col(name).fill_nan(None)
        for name, code in codes.items()
    ]
    return frame.with_columns(pl.col("ts") + POSTGRES_EPOCH_US, *nulls)


async def occurring(
    connection: Any, table: str, from_us: int, to_us: int, *, received: tuple[int, int] | None = None
) -> list[str]:
    """The fields that hold a value in some reading of the span."""
    flags = ", ".join(f"coalesce(bool_or({name} IS NOT NULL), false)" for name in FIELD_NAMES)
    text = _QUERIES["occurring"].format(table=_table(table), flags=flags, more=_received(received))
    row = await connection.fetchrow(text, from_us, to_us)
    return [name for name, flag in zip(FIELD_NAMES, row, strict=True) if flag]


def _table(name: str) -> str:
    assert name in {"hot", "late"}, "readings are hot or late"  # noqa: S101
    return name


def _received(hours: tuple[int, int] | None) -> str:
    if hours is None:
        return ""
    low, high = (f"'epoch'::timestamptz + {int(us)}::bigint * interval '1 microsecond'" for us in hours)
    return f"AND received_hour >= {low} AND received_hour < {high}"
