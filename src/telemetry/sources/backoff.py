"""How long to wait before trying again: full jitter under a doubling bound.

Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
"""

import random
from typing import Final

_MAX_DOUBLINGS: Final = 30


class Backoff:
    """Delays of one thing that is tried again and again. One event loop."""

    def __init__(self, min_s: float, max_s: float, rng: random.Random | None = None) -> None:
        self._min_s, self._max_s = min_s, max_s
        self._rng = rng or random.Random()
        self._attempt = 0

    def reset(self) -> None:
        """It worked for long enough: begin with short delays again."""
        self._attempt = 0

    def next_s(self) -> float:
        """Seconds until the next attempt, never below ``min_s``."""
        self._attempt = min(self._attempt + 1, _MAX_DOUBLINGS)
        return self._rng.uniform(self._min_s, max(self._min_s, min(self._max_s, self._min_s * 2.0**self._attempt)))
