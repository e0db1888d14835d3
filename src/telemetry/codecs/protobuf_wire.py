"""The wire format of Protocol Buffers, read field by field: bounded, without recursion and without a schema.

Source: protobuf.dev, "Encoding". Groups (wire types 3 and 4) are not in use any more and are refused.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
_LONGEST_VARINT: Final = 10
_UINT64: Final = 2**64 - 1
_MAX_FIELD: Final = 2**29 - 1
_WIDTHS: Final = {FIXED64: 8, FIXED32: 4}


class WireError(ValueError):
    """The bytes are no message. The text never quotes them."""


class Field(NamedTuple):
    """One field: its number, wire type, and value: an integer for VARINT, bytes for the others (eight, four, or as
    many as it has, in the order of the wire).
    """

    number: int
    type: int
    value: int | bytes


def fields(message: bytes, limit: int) -> Iterator[Field]:
    """The fields of ``message`` in their order, at most ``limit``.

    Raises:
        WireError: it ends within a field, has a varint beyond 64 bits, a field number or wire type that there is
            not, or more than ``limit`` fields.

    """
    at, end, count = 0, len(message), 0
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if not 0 < number <= _MAX_FIELD:
            raise WireError("a field number that there is not")
        count += 1
        if count > limit:
            raise WireError("too many fields")
        if kind == VARINT:
            value, at = _varint(message, at)
            yield Field(number, kind, value)
            continue
        if kind == BYTES:
            length, at = _varint(message, at)
        elif kind in _WIDTHS:
            length = _WIDTHS[kind]
        else:
            raise WireError("a wire type that there is not")
        if length > end - at:
            raise WireError("ends within a field")
        yield Field(number, kind, message[at : at + length])
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The base-128 number at ``at``, and where it ends."""
    if at < len(message) and message[at] < 0x80:  # most are this short
        return message[at], at + 1
    value = 0
    for place, byte in enumerate(message[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if value > _UINT64:
                raise WireError("a varint beyond 64 bits")
            return value, at + place + 1
    raise WireError("a varint without end")


def varint(value: int) -> bytes:
    """``value`` (0 to 2^64 - 1) as a varint."""
    assert 0 <= value <= _UINT64  # noqa: S101 - what we write ourselves
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def number_field(number: int, value: int) -> bytes:
    """A field of wire type VARINT."""
    return varint(number << 3 | VARINT) + varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """A field of wire type BYTES: text, bytes or a message within."""
    return varint(number << 3 | BYTES) + varint(len(value)) + value
