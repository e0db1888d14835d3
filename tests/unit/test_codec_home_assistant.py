"""Home Assistant's discovery: what golden cases do not show: damage, bounds, the table, and the index kept right."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.codecs import home_assistant
from telemetry.codecs.home_assistant_table import CHOICES, UNITS, choose
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.registry import decode_remembering
from telemetry.codecs.state import EMPTY, Memory
from telemetry.model.batch import RawMessage, Reason, Withheld
from telemetry.model.fields import FIELD_BY_NAME
from tests.support.fuzzing import JSON, damaged, holds

POWER = {
    "state_topic": "a/power",
    "device_class": "power",
    "unit_of_measurement": "W",
    "unique_id": "u1",
    "device": {"identifiers": ["DEV00000001"]},
}
SEEDS = [
    ("homeassistant/sensor/x/config", json.dumps(POWER).encode()),
    ("homeassistant/sensor/n/y/config", json.dumps(POWER | {"value_template": "{{ value_json.p / 10 }}"}).encode()),
    (
        "homeassistant/device/z/config",
        json.dumps({"dev": {"ids": ["D"]}, "cmps": {"p": {"p": "sensor", **POWER}}}).encode(),
    ),
    ("a/power", b"12.5"),
    ("a/power", b'{"p": 5, "q": [1, {"r": null}]}'),
]


def raw(topic: str, payload: Any, *, gateway: str = "g") -> RawMessage:
    payload = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return RawMessage(gateway, topic, payload, 0, 1_700_000_000_000_000)


def config(object_id: str = "x", component: str = "sensor", **changes: Any) -> RawMessage:
    return raw(f"homeassistant/{component}/{object_id}/config", POWER | changes)


@given(st.lists(damaged(SEEDS), max_size=8))
@settings(max_examples=600, deadline=None)
def test_damaged_messages_give_rows_and_typed_rejections_only(given_messages: list[tuple[str, bytes]]):
    holds([raw(topic, payload) for topic, payload in [*SEEDS[:2], *given_messages]])


@given(st.dictionaries(st.sampled_from([*POWER, "~", "cmps", "dev", "avty", "value_template", "stat_t"]), JSON))
@settings(max_examples=400, deadline=None)
def test_discovery_with_anything_for_its_values(changes: dict):
    holds([raw("homeassistant/sensor/x/config", POWER | changes), raw("a/power", b"5"), raw("a/power", {"p": 5})])


def index_of(memory: Memory) -> dict:
    index = memory.cache.get("index") or home_assistant._Index()
    return {name: getattr(index, name) for name in ("by_topic", "devices", "main", "others")}


def rebuilt(memory: Memory) -> dict:
    """The index made anew; who claims a field is compared as a set but for the first, which is what counts."""
    index = home_assistant._Index()
    for key, entry in memory.entries.items():
        index.add(key, entry)
    return {name: getattr(index, name) for name in ("by_topic", "devices", "main", "others")}


@pytest.mark.parametrize("limit", [800, 100_000])
def test_the_index_follows_every_change(limit: int, monkeypatch: pytest.MonkeyPatch):
    """300 steps of announcing, changing, removing, with eviction by size and by number: kept = made anew."""
    monkeypatch.setattr(home_assistant, "MAX_CONFIGS", 6)
    rng = random.Random(4)
    memory, evicted = EMPTY, 0
    for _ in range(300):
        messages = []
        for _ in range(rng.randint(1, 3)):
            name = str(rng.randrange(9))
            if rng.random() < 0.2:
                messages.append(raw(f"homeassistant/sensor/{name}/config", b""))
            else:
                changes = {
                    "state_topic": f"t/{rng.randrange(4)}",
                    "device": {"identifiers": f"D{rng.randrange(2)}"},
                    "device_class": rng.choice(["power", "voltage", "temperature", "gas"]),
                    "unit_of_measurement": rng.choice(["W", "V", "°C"]),
                    "availability_topic": f"t/{rng.randrange(6)}",
                }
                messages.append(config(name, **changes))
        batch = decode_remembering(messages, CodecLimits(max_state_bytes=limit), lambda *_, now=memory: now)
        evicted += batch.evicted
        memory = batch.memories.get(("g", home_assistant.NAME), memory)
        kept, anew = index_of(memory), rebuilt(memory)
        assert kept["by_topic"] == anew["by_topic"]
        assert kept["main"] == anew["main"]
        assert kept["others"] == anew["others"]
        assert {d: {f: set(r) for f, r in fields.items()} for d, fields in kept["devices"].items()} == {
            d: {f: set(r) for f, r in fields.items()} for d, fields in anew["devices"].items()
        }
        assert len(memory.entries) <= 6
        assert memory.size_bytes <= limit
    assert evicted > 10


def test_who_came_first_holds_the_field_whatever_is_restarted():
    batch = decode_remembering([config("x"), config("y", state_topic="b/power")], CodecLimits(), lambda *_: EMPTY)
    memory = batch.memories["g", home_assistant.NAME]
    for known in (memory, Memory.of(memory.entries)):
        later = decode_remembering(
            [raw("b/power", b"2"), raw("a/power", b"1")], CodecLimits(), lambda *_, now=known: now
        )
        assert later.decoded.rows["ac_power_w"].to_list() == [1.0]
        assert later.decoded.withheld_rows == {Withheld.UNLISTED: 1}


def test_a_new_field_is_withheld_and_counted():
    batch = holds([config(value_template="{{ value_json.p }}"), raw("a/power", {"p": 1, "new_in_2027": "who am I"})])
    assert batch.decoded.unlisted["new_in_2027"] == 1
    assert batch.decoded.rows.columns[4:] == ["ac_power_w"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": {"identifiers": ["x" * 65]}}, Reason.BAD_SERIAL),
        ({"device": {"identifiers": [""]}}, Reason.BAD_SERIAL),
        ({"device": {"identifiers": ["a\u0007"]}}, Reason.BAD_SERIAL),
    ],
)
def test_what_cannot_name_a_device(changes: dict, reason: Reason):
    batch = holds([config(**changes), raw("a/power", b"5")])
    assert [one.reason for one in batch.decoded.rejections] == [reason]


@pytest.mark.parametrize(
    ("device", "serial"),
    [
        ({"identifiers": "A"}, "A"),
        ({"ids": [7]}, "7"),
        ({"connections": [["mac", "02:00:5e:00:53:02"]]}, "02:00:5e:00:53:02"),
        ({"name": "only a name"}, "u1"),
    ],
)
def test_what_a_device_is_called(device: dict, serial: str):
    batch = holds([config(device=device), raw("a/power", b"5")])
    assert batch.decoded.rows["serial"].to_list() == [serial]


def test_too_many_components_are_refused():
    components = {str(n): {"p": "sensor"} for n in range(257)}
    batch = holds([raw("homeassistant/device/x/config", {"cmps": components})])
    assert [one.reason for one in batch.decoded.rejections] == [Reason.TOO_MANY_READINGS]


def test_every_row_of_the_table_names_a_field_and_a_unit():
    assert CHOICES.keys() == UNITS.keys()
    for quantity, choices in CHOICES.items():
        for choice in choices:
            assert choice.field in FIELD_BY_NAME
            words = frozenset(next(iter(sorted(one - choice.none_of))) for one in choice.all_of)
            assert choose(quantity, words) is not None, choice


@pytest.mark.parametrize("quantity", sorted(UNITS))
def test_units_of_the_table_give_the_fields_unit(quantity: str):
    """One of the base unit is one; kilo and milli are what they say."""
    for unit, convert in UNITS[quantity].items():
        if unit.startswith("k") and unit != "kJ":
            assert convert(1.0) == 1000.0
        if unit.startswith("m") and unit != "min":
            assert convert(1000.0) == pytest.approx(1.0)


def test_gateways_do_not_know_each_others_entities():
    batch = holds([config(), raw("a/power", b"5", gateway="other")])
    assert [(one.message, one.reason) for one in batch.decoded.rejections] == [(1, Reason.UNKNOWN_TOPIC)]


def test_a_retained_state_below_discoverys_own_prefix_is_no_reading_either():
    state = raw("homeassistant/sensor/x/state", b"5")
    batch = holds([config(state_topic=state.topic), state._replace(retained=True), state])
    assert batch.decoded.rows["message"].to_list() == [2]
    assert batch.decoded.withheld_rows == {Withheld.RETAINED: 1}


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("House PV Power", "ac_power_w"),  # the device's own name says nothing about this value
        ("Power", "ac_power_w"),
        ("House Power", "load_power_w"),
    ],
)
def test_the_devices_name_in_front_is_not_the_entitys(name: str, field: str):
    batch = holds([config(name=name, device={"identifiers": ["D"], "name": "House PV"}), raw("a/power", b"5")])
    assert batch.decoded.rows.columns[4:] == [field]
