"""Tables of names, scalars, and the account of one reading."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.codecs.entries import PLACE, Entry, Erased, Reading, ratio, scalar
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.units import KILO
from telemetry.model.batch import Reason, Withheld
from telemetry.model.fields import DeviceKind


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (b"71.5", 71.5),
        (b" -3491.5\n", -3491.5),
        (b"1e3", 1000.0),
        (b"5.", 5.0),
        (b".5", 0.5),
        (b"true", True),
        (b"False", False),
        (b"", Erased.ERASED),
        (b"  ", Erased.ERASED),
        (b"online", "online"),
        (b"1,5", "1,5"),
        (b"0x10", "0x10"),
        (b"1_000", "1_000"),
        ("٣".encode(), "…"),
        (b"9" * 65, "…"),
    ],
)
def test_scalars(payload: bytes, value: object) -> None:
    found = scalar(payload)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("payload", [b"nan", b"NaN", b"-inf", b"1e999"])
def test_scalars_that_are_no_number_a_field_can_hold(payload: bytes) -> None:
    found = scalar(payload)
    assert isinstance(found, float)
    assert not math.isfinite(found)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_scalar(payload: bytes) -> None:
    assert isinstance(scalar(payload), float | bool | str | Erased)


@pytest.mark.parametrize(("value", "expected"), [(0.98, 0.98), (98.0, 0.98), (-95.8, -0.958), (1, 1), ("x", "x")])
def test_power_factors(value: object, expected: object) -> None:
    assert ratio(value) == (pytest.approx(expected) if isinstance(expected, float) else expected)


def account(reading: Reading) -> Outcome:
    outcome = Outcome()
    reading.account(7, outcome)
    return outcome


def test_a_row() -> None:
    reading = Reading("S", DeviceKind.METER, 5)
    reading.put("Total", Entry("energy_total_wh", KILO), 1.5)
    reading.put("Power", Entry("ac_power_w"), "12")
    reading.put("Site", PLACE, "x")
    reading.put("Name", None, "y")
    reading.put("Nothing", Entry("ac_power_w"), None)
    outcome = account(reading)
    assert outcome.rows == [{"message": 7, "serial": "S", "kind": 6, "ts": 5, "energy_total_wh": 1500.0}]
    assert (outcome.implausible, outcome.place, outcome.unlisted) == ({"ac_power_w": 1}, {"site": 1}, {"name": 1})
    assert (outcome.withheld, outcome.rejected) == ({}, {})


def test_readings_without_a_value() -> None:
    only_place, only_unlisted, nothing, wrong, nobody = (Reading(serial) for serial in ("S", "S", "S", "S", ""))
    only_place.put("Site", PLACE, "x")
    only_place.put("Name", None, "y")
    only_unlisted.put("Name", None, "y")
    wrong.put("Power", Entry("ac_power_w"), True)
    wrong.put("Name", None, "y")
    nobody.put("Power", Entry("ac_power_w"), 1)
    assert account(only_place).withheld == {Withheld.PLACE: 1}
    assert account(only_unlisted).withheld == {Withheld.UNLISTED: 1}
    assert list(account(nothing).rejected) == list(account(wrong).rejected) == [(7, Reason.EMPTY)]
    assert list(account(nobody).rejected) == [(7, Reason.BAD_SERIAL)]


def test_codes() -> None:
    entry = Entry("ev_state_code", codes={True: 3, False: None})
    charging, not_charging, unheard = (Reading("S") for _ in range(3))
    charging.put("charging", entry, True)
    not_charging.put("charging", entry, False)
    unheard.put("charging", entry, [1])
    assert charging.values == {"ev_state_code": 3}
    assert (not_charging.values, not_charging.unlisted) == ({}, ["charging"])
    assert unheard.implausible == ["ev_state_code"]


def test_a_table_cannot_name_what_the_catalogue_does_not_have() -> None:
    with pytest.raises(AssertionError):
        Entry("latitude")
