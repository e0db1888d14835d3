"""Windows judged by one interval each, and by any number: the same, and what plain loops say."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from telemetry.views.judging import judged, judged_simply

WHAT = ("allowed", "finer", "extremes")
INSTANTS = st.integers(-40, 40)
KEYS = st.tuples(st.integers(-3, 3), st.integers(0, 2))
INTERVALS = st.tuples(INSTANTS, st.integers(1, 30)).map(lambda both: (both[0], both[0] + both[1]))
SCHEMA = {"device_key": pl.Int64, "field": pl.UInt8, "what": pl.String, "from": pl.Int64, "to": pl.Int64}


def frames(windows: list, rules: list) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows = [(device, field, start, end) for (device, field), (start, end) in windows]
    guarded = pl.DataFrame(
        rows,
        schema={"device_key": pl.Int64, "field": pl.UInt8, "_start": pl.Int64, "_end": pl.Int64},
        orient="row",
    )
    found = [(device, field, what, start, end) for ((device, field), what), (start, end) in rules]
    return guarded, pl.DataFrame(found, schema=SCHEMA, orient="row").sort("from")


def plain(windows: list, rules: list) -> list[list[bool]]:
    return [
        [
            any(key == (about, what) and start <= opens and closes <= end for key, (start, end) in rules)
            for about, (opens, closes) in windows
        ]
        for what in WHAT
    ]


@given(
    st.lists(st.tuples(KEYS, INTERVALS), max_size=30),
    st.dictionaries(st.tuples(KEYS, st.sampled_from(WHAT)), INTERVALS, max_size=15),
)
def test_one_interval_each(windows: list, rules: dict) -> None:
    guarded, table = frames(windows, list(rules.items()))
    expected = plain(windows, list(rules.items()))
    for judge in (judged_simply, judged):
        assert [flags.tolist() for flags in judge(guarded, table)] == expected


@given(
    st.lists(st.tuples(KEYS, INTERVALS), max_size=30),
    st.lists(st.tuples(st.tuples(KEYS, st.sampled_from(WHAT)), INTERVALS), max_size=25),
)
def test_several_disjoint_intervals(windows: list, rules: list) -> None:
    disjoint: list = []
    for key, (start, end) in rules:
        if all(key != other or end < opens or closes < start for other, (opens, closes) in disjoint):
            disjoint.append((key, (start, end)))
    guarded, table = frames(windows, disjoint)
    assert [flags.tolist() for flags in judged(guarded, table)] == plain(windows, disjoint)
