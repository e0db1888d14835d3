"""How precise a place is, and what a solar curve tells of it (rules 19 and 24)."""

import h3
import pytest

from telemetry.model.sharing import RESOLUTIONS, PlaceSetting, Resolution
from telemetry.privacy.location import (
    CELL_AREA_KM2,
    CELL_RADIUS_KM,
    place_radius_km,
    solar_error_km,
    solar_warning_km,
)


def test_areas_are_the_librarys():
    for cell, area in CELL_AREA_KM2.items():
        assert area == pytest.approx(h3.average_hexagon_area(cell, "km^2"), rel=1e-4)
    assert [round(radius, 1) for radius in CELL_RADIUS_KM.values()] == [62.8, 23.7, 9.0, 3.4, 1.3]


def test_a_finer_series_locates_no_worse_than_one_it_contains():
    errors = [solar_error_km(resolution) for resolution in RESOLUTIONS]
    assert errors == [0.5, 5.0, 5.0, 5.0, 5.0, None, None]
    known = [error for error in errors if error is not None]
    assert known == sorted(known)


def test_a_finer_setting_is_a_smaller_place():
    radii = [place_radius_km(place) for place in PlaceSetting]
    assert radii == sorted(radii, reverse=True)
    assert radii[-1] == 0


def test_the_worked_example_of_rule_19_asks_for_confirmation():
    """A 15-minute solar curve beside a cell of about 9 km radius."""
    assert solar_warning_km(Resolution.PT15M, PlaceSetting.CELL5) == 5.0


@pytest.mark.parametrize(
    ("finest", "place", "warning"),
    [
        (Resolution.PT15M, PlaceSetting.WITHHELD, 5.0),
        (Resolution.PT1H, PlaceSetting.COUNTRY, 5.0),
        (Resolution.PT15M, PlaceSetting.CELL6, None),
        (Resolution.RAW, PlaceSetting.CELL7, 0.5),
        (Resolution.RAW, PlaceSetting.EXACT, None),
        (Resolution.P1D, PlaceSetting.WITHHELD, None),
        (None, PlaceSetting.WITHHELD, None),
    ],
)
def test_rule_19_warns_where_the_curve_is_finer_than_the_place(finest, place, warning):
    assert solar_warning_km(finest, place) == warning
