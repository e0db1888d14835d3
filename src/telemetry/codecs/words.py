"""Reading text eight bytes at a time: the small vocabulary of the vectorised readers.

A *word* is eight consecutive bytes as one little-endian unsigned integer, so that the first character is the
lowest byte. ``words(buffer)[positions]`` loads the words that start at any positions, aligned or not; fixed
patterns of digits are then checked and read by arithmetic on words ("SIMD within a register"), without a Python
object per value.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

PAD: Final = 16  # every buffer has so many bytes before and after its text: loads never leave it

_U = np.uint64
_HIGH: Final = _U(0x8080808080808080)
_ABOVE_NINE: Final = _U(0x7676767676767676)  # carries into a byte's high bit from 10 on


def words(buffer: bytes) -> U64:
    """All words of ``buffer``, one per byte position but the last seven; a view."""
    return np.ndarray((len(buffer) - 7,), "<u8", buffer, strides=(1,))


def word(text: bytes) -> int:
    """Up to eight characters as a word, zero-filled at its high end."""
    return int.from_bytes(text[:8].ljust(8, b"\0"), "little")


def word_right(text: bytes) -> int:
    """The last eight characters as a word, zero-filled at its low end."""
    return int.from_bytes(text[-8:].rjust(8, b"\0"), "little")


def shifts(length: I64) -> U64:
    """The bits of a word that a text of ``length`` (1 to 8) leaves unused."""
    return ((8 - length) << 3).view(np.uint64)


def all_digits(digits: U64) -> Bools:
    """Whether every byte is at most nine."""
    found: Bools = (((digits + _ABOVE_NINE) | digits) & _HIGH) == 0
    return found
