"""Which codec reads what, and that a batch of all kinds adds up."""

import cbor2
import polars as pl
import pyarrow as pa
import pytest

from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.names import safe_name
from telemetry.codecs.registry import CODEC_BY_NAME, CODECS, build, codec_for, decode_batch
from telemetry.model.batch import DECODED_SCHEMA, RawMessage, Reason, Withheld, check_schema
from telemetry.model.fields import FIELD_NAMES

LIMITS = CodecLimits(max_message_bytes=10_000)
NATIVE = b'{"serial":"INV00000042","kind":"inverter","ts":0,"temperature_c":21,"ac_power_w":1}'
SENML = b'[{"n":"INV00000042/voltage","u":"V","v":230,"t":1700000000}]'
CBOR = cbor2.dumps([{0: "INV00000042/frequency", 1: "Hz", 2: 50, 6: 1_700_000_000}])


def arrow() -> bytes:
    table = pa.table({"serial": ["INV00000042"], "kind": ["meter"], "ts": [0], "grid_power_w": [5.0]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def raw(topic: str, payload: bytes, content_type: str | None = None, *, retained: bool = False) -> RawMessage:
    return RawMessage("g", topic, payload, 0, 1_700_000_000_000_000, content_type, retained=retained)


@pytest.mark.parametrize(
    ("topic", "content_type", "payload", "codec"),
    [
        ("readings", None, NATIVE, "native-json"),
        ("readings", "application/json", NATIVE, "native-json"),
        ("readings", "application/json; charset=utf-8", NATIVE, "native-json"),
        ("readings", "text/plain", NATIVE, "native-json"),
        ("readings", None, b"", "native-json"),
        ("readings", "application/vnd.apache.arrow.stream", NATIVE, "native-arrow"),
        ("readings", None, arrow(), "native-arrow"),
        ("readings", "application/json", arrow(), "native-json"),
        ("senml", None, SENML, "senml-json"),
        ("senml", None, CBOR, "senml-cbor"),
        ("senml", "Application/SenML+CBOR", SENML, "senml-cbor"),
        ("senml", "application/senml+json", CBOR, "senml-json"),
        ("readings/x", None, NATIVE, None),
        ("Readings", None, NATIVE, None),
        ("", None, NATIVE, None),
    ],
)
def test_who_reads_what(topic: str, content_type: str | None, payload: bytes, codec: str | None) -> None:
    assert codec_for(topic, content_type, payload) == codec


def test_every_codec_says_its_name() -> None:
    assert [build(row.name, LIMITS).name for row in CODECS] == list(CODEC_BY_NAME)


def test_a_batch_of_all_kinds() -> None:
    decoded = decode_batch(
        [
            raw("senml", CBOR),
            raw("readings", NATIVE),
            raw("status", b"online", retained=True),
            raw("committed", b'{"sequence":1}'),
            raw("readings", arrow()),
            raw("readings", NATIVE, retained=True),
            raw("nobody/x/reads/this", b'{"value":"x"}'),
            raw("senml", SENML),
            raw("readings", b" " * 10_001),
            raw("elsewhere", b" " * 10_001),
            raw("readings", NATIVE),
        ],
        LIMITS,
    )
    check_schema(decoded.rows, DECODED_SCHEMA)
    assert decoded.rows["message"].to_list() == [0, 1, 4, 7, 10]
    fields = decoded.rows.columns[4:]
    assert fields == sorted(fields, key=FIELD_NAMES.index)
    assert decoded.rows.select(pl.col(fields).count()).row(0, named=True) == {
        "ac_power_w": 2,
        "ac_voltage_v": 1,
        "ac_frequency_hz": 1,
        "grid_power_w": 1,
        "temperature_c": 2,
    }
    assert [(item.message, item.reason, item.readings) for item in decoded.rejections] == [
        (6, Reason.UNKNOWN_TOPIC, 1),
        (8, Reason.TOO_LARGE, 1),
        (9, Reason.TOO_LARGE, 1),
    ]
    assert decoded.withheld_rows == {Withheld.RETAINED: 1}
    assert decoded.codec_of_message == {
        0: "senml-cbor",
        4: "native-arrow",
        6: "unknown",
        7: "senml-json",
        8: "native-json",
        9: "unknown",
    }


def test_nothing() -> None:
    decoded = decode_batch([], LIMITS)
    assert (decoded.rows.schema, decoded.rejections) == (dict(DECODED_SCHEMA), [])


@pytest.mark.parametrize("name", ["ac_power_w", "wind_mps", "a.b.c2", "v230", "x" * 41])
def test_names_that_may_be_printed(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name", ["INV00000042", "inv1234", "x12345_w", "", "9a", "a b", "Küche", "x" * 42, "a\n", "mac_0024befffe80", "ä"]
)
def test_names_that_may_not(name: str) -> None:
    assert safe_name(name) == "<name>"
