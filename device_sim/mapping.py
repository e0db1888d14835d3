"""What the columns of a recording mean: a TOML file in, readings out.

    gateway = "gw-replay"             # default name; the command line may replace it
    serial = "INV00002173"            # or {column = "sensor"}; a column's text is the serial as it stands
    kind = "inverter"
    separator = ","                   # default
    decimal_comma = false             # default
    nulls = ["", "NaN"]               # default: what stands for no value

    [time]
    column = "ts"                     # text; without offset it is local to `zone`
    format = "%Y-%m-%d %H:%M:%S"      # chrono's letters; %z where an offset stands
    zone = "UTC"
    # or, where no column holds the time: row k is at start + k · step_s
    # start = 2024-08-01T00:00:00Z
    # step_s = 3600

    [filter]                          # only rows where column = text
    meas_name = "ac_power"

    [fields.ac_power_w]
    column = "meas_val_f"
    scale = 1000.0                    # value = column · scale + offset
    offset = 0.0

With ``[files."name"]`` tables (a glob on the file's name) any of these keys may differ from file to file.
A reading exists where at least one of its fields has a value.
"""

import fnmatch
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

KEY: Final = ("gateway", "serial", "kind", "ts")


@dataclass(frozen=True, slots=True)
class Time:
    """Either ``column`` with ``format`` and ``zone``, or ``start`` (with offset) and ``step_s``."""

    column: str | None = None
    format: str = "%Y-%m-%d %H:%M:%S"
    zone: str = "UTC"
    start: datetime | None = None
    step_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Source:
    """Where a field comes from: value = column · scale + offset."""

    column: str
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping file; see the module's text. ``serial`` and ``gateway``: text, or {"column": name}."""

    time: Time = field(default_factory=Time)
    fields: dict[str, Source] = field(default_factory=dict)
    gateway: str | dict[str, str] = "gw-replay"
    serial: str | dict[str, str] = ""
    kind: str = "inverter"
    separator: str = ","
    decimal_comma: bool = False
    nulls: tuple[str, ...] = ("", "NaN")
    filter: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def for_file(self, name: str) -> "Mapping":
        """The mapping with what ``files`` says about ``name``."""
        merged = self
        for pattern, changes in self.files.items():
            if fnmatch.fnmatch(name, pattern):
                merged = replace(merged, **_parse(changes))
        return merged


@dataclass(frozen=True, slots=True)
class Expected:
    """The account of the files: rows = without_value + readings; readings = distinct + repeated.

    ``repeated``: further rows with a (gateway, serial, time) seen before; ``contradicting``: those of them whose
    values differ. They are published too: what the receiver makes of them is its business.
    """

    rows: int
    without_value: int
    readings: int
    distinct: int
    repeated: int
    contradicting: int

    def as_dict(self) -> dict[str, int]:
        """For ``--json``."""
        return asdict(self)


def load_mapping(path: Path) -> Mapping:
    """Read a mapping.

    Raises:
        ValueError: naming the file and what is wrong with it.

    """
    try:
        mapping = Mapping(**_parse(tomllib.loads(path.read_text(encoding="utf-8"))))
    except (TypeError, AttributeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not mapping.fields and not all("fields" in changes for changes in mapping.files.values() or [{}]):
        raise ValueError(f"{path.name}: no [fields.…] says which column is what")
    return mapping


def read_recordings(paths: Sequence[Path], mapping: Mapping, limit: int | None = None) -> tuple[pl.DataFrame, Expected]:
    """Read ``paths`` into one frame, sorted by ts: KEY (ts in µs since 1970 UTC) and fields; and the account.

    ``limit``: the first so many readings of each file.
    """
    rows, frames = 0, []
    for path in paths:
        count, frame = _read_file(path, mapping.for_file(path.name))
        rows += count
        frames.append(frame if limit is None else frame.head(limit))
    every = pl.concat(frames, how="diagonal").sort("ts", maintain_order=True)
    names = [name for name in every.columns if name not in KEY]
    distinct = every.select("gateway", "serial", "ts").n_unique()
    different = every.unique([*KEY, *names]).height
    without_value = 0 if limit is not None else rows - every.height
    return every, Expected(
        rows=rows if limit is None else every.height,
        without_value=without_value,
        readings=every.height,
        distinct=distinct,
        repeated=every.height - distinct,
        contradicting=different - distinct,
    )


def _parse(values: dict[str, Any]) -> dict[str, Any]:
    parsed = dict(values)
    if "time" in parsed:
        parsed["time"] = Time(**parsed["time"])
    if "fields" in parsed:
        parsed["fields"] = {name: Source(**source) for name, source in parsed["fields"].items()}
    if "nulls" in parsed:
        parsed["nulls"] = tuple(parsed["nulls"])
    return parsed


def _read_file(path: Path, mapping: Mapping) -> tuple[int, pl.DataFrame]:
    # everything as text first: numbers with a decimal comma and times are ours to read
    raw = pl.read_csv(path, separator=mapping.separator, infer_schema=False, null_values=list(mapping.nulls))
    missing = {
        column
        for column in (
            *(source.column for source in mapping.fields.values()),
            *mapping.filter,
            *([mapping.time.column] if mapping.time.column else []),
        )
        if column not in raw.columns
    }
    if missing:
        raise ValueError(f"{path.name} has no column {', '.join(sorted(missing))}; it has {', '.join(raw.columns)}")
    if mapping.time.column is None:
        raw = raw.with_row_index("_row")
    for column, text in mapping.filter.items():
        raw = raw.filter(pl.col(column) == text)
    fields = [
        _number(source, decimal_comma=mapping.decimal_comma).alias(name) for name, source in mapping.fields.items()
    ]
    key = [_text(mapping.gateway, "gateway"), _text(mapping.serial, "serial"), pl.lit(mapping.kind).alias("kind")]
    frame = raw.select(*key, _time(mapping.time).alias("ts"), *fields)
    return raw.height, frame.filter(pl.any_horizontal(pl.col(list(mapping.fields)).is_not_null()))


def _text(value: str | dict[str, str], name: str) -> pl.Expr:
    return (pl.lit(value) if isinstance(value, str) else pl.col(value["column"])).alias(name)


def _number(source: Source, *, decimal_comma: bool) -> pl.Expr:
    text = pl.col(source.column).str.strip_chars()
    if decimal_comma:
        text = text.str.replace(",", ".", literal=True)
    value = text.cast(pl.Float64)
    # a factor of one is left out, so that values stay as recorded to the last bit
    if source.scale != 1.0:
        value = value * source.scale
    return value + source.offset if source.offset else value


def _time(time: Time) -> pl.Expr:
    if time.column is None:
        if time.start is None or time.start.tzinfo is None or time.step_s <= 0:
            raise ValueError("[time] needs a column, or start (with offset) and step_s")
        start_us, step_us = round(time.start.timestamp() * 1e6), round(time.step_s * 1e6)
        return start_us + pl.col("_row").cast(pl.Int64) * step_us
    text = pl.col(time.column)
    if "%z" in time.format or "%:z" in time.format:
        return text.str.to_datetime(time.format, time_unit="us", time_zone="UTC").dt.epoch("us")
    local = text.str.to_datetime(time.format, time_unit="us")
    return local.dt.replace_time_zone(time.zone).dt.convert_time_zone("UTC").dt.epoch("us")
