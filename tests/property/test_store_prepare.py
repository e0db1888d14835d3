"""Merging repetitions within a batch: the vectorised form equals a scalar reference a reader can check by eye."""

from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from telemetry.model.batch import READING_SCHEMA
from telemetry.store.prepare import HOUR_US, binary_copy, occurring_columns, prepare

FIELDS = ("ac_power_w", "temperature_c", "alert_code")

values = st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.0, 2.0]))
codes = st.one_of(st.none(), st.integers(0, 2))
readings = st.lists(
    st.fixed_dictionaries(
        {
            "ts": st.sampled_from([5, 6, HOUR_US - 1, HOUR_US, 3 * HOUR_US]),
            "device_key": st.integers(-1, 1),
            "plan_version": st.just(1),
            "ac_power_w": values,
            "temperature_c": values,
            "alert_code": codes,
        }
    ),
    max_size=30,
)


def reference(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int, int, int]:
    """SEMANTICS.md, rule 3, one reading after the other in order of arrival."""
    stored: dict[tuple[int, int], dict[str, Any]] = {}
    duplicate = merged = conflict = 0
    for row in rows:
        first = stored.get((row["ts"], row["device_key"]))
        if first is None:
            stored[row["ts"], row["device_key"]] = dict(row)
            continue
        duplicate += 1
        adds = contradicts = False
        for name in FIELDS:
            if row[name] is None:
                continue
            if first[name] is None:
                first[name], adds = row[name], True
            elif first[name] != row[name]:
                contradicts = True
        conflict += contradicts
        merged += adds and not contradicts
    return [stored[key] for key in sorted(stored)], duplicate, merged, conflict


def as_frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    schema = {
        **READING_SCHEMA,
        "ac_power_w": pl.Float64(),
        "temperature_c": pl.Float64(),
        "alert_code": pl.Int64(),
    }
    return pl.DataFrame(rows, schema=schema)


@given(readings)
def test_merging_in_a_batch_equals_the_scalar_reference(rows: list[dict[str, Any]]) -> None:
    prepared = prepare(as_frame(rows), 1)
    expected, duplicate, merged, conflict = reference(rows)
    assert prepared.rows.to_dicts() == expected
    assert (prepared.duplicate, prepared.merged, prepared.conflict) == (duplicate, merged, conflict)


@given(readings)
def test_slices_are_the_batch_cut_at_the_hours(rows: list[dict[str, Any]]) -> None:
    prepared = prepare(as_frame(rows), 1)
    hours = [part.hour for part in prepared.slices]
    assert hours == sorted(set(hours))
    for part in prepared.slices:
        assert set(part.rows["ts"] // HOUR_US) == {part.hour}
    together = [row for part in prepared.slices for row in part.rows.to_dicts()]
    assert together == prepared.rows.to_dicts()


@given(readings)
def test_only_columns_that_occur_are_sent_and_the_encoding_is_postgresqls(rows: list[dict[str, Any]]) -> None:
    frame = as_frame(rows)
    columns = occurring_columns(frame)
    assert columns == [c for c in frame.columns if c in READING_SCHEMA or frame[c].null_count() < frame.height]
    data = b"".join(binary_copy(frame.select(columns)))
    assert decode(data, frame.select(columns).schema) == frame.select(columns).to_dicts()


def decode(data: bytes, schema: pl.Schema) -> list[dict[str, Any]]:
    """PostgreSQL documentation, COPY, Binary Format, read with struct alone."""
    import struct

    assert data[:19] == b"PGCOPY\n\xff\r\n\0" + bytes(8)
    position, rows = 19, []
    while (count := struct.unpack_from(">h", data, position)[0]) != -1:
        position += 2
        assert count == len(schema)
        row: dict[str, Any] = {}
        for name, dtype in schema.items():
            (length,) = struct.unpack_from(">i", data, position)
            position += 4
            if length == -1:
                row[name] = None
                continue
            assert length == 8
            (row[name],) = struct.unpack_from(">d" if dtype == pl.Float64 else ">q", data, position)
            position += 8
        row["ts"] += 946_684_800_000_000
        rows.append(row)
    assert position + 2 == len(data)
    return rows
