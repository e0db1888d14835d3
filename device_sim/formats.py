"""The wire formats: readings to bytes. Pure functions; one entry of FORMATS for each."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import orjson

from device_sim.message import Reading

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# RFC 8428 and its registry of secondary units; a name's last part decides
_UNITS: Final = {
    "w": "W",
    "va": "VA",
    "var": "var",
    "v": "V",
    "a": "A",
    "hz": "Hz",
    "wh": "Wh",
    "c": "Cel",
    "pct": "%",
    "dbm": "dBm",
    "s": "s",
    "ratio": "/",
    "count": "count",
}


class Encoded(NamedTuple):
    """The topic below ``gw/<gateway>/``, the payload, and MQTT 5's content type (None: the topic says enough)."""

    topic: str
    payload: bytes
    content_type: str | None


def rfc3339(ts_us: int) -> str:
    """``2026-05-01T12:00:00Z``, with as many decimals as needed (none, 3 or 6)."""
    text = (_EPOCH + timedelta(microseconds=ts_us)).isoformat(
        timespec="seconds" if ts_us % 1_000_000 == 0 else "milliseconds" if ts_us % 1000 == 0 else "microseconds"
    )
    return text.replace("+00:00", "Z")


def single(readings: Sequence[Reading]) -> Encoded:
    """One JSON object; takes exactly one reading."""
    (reading,) = readings
    return Encoded("readings", orjson.dumps(_as_object(reading)), None)


def array(readings: Sequence[Reading]) -> Encoded:
    """A JSON array of objects with RFC 3339 times."""
    return Encoded("readings", orjson.dumps([_as_object(reading) for reading in readings]), None)


def columns(readings: Sequence[Reading]) -> Encoded:
    """One JSON object of equally long arrays, null for no value; times as integer milliseconds where exact."""
    return Encoded("readings", orjson.dumps(_as_columns(readings)), None)


def arrow(readings: Sequence[Reading]) -> Encoded:
    """An Arrow IPC stream with one record batch; ``ts`` is timestamp[us, UTC]."""
    import pyarrow as pa

    table = _as_columns(readings)
    table["ts"] = pa.array([reading.ts_us for reading in readings], pa.timestamp("us", "UTC"))
    batch = pa.RecordBatch.from_pydict(table)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return Encoded("readings", sink.getvalue().to_pybytes(), "application/vnd.apache.arrow.stream")


def senml(readings: Sequence[Reading]) -> Encoded:
    """A SenML pack (RFC 8428), JSON: the base name is ``<serial>:``, the base time the reading's."""
    records: list[dict[str, Any]] = []
    for reading in readings:
        seconds, rest = divmod(reading.ts_us, 1_000_000)
        base = {"bn": f"{reading.serial}:", "bt": seconds + rest / 1e6 if rest else seconds}
        for name, value in reading.fields.items():
            if value is None:
                continue
            record = dict(base)
            base = {}  # once for each reading: base values hold until they change
            record["n"] = name
            if unit := _UNITS.get(name.rsplit("_", 1)[-1]):
                record["u"] = unit
            record["vs" if isinstance(value, str) else "v"] = value
            records.append(record)
    return Encoded("senml", orjson.dumps(records), "application/senml+json")


FORMATS: Final[dict[str, Callable[[Sequence[Reading]], Encoded]]] = {
    "single": single,
    "array": array,
    "columns": columns,
    "arrow": arrow,
    "senml": senml,
}


def _as_object(reading: Reading) -> dict[str, Any]:
    return {
        "serial": reading.serial,
        "kind": reading.kind,
        "ts": rfc3339(reading.ts_us),
        **reading.fields,
    }


def _as_columns(readings: Sequence[Reading]) -> dict[str, Any]:
    names = dict.fromkeys(name for reading in readings for name in reading.fields)
    exact = all(reading.ts_us % 1000 == 0 for reading in readings)
    table: dict[str, Any] = {
        "serial": [reading.serial for reading in readings],
        "kind": [reading.kind for reading in readings],
        "ts": [reading.ts_us // 1000 if exact else rfc3339(reading.ts_us) for reading in readings],
    }
    for name in names:
        table[name] = [reading.fields.get(name) for reading in readings]
    return table
