"""What a batch becomes: stored, duplicate, merged, conflict, late, each counted exactly (SEMANTICS.md, rule 3)."""

import random
from typing import Any

import polars as pl
import pytest

from telemetry.model.batch import Write, Written, empty_readings
from telemetry.model.fields import CATALOGUE, FieldKind
from tests.support.store import HOUR_US, Store, batch, this_hour_us

LONG_AGO = 80 * HOUR_US  # older than any partition that another test has made


def counts(written: Written) -> tuple[int, int, int, int, int]:
    return (written.stored, written.duplicate, written.merged, written.conflict, written.late)


def row(ts: int, device_key: int = 7, **fields: Any) -> dict[str, Any]:
    return {"ts": ts, "device_key": device_key, **fields}


async def test_rows_of_a_live_hour_are_stored_with_their_fields_and_nulls(store: Store) -> None:
    now = this_hour_us()
    rows = [row(now, -8, temperature_c=-0.25), row(now + 1, 7, ac_power_w=1.5, operating_state_code=4)]
    assert counts(await store.sink().write(batch(*reversed(rows)))) == (2, 0, 0, 0, 0)
    assert await store.stored() == rows


async def test_every_field_of_the_catalogue_has_its_column(store: Store) -> None:
    values = {f.name: 3 if f.kind is FieldKind.STATUS else 2.5 for f in CATALOGUE}
    now = this_hour_us()
    assert (await store.sink().write(batch(row(now, **values)))).stored == 1
    assert await store.stored() == [row(now, **values)]


async def test_a_reading_without_any_value_is_still_a_reading(store: Store) -> None:
    now = this_hour_us()
    assert counts(await store.sink().write(batch(row(now)))) == (1, 0, 0, 0, 0)
    assert counts(await store.sink().write(batch(row(now)))) == (0, 1, 0, 0, 0)


async def test_an_empty_batch_commits_nothing_and_counts_nothing(store: Store) -> None:
    written = await store.sink().write(Write(rows=empty_readings(), plan_version=1))
    assert counts(written) == (0, 0, 0, 0, 0)


async def test_extreme_values_pass_unchanged(store: Store) -> None:
    now = this_hour_us()
    rows = [row(now, -(2**63), alert_bits=2**63 - 1), row(now, 2**63 - 1, ac_power_w=-1e-308, alert_bits=-(2**63))]
    assert (await store.sink().write(batch(*rows))).stored == 2
    assert await store.stored() == rows


@pytest.mark.parametrize("age", [0, LONG_AGO], ids=["hot", "late"])
class TestArrivingAgain:
    """The stored reading holds ac_power_w=1.0 and temperature_c=20.0."""

    async def again(self, store: Store, age: int, **fields: Any) -> tuple[Any, list[dict[str, Any]]]:
        ts = this_hour_us() - age
        sink = store.sink()
        first = await sink.write(batch(row(ts, ac_power_w=1.0, temperature_c=20.0)))
        assert counts(first) == (1, 0, 0, 0, int(age > 0))
        written = await sink.write(batch(row(ts, **fields), row(ts + 1, 9, ac_power_w=5.0)))
        assert (written.stored, written.late) == (1, int(age > 0))  # the new row beside it, every time
        stored = await store.stored()
        assert stored[1] == row(ts + 1, 9, ac_power_w=5.0)
        assert [(r["ts"], r["device_key"]) for r in stored] == [(ts, 7), (ts + 1, 9)]
        return (written.duplicate, written.merged, written.conflict), [
            {k: v for k, v in stored[0].items() if k not in {"ts", "device_key"}}
        ]

    async def test_equal_is_a_duplicate(self, store: Store, age: int) -> None:
        counted, stored = await self.again(store, age, ac_power_w=1.0, temperature_c=20.0)
        assert counted == (1, 0, 0)
        assert stored == [{"ac_power_w": 1.0, "temperature_c": 20.0}]

    async def test_contained_is_a_duplicate(self, store: Store, age: int) -> None:
        counted, stored = await self.again(store, age, temperature_c=20.0)
        assert counted == (1, 0, 0)
        assert stored == [{"ac_power_w": 1.0, "temperature_c": 20.0}]

    async def test_a_field_that_is_null_so_far_is_merged(self, store: Store, age: int) -> None:
        counted, stored = await self.again(store, age, ac_power_w=1.0, alert_code=3)
        assert counted == (1, 1, 0)
        assert stored == [{"ac_power_w": 1.0, "temperature_c": 20.0, "alert_code": 3}]

    async def test_a_contradiction_keeps_the_first_and_is_counted(self, store: Store, age: int) -> None:
        counted, stored = await self.again(store, age, ac_power_w=2.0, temperature_c=20.0)
        assert counted == (1, 0, 1)
        assert stored == [{"ac_power_w": 1.0, "temperature_c": 20.0}]

    async def test_a_contradiction_still_fills_what_is_null(self, store: Store, age: int) -> None:
        counted, stored = await self.again(store, age, ac_power_w=2.0, alert_code=3)
        assert counted == (1, 0, 1)
        assert stored == [{"ac_power_w": 1.0, "temperature_c": 20.0, "alert_code": 3}]


async def test_a_batch_over_several_hours_replays_only_the_hour_that_repeats(store: Store) -> None:
    now, sink = this_hour_us(), store.sink()
    rows = [row(now - age * HOUR_US, ac_power_w=float(age)) for age in (0, 1, 2, 80, 81)]
    await sink.write(batch(rows[1], rows[3]))
    written = await sink.write(batch(*rows))
    assert counts(written) == (3, 2, 0, 0, 1)
    assert await store.stored() == sorted(rows, key=lambda r: r["ts"])


async def test_repetitions_within_a_batch_count_like_repetitions_after_it(store: Store) -> None:
    now = this_hour_us()
    written = await store.sink().write(
        batch(
            row(now, ac_power_w=1.0),
            row(now, ac_power_w=1.0),  # equal
            row(now, temperature_c=2.0),  # adds
            row(now, ac_power_w=9.0, alert_code=5),  # contradicts, and fills
            row(now, alert_code=5),  # contained
        )
    )
    assert counts(written) == (1, 4, 1, 1, 0)
    assert await store.stored() == [row(now, ac_power_w=1.0, temperature_c=2.0, alert_code=5)]


async def test_the_same_backfill_twice_stores_nothing_more(store: Store) -> None:
    start = this_hour_us() - 800 * HOUR_US
    rows = [row(start + i * 60_000_000, i % 5, ac_power_w=float(i)) for i in range(3000)]
    assert counts(await store.sink().write(batch(*rows))) == (3000, 0, 0, 0, 3000)
    assert counts(await store.sink().write(batch(*rows))) == (0, 3000, 0, 0, 0)


async def test_a_late_row_is_recognised_in_an_older_hour_of_receipt(store: Store) -> None:
    admin = await store.admin()
    sink, ts = store.sink(), this_hour_us() - LONG_AGO
    await sink.write(batch(row(ts, ac_power_w=1.0)))
    # As if it had been received an hour ago: another partition.
    await admin.execute("SELECT readings.make_partition('late', date_trunc('hour', now()) - interval '1 hour')")
    await admin.execute("UPDATE readings.late SET received_hour = received_hour - interval '1 hour'")
    assert counts(await sink.write(batch(row(ts, ac_power_w=1.0, alert_code=1)))) == (0, 1, 1, 0, 0)
    assert await store.stored() == [row(ts, ac_power_w=1.0, alert_code=1)]


async def test_rows_carry_the_version_of_their_plan_and_of_what_was_merged_into_them(store: Store) -> None:
    admin = await store.admin()
    sink, now = store.sink(), this_hour_us()
    await sink.write(batch(row(now, 1, ac_power_w=1.0), row(now, 2, ac_power_w=1.0)))
    await admin.execute("SELECT consent.bump_version()")
    await sink.write(batch(row(now, 1, ac_power_w=1.0), row(now, 2, alert_code=1), plan_version=2))
    versions = await admin.fetch("SELECT device_key, plan_version FROM readings.hot ORDER BY 1")
    assert [tuple(v) for v in versions] == [(1, 1), (2, 2)]


class Reference:
    """Rule 3 as a loop: a batch's repetitions merge first, then what is left meets what is stored."""

    def __init__(self) -> None:
        self.stored: dict[tuple[int, int], dict[str, Any]] = {}

    def write(self, rows: list[dict[str, Any]]) -> tuple[int, int, int, int]:
        own: dict[tuple[int, int], dict[str, Any]] = {}
        within = [self.meet(own, row) for row in rows]
        outcomes = [o for o in within if o != "stored"]
        outcomes += [self.meet(self.stored, row) for row in own.values()]
        stored = outcomes.count("stored")
        return stored, len(outcomes) - stored, outcomes.count("merged"), outcomes.count("conflict")

    @staticmethod
    def meet(stored: dict[tuple[int, int], dict[str, Any]], row: dict[str, Any]) -> str:
        first = stored.setdefault((row["ts"], row["device_key"]), {})
        if not first:
            first.update(row)
            return "stored"
        contradicts = any(first.get(name, value) != value for name, value in row.items())
        adds = bool(row.keys() - first.keys())
        first.update({name: value for name, value in row.items() if name not in first})
        return "conflict" if contradicts else "merged" if adds else "duplicate"


async def test_any_series_of_batches_counts_and_stores_like_the_scalar_reference(store: Store) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice, now, reference, sink = random.Random(seed), this_hour_us(), Reference(), store.sink()
    for _ in range(25):
        rows = [
            row(
                now - dice.choice([0, 0, 1, 30, 31]) * HOUR_US + dice.randrange(3),
                dice.randrange(4),
                **{
                    name: float(dice.randrange(2))
                    for name in dice.sample(["ac_power_w", "dc_power_w", "temperature_c"], 2)
                },
            )
            for _ in range(dice.randrange(1, 12))
        ]
        written = await sink.write(batch(*rows))
        assert counts(written)[:4] == reference.write(rows)
    assert await store.stored() == [reference.stored[key] for key in sorted(reference.stored)]


async def test_many_rows_are_stored_in_many_chunks(store: Store) -> None:
    now, n = this_hour_us(), 30_000
    rows = pl.DataFrame(
        {
            "ts": [now + i % 3000 for i in range(n)],
            "device_key": list(range(n)),
            "plan_version": [1] * n,
            "ac_power_w": [None if i % 3 else float(i) for i in range(n)],
        },
        schema_overrides={"ac_power_w": pl.Float64},
    )
    assert counts(await store.sink().write(Write(rows=rows, plan_version=1))) == (n, 0, 0, 0, 0)
    assert counts(await store.sink().write(Write(rows=rows, plan_version=1))) == (0, n, 0, 0, 0)
    admin = await store.admin()
    total = await admin.fetchrow("SELECT count(*), sum(device_key), sum(ac_power_w) FROM readings.hot")
    assert tuple(total) == (n, n * (n - 1) // 2, float(sum(range(0, n, 3))))


async def test_rows_of_another_plan_than_the_batch_says_are_a_fault(store: Store) -> None:
    rows = batch(row(this_hour_us(), ac_power_w=1.0), plan_version=2).rows
    with pytest.raises(AssertionError, match="another plan"):
        await store.sink().write(Write(rows=rows, plan_version=1))
    assert await store.stored() == []
