"""The vectorised core equals the scalar reference, on anything."""

import math
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.model.batch import READING_SCHEMA, Protected, Withheld, check_schema, field_columns
from telemetry.model.fields import FIELD_BY_NAME, FIELD_NAMES
from telemetry.model.identity import FROM_EVER_US, Enrolment
from telemetry.privacy.binding import Registry
from tests.support.registries import (
    FUTURE_LIMIT_US,
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
from tests.support.scalar_core import Limits, Message, Outcome, scalar_protect

FIELDS = (
    "ac_power_w",
    "ac_frequency_hz",
    "energy_total_wh",
    "battery_soc_pct",
    "alert_bits",
    "alert_severity_code",
)
SERIALS = (
    "INV00000001",
    "INV00000002",
    "BAT00000001",
    "A longer serial than sixteen bytes",
    "é" * 64,
    "x" * 65,
    "",
)
HOUR_US = 60 * MINUTE_US


def values(name: str) -> st.SearchStrategy[Any]:
    entry = FIELD_BY_NAME[name]
    low, high = entry.minimum, entry.maximum
    if name.endswith(("_bits", "_code")):
        return st.one_of(
            st.none(), st.integers(int(low), int(high)), st.sampled_from([int(low) - 1, int(high) + 1, 2**63 - 1])
        )
    edges = [low, high, math.nextafter(low, -math.inf), math.nextafter(high, math.inf), -0.0]
    odd = [math.nan, math.inf, -math.inf, 1e300]
    return st.one_of(st.none(), st.floats(low, high), st.sampled_from(edges), st.sampled_from(odd))


@st.composite
def registries(draw: st.DrawFn) -> tuple[list[Any], dict[tuple[int, str], Any], list[dict[str, bool]], list[Any]]:
    sites = (101, 102, 103)
    gateways = [
        gateway(
            number,
            draw(st.sampled_from(sites)),
            enrolment=draw(st.sampled_from(Enrolment)),
            revoked=draw(st.integers(0, 4)) == 0,
            backfill_us=draw(st.sampled_from([0, HOUR_US, 24 * HOUR_US])),
            tenure_from_us=draw(st.sampled_from([FROM_EVER_US, FROM_EVER_US, NOW_US - HOUR_US, NOW_US])),
        )
        for number in range(draw(st.integers(1, 4)))
    ]
    classes = draw(st.integers(1, 4))
    keep = [{name: draw(st.booleans()) for name in FIELDS} for _ in range(classes)]
    if draw(st.booleans()):
        keep = [{}] * classes
    withhold = [draw(st.sampled_from([None, None, None, *Withheld])) for _ in range(classes)]
    devices = {}
    for key, (site, serial) in enumerate((site, serial) for site in sites for serial in SERIALS[:5]):
        owner = next((each for each in gateways if each.site_key == site), None)
        if owner is not None and draw(st.booleans()):
            devices[site, serial] = device(serial, owner, key + 1, draw(st.integers(0, classes - 1)))
    return gateways, devices, keep, withhold


@st.composite
def batches(draw: st.DrawFn, messages: int) -> list[dict[str, Any]]:
    names = draw(st.lists(st.sampled_from(FIELDS), unique=True))
    ts = st.one_of(
        st.none(),
        st.integers(NOW_US - 2 * HOUR_US, NOW_US),
        st.sampled_from(
            [NOW_US - HOUR_US, NOW_US - HOUR_US - 1, NOW_US + FUTURE_LIMIT_US, NOW_US + FUTURE_LIMIT_US + 1]
        ),
        st.sampled_from([0, -(2**63), 2**63 - 1]),
    )
    row = st.fixed_dictionaries(
        {
            "message": st.integers(0, messages - 1),
            "serial": st.one_of(st.sampled_from(SERIALS), st.none()),
            "ts": ts if draw(st.booleans()) else st.integers(NOW_US - 1000, NOW_US),
        }
        | {name: values(name) for name in names}
    )
    return draw(st.lists(row, max_size=25))


def outcome_of(result: Protected) -> Outcome:
    names = field_columns(result.rows)
    rows = []
    for row in result.rows.iter_rows(named=True):
        values = {name: row[name] for name in names if row[name] is not None}
        rows.append({"ts": row["ts"], "device_key": row["device_key"], **values})
    return Outcome(
        rows=rows,
        rejections=Counter({(each.message, each.reason): each.readings for each in result.rejections}),
        withheld_rows=Counter(result.withheld_rows),
        withheld_values=Counter(result.withheld_values),
        implausible=Counter(result.implausible),
    )


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_equals_the_scalar_reference_and_every_reading_ends_in_one_place(data: st.DataObject) -> None:
    gateways, devices, keep, withhold = data.draw(registries())
    count = data.draw(st.integers(1, 6))
    publishers = [data.draw(st.integers(-1, len(gateways) - 1)) for _ in range(count)]
    received = [NOW_US - data.draw(st.integers(0, 2 * TICK_US)) for _ in range(count)]
    rows = data.draw(batches(count))
    frame = device_frame(list(devices.values())) if devices else no_devices()
    registry = Registry(CountingBlind(), gateways, frame, plan_of(keep, withhold))

    result = run(registry, decoded(rows), [f"gw-{number}" for number in publishers], received_us=received)

    expected = scalar_protect(
        decoded(rows).to_dicts(),
        [
            Message(gateways[number] if number >= 0 else None, at)
            for number, at in zip(publishers, received, strict=True)
        ],
        devices,
        [{name: kept.get(name, True) for name in FIELD_NAMES} for kept in keep],
        withhold,
        Limits(NOW_US, FUTURE_LIMIT_US, TICK_US),
    )
    actual = outcome_of(result)
    assert actual.rows == expected.rows
    assert actual == expected
    check_schema(result.rows, READING_SCHEMA)
    assert [(each.message, list(type(each.reason)).index(each.reason)) for each in result.rejections] == sorted(
        (message, list(type(reason)).index(reason)) for message, reason in expected.rejections
    )
    rejected = sum(each.readings for each in result.rejections)
    assert result.rows.height + rejected + sum(result.withheld_rows.values()) == len(rows)
    assert set(result.rows["plan_version"]) <= {7}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_removed_values_are_not_under_the_nulls_either(data: st.DataObject) -> None:
    """A null in a column hides its value from readers, not from those who look into the buffer."""
    gateways, devices, keep, withhold = data.draw(registries())
    rows = data.draw(batches(len(gateways)))
    frame = device_frame(list(devices.values())) if devices else no_devices()
    registry = Registry(CountingBlind(), gateways, frame, plan_of(keep, withhold))
    bound_rows = decoded(rows)

    result = run(registry, bound_rows, [f"gw-{number}" for number in range(len(gateways))])

    for name in field_columns(result.rows):
        if name in result.implausible or (Withheld.NOT_KEPT, name) in result.withheld_values:
            column = result.rows[name].rechunk()
            buffer = column.to_arrow().buffers()[1]
            if buffer is None:
                continue
            raw = np.frombuffer(buffer, np.int64)[: column.len()]
            assert not raw[column.is_null().to_numpy()].any()
