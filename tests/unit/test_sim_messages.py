"""What a fleet publishes: decided by its seed, exactly what its ledger says, in formats a stranger can read."""

import io
import itertools
import json
import math
from collections import Counter
from datetime import datetime

import pyarrow as pa
import pytest

from device_sim.faults import POISON, Faults
from device_sim.fleet import FleetSettings, messages, timeline
from device_sim.formats import FORMATS, rfc3339
from device_sim.message import Message, Reading
from device_sim.timeline import Timeline

START_S = 1_777_636_800.0  # 2026-05-01T12:00:00Z
NOW_S = START_S + 600


def some(count: int, index: int = 0, **settings: object) -> list[Message]:
    made = FleetSettings(**{"start_s": START_S, "speed": math.inf, "interval_s": 1.0, **settings})  # type: ignore[arg-type]
    return list(itertools.islice(messages(made, timeline(made, NOW_S), index), count))


ALL_FAULTS = Faults(duplicate_share=0.2, poison_share=0.2, implausible_share=0.3, unlisted_share=0.3)


@pytest.mark.parametrize("kind", [*FORMATS, "mixed"])
def test_the_same_seed_gives_the_same_bytes(kind: str) -> None:
    size = 1 if kind == "single" else 13

    first, second, other = (
        [m.payload for m in some(60, index=2, seed=seed, format=kind, readings_per_message=size, faults=ALL_FAULTS)]
        for seed in (5, 5, 6)
    )

    assert first == second
    assert first != other


def test_gateways_of_a_fleet_differ() -> None:
    assert some(3, index=0)[2].payload != some(3, index=1)[2].payload


def test_every_reading_of_a_device_has_its_own_time_and_comes_in_order() -> None:
    readings = [r for m in some(40, devices_per_home=7) for r in m.expected]

    keys = [(r.serial, r.ts_us) for r in readings]
    assert len(set(keys)) == len(keys)
    assert [r.ts_us for r in readings] == sorted(r.ts_us for r in readings)
    assert Counter(r.serial for r in readings).most_common()[-1][1] >= len(readings) // 7 - 1


def test_sequences_count_from_one_without_a_gap() -> None:
    assert [m.sequence for m in some(200, faults=ALL_FAULTS)] == list(range(1, 201))


def test_a_number_of_messages_is_divided_among_the_gateways() -> None:
    counts = [len(some(100, index=i, gateways=3, messages=10)) for i in range(3)]

    assert sorted(counts) == [3, 3, 4]


def decode(message: Message) -> list[Reading]:
    """A reader of its own for every format: the point is that it shares nothing with the writer."""
    if message.content_type == "application/vnd.apache.arrow.stream":
        table = pa.ipc.open_stream(io.BytesIO(message.payload)).read_all()
        assert table.schema.field("ts").type == pa.timestamp("us", "UTC")
        rows = table.set_column(2, "ts", table["ts"].cast(pa.int64())).to_pylist()
        return [_reading(row, row["ts"]) for row in rows]
    value = json.loads(message.payload)
    if message.topic == "senml":
        return _senml(value)
    if isinstance(value, dict) and isinstance(value["serial"], list):
        value = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    return [_reading(row, _us(row["ts"])) for row in (value if isinstance(value, list) else [value])]


def _us(ts: object) -> int:
    if isinstance(ts, int):
        return ts * 1000
    assert isinstance(ts, str)
    assert ts.endswith("Z")
    return round(datetime.fromisoformat(ts).timestamp() * 1e6)


def _reading(row: dict[str, object], ts_us: int) -> Reading:
    fields = {k: v for k, v in row.items() if k not in {"serial", "kind", "ts"} and v is not None}
    return Reading(str(row["serial"]), str(row["kind"]), ts_us, fields)  # type: ignore[arg-type]


def _senml(records: list[dict[str, object]]) -> list[Reading]:
    readings: dict[tuple[str, int], dict[str, object]] = {}
    base_name, base_time = "", 0.0
    for record in records:
        base_name, base_time = record.get("bn", base_name), record.get("bt", base_time)  # type: ignore[assignment]
        serial, _, name = f"{base_name}{record['n']}".rpartition(":")
        value = record["v"] if "v" in record else record["vs"]
        readings.setdefault((serial, round(base_time * 1e6)), {})[name] = value
    return [Reading(serial, "", ts, fields) for (serial, ts), fields in readings.items()]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_message_says_what_the_ledger_expects(kind: str) -> None:
    size = 1 if kind == "single" else 25
    for message in some(8, format=kind, readings_per_message=size, interval_s=0.25):
        expected = [r._replace(kind="") for r in message.expected] if kind == "senml" else message.expected
        assert decode(message) == expected


def test_senml_units_follow_rfc_8428() -> None:
    (message,) = some(1, format="senml", readings_per_message=6)

    units = {record["n"]: record.get("u") for record in json.loads(message.payload)}

    assert units["ac_power_w"] == "W"
    assert units["temperature_c"] == "Cel"
    assert units["ac_voltage_v"] == "V"
    assert units["energy_total_wh"] == "Wh"
    assert units["operating_state_code"] is None


def test_impossible_values_and_unlisted_fields_are_sent_and_not_expected() -> None:
    faults = Faults(implausible_share=0.5, unlisted_share=0.5)
    spoilt = unlisted = 0
    for message in some(20, faults=faults):
        for sent, kept in zip(decode(message), message.expected, strict=True):
            assert sent[:3] == kept[:3]
            assert kept.fields
            assert kept.fields.items() <= sent.fields.items()
            extra = set(sent.fields) - set(kept.fields)
            unlisted += bool(extra & {"owner_name", "latitude", "firmware_version", "wifi_ssid"})
            spoilt += bool(extra & {"ac_voltage_v", "grid_power_w", "battery_soc_pct", "temperature_c"})
    assert spoilt > 100
    assert unlisted > 300


def test_shares_of_faults_are_kept() -> None:
    made = some(1000, readings_per_message=2, faults=Faults(duplicate_share=0.1, poison_share=0.2))

    assert sum(bool(m.poison) for m in made) == pytest.approx(200, abs=40)
    assert sum(bool(m.duplicate_of) for m in made) == pytest.approx(100, abs=30)
    assert {m.poison for m in made} == {"", *POISON}


def test_a_duplicate_repeats_a_message_under_a_new_number() -> None:
    made = {m.sequence: m for m in some(100, faults=Faults(duplicate_share=0.3))}

    repeated = [m for m in made.values() if m.duplicate_of]
    assert repeated
    for message in repeated:
        assert message.payload == made[message.duplicate_of].payload
        assert message.sends == 0
        assert not message.acknowledged


def test_poison_counts_one_and_expects_nothing() -> None:
    made = some(30, faults=Faults(poison_share=1.0))

    assert all(m.readings == 1 and not m.expected for m in made)


@pytest.mark.parametrize(
    ("share", "text"),
    [({"poison_share": 1.5}, "between"), ({"poison_share": 0.7, "duplicate_share": 0.7}, "exceed")],
)
def test_impossible_shares_are_refused(share: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Faults(**share)


@pytest.mark.parametrize(
    ("ts_us", "text"),
    [
        (1_777_636_800_000_000, "2026-05-01T12:00:00Z"),
        (1_777_636_800_250_000, "2026-05-01T12:00:00.250Z"),
        (1_777_636_800_000_001, "2026-05-01T12:00:00.000001Z"),
    ],
)
def test_times_have_as_many_decimals_as_they_need(ts_us: int, text: str) -> None:
    assert rfc3339(ts_us) == text


def fit(**given: object) -> Timeline:
    base: dict[str, object] = {
        "now_s": NOW_S,
        "gateways": 4,
        "devices": 6,
        "readings_per_message": 50,
        "interval_s": None,
        "start_s": None,
        "speed": None,
        "messages_per_second": None,
        "duration_s": None,
        "messages": None,
        "linger_s": 5.0,
    }
    return Timeline.fit(**(base | given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"speed": 60.0, "duration_s": 30.0},
        {"speed": 3600.0},
        {"speed": math.inf, "messages": 4000},
        {"messages_per_second": 400.0, "duration_s": 60.0},
        {"messages_per_second": 5000.0},
    ],
)
def test_no_reading_is_published_before_the_clock_shows_its_time(given: dict[str, object]) -> None:
    times = fit(**given)

    for tick in (0, 1, 1000, 100_000, 10_000_000):
        ts_us = times.start_us + tick * times.interval_us
        assert NOW_S + times.due_s(1 + tick // 8, ts_us, 0) >= ts_us / 1e6 - 1e-6


def test_speed_is_simulated_time_over_wall_time() -> None:
    times = fit(speed=60.0, duration_s=30.0)

    assert times.due_s(1, times.start_us + 600_000_000, 0) == pytest.approx(10.0, abs=1.1)
    assert times.start_us / 1e6 == pytest.approx(NOW_S - 30 * 59, abs=1)


def test_messages_a_second_are_those_of_the_whole_fleet() -> None:
    times = fit(messages_per_second=40.0, duration_s=10.0)
    due = sorted(times.due_s(n, times.start_us, i) for i in range(4) for n in range(1, 101))

    assert len([d for d in due if d < 5]) == 200


def test_readings_made_faster_than_the_clock_are_recent() -> None:
    times = fit(messages_per_second=400.0, duration_s=60.0)

    assert times.behind_s <= 3600
    assert times.interval_us % 1000 == 0


def test_a_message_does_not_wait_for_long_to_be_filled() -> None:
    made = FleetSettings(start_s=START_S, speed=1.0, linger_s=10.0, interval_s=5.0)

    chunk = next(messages(made, timeline(made, NOW_S), 0))

    assert len(chunk.expected) == 12  # two ticks of six devices, though fifty would fit
