"""What the sun gives a home: pvlib's clear sky (Ineichen) under a moving cover of clouds, on tilted panels.

pvlib is called with numpy arrays and a stated turbidity: it then needs neither pandas nor its turbidity file.
"""

from dataclasses import dataclass

import numpy as np
from pvlib import atmosphere, clearsky, inverter, irradiance, pvsystem, spa, temperature

from device_sim.noise import Floats, ornstein_uhlenbeck, regimes

DAY_S = 86_400
_SUN_STEP_S = 300  # the sun's path is smooth: computed every five minutes, then interpolated
_DELTA_T_S = 69.0  # terrestrial minus universal time in the 2020s
_REFRACTION_DEG = 0.5667  # at sunrise and sunset, NREL SPA's default
_ALBEDO = 0.2

# clear, broken, overcast: mean clear-sky index, its spread, mean dwell in seconds, weight
_SKY_MEAN = np.array([1.0, 0.65, 0.25])
_SKY_SIGMA = np.array([0.02, 0.22, 0.07])
_SKY_DWELL_S = (5400.0, 2400.0, 7200.0)
_SKY_WEIGHTS = (0.4, 0.35, 0.25)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a home stands: degrees north and east, metres above the sea, Linke turbidity of its air."""

    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    turbidity: float


@dataclass(frozen=True, slots=True)
class Panels:
    """One string of panels. ``azimuth_deg`` from north, clockwise; ``peak_w`` at 1000 W/m² and 25 °C."""

    tilt_deg: float
    azimuth_deg: float
    peak_w: float


@dataclass(frozen=True, slots=True)
class Sky:
    """Irradiance in W/m² and the sun's position in degrees; arrays of equal length."""

    zenith_deg: Floats
    azimuth_deg: Floats
    ghi: Floats
    dni: Floats
    dhi: Floats


def clear_sky(place: Place, unix_s: Floats) -> Sky:
    """The sky without clouds at ``unix_s`` (n, seconds since 1970 UTC). Zero while the sun is down.

    Reda and Andreas, NREL/TP-560-34302 (position); Ineichen and Perez, Solar Energy 73 (2002) (irradiance).
    """
    pressure = atmosphere.alt2pres(place.altitude_m)
    position = spa.solar_position(
        unix_s,
        place.latitude_deg,
        place.longitude_deg,
        place.altitude_m,
        pressure / 100,
        12.0,
        _DELTA_T_S,
        _REFRACTION_DEG,
    )
    zenith, azimuth = position[0], position[4]
    up = zenith < 89.9
    ghi, dni, dhi = np.zeros(zenith.size), np.zeros(zenith.size), np.zeros(zenith.size)
    if up.any():
        high = zenith[up]
        mass = atmosphere.get_absolute_airmass(atmosphere.get_relative_airmass(high), pressure)
        day_of_year = (
            int(unix_s[0] // DAY_S - np.datetime64(int(unix_s[0]), "s").astype("M8[Y]").astype("M8[D]").astype(int)) + 1
        )
        sky = clearsky.ineichen(
            high,
            mass,
            place.turbidity,
            altitude=place.altitude_m,
            dni_extra=irradiance.get_extra_radiation(day_of_year),
        )
        ghi[up], dni[up], dhi[up] = sky["ghi"], sky["dni"], sky["dhi"]
    return Sky(zenith, azimuth, np.nan_to_num(ghi), np.nan_to_num(dni), np.nan_to_num(dhi))


def sky_of_day(place: Place, day: int, grid_s: Floats) -> Sky:
    """The clear sky of ``day`` (days since 1970 UTC) at ``grid_s`` (n, seconds from its start)."""
    coarse = np.arange(0, DAY_S + _SUN_STEP_S, _SUN_STEP_S, dtype=np.float64)
    sky = clear_sky(place, coarse + day * DAY_S)
    return Sky(
        *(np.interp(grid_s, coarse, values) for values in (sky.zenith_deg, sky.azimuth_deg, sky.ghi, sky.dni, sky.dhi))
    )


def cloud_index(rng: np.random.Generator, size: int, step_s: float) -> Floats:
    """The clear-sky index (size): 1 is a clear sky; a Markov chain of skies with an OU process around each."""
    state = regimes(rng, size, dwell_s=_SKY_DWELL_S, weights=_SKY_WEIGHTS, step_s=step_s)
    index = ornstein_uhlenbeck(rng, _SKY_MEAN[state], sigma=_SKY_SIGMA[state], relax_s=120.0, step_s=step_s)
    return np.clip(index, 0.05, 1.08)


def under_clouds(sky: Sky, index: Floats) -> Sky:
    """``sky`` dimmed by ``index``: the beam goes first, the rest is diffuse; ghi = dni·cos(zenith) + dhi holds."""
    beam = np.clip((index - 0.25) / 0.75, 0.0, 1.0)
    ghi = sky.ghi * index
    dni = sky.dni * beam
    dhi = np.maximum(ghi - dni * np.maximum(np.cos(np.radians(sky.zenith_deg)), 0.0), 0.0)
    return Sky(sky.zenith_deg, sky.azimuth_deg, ghi, dni, dhi)


def dc_power_w(panels: Panels, sky: Sky, air_c: Floats) -> Floats:
    """What one string delivers (n, W), heat included (Faiman's cell temperature, PVWatts)."""
    plane = irradiance.get_total_irradiance(
        panels.tilt_deg,
        panels.azimuth_deg,
        sky.zenith_deg,
        sky.azimuth_deg,
        sky.dni,
        sky.ghi,
        sky.dhi,
        albedo=_ALBEDO,
        model="isotropic",
    )["poa_global"]
    cell_c = temperature.faiman(plane, air_c, 1.5)
    power = pvsystem.pvwatts_dc(plane, cell_c, panels.peak_w, -0.0035)
    return np.maximum(np.asarray(power, dtype=np.float64), 0.0)


def ac_power_w(dc_w: Floats, rated_w: float) -> Floats:
    """What the inverter makes of ``dc_w`` (n, W): PVWatts' efficiency curve, clipped at ``rated_w``."""
    efficiency = 0.965
    ac = inverter.pvwatts(np.maximum(dc_w, 1e-9), rated_w / efficiency, efficiency)
    return np.clip(np.nan_to_num(np.asarray(ac, dtype=np.float64)), 0.0, rated_w)
