"""The vectorised rollup equals the scalar reference, on anything."""

import random
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.model.fields import FIELD_BY_NAME, FIELD_INDEX, FieldKind
from telemetry.model.series import SERIES_SCHEMA, SITE_GRID, UTC_GRID, Aggregate, aggregate_of, has_extremes
from telemetry.model.sharing import Resolution
from telemetry.privacy.resolution import coarsen, latest_effective
from telemetry.privacy.rollup import ROLLUP_SCHEMA, added, rollup
from tests.support import scalar_rollup as scalar
from tests.support.store import frame

FIELDS = ("ac_power_w", "temperature_c", "energy_total_wh", "uptime_s", "battery_soc_pct", "alert_bits")
ZONES = ("UTC", "Europe/Vienna", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Havana", "Pacific/Apia")
# Before clocks change in Vienna, on Lord Howe, in Havana.
BASES_US = (1_792_875_600_000_000, 1_775_311_200_000_000, 1_793_502_000_000_000)
FINE = (Resolution.PT1M, Resolution.PT15M, Resolution.PT30M, Resolution.PT1H)

World = dict[int, dict[str, dict[int, float]]]  # device → field → instant → value


def values(name: str) -> st.SearchStrategy[float]:
    entry = FIELD_BY_NAME[name]
    if entry.kind is FieldKind.STATUS:
        return st.integers(0, 2**32 - 1)
    if entry.kind is FieldKind.COUNTER:
        return st.one_of(st.integers(0, 40).map(lambda n: n * 0.25), st.floats(entry.minimum, entry.maximum))
    ties = st.integers(-20, 20).map(lambda n: n * entry.step / 2).filter(lambda v: v >= entry.minimum)
    return st.one_of(ties, st.floats(entry.minimum, entry.maximum))


@st.composite
def worlds(draw: Any) -> World:
    base = draw(st.sampled_from(BASES_US))
    # Minutes, milliseconds and single microseconds apart, up to hours: holds, gaps, edges and equal milliseconds.
    step = st.one_of(
        st.integers(0, 3),
        st.sampled_from([1000, 59_999_999, 60_000_000, 300_000_000, 300_000_001, 3_600_000_000, 3_600_000_001]),
        st.integers(0, 2_400_000_000),
    )
    world: World = {}
    for device in draw(st.lists(st.integers(-3, 3).filter(bool), min_size=1, max_size=3, unique=True)):
        fields = draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True))
        world[device] = {}
        for name in fields:
            at, samples = base + draw(st.integers(0, 3_600_000_000)), {}
            for gap in draw(st.lists(step, max_size=12)):
                at += gap
                samples[at] = draw(values(name))
            world[device][name] = samples
    return world


def readings(world: World, seed: int = 0) -> pl.DataFrame:
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for device, fields in world.items():
        for name, samples in fields.items():
            for at, value in samples.items():
                rows.setdefault((device, at), {"ts": at, "device_key": device})[name] = value
    shuffled = list(rows.values())
    random.Random(seed).shuffle(shuffled)
    return frame(shuffled)


def options(name: str) -> dict[str, Any]:
    entry = FIELD_BY_NAME[name]
    kind = "status" if entry.kind is FieldKind.STATUS else entry.kind.value
    if kind == "state" and aggregate_of(entry) is Aggregate.LAST:
        kind = "last"
    return {"kind": kind, "step": entry.step, "extremes": has_extremes(entry)}


def reference(world: World, resolution: Resolution, zone: str = "UTC") -> dict[tuple[int, str, int], scalar.Value]:
    return {
        (device, name, start): value
        for device, fields in world.items()
        for name, samples in fields.items()
        for start, value in scalar.rollup_field(samples, resolution.value, zone=zone, **options(name)).items()
    }


def as_reference(series: pl.DataFrame, *, slots: bool = True) -> dict[tuple[int, str, int], scalar.Value]:
    names = {index: name for name, index in FIELD_INDEX.items()}
    return {
        (row["device_key"], names[row["field"]], row["window_start"]): scalar.Value(
            row["amount"],
            row["covered_ms"],
            row["last_at"],
            row["lowest"],
            row["highest"],
            row["slots"] if slots else 0,
        )
        for row in series.iter_rows(named=True)
    }


def without_slots(found: dict[tuple[int, str, int], scalar.Value]) -> dict[tuple[int, str, int], scalar.Value]:
    for value in found.values():
        value.slots = 0
    return found


@settings(deadline=None)
@given(worlds(), st.sampled_from(FINE))
def test_the_rollup_equals_its_reference(world: World, resolution: Resolution) -> None:
    found = rollup(readings(world), resolution)
    assert dict(found.schema) == dict(ROLLUP_SCHEMA)
    assert as_reference(found) == reference(world, resolution)


@settings(deadline=None)
@given(worlds(), st.sampled_from([Resolution.P1D, Resolution.P1M]), st.sampled_from(ZONES))
def test_days_and_months_of_a_site_equal_their_reference(world: World, resolution: Resolution, zone: str) -> None:
    found = rollup(readings(world), resolution, grid=SITE_GRID, timezone=zone)
    assert as_reference(found) == reference(world, resolution, zone)


@settings(deadline=None)
@given(worlds(), st.sampled_from(FINE), st.integers(1, 9))
def test_rule_15_the_order_of_arrival_does_not_matter(world: World, resolution: Resolution, seed: int) -> None:
    assert rollup(readings(world, seed), resolution).equals(rollup(readings(world), resolution))


@settings(deadline=None)
@given(worlds(), st.sampled_from(ZONES), st.data())
def test_rule_11_any_grouping_gives_the_same_windows(world: World, zone: str, data: st.DataObject) -> None:
    """Fine windows, coarsened in any steps, equal the coarse windows computed from the readings."""
    zones = dict.fromkeys(world, zone)
    series = rollup(readings(world), Resolution.PT1M).select(*SERIES_SCHEMA)
    rest = [Resolution.PT15M, Resolution.PT30M, Resolution.PT1H, Resolution.P1D, Resolution.P1M]
    grid = data.draw(st.sampled_from([UTC_GRID, SITE_GRID]))
    if grid == SITE_GRID:
        rest = [one for one in rest if one not in {Resolution.PT30M, Resolution.PT1H}]  # Kathmandu's midnight cuts them
    steps = sorted(data.draw(st.lists(st.sampled_from(rest), min_size=1, unique=True)), key=lambda one: one.rank)
    direct = coarsen(series, steps[-1], grid if steps[-1].rank >= Resolution.P1D.rank else UTC_GRID, zones)
    for step in steps:
        series = coarsen(series, step, grid if step.rank >= Resolution.P1D.rank else UTC_GRID, zones)
        again = coarsen(series, step, grid if step.rank >= Resolution.P1D.rank else UTC_GRID, zones)
        assert again.equals(series)
    assert series.equals(direct)
    local = zone if grid == SITE_GRID else "UTC"
    expected = without_slots(reference(world, steps[-1], local))
    assert as_reference(series, slots=False) == expected


@settings(max_examples=60, deadline=None)
@given(worlds(), worlds(), st.sampled_from(FINE))
def test_rule_15_late_samples_fill_uncovered_slots_only(hot: World, late: World, resolution: Resolution) -> None:
    stored = rollup(readings(hot), resolution)
    more = rollup(readings(late), resolution, stored=stored)
    changed = added(stored, more)
    expected = reference(hot, resolution)
    for device, fields in late.items():
        for name, samples in fields.items():
            own = {k[2]: v for k, v in expected.items() if k[:2] == (device, name)}
            scalar.fill(own, samples, resolution.value, **options(name))
            expected |= {(device, name, start): value for start, value in own.items()}
    kept = stored.join(changed, on=["device_key", "field", "window_start"], how="anti")
    assert as_reference(pl.concat([kept, changed])) == expected
    # The same backfill twice adds nothing.
    assert rollup(readings(late), resolution, stored=pl.concat([kept, changed])).is_empty()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 3), st.integers(0, 6), st.integers(0, 2)), unique=True))
def test_the_newest_effective_version_holds(versions: list[tuple[int, int, int, int]]) -> None:
    unique = {(device, window, at): covered for device, window, at, covered in versions}
    rows = [
        {"device_key": d, "field": 0, "resolution": 2, "grid": 0, "window_start": w, "effective_at": at}
        | {"amount": at, "covered_ms": covered, "last_at": None, "lowest": None, "highest": None}
        for (d, w, at), covered in unique.items()
    ]
    found = latest_effective(pl.DataFrame(rows, schema=SERIES_SCHEMA), 3)
    expected = {}
    for (d, w, at), covered in sorted(unique.items()):
        if at <= 3:
            expected[d, w] = (at, covered)
    shown = {(row["device_key"], row["window_start"]): (row["amount"], row["covered_ms"]) for row in found.to_dicts()}
    assert shown == {key: value for key, value in expected.items() if value[1] > 0}
