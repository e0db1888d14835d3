"""Replay rows that may be stored already: through a staging table, merging field by field.

``COPY → unique violation → staging → insert what is new → fill null fields → count what contradicts``
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from telemetry.model.batch import READING_SCHEMA
from telemetry.model.fields import CATALOGUE, FieldKind
from telemetry.store.prepare import copy_stream, occurring_columns
from telemetry.store.sql import queries

_QUERIES: Final = queries("readings")
LATE: Final = "readings.late"
STAGING: Final = "staging_readings"
STAGING_DDL: Final = (
    f"CREATE TEMPORARY TABLE IF NOT EXISTS {STAGING}"
    " (ts timestamptz, device_key bigint, plan_version bigint, "
    + ", ".join(f"{f.name} {'bigint' if f.kind is FieldKind.STATUS else 'float8'}" for f in CATALOGUE)
    + ") ON COMMIT DELETE ROWS"
)


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of rows, as in ``telemetry.model.batch.Written``."""

    stored: int
    duplicate: int = 0
    merged: int = 0
    conflict: int = 0


async def merge(connection: Any, rows: pl.DataFrame, target: str) -> Counts:
    """Store ``rows`` (one per key, sorted) in ``target``; those that are there merge into the stored ones.

    ``target``: a hot partition by its qualified name, or ``readings.late``, under the late lock.
    """
    columns = occurring_columns(rows)
    await connection.execute(_QUERIES["clear_staging"])
    await connection.copy_to_table(
        STAGING,
        schema_name="pg_temp",
        columns=columns,
        format="binary",
        source=copy_stream(rows.select(columns)),
    )
    words = _words(rows, target, [name for name in columns if name not in READING_SCHEMA])
    insert = _QUERIES["insert_late" if target == LATE else "insert_hot"].format(**words)
    stored = _affected(await connection.execute(insert))
    if stored == rows.height:
        return Counts(stored)
    compare = _QUERIES["compare"].format(**words)
    adding, conflict = await connection.fetchrow(compare)
    merged = 0
    if adding:
        merged = await connection.fetchval(_QUERIES["fill_null_fields"].format(**words))
        _, conflict = await connection.fetchrow(compare)
    return Counts(stored, rows.height - stored, merged, conflict)


def _words(rows: pl.DataFrame, target: str, fields: Sequence[str]) -> dict[str, str]:
    """What goes into the braces of the statements."""
    first, last = (f"timestamptz 'epoch' + {int(us)} * interval '1 microsecond'" for us in rows["ts"][[0, -1]])
    return {
        "target": target,
        "columns": ", ".join([*READING_SCHEMA, *fields]),
        "within": f"t.ts BETWEEN {first} AND {last}",
        "adds": " OR ".join(f"(t.{f} IS NULL AND s.{f} IS NOT NULL)" for f in fields) or "false",
        "contradicts": " OR ".join(f"t.{f} <> s.{f}" for f in fields) or "false",
        "fill": ", ".join(f"{f} = coalesce(t.{f}, s.{f})" for f in fields) or "device_key = t.device_key",
    }


def _affected(status: str) -> int:
    """The number in a command tag such as ``INSERT 0 5``."""
    return int(status.rsplit(" ", 1)[1])
