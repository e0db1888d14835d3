"""What is kept of devices, and for how long, as the plan's classes have it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from telemetry.model.fields import CATALOGUE, DataClass
from telemetry.model.sharing import DEFAULT_RETENTION_DAYS, Resolution
from telemetry.privacy.revisions import KEPT_SCHEMA
from telemetry.store.sql import queries

NOT_KEPT: Final = 255
_QUERIES: Final = queries("rollup")
_DEFAULT_CLASS: Final = -1  # of devices that the registry does not know
_CLASSES: Final = tuple(DataClass)


@dataclass(frozen=True, slots=True)
class Kept:
    """Of some devices every field of the catalogue: device_key, field, rank (or NOT_KEPT), timezone, days."""

    fields: pl.DataFrame

    @property
    def resolutions(self) -> pl.DataFrame:
        """Of the fields that are kept: KEPT_SCHEMA."""
        return self.fields.filter(pl.col("rank") != NOT_KEPT).select(*KEPT_SCHEMA)


async def load_kept(connection: Any, devices: Sequence[int]) -> Kept:
    """What holds for ``devices`` now; for one that the registry does not know, what holds without settings."""
    rows = await connection.fetch(_QUERIES["devices"], list(devices))
    known = {row["device_key"]: (row["plan_class"], row["timezone"]) for row in rows}
    classes = await connection.fetch(_QUERIES["classes"], sorted({plan_class for plan_class, _ in known.values()}))
    ofclass = pl.concat(
        [_class_frame(_DEFAULT_CLASS, None), *(_class_frame(row["plan_class"], row) for row in classes)]
    )
    frame = pl.DataFrame(
        [(key, *known.get(key, (_DEFAULT_CLASS, "UTC"))) for key in devices],
        schema={"device_key": pl.Int64, "plan_class": pl.Int32, "timezone": pl.String},
        orient="row",
    ).join(ofclass, on="plan_class")
    return Kept(frame)


def _class_frame(plan_class: int, row: Mapping[str, Any] | None) -> pl.DataFrame:
    """One row a field of the catalogue."""
    ranks = bytes([Resolution.PT15M.rank] * len(CATALOGUE)) if row is None else row["kept_resolution"]
    days = [DEFAULT_RETENTION_DAYS] * len(_CLASSES) if row is None else row["retention_days"]
    return pl.DataFrame(
        {
            "plan_class": [plan_class] * len(CATALOGUE),
            "field": range(len(CATALOGUE)),
            # A field that the catalogue has gained since the class was made is not kept by it.
            "rank": [ranks[index] if index < len(ranks) else NOT_KEPT for index in range(len(CATALOGUE))],
            "days": [days[_CLASSES.index(field.data_class)] for field in CATALOGUE],
        },
        schema={"plan_class": pl.Int32, "field": pl.UInt8, "rank": pl.UInt8, "days": pl.Int64},
    )
