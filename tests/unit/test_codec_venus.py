"""Venus OS: what golden cases do not show: damage, bounds, keep-alives, and the table as a whole."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.registry import decode_remembering, is_request
from telemetry.codecs.state import EMPTY, Memory
from telemetry.codecs.venus import KEEP_ALIVE_S, MAX_PORTALS, NAME, standing
from telemetry.codecs.venus_table import NEVER_DECODED, SERVICES
from telemetry.model.batch import RawMessage, Withheld
from telemetry.model.fields import FIELD_BY_NAME, FIELDS_OF_KIND
from tests.support.fuzzing import damaged, holds

SEEDS = [
    (f"N/c0619ab9929a/{path}", json.dumps({"value": value}).encode())
    for path, value in (
        ("system/0/Ac/Grid/L1/Power", 936),
        ("system/0/Ac/Grid/NumberOfPhases", 1),
        ("evcharger/40/Status", 2),
        ("gps/1/Position/Latitude", 48.1),
        ("settings/0/Settings/x", "secret"),
        ("battery/512/Serial", "HQ"),
    )
]


def raw(path: str, payload: Any, portal: str = "c0619ab9929a") -> RawMessage:
    payload = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return RawMessage("g", f"N/{portal}/{path}", payload, 0, 1_700_000_000_000_000)


@given(st.lists(damaged(SEEDS), max_size=8))
@settings(max_examples=600, deadline=None)
def test_damaged_messages_give_rows_and_typed_rejections_only(given_messages: list[tuple[str, bytes]]):
    batch = holds([RawMessage("g", topic, payload, 0, 0) for topic, payload in given_messages])
    assert batch.decoded.rows.filter(batch.decoded.rows["serial"].str.contains("gps|settings")).height == 0


@given(st.lists(st.text(alphabet="ab/+#ACPower0129LSoc", max_size=20), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_topic_below_it(levels: list[str]):
    holds([RawMessage("g", "/".join(["N", *levels]), b'{"value":1}', 0, 0)])


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_the_table_names_fields_that_devices_of_the_kind_can_report(service: str):
    kind, paths = SERVICES[service]
    for row in paths.values():
        for name in {row.name, row.only_phase} - {""}:
            assert name in FIELD_BY_NAME
            assert name in FIELDS_OF_KIND[kind], f"{name} is no field of a {kind.label}"


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_new_path_of_every_service_is_withheld_and_counted(service: str):
    decoded = holds([raw(f"{service}/0/NewIn/Firmware", {"value": "who am I"})]).decoded
    assert (decoded.rows.height, decoded.withheld_rows) == (0, {Withheld.UNLISTED: 1})
    assert decoded.unlisted == {f"{service}.newin.firmware": 1}


def test_settings_are_never_looked_into():
    assert NEVER_DECODED not in SERVICES
    for payload in (b'{"value":"secret"}', b"{broken", b"\xff"):
        decoded = holds([raw("settings/0/Settings/Services/Password", payload)]).decoded
        assert (decoded.rows.height, decoded.rejections) == (0, [])
        assert decoded.withheld_rows == {Withheld.UNLISTED: 1}


@pytest.mark.parametrize("place", ["gps/0/Position/Latitude", "gps/0/NrOfSatellites", "ev/4/Position/Longitude"])
def test_places_are_withheld_as_such(place: str):
    assert holds([raw(place, {"value": 48.1})]).decoded.withheld_rows == {Withheld.PLACE: 1}


@pytest.mark.parametrize("payload", [b"", b'{"value":null}', b'{"value": null, "max": 5}'])
def test_no_value_and_a_device_that_is_gone_are_no_readings(payload: bytes):
    decoded = holds([raw("battery/0/Soc", payload)]).decoded
    assert (decoded.rows.height, decoded.rejections, decoded.withheld_rows) == (0, [], {})


def test_a_gateway_may_have_several_portals_and_not_any_number():
    batch = holds([raw("battery/0/Soc", {"value": 5}, portal=f"p{n}") for n in range(20)])
    assert batch.decoded.rows.height == 20
    assert len(standing(batch.memories["g", NAME])) == MAX_PORTALS


def test_keep_alives_go_where_the_registry_lets_them_and_in_time():
    (wanted,) = standing(holds([raw("battery/0/Soc", {"value": 5})]).memories["g", NAME])
    assert is_request(wanted.topic)
    assert 30 <= wanted.every_s == KEEP_ALIVE_S <= 60
    assert wanted.first == b""
    assert json.loads(wanted.payload) == {"keepalive-options": ["suppress-republish"]}


def test_nothing_is_stored_anew_while_nothing_new_is_learnt():
    memory = holds([raw("battery/0/Soc", {"value": 5})]).memories["g", NAME]
    messages = [raw("battery/0/Soc", {"value": value}) for value in range(50)]
    batch = decode_remembering(messages, CodecLimits(), lambda *_: Memory.of(memory.entries))
    assert batch.memories == {}


def test_phases_are_remembered_by_portal():
    messages = [
        raw("system/0/Ac/Grid/NumberOfPhases", {"value": 1}, "a"),
        raw("system/0/Ac/Grid/L1/Power", {"value": 5}, "a"),
        raw("system/0/Ac/Grid/L1/Power", {"value": 6}, "b"),
    ]
    rows = decode_remembering(messages, CodecLimits(), lambda *_: EMPTY).decoded.rows
    assert rows["grid_power_w"].to_list() == [5.0, None]
    assert rows["grid_power_l1_w"].to_list() == [5.0, 6.0]
