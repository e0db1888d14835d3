"""Native Arrow: the same rules as native JSON, and streams that are out to hurt."""

import datetime as dt
import io
import json
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry.codecs.arrow_stream import UNPACKED_TIMES
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.native_arrow import CONTENT_TYPE
from telemetry.codecs.registry import decode_batch
from telemetry.model.batch import Decoded, RawMessage, Reason, Withheld

LIMITS = CodecLimits(max_message_bytes=100_000, max_readings_per_message=1000)
NOON = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
NOON_US = 1_777_636_800_000_000
GOOD: dict[str, Any] = {
    "serial": ["INV00000042", "INV00000043"],
    "kind": ["inverter", "meter"],
    "ts": [NOON, NOON],
    "ac_power_w": [1234.5, None],
    "operating_state_code": pa.array([4, 5], pa.uint16()),
}


def stream(columns: dict[str, Any], *, times: int = 1, compression: str | None = None) -> bytes:
    table = pa.table(columns)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for _ in range(times):
            writer.write_table(table)
    return sink.getvalue()


def raw(payload: bytes, content_type: str | None = CONTENT_TYPE) -> RawMessage:
    return RawMessage("g", "readings", payload, 0, 0, content_type)


def decode(*payloads: bytes) -> Decoded:
    return decode_batch([raw(payload) for payload in payloads], LIMITS)


def reasons(decoded: Decoded) -> list[tuple[int, Reason, int]]:
    return [(item.message, item.reason, item.readings) for item in decoded.rejections]


@pytest.mark.parametrize("content_type", [CONTENT_TYPE, CONTENT_TYPE.upper() + "; x=y", None])
def test_columns(content_type: str | None) -> None:
    decoded = decode_batch([raw(stream(GOOD), content_type)], LIMITS)
    assert decoded.rows.to_dicts() == [
        {
            "message": 0,
            "serial": "INV00000042",
            "kind": 1,
            "ts": NOON_US,
            "ac_power_w": 1234.5,
            "operating_state_code": 4,
        },
        {
            "message": 0,
            "serial": "INV00000043",
            "kind": 6,
            "ts": NOON_US,
            "ac_power_w": None,
            "operating_state_code": 5,
        },
    ]
    assert decoded.codec_of_message == {0: "native-arrow"}


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_compression_and_several_batches(compression: str | None) -> None:
    decoded = decode(stream(GOOD, times=3, compression=compression), stream(GOOD))
    assert decoded.rows["message"].to_list() == [0] * 6 + [1] * 2


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("dictionary", [False, True])
def test_texts(kind: pa.DataType, dictionary: bool) -> None:
    columns = {name: pa.array(GOOD[name], kind) for name in ("serial", "kind")}
    if dictionary:
        columns = {name: column.dictionary_encode() for name, column in columns.items()}
    decoded = decode(stream(GOOD | columns))
    assert decoded.rows["serial"].to_list() == GOOD["serial"]
    assert decoded.rows["kind"].to_list() == [1, 6]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_timestamps(unit: str, zone: str | None) -> None:
    ts = pa.array([NOON_US * 1000] * 2, pa.int64()).cast(pa.timestamp("ns")).cast(pa.timestamp(unit, zone))
    assert decode(stream(GOOD | {"ts": ts})).rows["ts"].to_list() == [NOON_US] * 2


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint32(), pa.int8()])
def test_integers_are_milliseconds(kind: pa.DataType) -> None:
    assert decode(stream(GOOD | {"ts": pa.array([0, 100], kind)})).rows["ts"].to_list() == [0, 100_000]


@pytest.mark.parametrize(
    "ts",
    [
        pa.array(["2026-05-01T12:00:00Z"] * 2),
        pa.array([1.5, 2.5]),
        pa.array([None, None], pa.timestamp("us")),
        pa.array([2**62, -(2**63)]),
        pa.array([2**62, -(2**63)]).cast(pa.timestamp("s")),
        pa.array([True, False]),
        pa.array([1, 2], pa.uint64()),
        pa.nulls(2),
    ],
)
def test_no_times(ts: pa.Array) -> None:
    assert reasons(decode(stream(GOOD | {"ts": ts}))) == [(0, Reason.BAD_TIME, 2)]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.decimal128(21, 2)])
def test_numbers_of_any_width(kind: pa.DataType) -> None:
    column = pa.array([100, None], pa.int64()).cast(kind)
    assert decode(stream(GOOD | {"ac_power_w": column})).rows["ac_power_w"].to_list() == [100.0, None]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["1", "2"]),
        pa.array([True, False]),
        pa.array([np.nan, np.inf]),
        pa.array([[1.0], [2.0]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([NOON, NOON]),
        pa.array(["1", "2"]).dictionary_encode(),
    ],
)
def test_what_is_no_number_is_implausible(column: pa.Array) -> None:
    decoded = decode(stream(GOOD | {"ac_power_w": column}))
    assert decoded.implausible == {"ac_power_w": 2}
    assert "ac_power_w" not in decoded.rows.columns


def test_codes_that_are_no_integers_are_implausible() -> None:
    decoded = decode(stream(GOOD | {"operating_state_code": pa.array([4.5, 2.0**63])}))
    assert decoded.implausible == {"operating_state_code": 2}
    assert reasons(decoded) == [(0, Reason.EMPTY, 1)]  # the second reading has no other value


def test_unlisted_columns_are_counted_and_withheld() -> None:
    only = {name: GOOD[name] for name in ("serial", "kind", "ts")} | {"latitude_deg": [52.5, None], "x": [[1], [2]]}
    decoded = decode(stream(only))
    assert decoded.unlisted == {"latitude_deg": 1, "x": 2}
    assert decoded.withheld_rows == {Withheld.UNLISTED: 2}


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ({"serial": ["", "x" * 65]}, Reason.BAD_SERIAL),
        ({"serial": [None, "a\nb"]}, Reason.BAD_SERIAL),
        ({"serial": [1, 2]}, Reason.BAD_SERIAL),
        ({"serial": [b"a", b"b"]}, Reason.BAD_SERIAL),
        ({"kind": ["toaster", None]}, Reason.BAD_KIND),
        ({"kind": [1, 2]}, Reason.BAD_KIND),
    ],
)
def test_rows_that_are_rejected(column: dict[str, Any], reason: Reason) -> None:
    assert reasons(decode(stream(GOOD | column))) == [(0, reason, 2)]
    name = next(iter(column))
    assert reasons(decode(stream({key: value for key, value in GOOD.items() if key != name}))) == [(0, reason, 2)]


def test_a_huge_text_in_a_dictionary_stays_small() -> None:
    serial = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["x" * 50_000]))
    columns = {"serial": serial, "kind": ["meter"] * 1000, "ts": [0] * 1000, "grid_power_w": [1.0] * 1000}
    assert reasons(decode(stream(columns))) == [(0, Reason.BAD_SERIAL, 1000)]


def test_too_many_rows() -> None:
    columns = {"serial": ["A"] * 1001, "kind": ["meter"] * 1001, "ts": [0] * 1001, "grid_power_w": [1.0] * 1001}
    assert reasons(decode(stream(columns))) == [(0, Reason.TOO_MANY_READINGS, 1)]
    many = decode_batch([raw(stream(GOOD, times=600))], CodecLimits(2**20, 1000))
    assert reasons(many) == [(0, Reason.TOO_MANY_READINGS, 1)]
    assert [item.reason for item in decode_batch([raw(stream(GOOD, times=1100))], CodecLimits(2**20)).rejections] == [
        Reason.MALFORMED  # more batches than anybody needs
    ]


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_bomb_is_refused_before_it_is_unpacked(compression: str) -> None:
    size = 2 * UNPACKED_TIMES * LIMITS.max_message_bytes
    bomb = stream(GOOD | {"x": ["\0" * size, ""]}, compression=compression)
    wide = CodecLimits(max_message_bytes=max(LIMITS.max_message_bytes, len(bomb)))
    assert size > UNPACKED_TIMES * wide.max_message_bytes
    assert reasons(decode_batch([raw(bomb)], wide)) == [(0, Reason.TOO_LARGE, 1)]


def test_a_column_twice() -> None:
    table = pa.Table.from_arrays([pa.array(["A"]), pa.array(["B"])], names=["serial", "serial"])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert reasons(decode(sink.getvalue())) == [(0, Reason.DUPLICATE_KEY, 1)]


def test_no_rows_at_all() -> None:
    decoded = decode(stream({name: pa.array([], pa.string()) for name in GOOD}))
    assert (decoded.rows.height, decoded.rejections) == (0, [])


@pytest.mark.parametrize(
    "payload", [b"", b"\xff\xff\xff\xff", b"not arrow", b"\xff\xff\xff\xff\xff\xff\xff\x7f", stream(GOOD)[:-60]]
)
def test_what_is_no_stream(payload: bytes) -> None:
    decoded = decode(stream(GOOD), payload)
    assert decoded.rows.filter(pl.col("message") == 0).height == 2
    assert reasons(decoded) == [(1, Reason.MALFORMED, 1)]


def test_a_file_is_not_a_stream() -> None:
    sink = io.BytesIO()
    table = pa.table(GOOD)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert reasons(decode(sink.getvalue())) == [(0, Reason.MALFORMED, 1)]


STREAMS = [
    stream(GOOD),
    stream(GOOD, compression="zstd"),
    stream(GOOD | {"serial": pa.array(GOOD["serial"]).dictionary_encode()}),
]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(STREAMS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 30),
)
def test_damaged_streams_never_raise(payload: bytes, changes: list[tuple[float, int]], cut: int) -> None:
    damaged = bytearray(payload)
    for where, byte in changes:
        damaged[int(where * len(damaged))] = byte
    decoded = decode(bytes(damaged[: len(damaged) - 8 * cut] if cut else damaged))
    accounted = decoded.rows.height + sum(decoded.withheld_rows.values()) + sum(r.readings for r in decoded.rejections)
    assert accounted <= LIMITS.max_readings_per_message


def test_json_and_arrow_say_the_same() -> None:
    readings = [
        {"serial": "INV00000042", "kind": "inverter", "ts": 0, "ac_power_w": 1.5, "x": 1},
        {"serial": "INV00000042", "kind": "toaster", "ts": 1, "ac_power_w": 1.5, "x": 1},
        {"serial": "INV00000042", "kind": "inverter", "ts": 2, "ac_power_w": None, "x": 1},
        {"serial": "INV00000042", "kind": "inverter", "ts": 3, "ac_power_w": None, "x": None},
    ]
    arrow = decode(stream({name: [reading[name] for reading in readings] for name in readings[0]}))
    in_json = decode_batch([RawMessage("g", "readings", json.dumps(readings).encode(), 0, 0)], LIMITS)
    assert arrow.rows.equals(in_json.rows)
    assert (arrow.unlisted, arrow.withheld_rows) == (in_json.unlisted, in_json.withheld_rows)
    assert reasons(arrow) == reasons(in_json)
