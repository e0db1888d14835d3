"""How long a device is usually silent, from when it was heard. Pure."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

HOUR_S: Final = 3600
LEARN_DAYS: Final = 14
_LEAST_DAYS: Final = 4  # of which something was heard, and at least two of three
_RARE: Final = 3  # as many silences of two weeks are taken for outages, less one
_FACTOR: Final = 1.5
_MOST_S: Final = 7 * 24 * HOUR_S
_SECOND_US: Final = 1_000_000
_DAY_US: Final = 86_400 * _SECOND_US


def usual_silence_s(heard: Sequence[tuple[int, int]], now_us: int) -> int | None:
    """The longest silence that is usual, with a margin, at least an hour; None for a device without a rhythm.

    ``heard``: windows in which it was heard, start and length in µs, ascending. The two longest silences of the two
    weeks may have been outages and do not count; nights of a device that sleeps do, for there are more of them. The
    silence that lasts now is not among them.
    """
    if not heard:
        return None
    days = {start // _DAY_US for start, _ in heard}
    spread = min(LEARN_DAYS, (now_us - heard[0][0]) // _DAY_US + 1)
    if len(days) < max(_LEAST_DAYS, 2 * spread // 3):
        return None
    lengths = [length for _, length in heard]
    gaps = sorted((after[0] - before[0] for before, after in pairwise(heard)), reverse=True)
    usual_us = max(gaps[min(_RARE, len(gaps)) - 1] if gaps else 0, min(lengths))
    silence_s = round(max(HOUR_S, _FACTOR * usual_us / _SECOND_US))
    return silence_s if silence_s <= _MOST_S else None
