"""Native JSON: the three forms, each named rejection, and what is counted (WIRE: gw/<gateway>/readings)."""

import json
import math
from typing import Any

import pytest

from telemetry.codecs.limits import CodecLimits, Portions
from telemetry.codecs.native_arrays import read_arrays
from telemetry.codecs.native_json import NativeJson
from telemetry.codecs.registry import decode_batch
from telemetry.model.batch import Decoded, RawMessage, Reason, Withheld
from telemetry.model.fields import DeviceKind

GOOD: dict[str, Any] = {"serial": "INV00000042", "kind": "inverter", "ts": "2026-05-01T12:00:00Z", "ac_power_w": 1234.5}
NOON_US = 1_777_636_800_000_000
LIMITS = CodecLimits(max_message_bytes=200_000, max_readings_per_message=1000, max_depth=16)


def raw(payload: bytes | object, **other: Any) -> RawMessage:
    if not isinstance(payload, bytes):
        payload = json.dumps(payload).encode()
    return RawMessage(gateway="g", topic="readings", payload=payload, token=0, received_us=0, **other)


def decode(*payloads: bytes | object) -> Decoded:
    return decode_batch([raw(payload) for payload in payloads], LIMITS)


def reasons(decoded: Decoded) -> list[tuple[int, Reason, int]]:
    return [(item.message, item.reason, item.readings) for item in decoded.rejections]


def test_one_reading() -> None:
    decoded = decode(GOOD)
    assert decoded.rows.to_dicts() == [
        {"message": 0, "serial": "INV00000042", "kind": DeviceKind.INVERTER, "ts": NOON_US, "ac_power_w": 1234.5}
    ]
    assert (decoded.rejections, decoded.unlisted, decoded.withheld_rows, decoded.implausible) == ([], {}, {}, {})
    assert decoded.codec_of_message == {}


def test_an_array_and_columns_are_the_same_readings() -> None:
    readings = [GOOD, GOOD | {"ts": "2026-05-01T12:00:05Z", "ac_power_w": None, "operating_state_code": 4}]
    columns = {
        "serial": ["INV00000042"] * 2,
        "kind": ["inverter"] * 2,
        "ts": [NOON_US // 1000, NOON_US // 1000 + 5000],
        "ac_power_w": [1234.5, None],
        "operating_state_code": [None, 4.0],
    }
    array, as_columns = decode(readings), decode(columns)
    assert array.rows.height == 2
    assert array.rows.equals(as_columns.rows)


@pytest.mark.parametrize(
    ("ts", "expected"),
    [
        ("2026-05-01T12:00:00Z", NOON_US),
        ("2026-05-01T14:00:00+02:00", NOON_US),
        ("2026-05-01T11:59:59.9999999-00:00", NOON_US - 1),
        ("2026-05-01t12:00:00.000001z", NOON_US + 1),
        (NOON_US // 1000, NOON_US),
        (0, 0),
        ("1970-01-01T00:00:00Z", 0),  # how old a reading may be is the core's business
        ("2100-01-01T00:00:00Z", 4_102_444_800_000_000),
        (-1, -1000),
    ],
)
def test_times(ts: object, expected: int) -> None:
    assert decode(GOOD | {"ts": ts}).rows["ts"].to_list() == [expected]


@pytest.mark.parametrize(
    "ts", [None, True, "", "noon", "2026-05-01", "2026-05-01T12:00:00", "2026-02-29T00:00:00Z", 1.5, {}, 10**17]
)
def test_no_times(ts: object) -> None:
    assert reasons(decode(GOOD | {"ts": ts})) == [(0, Reason.BAD_TIME, 1)]


@pytest.mark.parametrize("serial", [None, "", "x" * 65, 42, True, {}, "a\nb", "\ud800"])
def test_no_serials(serial: object) -> None:
    assert reasons(decode(GOOD | {"serial": serial})) == [(0, Reason.BAD_SERIAL, 1)]


@pytest.mark.parametrize("kind", [None, "", "toaster", "Inverter", 1, {}])
def test_no_kinds(kind: object) -> None:
    assert reasons(decode(GOOD | {"kind": kind})) == [(0, Reason.BAD_KIND, 1)]


BRACKETS = {"closed": (b"[", b"]"), "open": (b"[", b""), "objects": (b'{"a":', b"}"), "open objects": (b'{"a":', b"")}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b" ", Reason.MALFORMED),
        (b"null", Reason.MALFORMED),
        (b"42", Reason.MALFORMED),
        (b'"text"', Reason.MALFORMED),
        (b"[1]", Reason.MALFORMED),
        (b"\xff", Reason.MALFORMED),
        (b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), Reason.MALFORMED),
        (json.dumps(GOOD).encode("utf-16"), Reason.MALFORMED),
        (json.dumps(GOOD).encode() + b"x", Reason.MALFORMED),
        (json.dumps(GOOD).encode()[:-1], Reason.MALFORMED),
        (json.dumps([GOOD])[:-1].encode() + b",]", Reason.MALFORMED),
        (json.dumps(GOOD).replace("INV", "\xff").encode("latin-1"), Reason.MALFORMED),
        (json.dumps(GOOD).replace("1234.5", "01").encode(), Reason.MALFORMED),
        (json.dumps(GOOD).replace("1234.5", "1,").encode(), Reason.MALFORMED),
        (json.dumps(GOOD).replace('"kind"', '"serial"').encode(), Reason.DUPLICATE_KEY),
        (json.dumps(GOOD)[:-1].encode() + b',"x":{"a":1,"a":2}}', Reason.DUPLICATE_KEY),
        (json.dumps(GOOD)[:-1].encode() + b',"x":1,"x":1}', Reason.DUPLICATE_KEY),
        (b'{"serial":["A","B"],"kind":["meter"],"ts":[0]}', Reason.UNEQUAL_COLUMNS),
        (b'{"serial":["A"],"kind":"meter","ts":[0]}', Reason.UNEQUAL_COLUMNS),
        (b" " * 200_001, Reason.TOO_LARGE),
        (b"[" + b"{}," * 1000 + b"{}]", Reason.TOO_MANY_READINGS),
        (b'{"serial":[' + b"1," * 1000 + b"1]}", Reason.TOO_MANY_READINGS),
        *[(begin * 17 + end * 17, Reason.TOO_DEEP) for begin, end in BRACKETS.values()],
        *[(begin * 2000 + end * 2000, Reason.TOO_DEEP) for begin, end in BRACKETS.values()],
        (b"[" * 100_000 + b"]" * 100_000, Reason.TOO_DEEP),
    ],
)
def test_a_message_that_cannot_be_read_counts_one_and_costs_only_itself(payload: bytes, reason: Reason) -> None:
    decoded = decode(GOOD, payload, GOOD)
    assert reasons(decoded) == [(1, reason, 1)]
    assert decoded.rows["message"].to_list() == [0, 2]


def test_a_message_of_the_largest_size_is_read() -> None:
    payload = json.dumps(GOOD).encode()
    assert decode(payload + b" " * (200_000 - len(payload))).rows.height == 1


def test_depth_at_the_limit_is_only_unlisted() -> None:
    nested = json.dumps(GOOD)[:-1].encode() + b',"x":' + b"[" * 15 + b"]" * 15 + b"}"
    assert decode(nested).unlisted == {"x": 1}
    assert reasons(decode(nested.replace(b"[]", b"[[]]"))) == [(0, Reason.TOO_DEEP, 1)]
    brackets_in_text = json.dumps(GOOD | {"x": '["\\' * 40}).encode()
    assert decode(brackets_in_text).unlisted == {"x": 1}


def test_a_million_readings_end_as_one_rejection() -> None:
    many = b"[" + b"{}," * 999_999 + b"{}]"
    assert reasons(decode(many)) == [(0, Reason.TOO_LARGE, 1)]
    wide = CodecLimits(max_message_bytes=2**24)
    assert reasons(decode_batch([raw(many)], wide)) == [(0, Reason.TOO_MANY_READINGS, 1)]


@pytest.mark.parametrize(
    "value", ["1234.5", True, {"w": 1}, [1], math.nan, math.inf, "1e999", 10**400], ids=lambda value: str(value)[:12]
)
def test_a_value_of_the_wrong_type_is_implausible_and_the_rest_is_kept(value: object) -> None:
    payload = json.dumps(GOOD | {"temperature_c": value}).replace('"1e999"', "1e999").encode()
    decoded = decode(payload)
    assert decoded.implausible == {"temperature_c": 1}
    assert decoded.rows.columns == ["message", "serial", "kind", "ts", "ac_power_w"]


@pytest.mark.parametrize("value", [4.5, 2**63, -(2**63) - 1, 1e300])
def test_a_code_that_is_no_integer_of_64_bits_is_implausible(value: float) -> None:
    assert decode(GOOD | {"operating_state_code": value}).implausible == {"operating_state_code": 1}


@pytest.mark.parametrize("value", [4, 4.0, 0, -1, 2**63 - 1, -(2**63), 2**53 + 1])
def test_codes(value: float) -> None:
    assert decode(GOOD | {"operating_state_code": value}).rows["operating_state_code"].to_list() == [int(value)]


def test_values_out_of_range_pass_the_codec() -> None:
    assert decode(GOOD | {"ac_power_w": 1e300}).rows["ac_power_w"].to_list() == [1e300]


def test_a_reading_with_no_value_is_empty() -> None:
    identity = {key: GOOD[key] for key in ("serial", "kind", "ts")}
    for values in ({}, {"ac_power_w": None}, {"ac_power_w": "x"}, {"ac_power_w": "x", "new": 1}, {"new": None}):
        assert reasons(decode(identity | values)) == [(0, Reason.EMPTY, 1)]


def test_a_reading_of_unlisted_values_only_is_withheld() -> None:
    identity = {key: GOOD[key] for key in ("serial", "kind", "ts")}
    decoded = decode(identity | {"latitude_deg": 52.5}, GOOD)
    assert decoded.withheld_rows == {Withheld.UNLISTED: 1}
    assert decoded.unlisted == {"latitude_deg": 1}
    assert (decoded.rejections, decoded.rows["message"].to_list()) == ([], [1])


def test_a_new_field_is_counted_by_name_and_the_batch_stays_fast() -> None:
    payloads = [json.dumps([GOOD | {"wind_mps": 3, "site_name": "x", "temperature_c": None}] * 3).encode()] * 50
    decoded = decode(*payloads)
    assert decoded.unlisted == {"wind_mps": 150, "site_name": 150}
    assert decoded.rows.height == 150
    assert read_arrays(payloads, range(50), range(50), LIMITS, Portions()).left == []


def test_nothing_at_all_is_no_reading() -> None:
    for payload in (b"[]", b'{"serial":[],"kind":[],"ts":[]}'):
        decoded = decode(payload)
        assert (decoded.rows.height, decoded.rejections, decoded.withheld_rows) == (0, [], {})


def test_rejected_readings_of_a_message_are_counted_by_reason() -> None:
    readings = [GOOD, GOOD | {"ts": 1.5}, GOOD | {"kind": "x"}, GOOD | {"ts": None, "new": 1}, GOOD]
    decoded = decode(GOOD, readings)
    assert reasons(decoded) == [(1, Reason.BAD_TIME, 2), (1, Reason.BAD_KIND, 1)]
    assert decoded.rows["message"].to_list() == [0, 1, 1]
    assert decoded.unlisted == {}  # what is quarantined is not withheld


POISON = {
    "cut": json.dumps([GOOD] * 3).encode()[:-1],
    "quote": b'{"serial":"INV00000042,"kind":"inverter","ts":0,"ac_power_w":1}',
    "escape": b'{"serial":"INV00000042\\',
    "control": b'{"serial":"INV\x00","kind":"inverter","ts":0,"ac_power_w":1}',
    "not UTF-8": b'{"serial":"INV\xff","kind":"inverter","ts":0,"ac_power_w":1}',
    "number": json.dumps(GOOD).replace("1234.5", "1234.5.6").encode(),
    "twice": json.dumps(GOOD).replace('"kind"', '"serial"').encode(),
    "half": b'{"serial":"INV00000042","kind":"inverter","ts":0,"ac_power_w":1}{',
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_one_poison_message_among_five_thousand(poison: bytes) -> None:
    at = 2917
    payloads = [json.dumps(GOOD | {"ac_power_w": i}).encode() for i in range(5000)]
    payloads[at] = poison
    decoded = decode(*payloads)
    assert [(item.message, item.readings) for item in decoded.rejections] == [(at, 1)]
    others = [i for i in range(5000) if i != at]
    assert decoded.rows["message"].to_list() == others
    assert decoded.rows["ac_power_w"].to_list() == others
    assert read_arrays(payloads, range(5000), range(5000), LIMITS, Portions()).left == [at]


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_nothing_but_poison(poison: bytes) -> None:
    decoded = decode(*[poison] * 3000)
    assert [item.message for item in decoded.rejections] == list(range(3000))
    assert decoded.rows.height == 0


def test_messages_keep_their_order_whoever_reads_them() -> None:
    escaped = json.dumps(GOOD).replace("INV", "\\u0049NV").encode()
    columns = {"serial": ["INV00000043"] * 2, "kind": ["meter"] * 2, "ts": [0, 1], "grid_power_w": [1, 2]}
    payloads = [escaped, GOOD, columns, [GOOD, GOOD | {"ts": 1}], GOOD | {"x": [1]}, columns, GOOD] * 200
    decoded = decode(*payloads)
    expected = [i for i, payload in enumerate(payloads) for _ in range(2 if i % 7 in {2, 3, 5} else 1)]
    assert decoded.rows["message"].to_list() == expected
    assert decoded.rows["serial"].to_list()[:4] == ["INV00000042", "INV00000042", "INV00000043", "INV00000043"]


def test_both_paths_are_reached() -> None:
    """A guard for the differential test: it says nothing about a reader that reads nothing."""
    payloads = [json.dumps([GOOD] * 5).encode()] * 20
    read = read_arrays(payloads, range(20), range(20), LIMITS, Portions())
    assert (read.left, sum(part.identity.ts.size for part in read.parts)) == ([], 100)


def test_the_codec_says_its_name_and_takes_indices() -> None:
    codec = NativeJson(LIMITS)
    assert codec.name == "native-json"
    assert codec.decode([raw(GOOD)], [17]).rows["message"].to_list() == [17]
