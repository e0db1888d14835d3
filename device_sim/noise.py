"""Random processes that the homes are made of. All take a generator, so that a seed decides everything."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def ornstein_uhlenbeck(
    rng: np.random.Generator, mean: Floats, *, sigma: Floats | float, relax_s: float, step_s: float
) -> Floats:
    """A process that is drawn back to ``mean`` (n) within about ``relax_s`` seconds; n values ``step_s`` apart.

    Exact discretisation: x' = mean + (x - mean)·a + sigma·sqrt(1 - a²)·N(0, 1), a = exp(-step/relax), so that
    ``sigma`` (scalar or n) is the standard deviation it settles at.
    Uhlenbeck and Ornstein, Phys. Rev. 36 (1930).
    """
    keep = float(np.exp(-step_s / relax_s))
    shock = rng.standard_normal(mean.size) * sigma * np.sqrt(1 - keep * keep)
    drive = (1 - keep) * mean + shock
    drive[0] = mean[0] + shock[0]
    return _recursion(drive, keep)


def _recursion(drive: Floats, keep: float) -> Floats:
    """x[t] = keep·x[t-1] + drive[t], by doubling: after step s, x[t] holds the last 2s terms of its sum.

    Logarithmically many array operations instead of a loop (Hillis and Steele, CACM 29 (1986)).
    """
    out, shift, factor = drive.copy(), 1, keep
    while shift < out.size and factor > 1e-18:
        out[shift:] = out[shift:] + factor * out[:-shift]
        shift, factor = shift * 2, factor * factor
    return out


def regimes(
    rng: np.random.Generator, size: int, *, dwell_s: tuple[float, ...], weights: tuple[float, ...], step_s: float
) -> NDArray[np.intp]:
    """A continuous-time Markov chain on a grid: state numbers (size), states drawn by ``weights``.

    ``dwell_s``: mean time spent in each state.
    """
    out = np.empty(size, dtype=np.intp)
    chances = np.array(weights) / sum(weights)
    at = 0
    while at < size:
        state = int(rng.choice(chances.size, p=chances))
        steps = max(1, int(rng.exponential(dwell_s[state]) / step_s))
        out[at : at + steps] = state
        at += steps
    return out
