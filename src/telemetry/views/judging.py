"""Whether windows are covered by what is granted, over whole arrays (rules 16 and 18). No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from telemetry.model.fields import CATALOGUE
from telemetry.privacy.combine import Level, guard_of

Flags = npt.NDArray[np.bool_]
Instants = npt.NDArray[np.int64]

_BEFORE: Final = np.array([guard_of(index)[0] for index in range(len(CATALOGUE))], dtype=np.int64)
_AFTER: Final = np.array([guard_of(index)[1] for index in range(len(CATALOGUE))], dtype=np.int64)
_WHAT: Final = ("allowed", "finer", "extremes")
_NEVER: Final = 2**62


@dataclass(frozen=True, slots=True)
class Subject:
    """One device as the windows see it. ``zone``: of the site's own days. ``levels``: by field, finest first."""

    device_key: int
    zone: str
    tenure_from: int
    tenure_until: int
    levels: Mapping[str, tuple[Level, ...]]


def guarded_by(windows: pl.DataFrame, subjects: Sequence[Subject], now_us: int) -> tuple[Instants, Instants]:
    """From when to when lie the instants that may have shaped each window; where there are none, not before the end.

    ``windows``: device_key, field, window_start, window_end at least, of devices among ``subjects``.
    """
    keys = np.array([subject.device_key for subject in subjects], dtype=np.int64)
    order = np.argsort(keys)
    edges = np.array([(subject.tenure_from, subject.tenure_until) for subject in subjects], dtype=np.int64)
    of = order[np.searchsorted(keys[order], windows["device_key"].to_numpy())]
    field = windows["field"].to_numpy()
    start = np.maximum(windows["window_start"].to_numpy() - _BEFORE[field], edges[of, 0])
    end = np.minimum(np.minimum(windows["window_end"].to_numpy() + _AFTER[field], now_us), edges[of, 1])
    return start, end


def judged_simply(guarded: pl.DataFrame, rules: pl.DataFrame) -> tuple[Flags, Flags, Flags]:
    """Which windows lie in an interval that is allowed, served finer, and allowed with extremes.

    ``guarded``: device_key, field, and as of ``guarded_by`` _start and _end. ``rules``: device_key, field, what, from,
    to; at most one interval of each (device, field, what).
    """
    count = len(CATALOGUE)
    keys, inverse = np.unique(rules["device_key"].to_numpy(), return_inverse=True)
    about = inverse * count + rules["field"].to_numpy()
    devices = guarded["device_key"].to_numpy()
    place = np.minimum(np.searchsorted(keys, devices), max(len(keys) - 1, 0))
    known = keys[place] == devices if len(keys) else np.zeros(len(devices), dtype=bool)
    of = place * count + guarded["field"].to_numpy()
    what, since, until = rules["what"].to_numpy(), rules["from"].to_numpy(), rules["to"].to_numpy()
    start, end = guarded["_start"].to_numpy(), guarded["_end"].to_numpy()
    found = []
    for name in _WHAT:
        mine = what == name
        opens = np.full(max(len(keys), 1) * count, _NEVER, dtype=np.int64)
        closes = np.full(max(len(keys), 1) * count, -_NEVER, dtype=np.int64)
        opens[about[mine]], closes[about[mine]] = since[mine], until[mine]
        found.append(known & (opens[of] <= start) & (end <= closes[of]))
    return found[0], found[1], found[2]


def judged(guarded: pl.DataFrame, rules: pl.DataFrame) -> tuple[Flags, Flags, Flags]:
    """The same for any number of disjoint intervals; ``rules`` sorted by ``from``."""
    rows = guarded.select("device_key", "field", "_start", "_end").with_row_index("_row").sort("_start")
    found = []
    for name in _WHAT:
        some = rules.filter(pl.col("what") == name).select("device_key", "field", "from", "to")
        joined = rows.join_asof(
            some,
            left_on="_start",
            right_on="from",
            by=["device_key", "field"],
            strategy="backward",
            check_sortedness=False,
        )
        inside = joined.select("_row", flag=(pl.col("to") >= pl.col("_end")).fill_null(value=False)).sort("_row")
        found.append(inside["flag"].to_numpy())
    return found[0], found[1], found[2]
