"""How precise a place is, and what a solar curve tells of it (rules 19 and 24)."""

import math

import h3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import InputError
from telemetry.model.sharing import RESOLUTIONS, PlaceSetting, Resolution
from telemetry.privacy.location import (
    CELL_AREA_KM2,
    CELL_RADIUS_KM,
    cell_of,
    cell_text,
    place_radius_km,
    solar_error_km,
    solar_warning_km,
)
from telemetry.store.registration import NewSite


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


@pytest.mark.parametrize("longitude", [0.0, 123.4, 180.0, -180.0])
@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_a_pole_is_one_place_whatever_its_longitude(pole, longitude):
    assert cell_of(pole, longitude) == cell_of(pole, 1.0)


def test_both_sides_of_the_antimeridian_are_one_place():
    assert cell_of(-17.5, 180.0) == cell_of(-17.5, -180.0)
    assert h3.grid_distance(h3.int_to_str(cell_of(65.0, 179.999)), h3.int_to_str(cell_of(65.0, -179.999))) <= 1


@pytest.mark.parametrize(
    ("latitude", "longitude", "said"),
    [
        (0.0, 0.0, "no home"),
        (-0.0, 0.0, "no home"),
        (0.01, -0.05, "no home"),
        (math.nan, 8.0, "finite"),
        (47.0, math.inf, "finite"),
        (90.1, 8.0, "-90 to 90"),
        (47.0, -180.5, "-180 to 180"),
    ],
)
def test_what_is_no_place_is_refused_and_not_repeated(latitude, longitude, said):
    with pytest.raises(InputError, match=said) as caught:
        cell_of(latitude, longitude)
    assert "47" not in str(caught.value)
    with pytest.raises(InputError):
        NewSite("Home", latitude=latitude, longitude=longitude)


@pytest.mark.parametrize(("latitude", "longitude"), [(0.0, 8.0), (51.5, 0.0)])
def test_the_equator_and_greenwich_are_places(latitude, longitude):
    assert cell_of(latitude, longitude) == h3.str_to_int(h3.latlng_to_cell(latitude, longitude, 7))


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_every_other_place_has_a_cell_of_resolution_7_that_fits_a_bigint(latitude, longitude):
    if max(abs(latitude), abs(longitude)) >= 0.1:
        cell = cell_of(latitude, longitude)
        assert 0 < cell < 2**63
        assert h3.is_valid_cell(cell_text(cell))
        assert h3.get_resolution(cell_text(cell)) == 7


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (("", "", ""), (None, None, "UTC")),
        (("DE", "DE-BY", "Europe/Berlin"), ("DE", "DE-BY", "Europe/Berlin")),
        (("", "US-CA", ""), ("US", "US-CA", "UTC")),
    ],
)
def test_country_region_and_time_zone_are_checked(given, kept):
    assert NewSite("Home", country=given[0], region=given[1], timezone=given[2]).place() == (None, *kept)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("country", "XX", "no such country"),
        ("country", "de", "no such country"),
        ("region", "BY", "ISO 3166-2"),
        ("region", "ZZ-1", "no such country"),
        ("timezone", "Mars/Olympus", "no such time zone"),
        ("timezone", "../etc/passwd", "no such time zone"),
    ],
)
def test_what_is_no_country_region_or_time_zone_is_refused(field, value, said):
    with pytest.raises(InputError, match=said) as caught:
        NewSite("Home", **{field: value})
    assert len(value) < 3 or value not in str(caught.value)


def test_a_region_lies_in_its_country():
    with pytest.raises(InputError, match="another country"):
        NewSite("Home", country="FR", region="DE-BY")
