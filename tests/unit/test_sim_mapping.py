"""Mappings: what a recording's columns mean, and the account of what it holds."""

import gzip
from pathlib import Path

import pytest

from device_sim.mapping import load_mapping, read_recordings
from device_sim.mappings import find_mapping, shipped_mappings
from telemetry.model.fields import FIELD_BY_NAME, KIND_BY_LABEL


def read(tmp_path: Path, text: str, mapping: str, name: str = "a.csv", limit: int | None = None):
    path, rules = tmp_path / name, tmp_path / "m.toml"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    rules.write_text(mapping)
    return read_recordings([path], load_mapping(rules), limit)


COLUMN = """
gateway = "gw-1"
serial = {column = "id"}
[time]
column = "t"
zone = "Europe/Berlin"
[fields.ac_power_w]
column = "kw"
scale = 1000.0
"""


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_key_column_names_the_device_and_local_times_become_utc(tmp_path: Path, name: str) -> None:
    text = "id,t,kw\nINV00000042,2026-07-01 12:00:00,1.5\nINV00000043,2026-01-01 12:00:00,0.25\n"

    frame, expected = read(tmp_path, text, COLUMN, name)

    assert frame.select("gateway", "serial", "kind", "ts", "ac_power_w").rows() == [
        ("gw-1", "INV00000043", "inverter", 1_767_265_200_000_000, 250.0),
        ("gw-1", "INV00000042", "inverter", 1_782_900_000_000_000, 1500.0),
    ]
    assert expected.as_dict() == {
        "rows": 2,
        "without_value": 0,
        "readings": 2,
        "distinct": 2,
        "repeated": 0,
        "contradicting": 0,
    }


def test_repeated_contradicting_and_empty_rows_are_counted(tmp_path: Path) -> None:
    row = "INV00000042,2026-07-01 12:00:00,"
    frame, expected = read(tmp_path, f"id,t,kw\n{row}1\n{row}1\n{row}2\n{row}\n{row}NaN\n", COLUMN)

    assert frame.height == 3
    assert (expected.rows, expected.without_value, expected.readings) == (5, 2, 3)
    assert (expected.distinct, expected.repeated, expected.contradicting) == (1, 2, 1)


def test_decimal_commas_scales_offsets_and_steps(tmp_path: Path) -> None:
    mapping = """
    serial = "MTR00000001"
    kind = "meter"
    separator = ";"
    decimal_comma = true
    time = { start = 2026-05-01T12:00:00+02:00, step_s = 300 }
    fields = { temperature_c = { column = "f", scale = 0.5, offset = -10.0 } }
    """

    frame, _ = read(tmp_path, "f;x\n50,5;1\n;1\n10;1\n", mapping)

    assert frame.select("ts", "temperature_c").rows() == [
        (1_777_629_600_000_000, 15.25),
        (1_777_629_600_000_000 + 600_000_000, -5.0),
    ]


def test_rows_are_filtered_and_files_may_differ(tmp_path: Path) -> None:
    mapping = COLUMN + '[filter]\nwhat = "p"\n[files."b*"]\nserial = "INV00000099"\nkind = "battery"\n'
    text = "id,t,kw,what\nINV00000042,2026-07-01 12:00:00,1,p\nINV00000042,2026-07-01 12:00:05,1,q\n"

    first, _ = read(tmp_path, text, mapping)
    second, _ = read(tmp_path, text, mapping, name="b.csv")

    assert first["serial"].to_list() == ["INV00000042"]
    assert second.select("serial", "kind").rows() == [("INV00000099", "battery")]


def test_a_limit_takes_the_first_readings_of_the_file(tmp_path: Path) -> None:
    text = "id,t,kw\n" + "".join(f"INV00000042,2026-07-01 12:00:{i:02},1\n" for i in range(10))

    frame, expected = read(tmp_path, text, COLUMN, limit=4)

    assert frame.height == 4
    assert expected.distinct == 4


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        ("fields = 3", "m.toml"),
        ('serial = "x"', "no .fields"),
        ("colour = 1\n" + COLUMN, "colour"),
        (COLUMN.replace('"kw"', '"mw"'), "no column mw"),
        ('serial = "x"\nfields = { ac_power_w = { column = "kw" } }\ntime = { step_s = 5 }', "start"),
    ],
)
def test_a_wrong_mapping_is_refused_with_its_reason(tmp_path: Path, mapping: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        read(tmp_path, "id,t,kw\nINV00000042,2026-07-01 12:00:00,1\n", mapping)


def test_shipped_mappings_speak_of_catalogue_fields_and_kinds_only() -> None:
    assert shipped_mappings() == ("home-hourly", "inverter-serials", "openems-sim", "pv-1min")
    for name in shipped_mappings():
        mapping = load_mapping(find_mapping(name))
        for file in (*mapping.files, "any.csv"):
            here = mapping.for_file(file.replace("*", "x"))
            assert set(here.fields) <= set(FIELD_BY_NAME)
            assert here.kind in KIND_BY_LABEL


def test_an_unknown_mapping_names_those_that_exist() -> None:
    with pytest.raises(ValueError, match="inverter-serials"):
        find_mapping("nonsense")
