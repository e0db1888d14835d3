"""Rules 1 to 7 of SEMANTICS.md, one worked example each. The scalar reference is in tests/support."""

import math
from typing import Any

import numpy as np
import pytest

from telemetry.errors import RegistryError
from telemetry.model.batch import Protected, Reason, Rejection, Withheld
from telemetry.model.fields import FIELD_NAMES
from telemetry.model.identity import DAY_US, Enrolment
from telemetry.privacy.binding import Registry
from telemetry.privacy.plan import Plan
from tests.support.registries import (
    MINUTE_US,
    NOW_US,
    TICK_US,
    CountingBlind,
    decoded,
    device,
    device_frame,
    gateway,
    no_devices,
    plan_of,
    run,
)

HERE, THERE = gateway(1), gateway(2)
KNOWN_ONLY = gateway(3, HERE.site_key, enrolment=Enrolment.KNOWN)
REVOKED = gateway(4, HERE.site_key, revoked=True)
DEVICES = [
    device("INV00000042", HERE, 4201),
    device("INV00000043", HERE, 4301),
    device("INV00000042", THERE, 4202),
]


def protected(
    *rows: dict[str, Any], plan: Plan | None = None, names: tuple[str, ...] = ("gw-1",), **times: Any
) -> Protected:
    registry = Registry(
        CountingBlind(), [HERE, THERE, KNOWN_ONLY, REVOKED], device_frame(DEVICES), plan or Plan.default(7)
    )
    defaults = {"serial": "INV00000042", "ac_power_w": 1.0}
    return run(registry, decoded([defaults | row for row in rows]), list(names), **times)


def test_rule_1_the_same_serial_at_two_sites_is_two_devices() -> None:
    result = protected({"message": 0}, {"message": 1}, names=("gw-1", "gw-2"))
    assert result.rows["device_key"].to_list() == [4201, 4202]


def test_rule_1_a_gateway_speaks_for_no_device_of_another_site() -> None:
    result = protected({"serial": "INV00000043"}, names=("gw-2",))
    assert result.rows.is_empty()
    assert result.rejections == (Rejection(0, Reason.DEVICE_LIMIT, 1),)


def test_rule_1_another_gateway_of_the_same_site_speaks_for_the_device() -> None:
    assert protected({}, names=("gw-3",)).rows["device_key"].to_list() == [4201]


def test_rule_1_every_reading_of_an_unknown_or_revoked_gateway_is_counted() -> None:
    rows = [{"message": 0}, {"message": 1}, {"message": 1}, {"message": 2}]
    result = protected(*rows, names=("gw-1", "nobody", "gw-4"))
    assert result.rows.height == 1
    assert result.rejections == (
        Rejection(1, Reason.UNKNOWN_GATEWAY, 2),
        Rejection(2, Reason.REVOKED_GATEWAY, 1),
    )


def test_rule_1_a_gateway_of_announced_devices_gets_unknown_device() -> None:
    result = protected({"serial": "INV00000099"}, names=("gw-3",))
    assert result.rejections == (Rejection(0, Reason.UNKNOWN_DEVICE, 1),)


@pytest.mark.parametrize("serial", [None, "", "x" * 65])
def test_rule_1_what_is_no_serial_binds_to_nothing(serial: str | None) -> None:
    assert protected({"serial": serial}).rejections == (Rejection(0, Reason.BAD_SERIAL, 1),)


def test_rule_2_the_bounds_of_time_are_inclusive() -> None:
    oldest, newest = NOW_US - 35 * DAY_US, NOW_US + 5 * MINUTE_US
    result = protected({"ts": oldest - 1}, {"ts": oldest}, {"ts": newest}, {"ts": newest + 1})
    assert result.rows["ts"].to_list() == [oldest, newest]
    assert result.rejections == (Rejection(0, Reason.TOO_OLD, 1), Rejection(0, Reason.IN_THE_FUTURE, 1))


def test_rule_2_the_backfill_limit_is_the_gateways_own() -> None:
    importing = gateway(5, backfill_us=4000 * DAY_US)
    registry = Registry(
        CountingBlind(),
        [HERE, importing],
        device_frame([*DEVICES, device("INV00000042", importing, 4205)]),
        Plan.default(7),
    )
    year = 365 * DAY_US
    rows = [{"message": number, "serial": "INV00000042", "ts": NOW_US - year, "ac_power_w": 1.0} for number in (0, 1)]
    result = run(registry, decoded(rows), ["gw-1", "gw-5"])
    assert result.rows["device_key"].to_list() == [4205]
    assert result.rejections == (Rejection(0, Reason.TOO_OLD, 1),)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e5 + 1, -1e5 - 1])
def test_rule_4_an_implausible_value_is_dropped_and_the_rest_kept(value: float) -> None:
    result = protected({"ac_power_w": value, "ac_voltage_v": 230.0}, {"ac_power_w": 5.0})
    assert result.rows["ac_power_w"].to_list() == [None, 5.0]
    assert result.rows["ac_voltage_v"].to_list() == [230.0, None]
    assert result.implausible == {"ac_power_w": 1}


def test_rule_4_the_ends_of_the_range_are_plausible() -> None:
    result = protected({"ac_power_w": 1e5}, {"ac_power_w": -1e5}, {"ac_power_w": -0.0})
    assert result.rows["ac_power_w"].to_list() == [1e5, -1e5, 0.0]
    assert math.copysign(1, result.rows["ac_power_w"][2]) == -1
    assert not result.implausible


def test_rule_4_a_reading_left_without_a_value_is_empty() -> None:
    result = protected({"ac_power_w": math.nan}, {"ac_power_w": None}, {})
    assert result.rows.height == 1
    assert result.rejections == (Rejection(0, Reason.EMPTY, 2),)


def test_rule_4_whole_numbers_beyond_two_to_the_53_are_not_rounded_into_range() -> None:
    result = protected({"alert_bits": 2**32 - 1}, {"alert_bits": 2**32}, {"alert_bits": 2**63 - 1})
    assert result.rows["alert_bits"].to_list() == [2**32 - 1, None, None]
    assert result.implausible == {"alert_bits": 2}


def test_rule_5_an_erased_owners_readings_are_withheld_before_anything_is_said_about_them() -> None:
    plan = plan_of([{}], [Withheld.ERASED])
    result = protected({"ts": 0}, {"ac_power_w": math.nan}, {}, plan=plan)
    assert result.rows.is_empty()
    assert result.withheld_rows == {Withheld.ERASED: 3}
    assert not result.rejections
    assert not result.implausible


def test_rule_6_a_reading_without_time_gets_that_of_receipt_cut_to_the_tick() -> None:
    received = NOW_US - 3 * TICK_US + 4_999_999
    result = protected({"ts": None}, {"ts": NOW_US - 1}, received_us=[received])
    assert result.rows["ts"].to_list() == [NOW_US - 3 * TICK_US, NOW_US - 1]


def test_a_reading_from_before_the_sites_tenure_is_withheld_as_other_tenure() -> None:
    """Decision 0030. Whatever else is wrong with it: nothing of it may go to quarantine, sealed to who came."""
    begun = NOW_US - DAY_US
    came = gateway(6, tenure_from_us=begun)
    registry = Registry(CountingBlind(), [came], device_frame([device("INV00000042", came, 4206)]), Plan.default(7))
    rows = [
        {"ts": begun, "ac_power_w": 1.0},
        {"ts": begun - 1, "ac_power_w": 2.0},
        {"ts": NOW_US - 36 * DAY_US},  # too old besides
        {"ts": begun - 1, "serial": "INV00000099"},  # unknown besides
        {"ts": begun - 1, "serial": ""},
        {"ts": None, "ac_power_w": 3.0},  # the time of receipt
    ]
    result = run(registry, decoded([{"serial": "INV00000042"} | row for row in rows]), ["gw-6"])
    assert result.rows["ac_power_w"].to_list() == [1.0, 3.0]
    assert result.withheld_rows == {Withheld.OTHER_TENURE: 4}
    assert result.rejections == ()


def test_an_other_tenure_is_seen_in_a_batch_with_nothing_else_wrong() -> None:
    came = gateway(6, tenure_from_us=NOW_US)
    registry = Registry(CountingBlind(), [came], device_frame([device("INV00000042", came, 4206)]), Plan.default(7))
    rows = [{"serial": "INV00000042", "ts": NOW_US - offset, "ac_power_w": 1.0} for offset in (1, 0)]
    result = run(registry, decoded(rows), ["gw-6"])
    assert result.rows["ts"].to_list() == [NOW_US]
    assert result.withheld_rows == {Withheld.OTHER_TENURE: 1}


def test_the_messages_of_a_revoked_gateway_are_its_own_whatever_their_time() -> None:
    gone = gateway(6, revoked=True, tenure_from_us=NOW_US)
    registry = Registry(CountingBlind(), [gone], no_devices(), Plan.default(7))
    result = run(registry, decoded([{"serial": "INV00000042", "ts": NOW_US - 1}]), ["gw-6"])
    assert result.rejections == (Rejection(0, Reason.REVOKED_GATEWAY, 1),)


def test_rule_7_only_fields_that_some_setting_admits_are_kept() -> None:
    plan = plan_of([{"ac_power_w": False}])
    result = protected({"ac_voltage_v": 230.0}, {"ac_voltage_v": 231.0, "ac_power_w": math.nan}, plan=plan)
    assert result.rows.columns == ["ts", "device_key", "plan_version", "ac_voltage_v"]
    assert result.rows["plan_version"].to_list() == [7, 7]
    assert result.withheld_values == {(Withheld.NOT_KEPT, "ac_power_w"): 2}
    assert not result.implausible, "what is withheld is not looked at"


def test_rule_7_a_reading_of_withheld_values_only_is_withheld_and_not_empty() -> None:
    plan = plan_of([{"ac_power_w": False}])
    withheld_only, mixed, implausible_only = (
        {},
        {"ac_voltage_v": math.nan},
        {"ac_power_w": None, "ac_voltage_v": math.nan},
    )
    result = protected(withheld_only, mixed, implausible_only, plan=plan)
    assert result.rows.is_empty()
    assert result.withheld_rows == {Withheld.NOT_KEPT: 2}
    assert result.rejections == (Rejection(0, Reason.EMPTY, 1),)


def test_rule_7_masks_follow_the_device_and_not_the_row() -> None:
    plan = plan_of([{}, {"ac_power_w": False}, dict.fromkeys(FIELD_NAMES, False)])
    devices = [device(f"INV0000000{number}", HERE, number + 1, number) for number in range(3)]
    registry = Registry(CountingBlind(), [HERE], device_frame(devices), plan)
    rows = [
        {"serial": f"INV0000000{number}", "ac_power_w": 10.0 + number, "ac_voltage_v": 230.0} for number in (2, 1, 0)
    ]
    result = run(registry, decoded(rows), ["gw-1"])
    assert result.rows["device_key"].to_list() == [2, 1]
    assert result.rows["ac_power_w"].to_list() == [None, 10.0]
    assert result.withheld_rows == {Withheld.NOT_KEPT: 1}


def test_rule_7_a_withheld_value_is_not_beneath_its_null_either() -> None:
    """A null hides a value from readers of the column, not from those who write its buffer somewhere."""
    plan = plan_of([{}, {"ac_power_w": False}])
    devices = [device("INV00000001", HERE, 1, 0), device("INV00000002", HERE, 2, 1)]
    registry = Registry(CountingBlind(), [HERE], device_frame(devices), plan)
    rows = [{"serial": f"INV0000000{number}", "ac_power_w": 1234.5, "ac_voltage_v": 230.0} for number in (1, 2) * 100]
    column = run(registry, decoded(rows), ["gw-1"]).rows["ac_power_w"]
    assert column.to_list() == [1234.5, None] * 100
    raw = np.frombuffer(column.to_arrow().buffers()[1], np.float64)[: column.len()]
    assert raw.tolist() == [1234.5, 0.0] * 100


def test_the_order_of_arrival_is_kept() -> None:
    result = protected(*({"ts": NOW_US - offset, "ac_power_w": float(offset)} for offset in (3, 1, 2)))
    assert result.rows["ac_power_w"].to_list() == [3.0, 1.0, 2.0]


def test_an_empty_batch_is_an_empty_batch() -> None:
    result = protected()
    assert result.rows.is_empty()
    assert result.rows.columns[:3] == ["ts", "device_key", "plan_version"]
    assert not result.rejections


def test_a_class_that_the_plan_does_not_have_is_refused() -> None:
    with pytest.raises(RegistryError, match="plan class"):
        Registry(CountingBlind(), [HERE], device_frame([device("INV00000042", HERE, 1, 3)]), Plan.default())
