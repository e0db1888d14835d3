"""Which windows are shown and with what, over frames: what lies outside of the tenure, minimum and maximum."""

import polars as pl

from telemetry.model.fields import FIELD_INDEX
from telemetry.model.series import SERIES_SCHEMA
from telemetry.privacy.combine import Level
from telemetry.views.judging import Subject
from telemetry.views.windows import valued, visible

QUARTER = 900_000_000
EVER = 2**61
FIELD = "ac_power_w"
ALWAYS = Level(2, ((-EVER, EVER),))
WITH_EXTREMES = Level(2, ((-EVER, EVER),), extremes=((-EVER, EVER),))
AT_15_MINUTES = (2, 0)


def subject(device: int, level: Level = ALWAYS, *, since: int = -EVER, until: int = EVER) -> Subject:
    return Subject(device, "UTC", since, until, {FIELD: (level,)})


def windows(*places: tuple[int, int]) -> pl.DataFrame:
    """Of (device, number of the quarter), with a minimum and a maximum."""
    rows = [
        (device, FIELD_INDEX[FIELD], 2, 0, n * QUARTER, (n + 1) * QUARTER, 900_000, 900_000, None, 10, 20)
        for device, n in places
    ]
    frame = pl.DataFrame(rows, schema=dict(SERIES_SCHEMA), orient="row")
    return frame.with_columns(window_end=pl.col("window_start") + QUARTER, kept=pl.lit(value=True))


def test_windows_outside_of_the_tenure_are_not_shown_though_the_grant_covers_all_time() -> None:
    given = windows(*((1, n) for n in range(10)))
    shown = visible(given, [subject(1, since=3 * QUARTER, until=6 * QUARTER)], AT_15_MINUTES, EVER)
    # In the one that begins as the tenure ends the tenure's last value may be held on.
    assert (shown["window_start"] // QUARTER).to_list() == [3, 4, 5, 6]


def test_minimum_and_maximum_are_shown_of_the_device_that_grants_them_alone() -> None:
    given = windows((1, 0), (2, 0), (1, 1), (2, 1))
    shown = valued(visible(given, [subject(1), subject(2, WITH_EXTREMES)], AT_15_MINUTES, EVER))
    found = dict.fromkeys(shown.select("device_key", "lowest", "highest").iter_rows())
    assert list(found) == [(1, None, None), (2, 10.0, 20.0)]
