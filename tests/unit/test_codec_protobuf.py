"""Protocol Buffers' wire format (protobuf.dev, "Encoding"), read and written, and Sparkplug's values made of it."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.dialects import sparkplug as simulated
from telemetry.codecs.protobuf_wire import WireError, bytes_field, fields, number_field, varint
from telemetry.codecs.sparkplug_payload import NOT_A_NUMBER, Metric, read_payload


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("089601", [(1, 0, 150)]),  # the documentation's own example
        ("120774657374696e67", [(2, 2, b"testing")]),  # and its second
        ("0d0000803f", [(1, 5, b"\0\0\x80?")]),
        ("09000000000000f03f", [(1, 1, struct.pack("<d", 1.0))]),
        ("08ffffffffffffffffff01", [(1, 0, 2**64 - 1)]),
        ("", []),
    ],
)
def test_fields(content: str, found: list) -> None:
    assert [tuple(field) for field in fields(bytes.fromhex(content), 10)] == found


@pytest.mark.parametrize(
    "content",
    [
        "08",  # ends before the value
        "0880",  # within a varint
        "120774",  # within bytes
        "0d000000",  # within four
        "0900",  # within eight
        "12ffffffffffffffffff01",  # longer than anything
        "08ffffffffffffffffff02",  # beyond 64 bits
        "08" + "80" * 20 + "00",  # a zero of 21 bytes
        "0b",  # a group
        "0c",
        "0e",  # wire types that there are not
        "0f",
        "0000",  # field number 0
        "8080808010" + "00",  # a field number beyond 2^29 - 1
        "0801" * 11,  # more fields than asked for
    ],
)
def test_what_is_no_message_is_refused(content: str) -> None:
    with pytest.raises(WireError):
        list(fields(bytes.fromhex(content), 10))


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(1, 2**29 - 1), st.binary(max_size=300))
def test_written_is_read_and_as_the_simulator_writes_it(value: int, number: int, content: bytes) -> None:
    assert varint(value) == simulated.varint(value)
    assert number_field(number, value) == simulated.integer(number, value)
    assert bytes_field(number, content) == simulated.block(number, content)
    written = number_field(number, value) + bytes_field(number, content)
    assert [field.value for field in fields(written, 2)] == [value, content]


@pytest.mark.parametrize(
    ("datatype", "number", "value"),
    [
        (1, 0x7F, 127),
        (1, 0x80, -128),
        (1, 2**32 - 1, -1),
        (2, 0x8000, -32_768),
        (3, 2**31, -(2**31)),
        (3, 2**64 - 1, -1),
        (4, 2**63, -(2**63)),
        (5, 255, 255),
        (7, 2**32 - 1, 2**32 - 1),
        (8, 2**64 - 1, 2**64 - 1),
        (0, 5, 5),
        (11, 1, True),
        (13, 1_777_636_800_000, NOT_A_NUMBER),  # a date
        (99, 5, NOT_A_NUMBER),  # a type of tomorrow
    ],
)
def test_integers_by_type(datatype: int, number: int, value: object) -> None:
    assert Metric(raw=number, raw_field=11).value(datatype) == value


def test_a_single_float_is_the_decimal_it_was() -> None:
    assert Metric(raw=struct.pack("<f", 0.1), raw_field=12).value(9) == 0.1
    assert Metric(raw=struct.pack("<f", 16_777_217.0), raw_field=12).value(9) == 16_777_216.0
    assert Metric(raw=struct.pack("<f", 1.0), raw_field=12, is_null=True).value(9) is None


def test_too_many_metrics_are_refused() -> None:
    with pytest.raises(WireError):
        read_payload(bytes_field(2, b"") * 20, 10)
