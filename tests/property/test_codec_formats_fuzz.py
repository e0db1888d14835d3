"""Formats of gateways against noise: whatever arrives, only typed rejections, finite numbers and a full account.

Each kind of damage is done 100 times to each format, 2,400 examples in all, and 1,550 are made of nothing. The seeds
are the golden cases' messages in their order, so that codecs with memory meet the damaged one amid a conversation.
"""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.codecs.protobuf_wire import WireError, fields
from telemetry.codecs.registry import decode_remembering
from telemetry.codecs.state import EMPTY
from telemetry.model.batch import RawMessage, Reason, Withheld
from tests.support.golden import LIMITS, cases, load, raw

FORMATS = ("opendtu", "ahoydtu", "evcc", "tasmota", "shelly", "sparkplug-b")
SEEDS = {name: [[raw(message) for message in load(case)] for case in cases(name)] for name in FORMATS}
EXAMPLES = settings(max_examples=100, deadline=None)


def check(messages: list[RawMessage]) -> None:
    memories = {}
    for half in (messages[: len(messages) // 2], messages[len(messages) // 2 :]):
        found = decode_remembering(half, LIMITS, lambda gateway, codec: memories.get((gateway, codec), EMPTY))
        memories.update(found.memories)
        decoded = found.decoded
        for rejection in decoded.rejections:
            assert isinstance(rejection.reason, Reason)
            assert rejection.readings >= 1
        assert all(isinstance(reason, Withheld) for reason in decoded.withheld_rows)
        for name in decoded.rows.columns[4:]:
            assert all(value is None or math.isfinite(value) for value in decoded.rows[name])
        assert all(0 < len(serial) <= 64 and serial.isprintable() for serial in decoded.rows["serial"])
        assert all(memory.size_bytes <= LIMITS.max_state_bytes for memory in found.memories.values())
        for request in found.requests:
            assert request.topic.startswith("spBv1.0/")


def damaged(data: st.DataObject, name: str, change) -> None:
    seeds = data.draw(st.sampled_from(SEEDS[name]))
    index = data.draw(st.integers(0, len(seeds) - 1))
    check([*seeds[max(0, index - 2) : index], change(seeds[index]), *seeds[index + 1 : index + 3]])


@pytest.mark.parametrize("name", FORMATS)
@EXAMPLES
@given(st.data())
def test_truncated(name: str, data: st.DataObject) -> None:
    damaged(data, name, lambda m: m._replace(payload=m.payload[: data.draw(st.integers(0, len(m.payload)))]))


@pytest.mark.parametrize("name", FORMATS)
@EXAMPLES
@given(st.data())
def test_extended(name: str, data: st.DataObject) -> None:
    damaged(data, name, lambda m: m._replace(payload=m.payload + data.draw(st.binary(min_size=1, max_size=20))))


def flipped(payload: bytes, bit: int) -> bytes:
    changed = bytearray(payload or b"\0")
    changed[bit // 8 % len(changed)] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("name", FORMATS)
@EXAMPLES
@given(st.data())
def test_bit_flipped(name: str, data: st.DataObject) -> None:
    damaged(data, name, lambda m: m._replace(payload=flipped(m.payload, data.draw(st.integers(0, 8 * 400)))))


NAMES = st.sampled_from(
    [
        "src",
        "method",
        "params",
        "ts",
        "em:0",
        "switch:1",
        "wifi",
        "aenergy",
        "total",
        "apower",
        "Time",
        "ENERGY",
        "Power",
        "Total",
        "Wifi",
        "BSSId",
        "SML",
        "E_in",
        "x",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)


@pytest.mark.parametrize("name", FORMATS)
@EXAMPLES
@given(st.data())
def test_random_json(name: str, data: st.DataObject) -> None:
    damaged(data, name, lambda m: m._replace(payload=json.dumps(data.draw(JSON)).encode()))


SHELLY = st.fixed_dictionaries(
    {"src": st.sampled_from(["shellypro3em-a", "shellyplus2pm-b", "", 5]),
     "method": st.sampled_from(["NotifyStatus", "NotifyFullStatus", "NotifyEvent"]),
     "params": st.dictionaries(NAMES, JSON, max_size=5)}
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(SHELLY, max_size=6))
def test_random_notifications(frames: list[object]) -> None:
    check([RawMessage("g", "x/events/rpc", json.dumps(frame).encode(), 0, 1) for frame in frames])


_LEVELS = [
    "evcc",
    "site",
    "loadpoints",
    "1",
    "solar",
    "114182A0C4F7",
    "0",
    "power",
    "inverter",
    "ch0",
    "P_AC",
    "tele",
    "SENSOR",
    "STATE",
    "dtu",
    "ip",
    "spBv1.0",
    "NBIRTH",
    "DDATA",
    "NDEATH",
    "events",
    "rpc",
]
LEVELS = st.lists(
    st.sampled_from([*_LEVELS, "", "ä", "\x7f"]) | st.text(max_size=70),
    min_size=1,
    max_size=6,
).map("/".join)
PAYLOADS = st.sampled_from(sorted({m.payload for seeds in SEEDS.values() for seed in seeds for m in seed}))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(LEVELS, PAYLOADS | st.binary(max_size=40), st.booleans()), max_size=5))
def test_any_payload_on_any_topic(sent: list[tuple[str, bytes, bool]]) -> None:
    check([RawMessage("g", topic, payload, 0, 1, retained=retained) for topic, payload, retained in sent])


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_refused(content: bytes) -> None:
    try:
        found = list(fields(content, 100))
    except WireError:
        return
    assert sum(len(field.value) for field in found if isinstance(field.value, bytes)) <= len(content)
