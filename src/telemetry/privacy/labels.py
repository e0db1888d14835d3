"""Which label a recipient is shown for each site instead of its cell (rule 24). Pure, and vectorised over sites.

A label is an ancestor of the site's cell at the granted resolution or coarser, down to resolution 3. Its
*population* for a recipient is all sites of the service inside it, less those that this recipient is shown under a
finer label inside it: those the recipient can tell apart. Every label shown has a population of k or more.

Two ways to assign, because a label changes at most once a day:

- ``relabel`` decides all labels of a recipient anew, once a day. Where a label has less than k, its sites coarsen to
  the parent; where a parent's remainder is too small, the labels inside it coarsen to it too. A site becomes finer
  again only in a label of k + slack.
- ``extend`` gives labels to sites that have none yet, or one that is finer than what is granted now, and leaves all
  other labels as they are, taking from none of them what it needs.

A level is an H3 resolution, and beyond the cells: EXACT is shown as it is, WITHHELD not at all, NEW has no label yet.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from telemetry.privacy.location import COARSEST_CELL, FINEST_CELL, Cells, parents

Levels = npt.NDArray[np.int8]
_Mask = npt.NDArray[np.bool_]

DEFAULT_K: Final = 15
SLACK: Final = 5
WITHHELD: Final = 2
EXACT: Final = 8
NEW: Final = 9
_OPEN: Final = 0  # not decided yet


@dataclass(frozen=True, slots=True)
class Shown:
    """A recipient's n sites: cell of resolution 7, level granted (4 to 7, or EXACT), level shown now.

    ``current`` is NEW where there is no label, or where more is granted than when it was made.
    """

    cells: Cells
    granted: Levels
    current: Levels


class Population:
    """How many sites of the service are in each cell, from cells of resolution 7 (int64[N]) and counts, 1 without."""

    __slots__ = ("_counts", "_names")

    def __init__(self, cells: Cells, counts: npt.NDArray[np.int64] | None = None) -> None:
        weights = np.ones(len(cells), np.int64) if counts is None else counts
        self._names: dict[int, Cells] = {}
        self._counts: dict[int, npt.NDArray[np.int64]] = {}
        for level in range(FINEST_CELL, COARSEST_CELL - 1, -1):
            names, inverse = np.unique(parents(cells, level), return_inverse=True)
            self._names[level] = names
            self._counts[level] = np.bincount(inverse, weights=weights, minlength=len(names)).astype(np.int64)

    def of(self, cells: Cells, level: int) -> npt.NDArray[np.int64]:
        """The number of sites in each of ``cells``, which are of ``level``; 0 for a cell without any."""
        names, counts = self._names[level], self._counts[level]
        if not names.size:
            return np.zeros(len(cells), np.int64)
        places = np.minimum(np.searchsorted(names, cells), len(names) - 1)
        return np.where(names[places] == cells, counts[places], 0)


def relabel(population: Population, shown: Shown, *, k: int = DEFAULT_K, slack: int = SLACK) -> Levels:
    """The level at which each site is to be shown, decided anew for all: 3 to 7, WITHHELD, EXACT. int8[n]."""
    level = np.where(shown.granted == EXACT, EXACT, _OPEN).astype(np.int8)
    board = _Board(population, shown.cells, level)
    for at in range(FINEST_CELL, COARSEST_CELL - 1, -1):
        open_here = (level == _OPEN) & (shown.granted >= at)
        if not open_here.any():
            continue
        group = _Groups(board, at)
        rises = open_here & (shown.current < at)
        stays = open_here & ~rises
        enough = group.remainder >= k
        level[(stays & enough[group.number]) | (rises & (group.remainder >= k + slack)[group.number])] = at
        # Too small a remainder, and somebody needs the label: those inside it who are shown finer come to it.
        short = group.any(stays) & ~enough
        inside = (level > at) & (level != EXACT) & short[group.number]
        gathered = (group.total - group.count(level == EXACT))[group.number]
        together = gathered >= k
        # Who would become finer by this without k + slack goes on to the parent; the label counts it all the same.
        too_soon = inside & (shown.current < at) & (gathered < k + slack)
        level[(inside | (stays & short[group.number])) & together & ~too_soon] = at
        level[(inside & ~together) | too_soon] = _OPEN
    level[level == _OPEN] = WITHHELD
    return level


def extend(population: Population, shown: Shown, *, k: int = DEFAULT_K) -> Levels:
    """Levels for those sites that have no label or too fine a one; all other sites keep theirs. int8[n]."""
    kept = (shown.granted != EXACT) & (shown.current <= shown.granted)
    level = np.where(shown.granted == EXACT, EXACT, np.where(kept, shown.current, _OPEN)).astype(np.int8)
    board = _Board(population, shown.cells, level)
    for at in range(FINEST_CELL, COARSEST_CELL - 1, -1):
        open_here = (level == _OPEN) & (shown.granted >= at)
        if not open_here.any():
            continue
        group = _Groups(board, at)
        fits = open_here & (group.remainder >= k)[group.number]
        level[fits & ~_would_starve(board, kept, fits, at, k=k)] = at
    level[level == _OPEN] = WITHHELD
    return level


def _would_starve(board: "_Board", kept: _Mask, fits: _Mask, at: int, *, k: int) -> _Mask:
    """Those that, were all of ``fits`` shown at ``at``, are inside a kept label that would be left with less than k."""
    starved = np.zeros(len(kept), np.bool_)
    for coarser in range(at - 1, COARSEST_CELL - 1, -1):
        used = kept & (board.level == coarser)
        if used.any():
            group = _Groups(board, coarser)
            starves = group.any(used) & (group.count(fits) > np.maximum(group.remainder - k, 0))
            starved |= starves[group.number]
    return starved


def labels_at(cells: Cells, level: Levels) -> Cells:
    """The label of each site at its level: int64[n], 0 where it is withheld. EXACT sites keep their finest cell."""
    found = np.zeros(len(cells), np.int64)
    for at in range(COARSEST_CELL, FINEST_CELL + 1):
        here = level == at
        found[here] = parents(cells[here], at)
    return np.where(level == EXACT, cells, found)


@dataclass(frozen=True, slots=True)
class _Board:
    """What is being decided: ``level`` changes as it goes on."""

    population: Population
    cells: Cells
    level: Levels


class _Groups:
    """A recipient's sites by their cell of one level.

    ``number`` int64[n]: each site's group. By group: ``total`` sites of the service, and ``remainder`` without those
    of the recipient's that are shown finer.
    """

    __slots__ = ("number", "remainder", "total")

    def __init__(self, board: _Board, at: int) -> None:
        names, number = np.unique(parents(board.cells, at), return_inverse=True)
        self.number = number.astype(np.int64)
        self.total = board.population.of(names, at)
        self.remainder = self.total - self.count(board.level > at)

    def count(self, sites: _Mask) -> npt.NDArray[np.int64]:
        """How many of ``sites`` are in each group."""
        return np.bincount(self.number[sites], minlength=len(self.total))

    def any(self, sites: _Mask) -> _Mask:
        """Which groups have one of ``sites``."""
        return self.count(sites) > 0
