"""The frozen plan that the privacy core applies.

A plan is data: one mask of catalogue fields per *plan class*. Devices point to a class (``Device.plan_class``),
so that a million owners with a few hundred different settings need a few hundred masks. Class 0 is the default:
all catalogue fields kept, nothing shared. ``privacy.compile`` makes classes from owners' settings.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from telemetry.model.batch import Withheld
from telemetry.model.fields import FIELD_NAMES, DataClass
from telemetry.model.sharing import DEFAULT_RETENTION_DAYS, Resolution

NOT_KEPT: Final = 255  # in place of a rank: no window of the field is kept
DATA_CLASSES: Final[tuple[DataClass, ...]] = tuple(DataClass)


@dataclass(frozen=True, slots=True)
class PlanClass:
    """What may be stored of devices whose owners settled the same. Equal content is the same class.

    ``keep``: one byte a field, 1 where it may be stored. ``kept_resolution``: Resolution.rank of each field,
    NOT_KEPT where it is not. ``retention_days``: by DATA_CLASSES. ``withhold``: why all readings are withheld.
    """

    keep: bytes
    kept_resolution: bytes
    retention_days: tuple[int, ...]
    withhold: Withheld | None = None

    @property
    def digest(self) -> bytes:
        """SHA-256 of the content; every part but the last has a fixed length."""
        days = b"".join(each.to_bytes(2) for each in self.retention_days)
        reason = (self.withhold or "").encode()
        return hashlib.sha256(self.keep + self.kept_resolution + days + reason).digest()

    @property
    def fields(self) -> frozenset[str]:
        """The names of the fields that are kept."""
        return frozenset(name for name, kept in zip(FIELD_NAMES, self.keep, strict=True) if kept)


DEFAULT_CLASS: Final = PlanClass(
    keep=b"\x01" * len(FIELD_NAMES),
    kept_resolution=bytes([Resolution.PT15M.rank]) * len(FIELD_NAMES),
    retention_days=(DEFAULT_RETENTION_DAYS,) * len(DATA_CLASSES),
)


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
        """The plan while no owner has settled anything: all catalogue fields kept, nothing shared."""
        return cls(version=version, keep=np.ones((1, len(FIELD_NAMES)), dtype=np.bool_))

    @classmethod
    def of(cls, version: int, classes: Mapping[int, PlanClass]) -> Self:
        """The plan of numbered classes; class 0 is the default unless given, a number without a class keeps nothing."""
        return cls.default(version).extended(version, classes)

    def extended(self, version: int, classes: Mapping[int, PlanClass]) -> Self:
        """The same plan under another version and with more classes."""
        count = max(self.classes, max(classes, default=-1) + 1)
        keep = np.zeros((count, len(FIELD_NAMES)), np.bool_)
        keep[: self.classes] = self.keep
        withhold = [*self.withhold, *(None,) * (count - self.classes)]
        for number, each in classes.items():
            if len(each.keep) != len(FIELD_NAMES):
                raise ValueError("a plan class was compiled for another catalogue")
            keep[number] = np.frombuffer(each.keep, np.uint8) != 0
            withhold[number] = each.withhold
        return type(self)(version, keep, tuple(withhold))

    @property
    def classes(self) -> int:
        """How many plan classes there are."""
        return int(self.keep.shape[0])
