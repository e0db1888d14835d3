"""The objects of a chunk by shape, each shape read at once."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np

from telemetry.codecs.readings import Group, read_group
from telemetry.codecs.scan import Objects, Texts
from telemetry.codecs.shapes import Candidates, Shape, shape_of
from telemetry.codecs.words import I64, Bools

MOST_SHAPES: Final = 64  # looked for in a chunk, commonest first
_TRIES: Final = 3  # shapes looked for among objects whose keys only seem equal

Shapes = defaultdict[int, list[Shape]]  # those found so far, by their number of quotes


class Groups:
    """``found``: the groups. ``understood``: which objects are in one, and right in all they hold."""

    def __init__(self, texts: Texts, objects: Objects, known: Shapes, rare: int) -> None:
        self._texts, self._objects, self._known = texts, objects, known
        self.found: list[Group] = []
        self.understood: Bools = np.zeros(objects.message.size, np.bool_)
        self._readings = np.bincount(objects.message)
        rest = np.arange(objects.message.size)
        quotes = np.diff(objects.first_quote)
        if rest.size >= rare and (quotes == quotes[0]).all():
            rest = self._read(rest)
        for alike in _by_signature(objects, rest):
            rows = alike
            for _ in range(_TRIES):
                if not self._worth(rows, rare):
                    break
                rows = self._read(rows)

    def _worth(self, rows: I64, rare: int) -> bool:
        """Whether reading ``rows`` here saves the reference enough readings: all of their messages."""
        if rows.size >= rare:
            return True
        messages = np.unique(self._objects.message[rows])
        return bool(rows.size) and int(self._readings[messages].sum()) >= rare

    def _read(self, rows: I64) -> I64:
        """Read those of ``rows`` that have the shape of the first; returns the others, nothing if it has none."""
        shape = self._shape(int(rows[0]))
        if shape is None:
            return rows[1:]
        candidates = Candidates(self._texts, self._objects, shape, rows)
        same = candidates.same()
        chosen = rows
        if not same.all():
            chosen, candidates = rows[same], candidates.only(same)
        group = read_group(self._texts, candidates, shape, chosen)
        if group is not None:
            self.understood[chosen] = group.ok
            self.found.append(group)
        return rows[~same]

    def _shape(self, row: int) -> Shape | None:
        start, end = self._objects.start[row : row + 2]
        known = self._known[int(np.diff(self._objects.first_quote[row : row + 2])[0])]
        for one in known:
            if Candidates(self._texts, self._objects, one, np.array([row])).same()[0]:
                return one
        shape = shape_of(self._texts.buffer[start:end])
        if shape is not None and len(known) < MOST_SHAPES:
            known.append(shape)
        return shape


def _by_signature(objects: Objects, rows: I64) -> Iterator[I64]:
    """Those of ``rows`` with equal signatures, the commonest first."""
    if not rows.size:
        return
    _, which, count = np.unique(objects.signature()[rows], return_inverse=True, return_counts=True)
    by_group = rows[np.argsort(which, kind="stable")]
    ends = np.cumsum(count)
    for group in np.argsort(-count, kind="stable")[:MOST_SHAPES].tolist():
        yield by_group[ends[group] - count[group] : ends[group]]
