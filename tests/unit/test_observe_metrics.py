"""Every reading of a batch is counted at exactly one end, by labels that cannot hold an identifier."""

import json

import pytest
from prometheus_client import generate_latest

from telemetry.errors import PlanOutdated, StoreError, StoreUnavailable
from telemetry.model.batch import Reason, Watermark, Withheld
from telemetry.observe import Observer, events

BATCH = events.BatchCommitted(
    messages=3,
    payload_bytes=600,
    received=100,
    stored=80,
    duplicate=9,
    merged=2,
    conflict=1,
    late=4,
    withheld={Withheld.ERASED: 6},
    quarantined={Reason.TOO_OLD: 3, Reason.MALFORMED: 2},
    withheld_values={(Withheld.NOT_KEPT, "ac_power_w"): 7, (Withheld.UNLISTED, "INV00000042"): 5},
    implausible={"temperature_c": 4, "INV00000042": 1},
    decode_s=0.01,
    protect_s=0.02,
    write_s=0.04,
    commit_s=0.03,
    newest_ts_us=1_000_000_000,
)


class Time:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.us = 1_000_000_000
        self.s = 0.0

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.s


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def observer(time):
    return Observer(now_us=time.now_us, monotonic=time.monotonic)


def value(observer, name, **labels):
    return observer.metrics.registry.get_sample_value(name, labels)


def test_a_batch_is_counted_at_its_ends(observer):
    observer.batch_committed(BATCH)
    assert value(observer, "telemetry_readings_received_total") == 100
    assert value(observer, "telemetry_readings_stored_total") == 80
    assert value(observer, "telemetry_readings_late_total") == 4
    assert value(observer, "telemetry_readings_duplicate_total") == 9
    assert value(observer, "telemetry_readings_merged_total") == 2
    assert value(observer, "telemetry_readings_conflict_total") == 1
    assert value(observer, "telemetry_readings_withheld_total", reason="erased") == 6
    assert value(observer, "telemetry_readings_quarantined_total", reason="too_old") == 3
    assert value(observer, "telemetry_readings_quarantined_total", reason="malformed") == 2
    assert value(observer, "telemetry_batches_unbalanced_total") == 0
    assert value(observer, "telemetry_batch_readings_sum") == 100
    assert value(observer, "telemetry_commit_seconds_count") == 1
    assert value(observer, "telemetry_stage_seconds_sum", stage="protect") == 0.02


def test_values_are_counted_by_catalogue_field_and_nothing_else_becomes_a_label(observer):
    observer.batch_committed(BATCH)
    name = "telemetry_values_withheld_total"
    assert value(observer, name, reason="not_kept", field="ac_power_w") == 7
    assert value(observer, name, reason="unlisted", field="unlisted") == 5
    assert value(observer, "telemetry_values_implausible_total", field="temperature_c") == 4
    assert value(observer, "telemetry_values_implausible_total", field="unlisted") == 1
    assert b"INV00000042" not in generate_latest(observer.metrics.registry)


def test_a_batch_that_does_not_add_up_is_told(observer):
    observer.batch_committed(events.BatchCommitted(1, 1, received=10, stored=8, duplicate=1))
    assert value(observer, "telemetry_batches_unbalanced_total") == 1


def test_the_snapshot_is_json_and_holds_the_same_account(observer, time):
    for _ in range(3):
        observer.batch_committed(BATCH)
    time.s = 1.0
    told = json.loads(json.dumps(observer.snapshot()))
    assert told["received"] == 300
    assert told["received"] == told["stored"] + told["duplicates"] + told["withheld_rows"] + told["quarantined"]
    assert told["quarantined_by_reason"] == {"too_old": 9, "malformed": 6}
    assert told["commit_ms"] == {"p50": 30.0, "p99": 30.0}
    assert told["readings_per_second"] == 300.0


def test_lag_grows_while_nothing_arrives_and_is_cut_to_seconds(observer, time):
    assert observer.snapshot()["lag_s"] == 0
    observer.batch_committed(BATCH)
    time.us += 7_900_000
    assert observer.snapshot()["lag_s"] == 7.0
    assert value(observer, "telemetry_lag_seconds") == 7.0
    time.us = 0  # the newest reading may lie ahead of our clock
    assert observer.snapshot()["lag_s"] == 0


def test_gaps_are_summed_over_gateways_and_close_when_filled(observer):
    def mark(gateway, missing, stream=1):
        return Watermark(gateway, stream, sequence=5, highest=20, missing_count=missing)

    observer.watermarks_advanced(events.WatermarksAdvanced([mark(111_222_333, 3), mark(2, 0)]))
    observer.watermarks_advanced(events.WatermarksAdvanced([mark(2, 4)]))
    assert value(observer, "telemetry_sequence_missing") == 7
    assert value(observer, "telemetry_sequence_gaps_opened_total") == 7
    observer.watermarks_advanced(events.WatermarksAdvanced([mark(111_222_333, 0), mark(2, 5)]))
    assert value(observer, "telemetry_sequence_missing") == 5
    assert value(observer, "telemetry_sequence_gaps_opened_total") == 8
    assert b"111222333" not in generate_latest(observer.metrics.registry)


def test_the_first_connection_is_no_reconnect(observer):
    observer.broker_connected(events.BrokerConnected(session_present=False))
    assert value(observer, "telemetry_broker_reconnects_total") == 0
    observer.broker_lost(events.BrokerLost(0.2))
    assert value(observer, "telemetry_broker_connected") == 0
    observer.broker_connected(events.BrokerConnected(session_present=True))
    assert value(observer, "telemetry_broker_reconnects_total") == 1
    assert value(observer, "telemetry_broker_connected") == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PlanOutdated(3), "plan_outdated"),
        (StoreUnavailable("gone"), "unavailable"),
        (StoreError("no"), "refused"),
        (None, "refused"),
    ],
)
def test_failed_writes_are_counted_by_kind(observer, error, kind):
    observer.write_failed(events.WriteFailed(1, 0.1, error))
    assert value(observer, "telemetry_write_failures_total", kind=kind) == 1
