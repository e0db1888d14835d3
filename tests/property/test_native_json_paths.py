"""The vectorised reader and the reference say the same of every message: rows, rejections, counts."""

import json
from collections.abc import Sequence

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetry.codecs.limits import CodecLimits, Portions
from telemetry.codecs.native_json import NativeJson
from telemetry.model.batch import DECODED_SCHEMA, Decoded, RawMessage, check_schema
from telemetry.model.fields import FIELD_NAMES, FIELD_SCHEMA

LIMITS = CodecLimits(max_message_bytes=20_000, max_readings_per_message=12, max_depth=6)
FAST = NativeJson(LIMITS, Portions(worth_a_batch=0, chunk_bytes=2000, rare=1))


def messages_of(payloads: Sequence[bytes]) -> list[RawMessage]:
    return [
        RawMessage(gateway="g", topic="readings", payload=payload, token=i, received_us=0)
        for i, payload in enumerate(payloads)
    ]


def assert_same(fast: Decoded, slow: Decoded) -> None:
    check_schema(fast.rows, DECODED_SCHEMA)
    check_schema(slow.rows, DECODED_SCHEMA)
    assert list(fast.rejections) == list(slow.rejections)
    assert fast.unlisted == slow.unlisted
    assert fast.implausible == slow.implausible
    assert fast.withheld_rows == slow.withheld_rows
    assert fast.rows.columns == slow.rows.columns
    assert fast.rows.equals(slow.rows, null_equal=True), (fast.rows, slow.rows)


def both(payloads: Sequence[bytes]) -> Decoded:
    messages = messages_of(payloads)
    indices = [3 * i + 1 for i in range(len(messages))]
    slow = FAST.decode_one_by_one(messages, indices)
    assert_same(FAST.decode(messages, indices), slow)
    return slow


def each(line: str) -> list[str]:
    return line.split()


ODD_LITERALS = [
    *each("null true false NaN Infinity -Infinity infinity nan nul nulll tru 1e999 -1e999 1e400 1e-400 5e-324 0e0"),
    *each("1e5 1E-3 1.e5 1.E5 1e 1e+ 01 -01 - -0 -0.0 0 00 0.0 .5 -.5 5. +1 1,2 0x10 1_0 1.5.2 --1 1-5"),
    *each('[] {} [1] {"a":1} {"ts":1} 1} ] 4.0 4.5 1e19 9223372036854775807 9223372036854775808'),
    *each("9007199254740993 9223372036854775 9223372036854776 123456789.12345678 12345678901234567890"),
    *each("0.1000000000000000055511151231257827 1746100800000 1746100800000.5 -62135596800000"),
    "",
    "1 2",
    "1" * 400,
    "9" * 64 + "e-30",
]
ODD_STRINGS = [
    *each("INV00000042 A inverter battery gateway junction_box ev_charger meter Inverter null 1 { [{"),
    *each('junction_bax junctionxbox ev_charges inverteR batterx meterr mete },{ ","'),
    *each("2026-05-01T12:00:00Z 2026-05-01T12:00:00.125Z 2026-05-01T12:00:00+02:00 2026-05-01T12:00Z"),
    *each("2024-02-29T23:59:59.999999999-00:30 2023-02-29T00:00:00Z 1970-01-01T00:00:00Z 2026-04-31T00:00:00Z"),
    *each("0000-01-01T00:00:00Z 9999-12-31T23:59:59Z 2026-05-01T12:00:60Z 2026-05-01T12:00:00.Z"),
    *each("0001-01-01T00:00:00+23:59 2100-01-01T00:00:00Z 2026-05-01T12:00:00.5+0200 2026-05-01T12:00:00,5Z"),
    *each("2026-05-01T12:00:00.1234567890Z 2026-05-01T24:00:00Z 2026-05-01T12:00:00+24:00 2026-13-01T12:00:00Z"),
    *each("2026-05-01T12:00:00 2026-05-01T12:00:00.1 20260501T120000Z 2026-05-01T12:00:00+02"),
    *(
        letter * count
        for letter, count in [("x", 64), ("x", 65), ("x", 12), ("x", 13), ("ü", 40), ("ü", 64), ("ü", 65)]
    ),
    *["", "2026-05-01 12:00:00z", ": ", ", ", "Küche", "\u00a0", "\x7f", "\t", "a\nb"],
    *["a\\\\", 'a\\"b', "\\u0041", "\\ud800"],
]
LITERALS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.integers(-(2**66), 2**66).map(str),
    st.floats(allow_nan=True, allow_infinity=True).map(json.dumps),
    st.floats(-1e5, 1e5).map(lambda x: repr(round(x, 2))),
    st.sampled_from(ODD_LITERALS),
)
STRINGS = st.one_of(
    st.sampled_from(ODD_STRINGS),
    st.text(max_size=12).map(lambda text: json.dumps(text)[1:-1]),
    st.text(max_size=12).map(lambda text: json.dumps(text, ensure_ascii=False)[1:-1]),
    st.text("0123456789-:.TZ+ ", max_size=30),
)
VALUES = st.one_of(LITERALS, LITERALS, STRINGS.map(lambda text: f'"{text}"'))
NAMES = st.one_of(
    st.sampled_from(["ac_power_w", "operating_state_code", "battery_discharge_energy_total_wh", "alert_bits"]),
    st.sampled_from(FIELD_NAMES),
    st.sampled_from(
        ["serial", "kind", "ts", "new_field", "zc_power_w", "ac_power_x", "battery_discharge_enerqy_total_wh"]
    ),
    STRINGS,
)
COMMAS = st.sampled_from([",", ",", ",", ",", ", ", " ,", ",\n", ",,", "", ";"])
COLONS = st.sampled_from([":", ":", ":", ":", ": ", " :", ":  ", ";"])
PLAIN = st.fixed_dictionaries(
    {
        "serial": st.sampled_from(["INV00000042", "INV00000043", "a-rather-long-serial-0042"]).map(json.dumps),
        "kind": st.sampled_from(["inverter", "battery", "junction_box", "ev_charger"]).map(json.dumps),
        "ts": st.one_of(
            st.integers(0, 2 * 10**12).map(str), st.datetimes().map(lambda at: json.dumps(at.isoformat() + "Z"))
        ),
        "ac_power_w": st.one_of(st.integers(-9, 10**7).map(str), st.floats(-1e5, 1e5).map(repr)),
    },
    optional={
        "new_field": st.sampled_from(["1", "null", '"x"', "true", "1.5"]),
        "other": st.sampled_from(["1", "null"]),
        "operating_state_code": st.sampled_from(["4", "null", "4.0", "4.5", "65535"]),
        "temperature_c": st.sampled_from(["21.5", "null", "-4", "1e1"]),
    },
).map(lambda pairs: list(pairs.items()))


@st.composite
def objects(draw: st.DrawFn, *, hostile: bool) -> str:
    pairs = draw(PLAIN)
    if hostile:
        pairs = draw(st.permutations(pairs)) if draw(st.booleans()) else pairs
        for _ in range(draw(st.integers(0, 2))):
            at = draw(st.integers(0, len(pairs)))
            pairs = [*pairs[:at], (draw(NAMES), draw(VALUES)), *pairs[at + draw(st.integers(0, 1)) :]]
    comma = draw(COMMAS) if hostile else ","
    colon = draw(COLONS) if hostile else draw(st.sampled_from([":", ": "]))
    return "{" + comma.join(f'"{name}"{colon}{value}' for name, value in pairs) + "}"


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    hostile = draw(st.integers(0, 3)) == 0
    if draw(st.booleans()):
        text = draw(objects(hostile=hostile))
    else:
        readings = draw(st.lists(objects(hostile=hostile), max_size=3)) * draw(st.sampled_from([1, 1, 2, 5]))
        separator = draw(COMMAS if hostile else st.sampled_from([",", ", ", ",", ",", ",,", ",x", ",  "]))
        text = separator.join(readings)
        text = f"[{text}]" if draw(st.integers(0, 5)) else text
    payload = text.encode(errors="surrogatepass")
    if hostile and draw(st.integers(0, 2)) == 0:
        cut = draw(st.integers(0, len(payload)))
        junk = draw(
            st.sampled_from([b"", b"\xff", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b"\x00", b" ", b"\xef\xbb\xbf"])
        )
        payload = payload[:cut] + junk + payload[cut + draw(st.integers(0, 3)) :]
    return payload


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(payloads(), min_size=1, max_size=12))
def test_a_batch_is_what_its_messages_are(batch: list[bytes]) -> None:
    both(batch)


WHOLE = {
    "serial": "INV00000042",
    "kind": "inverter",
    "ts": 1746100800000,
    "ac_power_w": 1,
    "operating_state_code": 4,
    "new_field": 1,
}


def variations(value: str) -> list[bytes]:
    """``value`` in the place of each value and each key of a good reading."""
    found = []
    for name in WHOLE:
        values = {key: value if key == name else json.dumps(other) for key, other in WHOLE.items()}
        found.append("{" + ",".join(f'"{key}":{other}' for key, other in values.items()) + "}")
        keys = {key: value if key == name else json.dumps(key) for key in WHOLE}
        found.append("{" + ",".join(f"{keys[key]}:{json.dumps(other)}" for key, other in WHOLE.items()) + "}")
    return [text.encode(errors="surrogatepass") for text in found]


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_every_value_in_every_place(values: list[str]) -> None:
    good = json.dumps(WHOLE, separators=(",", ":")).encode()
    both([good, *(payload for value in values for payload in variations(value))])


@pytest.mark.parametrize("form", ["one batch", "batches of one value"])
def test_every_odd_value_in_every_place(form: str) -> None:
    good = json.dumps(WHOLE, separators=(",", ":")).encode()
    with_text_time = good.replace(b"1746100800000", b'"2026-05-01T12:00:00Z"')
    values = [*ODD_LITERALS, *(f'"{text}"' for text in ODD_STRINGS)]
    batches = [[good, with_text_time, *variations(value)] for value in values]
    if form == "one batch":
        batches = [[payload for batch in batches for payload in batch]]
    for one in batches:
        both(one)


TEXT_LAST = '{"ac_power_w":1,"serial":"INV00000042","kind":"inverter","ts":"2026-05-01T12:00:00Z"}'
NULL = TEXT_LAST.replace(":1,", ":null,")
ONLY_UNLISTED = TEXT_LAST.replace("ac_power_w", "new_field1")
BOTH = TEXT_LAST.replace("{", '{"new_field":2,')


@pytest.mark.parametrize("separator", [",", ", ", ",  ", ",x", "x,", ",,", "", " ", ";", "},{", "],[", ",]", "[,"])
@pytest.mark.parametrize("other", [TEXT_LAST, NULL, ONLY_UNLISTED, BOTH, BOTH.replace(":1,", ":null,"), "{}", "1", ""])
def test_every_way_to_join_readings(separator: str, other: str) -> None:
    arrays = [[TEXT_LAST, TEXT_LAST], [TEXT_LAST, other], [other, TEXT_LAST], [other], [other, BOTH], [BOTH, other]]
    texts = [separator.join(readings) for readings in arrays]
    both([text.encode() for text in (TEXT_LAST, *texts, *(f"[{text}]" for text in texts), BOTH)])


@st.composite
def columns(draw: st.DrawFn) -> bytes:
    """Columns of up to four readings, good ones and others."""
    length = draw(st.integers(0, 4))
    hostile = draw(st.integers(0, 2)) == 0
    names = [
        "serial",
        "kind",
        "ts",
        "ac_power_w",
        *draw(st.permutations(["operating_state_code", "x", "temperature_c"])),
    ]
    good = {
        "serial": st.sampled_from(['"INV00000042"', '"a-rather-long-serial-0042"']),
        "kind": st.sampled_from(['"inverter"', '"junction_box"']),
        "ts": draw(st.sampled_from([st.just('"2026-05-01T12:00:00Z"'), st.just("1746100800000")])),
        "x": draw(st.sampled_from([st.sampled_from(['"x"', '"y,z"']), st.sampled_from(["1", "null", "true"])])),
        "operating_state_code": st.sampled_from(["4", "null"]),
    }
    numbers = st.one_of(st.integers(-9, 10**7).map(str), st.floats(-1e5, 1e5).map(repr), st.just("null"))
    pairs = []
    for name in names[: draw(st.integers(3, len(names)))]:
        entries = [draw(good.get(name, numbers)) for _ in range(length)]
        if hostile and draw(st.integers(0, 2)) == 0 and entries:
            entries[draw(st.integers(0, length - 1))] = draw(VALUES)
        if hostile and draw(st.integers(0, 9)) == 0:
            entries = entries[:-1]
        pairs.append(f'"{name}":[' + draw(st.sampled_from([",", ", "] + [",,"] * hostile)).join(entries) + "]")
    if hostile and draw(st.integers(0, 4)) == 0:
        pairs.insert(draw(st.integers(0, len(pairs))), f'"{draw(NAMES)}":{draw(VALUES)}')
    text = "{" + draw(st.sampled_from([",", ", "])).join(pairs) + "}"
    if hostile and draw(st.integers(0, 4)) == 0:
        cut = draw(st.integers(0, len(text)))
        text = text[:cut] + draw(st.sampled_from(['"', "\\", "[", "]", "{", "}", ",", "[]", "\x00", "ü"])) + text[cut:]
    return text.encode(errors="surrogatepass")


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(columns(), min_size=1, max_size=8), st.lists(payloads(), max_size=2))
def test_columns_among_others(batch: list[bytes], others: list[bytes]) -> None:
    both([*batch, *others])


@pytest.mark.parametrize("name", [*WHOLE])
def test_every_odd_value_in_every_column(name: str) -> None:
    batch = []
    for value in [*ODD_LITERALS, *(f'"{text}"' for text in ODD_STRINGS)]:
        good = {key: json.dumps(other) for key, other in WHOLE.items()}
        arrays = {key: [other, value if key == name else other] for key, other in good.items()}
        batch.append("{" + ",".join(f'"{key}":[{",".join(entries)}]' for key, entries in arrays.items()) + "}")
    both([text.encode(errors="surrogatepass") for text in batch])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.text('[]{}",:0123456789.eE+-nulltrefas \\', max_size=40).map(str.encode)))
def test_noise(batch: list[bytes]) -> None:
    good = b'{"serial":"INV00000042","kind":"inverter","ts":1746100800000,"ac_power_w":1}'
    decoded = both([good, *batch, good])
    assert decoded.rows["message"].to_list()[0] == 1
    assert decoded.rows["message"].to_list()[-1] == 3 * (len(batch) + 1) + 1


def test_the_test_sees_a_difference() -> None:
    rows = pl.DataFrame({"message": [0], "serial": ["A"], "kind": [1], "ts": [0], "ac_power_w": [1.0]})
    rows = rows.cast({**DECODED_SCHEMA, "ac_power_w": FIELD_SCHEMA["ac_power_w"]})
    other = rows.with_columns(ac_power_w=pl.lit(2.0))
    try:
        assert_same(Decoded(rows), Decoded(other))
    except AssertionError:
        return
    raise AssertionError("two different results passed for the same")


@pytest.mark.long
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(payloads() | columns(), min_size=1, max_size=12))
def test_many_batches(batch: list[bytes]) -> None:
    both(batch)
