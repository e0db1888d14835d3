"""Where the sun stands, and how strong a clear sky is: enough to compare a day with those of the month before it.

Good to half a degree. Instants are µs since 1970 UTC, angles degrees, arrays of equal length.
"""

from functools import cache
from importlib.resources import files
from typing import Final

import h3.api.basic_int as h3
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Instants = npt.NDArray[np.int64]

DAY_US: Final = 86_400_000_000
_DAYS_TO_2000: Final = 10_957.5  # from 1970-01-01 00:00 to 2000-01-01 12:00


def sine_of_elevation(at_us: Instants, latitude: float, longitude: float) -> Floats:
    """Of the sun's centre, without refraction (Astronomical Almanac's low-precision formulae, to 0.01 degrees)."""
    days = at_us / DAY_US - _DAYS_TO_2000
    anomaly = np.radians(357.528 + 0.9856003 * days)
    ecliptic = np.radians(280.460 + 0.9856474 * days + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    tilt = np.radians(23.439 - 4e-7 * days)
    ascension = np.arctan2(np.cos(tilt) * np.sin(ecliptic), np.cos(ecliptic))
    sine_declination = np.sin(tilt) * np.sin(ecliptic)
    sidereal = np.radians((280.46062 + 360.98564737 * days + longitude) % 360)
    north = np.radians(latitude)
    found: Floats = np.sin(north) * sine_declination + np.cos(north) * np.sqrt(1 - sine_declination**2) * np.cos(
        sidereal - ascension
    )
    return found


def clear_strength(sine: Floats) -> Floats:
    """How strong a clear sky is on a panel, up to a factor: between what falls on level ground and the beam itself.

    Level ground: Haurwitz, J. Meteorology 2 (1945). Beam: Meinel and Meinel, Applied Solar Energy (1976). A tilted
    panel lies between both; over a month at the same hour their geometric mean is right to a few per cent.
    """
    high = np.maximum(sine, 0.02)
    level = 1098 * high * np.exp(-0.057 / high)
    beam = 1361 * 0.7 ** (1 / (high + 0.003)) ** 0.678
    return np.where(sine > 0, np.sqrt(level * beam), 0.0)


def place_of(cell7: int | None, timezone: str) -> tuple[float, float] | None:
    """Latitude and longitude: of the cell, else of the town that a time zone is named after, else None."""
    if cell7 is not None:
        latitude, longitude = h3.cell_to_latlng(cell7)
        return float(latitude), float(longitude)
    return _towns().get(timezone)


@cache
def _towns() -> dict[str, tuple[float, float]]:
    """Time zone → degrees (zone1970.tab of the IANA time-zone database: ±DDMM±DDDMM, or with seconds)."""
    lines = (files("tzdata") / "zoneinfo" / "zone1970.tab").read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            _, written, zone, *_ = line.split("\t")
            cut = max(written.rfind("+"), written.rfind("-"))
            found[zone] = (_degrees(written[:cut], 2), _degrees(written[cut:], 3))
    return found


def _degrees(text: str, digits: int) -> float:
    sign, rest = (-1 if text[0] == "-" else 1), text[1:]
    degrees, minutes, seconds = rest[:digits], rest[digits : digits + 2], rest[digits + 2 :]
    return sign * (int(degrees) + int(minutes) / 60 + int(seconds or 0) / 3600)
