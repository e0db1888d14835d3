"""From a format's unit to the catalogue's."""

from dataclasses import dataclass
from typing import Final

SECONDS_PER_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Conversion:
    """To the catalogue's unit: ``value * times / by + plus``. Two factors, so that 3600 J are exactly 1 Wh."""

    times: float = 1.0
    by: float = 1.0
    plus: float = 0.0

    @property
    def same(self) -> bool:
        """Whether it changes nothing."""
        return self == SAME

    def __call__(self, value: float) -> float:
        """``value`` in the catalogue's unit."""
        return value * self.times / self.by + self.plus


SAME: Final = Conversion()
NEGATED: Final = Conversion(times=-1.0)
KILO: Final = Conversion(times=1e3)
MILLI: Final = Conversion(by=1e3)
MEGA: Final = Conversion(times=1e6)
