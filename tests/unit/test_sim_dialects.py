"""Dialects of the simulator: what they say is what the service's codecs read, value by value."""

import itertools
import math

import pytest

from device_sim.devices import devices_of_home
from device_sim.dialects import DIALECTS, Spoken
from device_sim.dialects.spoken import values_of
from device_sim.fleet import FleetSettings, messages, timeline
from device_sim.message import Message
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.registry import DecodedBatch, decode_remembering
from telemetry.codecs.state import EMPTY
from telemetry.model.batch import RawMessage, Reason

START_S = 1_777_636_800.0
GATEWAY = "gw-0001"


def some(name: str, count: int = 400, seed: int = 3) -> list[Message]:
    settings = FleetSettings(format=name, seed=seed, start_s=START_S, speed=math.inf, interval_s=60.0)
    return list(itertools.islice(messages(settings, timeline(settings, START_S + 86_400), 0), count))


def decoded(given: list[Message]) -> DecodedBatch:
    raw = [RawMessage(GATEWAY, one.topic, one.payload, 0, 1_000_000, retained=one.retain) for one in given]
    return decode_remembering(raw, CodecLimits(), lambda *_: EMPTY)


@pytest.mark.parametrize("name", DIALECTS)
def test_the_same_seed_says_the_same(name: str):
    assert [one.payload for one in some(name)] == [one.payload for one in some(name)]
    assert [one.payload for one in some(name)] != [one.payload for one in some(name, seed=4)]


@pytest.mark.parametrize("name", DIALECTS)
def test_every_value_said_is_read_as_it_was_meant(name: str):
    given = some(name)
    batch = decoded(given)
    assert [one for one in batch.decoded.rejections if one.reason is not Reason.EMPTY] == []
    rows = {row["message"]: row for row in batch.decoded.rows.iter_rows(named=True)}
    meant = _meant(name, len(given))
    assert len(meant) > 100
    for number, said in meant.items():
        row = rows.pop(number)
        ((serial, values),) = values_of(said)
        assert row["serial"] == serial
        read = {name for name, value in row.items() if value is not None} - {"message", "serial", "kind", "ts"}
        assert read == values.keys() or said.field in read  # of some that carry several, one is said
        assert row["ts"] == (said.expected[0].ts_us if said.expected else None)
        for field, value in values.items():
            assert math.isclose(row[field], value, rel_tol=1e-9, abs_tol=1e-9), field
    assert rows == {}


def _meant(name: str, count: int) -> dict[int, Spoken]:
    """What the dialect says again, with what it means: number of the message → value."""
    from device_sim import fleet

    settings = FleetSettings(format=name, seed=3, start_s=START_S, speed=math.inf, interval_s=60.0)
    devices = devices_of_home(0, settings.devices_per_home)
    source = fleet._chunks(settings, 0, devices, timeline(settings, START_S + 86_400))
    speaker = DIALECTS[name].speaker()
    said = [*speaker.greet(GATEWAY, devices)]
    for readings in source:
        said += [one for reading in readings for one in speaker.say(GATEWAY, reading)]
        if len(said) >= count:
            return {number: one for number, one in enumerate(said[:count]) if values_of(one)}
    raise AssertionError("unreachable")


@pytest.mark.parametrize("name", DIALECTS)
def test_private_strings_are_said_and_not_kept(name: str):
    given = some(name)
    wire = " ".join(f"{one.topic} {one.payload.decode(errors='replace')}" for one in given)
    private = DIALECTS[name].private(GATEWAY)
    assert private
    rows = str(decoded(given).decoded.rows.drop("serial").to_dicts())
    for secret in private:
        assert secret in wire
        assert secret not in rows
