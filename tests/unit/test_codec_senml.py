"""SenML: RFC 8428's own examples with their resolved forms, and what becomes of records here."""

import json
import math
import re
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.codecs.cbor_text import parse_cbor
from telemetry.codecs.json_text import Refused, parse_json
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.registry import decode_batch
from telemetry.codecs.senml_pack import LABELS, Record, resolve
from telemetry.codecs.senml_table import FIELD_OF_NAME, FIELD_OF_UNIT, SUM_OF_FIELD, conversion
from telemetry.model.batch import Decoded, RawMessage, Reason, Withheld
from tests.support.shared_data import shared_data

LIMITS = CodecLimits(max_message_bytes=100_000, max_readings_per_message=1000)
NOW_S = 1_498_780_179
EXAMPLES = ["ex1", "ex2", "ex3", "ex5", "ex10"]
CBOR_LABEL = {name: label for label, name in LABELS.items()}


def example(name: str) -> bytes:
    return (shared_data("senml") / name).read_bytes()


def from_hex_dump(text: str) -> bytes:
    """Bytes of a dump as in RFC 8428: offset, bytes in hex, text between bars."""
    lines = re.findall(r"^[0-9a-f]{4} ((?:[0-9a-f]{2} )+)", text, re.MULTILINE)
    return bytes.fromhex("".join(lines))


def to_cbor(pack: list[dict[str, Any]]) -> bytes:
    return cbor2.dumps([{CBOR_LABEL.get(label, label): value for label, value in item.items()} for item in pack])


def resolved(payload: bytes) -> list[Record]:
    pack = parse_json(payload, LIMITS) if payload.lstrip()[:1] == b"[" else parse_cbor(payload, LIMITS)
    records = resolve(pack, NOW_S, 1000)
    assert not isinstance(records, Refused)
    return records


def assert_resolves_to(records: list[Record], expected: list[dict[str, Any]]) -> None:
    assert [(record.name, record.unit) for record in records] == [(item["n"], item["u"]) for item in expected]
    for record, item in zip(records, expected, strict=True):
        assert record.value == pytest.approx(item["v"], rel=1e-12)
        at = NOW_S if record.time_s is None else record.time_s
        assert at == pytest.approx(item["t"], abs=1e-6)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_resolve_as_published(name: str) -> None:
    expected = json.loads(example(f"{name}.gen.resolved.json"))
    assert_resolves_to(resolved(example(f"{name}.json")), expected)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_cbor_resolve_to_the_same(name: str) -> None:
    pack = json.loads(example(f"{name}.json"))
    assert resolved(to_cbor(pack)) == resolved(example(f"{name}.json"))


def test_the_published_cbor() -> None:
    payload = from_hex_dump(example("ex3.gen.cbor.hex").decode())
    assert len(payload) == 0xC3
    assert_resolves_to(resolved(payload), json.loads(example("ex3.gen.resolved.json")))


def raw(payload: bytes | list[dict[str, Any]], **other: Any) -> RawMessage:
    if not isinstance(payload, bytes):
        payload = json.dumps(payload).encode()
    return RawMessage("g", "senml", payload, 0, NOW_S * 1_000_000, **other)


def decode(*payloads: bytes | list[dict[str, Any]]) -> Decoded:
    return decode_batch([raw(payload) for payload in payloads], LIMITS)


def rows(pack: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return decode(pack).rows.drop("message", "kind").to_dicts()


def test_records_of_one_device_and_time_are_one_reading() -> None:
    decoded = decode(example("ex3.json"))
    serial = "10e2073a0108006"
    assert decoded.rows["serial"].unique().to_list() == [serial]
    assert decoded.rows["kind"].to_list() == [None] * 6
    assert decoded.rows.select("ts", "ac_voltage_v", "ac_current_a").rows() == [
        (1_276_020_076_001_000, 120.1, 1.7),
        *[(1_276_020_071_001_000 + i * 1_000_000, None, [1.2, 1.3, 1.4, 1.5, 1.6][i]) for i in range(5)],
    ]


def test_voltage_and_current_at_one_time() -> None:
    serial = "10e2073a01080063"
    assert rows(json.loads(example("ex2.json"))) == [
        {"serial": serial, "ts": NOW_S * 1_000_000, "ac_voltage_v": 120.1, "ac_current_a": 1.2}
    ]


def test_a_device_alone_in_the_name_is_measured_in_its_unit_and_place_is_withheld() -> None:
    decoded = decode(example("ex5.json"))
    assert decoded.rows.columns == ["message", "serial", "kind", "ts", "battery_soc_pct"]
    assert decoded.rows["battery_soc_pct"].to_list() == [98.0]
    assert decoded.unlisted == {"%RH": 4, "lon": 4, "lat": 4}
    assert decoded.withheld_rows == {Withheld.UNLISTED: 4}
    assert decoded.codec_of_message == {0: "senml-json"}


BASE = {"bn": "INV00000042/", "bt": 1.7e9}


@pytest.mark.parametrize(
    ("name", "unit", "value", "field", "expected"),
    [
        ("power", "W", 900, "ac_power_w", 900),
        ("power", "kW", 0.9, "ac_power_w", 900),
        ("ac_power_w", "", 900, "ac_power_w", 900),
        ("energy", "J", 7200, "energy_total_wh", 2),
        ("energy", "kWh", 12.5, "energy_total_wh", 12_500),
        ("temperature", "Cel", 21.5, "temperature_c", 21.5),
        ("temperature", "K", 273.15, "temperature_c", 0),
        ("soc", "%", 55, "battery_soc_pct", 55),
        ("soc", "/", 0.55, "battery_soc_pct", 55),
        ("power_factor", "/", 0.98, "ac_power_factor_ratio", 0.98),
        ("uptime", "min", 2, "uptime_s", 120),
        ("rssi", "dBW", -100, "rssi_dbm", -70),
        ("operating_state_code", "", 4.0, "operating_state_code", 4),
    ],
)
def test_units(name: str, unit: str, value: float, field: str, expected: float) -> None:
    (row,) = rows([BASE | {"n": name, "u": unit, "v": value}])
    assert row[field] == pytest.approx(expected)


def test_every_entry_of_the_table_converts() -> None:
    for field in set(FIELD_OF_NAME.values()):
        assert conversion(field, "") is not None
        assert conversion(field, "lat") is None
    for unit, field in FIELD_OF_UNIT.items():
        assert conversion(field, unit) is not None
    assert SUM_OF_FIELD.keys() <= set(FIELD_OF_NAME.values())


@pytest.mark.parametrize(
    ("base", "name", "serial"),
    [
        ("urn:dev:ow:10e2073a01080063:", "voltage", "10e2073a01080063"),
        ("URN:DEV:mac:0024befffe804ff1:", "voltage", "0024befffe804ff1"),
        ("", "urn:dev:ops:32473-Inv-42:voltage", "32473-Inv-42"),
        ("INV00000042", "voltage", "INV00000042"),
        ("INV00000042:", "voltage", "INV00000042"),
        ("", "INV00000042/voltage", "INV00000042"),
        ("INV0000", "0042/voltage", "INV00000042"),
        ("INV00000042", "", "INV00000042"),
    ],
)
def test_names(base: str, name: str, serial: str) -> None:
    assert rows([{"bn": base, "n": name, "u": "V", "t": 1.7e9, "v": 230}]) == [
        {"serial": serial, "ts": 1_700_000_000_000_000, "ac_voltage_v": 230.0}
    ]


@pytest.mark.parametrize("name", ["", "ä", "-x", "x" * 70 + "/power", "a b/power", "/power"])
def test_what_is_no_name_is_no_serial(name: str) -> None:
    decoded = decode([{"n": name, "v": 1}, {"n": "INV00000042/power", "v": 2}])
    assert [(item.reason, item.readings) for item in decoded.rejections] == [(Reason.BAD_SERIAL, 1)]
    assert decoded.rows["ac_power_w"].to_list() == [2.0]


def test_times() -> None:
    pack = [{"bn": "INV00000042/", "n": "power", "v": i, "t": t} for i, t in enumerate([-5, 0, 2.0**28, 1.7e9 + 0.25])]
    assert [row["ts"] for row in rows(pack)] == [
        (NOW_S - 5) * 1_000_000,
        NOW_S * 1_000_000,
        2**28 * 1_000_000,
        1_700_000_000_250_000,
    ]


def test_a_pack_without_time_leaves_it_to_the_core() -> None:
    assert rows([{"n": "INV00000042/power", "v": 1}])[0]["ts"] is None


def test_times_beyond_all_calendars_are_bad() -> None:
    for time in (1e300, "1e999"):
        payload = json.dumps([{"n": "INV00000042/power", "v": 1, "t": time}]).replace('"1e999"', "1e999")
        assert [item.reason for item in decode(payload.encode()).rejections] == [Reason.BAD_TIME]


def test_base_values_and_sums() -> None:
    pack = [
        BASE | {"bv": 100, "bs": 3600, "bu": "W", "n": "power", "v": 5},
        {"n": "power", "v": 6, "s": 3600, "t": 1},
        {"n": "load_power_w", "s": 36_000, "t": 2},
        {"n": "voltage", "u": "V", "s": 1, "t": 3},
    ]
    decoded = decode(pack)
    assert decoded.rows.select("ac_power_w", "energy_total_wh", "load_energy_total_wh").rows() == [
        (105.0, 1.0, None),
        (106.0, 2.0, None),
        (None, None, 11.0),
    ]
    assert decoded.unlisted == {"voltage.sum": 1}
    assert decoded.withheld_rows == {Withheld.UNLISTED: 1}


def test_texts_booleans_and_data_are_not_readings() -> None:
    pack = [
        BASE | {"n": "power", "u": "W", "vs": "12"},
        {"n": "door", "vb": True, "t": 1},
        {"n": "note", "vs": "secret", "t": 2},
        {"n": "image", "vd": "AAA", "t": 3},
    ]
    decoded = decode(pack)
    assert decoded.implausible == {"ac_power_w": 1}
    assert decoded.unlisted == {"door": 1, "note": 1, "image": 1}
    assert [item.reason for item in decoded.rejections] == [Reason.EMPTY]
    assert decoded.withheld_rows == {Withheld.UNLISTED: 3}


def test_a_unit_that_does_not_fit_is_implausible() -> None:
    decoded = decode([BASE | {"n": "power", "u": "V", "v": 1}])
    assert (decoded.implausible, decoded.rows.height) == ({"ac_power_w": 1}, 0)


def test_a_field_a_second_time_is_another_reading() -> None:
    decoded = decode([BASE | {"n": "power", "v": 1}, {"n": "power", "v": 2}, {"n": "voltage", "v": 230}])
    assert decoded.rows.select("ac_power_w", "ac_voltage_v").rows() == [(1.0, None), (2.0, 230.0)]


def test_labels_that_are_unknown_are_counted() -> None:
    assert decode([BASE | {"n": "power", "v": 1, "ct": "x"}]).unlisted == {"ct": 1}


@pytest.mark.parametrize(
    ("pack", "reason"),
    [
        ([], Reason.MALFORMED),
        ({"n": "a"}, Reason.MALFORMED),
        ([1], Reason.MALFORMED),
        ([{"bver": 11, "n": "a", "v": 1}], Reason.MALFORMED),
        ([{"bver": 0, "n": "a", "v": 1}], Reason.MALFORMED),
        ([{"bver": True, "n": "a", "v": 1}], Reason.MALFORMED),
        ([{"n": "a", "v": 1, "must_": 1}], Reason.MALFORMED),
        ([{"n": "a", "v": "1"}], Reason.MALFORMED),
        ([{"n": "a", "v": True}], Reason.MALFORMED),
        ([{"n": 1, "v": 1}], Reason.MALFORMED),
        ([{"n": "a", "t": "now", "v": 1}], Reason.MALFORMED),
        ([{"n": "a", "v": 1, "vs": "x"}], Reason.MALFORMED),
        ([{"n": "a", "v": 1}] * 1001, Reason.TOO_MANY_READINGS),
    ],
)
@pytest.mark.parametrize("codec", ["senml-json", "senml-cbor"])
def test_packs_that_are_none(pack: Any, reason: Reason, codec: str) -> None:
    payload = json.dumps(pack).encode() if codec == "senml-json" else _as_cbor(pack)
    message = raw(payload, content_type=f"application/senml+{codec[-4:]}")
    decoded = decode_batch([message, raw([BASE | {"n": "power", "v": 1}])], LIMITS)
    assert [(item.message, item.reason, item.readings) for item in decoded.rejections] == [(0, reason, 1)]
    assert decoded.codec_of_message[0] == codec
    assert decoded.rows["message"].to_list() == [1]


def _as_cbor(pack: Any) -> bytes:
    return (
        to_cbor(pack) if isinstance(pack, list) and all(isinstance(item, dict) for item in pack) else cbor2.dumps(pack)
    )


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\x81" * 20, Reason.TOO_DEEP),
        (b"\x9f" * 100_000, Reason.TOO_DEEP),
        (b"\xc4" * 50_000, Reason.TOO_DEEP),
        (b"\x9b" + b"\x7f" * 8, Reason.MALFORMED),  # an array that claims 9e18 entries
        (b"\x81\x7b" + b"\x7f" * 8, Reason.MALFORMED),
        (b"\x81\xa2\x00\x00\x00\x00", Reason.DUPLICATE_KEY),
        (b"\x81\xa1\x1b" + b"\xff" * 8 + b"\x00", Reason.MALFORMED),  # a key beyond all labels
        (b"\x81\xa1\x80\x00", Reason.MALFORMED),  # an array as key
        (b"\x81\xa1\xf5\x00", Reason.MALFORMED),
        (b"\x81\x62\xff\xfe", Reason.MALFORMED),
        (b"\x80\x00", Reason.MALFORMED),
        (b"\x81\xff", Reason.MALFORMED),
        (b"\x81\x1f", Reason.MALFORMED),
        (b"\x81\x1c", Reason.MALFORMED),
        (b"\x81\xe0", Reason.MALFORMED),
        (b"\x81\xd8\x1c\x81\xd8\x1d\x00", Reason.MALFORMED),  # a reference to itself
        (cbor2.dumps([2**70]), Reason.MALFORMED),  # tag 2
        (b"\x80" + b"\x00" * 100_000, Reason.TOO_LARGE),
    ],
)
def test_hostile_cbor(payload: bytes, reason: Reason) -> None:
    decoded = decode_batch([raw(payload, content_type="application/senml+cbor")], LIMITS)
    assert [item.reason for item in decoded.rejections] == [reason]


def test_decimal_fractions_and_indefinite_lengths() -> None:
    payload = b"\x9f\xbf\x00\x7f\x63INV\x68/voltage\xff\x02\xc4\x82\x21\x19\x59\xf6\xff\xff"
    assert parse_cbor(payload, LIMITS) == [{0: "INV/voltage", 2: 230.3}]


ITEMS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(-1000, 1000), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(ITEMS)
def test_what_cbor2_writes_is_read(item: object) -> None:
    found = parse_cbor(cbor2.dumps(item), LIMITS)
    assert repr(found) == repr(item)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60))
def test_noise_is_refused_or_read_as_cbor2_reads_it(payload: bytes) -> None:
    found = parse_cbor(payload, LIMITS)
    if not isinstance(found, Refused) and b"\xc4" not in payload:
        assert repr(found).replace("None", "undefined") == repr(cbor2.loads(payload)).replace("None", "undefined")


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
)
RECORDS = st.dictionaries(st.sampled_from([*LABELS.values(), "x", "x_"]), SCALARS, max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.lists(RECORDS | SCALARS, max_size=4) | SCALARS)
def test_no_pack_raises_and_every_reading_is_accounted(pack: Any) -> None:
    decoded = decode(json.dumps(pack).encode())
    accounted = decoded.rows.height + sum(decoded.withheld_rows.values()) + sum(r.readings for r in decoded.rejections)
    assert accounted >= 1
    for name in decoded.rows.columns[4:]:
        assert all(value is None or math.isfinite(value) for value in decoded.rows[name])
