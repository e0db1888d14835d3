"""Places: H3 cells, how large they are, and what a solar site's power curve tells of where it is.

H3 (h3geo.org) divides the globe into cells of nearly equal area, by resolution; a cell lies within one parent of
each coarser resolution *by index*, and in its shape only nearly so. Nothing here is called per message: a site's
cell is computed once, when its coordinates are known.

Cells are the integers of H3's 64-bit index (the top bit is 0, so they fit PostgreSQL's bigint).
"""

import math
from types import MappingProxyType
from typing import Final

import h3.api.basic_int as h3
import numpy as np
import numpy.typing as npt

from telemetry.errors import InputError
from telemetry.model.sharing import PlaceSetting, Resolution

Cells = npt.NDArray[np.int64]

FINEST_CELL: Final = 7
COARSEST_CELL: Final = 3  # below k sites there, place is withheld (rule 24)

# Mean area of a cell in km² by resolution (h3geo.org, "Tables of cell statistics"; a test holds it to the library).
CELL_AREA_KM2: Final = MappingProxyType({3: 12_393.4, 4: 1_770.35, 5: 252.904, 6: 36.129, 7: 5.16129})
CELL_RADIUS_KM: Final = MappingProxyType({cell: math.sqrt(area / math.pi) for cell, area in CELL_AREA_KM2.items()})
"""Radius of the circle with a cell's mean area, by resolution: 63, 24, 9.0, 3.4 and 1.3 km."""

_RESOLUTION_SHIFT: Final = 52  # where an index holds its resolution, in four bits
_DIGIT_BITS: Final = 3  # each finer resolution has a digit below, all ones where it is not used
_DIGITS: Final = 15
_NULL_ISLAND_DEGREES: Final = 0.1  # no home is within 500 km of it

_RAW_KM: Final = 0.5  # readings of 1 to 2 s
# By matching the weather, at a quarter of an hour to an hour. Sun geometry alone at one minute is worse (28 km),
# but who has the minutes has the hours in them.
_HOURLY_KM: Final = 5.0


def cell_of(latitude: float, longitude: float) -> int:
    """The cell of resolution 7 at these degrees (WGS 84), poles and antimeridian included.

    Raises:
        InputError: not finite, out of range, or 0, 0: what a device without a position reports. The values are not
            repeated.

    """
    if not (math.isfinite(latitude) and math.isfinite(longitude)):
        raise InputError("latitude and longitude are finite numbers", remedy="leave both out where they are not known")
    if abs(latitude) > 90 or abs(longitude) > 180:
        raise InputError("latitude lies in -90 to 90 degrees, longitude in -180 to 180")
    if max(abs(latitude), abs(longitude)) < _NULL_ISLAND_DEGREES:
        raise InputError(
            "latitude 0, longitude 0 is no home: devices without a position report it",
            remedy="leave both out where they are not known",
        )
    return int(h3.latlng_to_cell(latitude, longitude, FINEST_CELL))


def parents(cells: Cells, resolution: int) -> Cells:
    """The ancestor of each cell (int64[n], any finer resolution) at ``resolution``, by its bits."""
    unused = (1 << (_DIGIT_BITS * (_DIGITS - resolution))) - 1
    cleared = cells & np.int64(~(0xF << _RESOLUTION_SHIFT))
    return cleared | np.int64((resolution << _RESOLUTION_SHIFT) | unused)


def cell_text(cell: int) -> str:
    """A cell as H3 writes it: 15 hexadecimal digits."""
    return f"{cell:x}"


def solar_error_km(resolution: Resolution) -> float | None:
    """How far off, in kilometres, one must expect to locate a solar site from its power curve; None: not at all well.

    Figures from the literature on locating solar sites: raw 0.5; one minute 28 by the sun's geometry; a quarter of
    an hour to an hour 5 by matching the weather. A finer series contains every coarser one, so its error is never
    larger.
    """
    if resolution is Resolution.RAW:
        return _RAW_KM
    return _HOURLY_KM if resolution.rank <= Resolution.PT1H.rank else None


def place_radius_km(place: PlaceSetting) -> float:
    """How precise a place setting is: the radius of its cell, 0 for exact; infinite for country, region, withheld."""
    if place is PlaceSetting.EXACT:
        return 0.0
    return CELL_RADIUS_KM[place.cell] if place.cell is not None else math.inf


def solar_warning_km(finest: Resolution | None, place: PlaceSetting) -> float | None:
    """The error in kilometres that the owner must confirm, None where there is nothing to confirm (rule 19).

    ``finest``: of the production series in the combined view, None where it holds none.
    """
    error = solar_error_km(finest) if finest is not None else None
    return error if error is not None and error < place_radius_km(place) else None
