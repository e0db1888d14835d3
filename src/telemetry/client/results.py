"""What a client returns: frames of rows, and frozen records. What later versions of the service add is passed over."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import polars as pl

Purpose = Literal[
    "maintenance",
    "monitoring",
    "warranty",
    "billing",
    "grid_services",
    "energy_advice",
    "application",
    "product_improvement",
]
Resolution = Literal["raw", "PT1M", "PT15M", "PT30M", "PT1H", "P1D", "P1M"]
Grid = Literal["utc", "site"]

# Rows of series: what is shown of one window of one field, or of one raw reading.
_ROWS: Final[Mapping[str, Any]] = {
    "site": pl.String,
    "device": pl.String,
    "field": pl.String,
    "resolution": pl.String,  # served: the coarser of asked and granted
    "grid": pl.String,
    "start": pl.Datetime("us", "UTC"),
    "end": pl.Datetime("us", "UTC"),
    "value": pl.Float64,
    "coverage": pl.String,  # none, partial, full; null for raw readings
    "lowest": pl.Float64,
    "highest": pl.Float64,
}
ROW_COLUMNS: Final = tuple(_ROWS)


@dataclass(frozen=True, slots=True)
class SharedField:
    """A field that is shared, and how fine it is served."""

    field: str
    resolution: str


@dataclass(frozen=True, slots=True)
class Device:
    """One device as it is shown. ``serial``: None where it is not granted."""

    site: str
    device: str
    kind: str
    serial: str | None = None
    place: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    last_seen: datetime | None = None
    shared: tuple[SharedField, ...] = ()
    not_shared: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """What is shared of one kind of device at a site, and which of its fields are not."""

    kind: str
    shared: tuple[SharedField, ...] = ()
    not_shared: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Site:
    """One site as it is shown. ``place``: a country, a region or an H3 cell; None where withheld. ``devices``: how many
    are seen. ``last_seen``: the end of the last window shown, None where none ended in the last 35 days.
    ``alerts_open``: None where alerts are granted of no device there.
    """

    site: str
    kinds: tuple[Kind, ...]
    devices: int = 0
    place: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    last_seen: datetime | None = None
    alerts_open: int | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What is new or corrected, and now and then what you have already.

    A row takes the place of an earlier one of the same device, field, resolution, grid and start; coverage ``none``
    says that the window is no more. ``devices``: all that are seen; drop what you have of others. ``renewed``: drop
    what you have of these before. ``cursor``: for the next question.
    """

    rows: pl.DataFrame
    devices: tuple[Device, ...]
    renewed: tuple[str, ...]
    cursor: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert. ``severity``: as RFC 5424, 0 the worst. ``closed``: None while it is open."""

    site: str
    device: str
    kind: str
    severity: int
    resolution: str
    opened: datetime | None = None
    closed: datetime | None = None


@dataclass(frozen=True, slots=True)
class GrantSeen:
    """A grant as its recipient sees it: what is allowed. ``sites``: those that are seen under it."""

    grant: str
    purpose: str
    sites: tuple[str, ...]
    all_sites: bool
    classes: tuple[str, ...]
    fields: tuple[str, ...]
    resolution: str
    serial: str
    place: str
    extremes: bool
    data_from: datetime
    start: datetime
    kinds: tuple[str, ...] | None = None
    history_s: float | None = None
    until: datetime | None = None


def rows_of_arrow(body: bytes) -> pl.DataFrame:
    """Rows as they come as an Arrow stream."""
    return pl.read_ipc_stream(io.BytesIO(body))


def rows_of_series(series: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows of series by column, or of rows one by one, as JSON gives them. Instants in UTC."""
    frames = [_one(each) for each in series]
    return pl.concat(frames) if frames else pl.DataFrame(schema=dict(_ROWS))


def _one(series: Mapping[str, Any]) -> pl.DataFrame:
    start = series["start"]
    count = len(start) if isinstance(start, list) else 1
    columns = {}
    for name, kind in _ROWS.items():
        told = series.get(name)
        values = told if isinstance(told, list) else [told] * count
        if isinstance(kind, pl.Datetime):
            text = pl.Series(name, values, dtype=pl.String)
            columns[name] = text.str.to_datetime("%+", time_unit="us", time_zone="UTC")
        else:
            columns[name] = pl.Series(name, values, dtype=kind)
    return pl.DataFrame(columns)
