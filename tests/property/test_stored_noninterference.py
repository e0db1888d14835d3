"""What is not kept, and what is somebody else's, cannot influence one byte of what is stored of a home.

Two worlds that differ in that alone give the same bytes. Each difference has a control: where it lies in what is kept,
the bytes differ.
"""

import math
from typing import Any

import polars as pl
from hypothesis import assume, given
from hypothesis import strategies as st

from telemetry.model.batch import Withheld
from telemetry.model.sharing import Resolution
from telemetry.privacy.binding import Registry
from telemetry.privacy.rollup import rollup
from telemetry.store.prepare import binary_copy
from tests.support.registries import CountingBlind, decoded, device, device_frame, gateway, plan_of, run
from tests.support.store import frame

KEPT, DROPPED = ("ac_power_w", "alert_bits"), ("battery_soc_pct", "energy_total_wh")
HOME, OTHER, GONE = gateway(0), gateway(1), gateway(2)
SERIALS = {0: "INV00000001", 1: "INV00000002", 2: "INV00000003"}
DEVICES = [device(SERIALS[n], home, 1 + n, n) for n, home in enumerate((HOME, OTHER, GONE))]
MASK = dict.fromkeys(DROPPED, False)

Row = dict[str, Any]

wild = st.one_of(st.none(), st.floats(0, 100), st.sampled_from([math.nan, math.inf, -1.0, 1e300, -0.0]))
value = {
    "ac_power_w": st.one_of(st.none(), st.floats(-1e5, 1e5), st.sampled_from([math.nan, 1e300])),
    "alert_bits": st.one_of(st.none(), st.integers(0, 2**32 - 1)),
    "battery_soc_pct": wild,
    "energy_total_wh": wild,
}


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    count = draw(st.integers(1, 12))
    return [
        {"message": (home := draw(st.integers(0, 2))), "serial": SERIALS[home]}
        | {name: draw(strategy) for name, strategy in value.items()}
        for _ in range(count)
    ]


def stored(world: list[Row], *, of: int | None = None) -> bytes:
    """What is stored of all three homes, or of one. The first does not keep DROPPED, the third is erased."""
    plan = plan_of((MASK, {}, {}), (None, None, Withheld.ERASED))
    registry = Registry(CountingBlind(), (HOME, OTHER, GONE), device_frame(DEVICES), plan)
    found = run(registry, decoded(world), ("gw-0", "gw-1", "gw-2")).rows
    return as_bytes(found if of is None else found.filter(pl.col("device_key") == DEVICES[of].device_key))


def as_bytes(rows: pl.DataFrame) -> bytes:
    """Every column that holds a value, by name, and the rows as COPY takes them."""
    rows = rows.select(column for column in rows if column.null_count() < len(column))
    if "ts" not in rows.columns:  # windows have no such column, and COPY's epoch is for that one alone
        rows = rows.with_columns(ts=pl.lit(0, pl.Int64))
    return repr(rows.columns).encode() + b"".join(binary_copy(rows))


def altered(world: list[Row], home: int, data: st.DataObject) -> list[Row]:
    """The same rows, those of one home with other values or gone."""
    drawn = ({name: data.draw(strategy) for name, strategy in value.items()} for _ in world)
    twin = [row | next(drawn) if row["message"] == home else row for row in world]
    return [row for row in twin if row["message"] != home or data.draw(st.booleans())]


@given(rows(), st.data())
def test_a_field_that_is_not_kept_leaves_no_trace(world: list[Row], data: st.DataObject) -> None:
    twin = [row | {name: data.draw(wild) for name in DROPPED} if row["message"] == 0 else row for row in world]
    assert stored(twin) == stored(world)


@given(rows(), st.data())
def test_another_home_leaves_no_trace(world: list[Row], data: st.DataObject) -> None:
    twin = altered(world, 1, data)
    assume(twin)
    assert stored(twin, of=0) == stored(world, of=0)


@given(rows(), st.data())
def test_an_erased_home_leaves_no_trace(world: list[Row], data: st.DataObject) -> None:
    twin = altered(world, 2, data)
    assume(twin)
    assert stored(twin) == stored(world)


def test_controls_each_difference_shows_where_it_is_kept() -> None:
    world = [{"message": n, "serial": SERIALS[n], "ac_power_w": 1.0, "battery_soc_pct": 50.0} for n in range(3)]
    kept = [row | {"ac_power_w": 2.0} if row["message"] == 0 else row for row in world]
    others = [row | {"battery_soc_pct": 51.0} if row["message"] == 1 else row for row in world]
    assert stored(kept) != stored(world)
    assert stored(others, of=1) != stored(world, of=1)
    assert stored(world[:2]) == stored(world), "the third is erased"


HOUR_US, MINUTE_US = 3_600_000_000, 60_000_000
samples = st.lists(
    st.tuples(st.integers(0, 2 * HOUR_US), st.floats(0, 1e4), st.floats(0, 1e6)), min_size=1, max_size=15
)


def windows(mine: list[tuple[int, float, float]], beside: list[tuple[int, float, float]], other_field: float) -> bytes:
    """The bytes of my windows of ac_power_w and energy_total_wh, another device and another field beside them."""
    readings: dict[tuple[int, int], Row] = {}
    for key, series in ((1, mine), (2, beside)):
        for at, power, energy in series:
            readings[key, at] = {"ts": at, "device_key": key, "ac_power_w": power, "energy_total_wh": energy}
    for row in readings.values():
        row["temperature_c"] = other_field
    found = rollup(frame(list(readings.values())), Resolution.PT15M)
    names = (0, 13)  # positions in the catalogue, checked below
    return as_bytes(found.filter(pl.col("device_key") == 1, pl.col("field").is_in(names)))


@given(samples, samples, samples, st.floats(-50, 100), st.floats(-50, 100))
def test_windows_do_not_depend_on_other_devices_and_fields(mine, beside, instead, one, two) -> None:
    assert windows(mine, beside, one) == windows(mine, instead, two)


def test_control_windows_depend_on_their_own_samples() -> None:
    from telemetry.model.fields import FIELD_INDEX

    assert (FIELD_INDEX["ac_power_w"], FIELD_INDEX["energy_total_wh"]) == (0, 13)
    mine = [(0, 100.0, 0.0), (10 * MINUTE_US, 200.0, 50.0)]
    assert windows(mine, mine, 1.0) != windows([(0, 101.0, 0.0), mine[1]], mine, 1.0)
    assert windows(mine, mine, 1.0) != windows([mine[0], (10 * MINUTE_US, 200.0, 51.0)], mine, 1.0)
