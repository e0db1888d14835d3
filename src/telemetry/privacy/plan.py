"""The frozen plan that the privacy core applies.

A plan is data: one mask of catalogue fields per *plan class*. Devices point to a class (``Device.plan_class``),
so that a million owners with a few hundred different settings need a few hundred masks. Class 0 is the default:
all catalogue fields kept, nothing shared. ``privacy.compile`` builds plans from owners' settings.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from telemetry.model.batch import Withheld
from telemetry.model.fields import FIELD_NAMES


@dataclass(frozen=True, slots=True)
class Plan:
    """What may be stored.

    ``version``: the number that written rows carry; a write under another than the current one is refused.
    ``keep``: bool, shape (classes, len(FIELD_NAMES)), read-only: may this field of this class be stored?
    ``withhold``: per class, why all of its readings are withheld, or None.
    """

    version: int
    keep: npt.NDArray[np.bool_]
    withhold: tuple[Withheld | None, ...] = (None,)

    def __post_init__(self) -> None:
        if self.keep.ndim != 2 or self.keep.shape[1] != len(FIELD_NAMES):
            raise ValueError(f"keep must have shape (classes, {len(FIELD_NAMES)}), not {self.keep.shape}")
        if len(self.withhold) != self.keep.shape[0]:
            raise ValueError("withhold must have one entry per class")
        self.keep.setflags(write=False)

    @classmethod
    def default(cls, version: int = 1) -> Self:
        """Every owner's plan until settings exist: all catalogue fields kept, nothing shared."""
        return cls(version=version, keep=np.ones((1, len(FIELD_NAMES)), dtype=np.bool_))

    @property
    def classes(self) -> int:
        """How many plan classes there are."""
        return int(self.keep.shape[0])
