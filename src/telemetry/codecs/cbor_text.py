"""CBOR to Python values: the part of RFC 8949 that SenML uses, bounded in depth and size.

Integers, floats, text, bytes, booleans, null, arrays and maps, of definite and indefinite length, and decimal
fractions (tag 4). Other tags are refused: general decoders turn them into objects, references and patterns.
Map keys are texts or small integers, so that nobody can choose colliding ones.
"""

import struct
from collections.abc import Iterator
from typing import Final

from telemetry.codecs.json_text import Refused
from telemetry.codecs.limits import CodecLimits
from telemetry.model.batch import Reason

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)  # RFC 8949, section 3.1
_INDEFINITE: Final = 31
_BREAK: Final = object()
_SIMPLE_VALUES: Final = {20: False, 21: True, 22: None, 23: None}
_FLOATS: Final = {25: (2, ">e"), 26: (4, ">f"), 27: (8, ">d")}
_SIZES: Final = {24: 1, 25: 2, 26: 4, 27: 8}
_DECIMAL_FRACTION: Final = 4
_MAX_EXPONENT: Final = 400
_MAX_KEY: Final = 1000


class _StopError(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.refused = Refused(reason, detail)


def _malformed(detail: str) -> _StopError:
    return _StopError(Reason.MALFORMED, f"not CBOR: {detail}")


def parse_cbor(payload: bytes, limits: CodecLimits) -> object | Refused:
    """The one value that ``payload`` writes, or why it is refused. A map that has a key twice is refused."""
    if len(payload) > limits.max_message_bytes:
        return Refused(Reason.TOO_LARGE, f"more than {limits.max_message_bytes} bytes")
    reader = _Reader(payload, limits.max_depth)
    try:
        value = reader.value(0)
    except _StopError as stop:
        return stop.refused
    return value if reader.at == len(payload) else Refused(Reason.MALFORMED, "not CBOR: bytes after the end")


class _Reader:
    def __init__(self, payload: bytes, max_depth: int) -> None:
        self._payload = payload
        self._max_depth = max_depth
        self.at = 0

    def value(self, depth: int) -> object:
        """The next value. ``depth``: containers around it, at most the limit; so deep goes the recursion."""
        found = self._item(depth)
        if found is _BREAK:
            raise _malformed("an end of nothing")
        return found

    def _take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._payload):
            raise _malformed("it ends too early")
        taken = self._payload[self.at : end]
        self.at = end
        return taken

    def _item(self, depth: int) -> object:
        initial = self._take(1)[0]
        major, info = initial >> 5, initial & 31
        if major == _SIMPLE:
            return self._simple(info)
        if major >= _ARRAY and depth >= self._max_depth:
            raise _StopError(Reason.TOO_DEEP, f"nested more than {self._max_depth} deep")
        if info == _INDEFINITE:
            return self._content(major, None, depth)
        if info in _SIZES:
            return self._content(major, int.from_bytes(self._take(_SIZES[info])), depth)
        if info > max(_SIZES):
            raise _malformed("a reserved length")
        return self._content(major, info, depth)

    def _simple(self, info: int) -> object:
        if info == _INDEFINITE:
            return _BREAK
        if info in _FLOATS:
            size, layout = _FLOATS[info]
            return struct.unpack(layout, self._take(size))[0]
        if info in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[info]
        raise _malformed("a simple value without meaning")

    def _content(self, major: int, length: int | None, depth: int) -> object:
        if major in {_BYTES, _TEXT}:
            return self._string(major, length)
        if major == _ARRAY:
            return list(self._values(length, depth + 1))
        if major == _MAP:
            return self._map(length, depth + 1)
        if length is None:
            raise _malformed("an indefinite number")
        if major == _TAG:
            return self._tagged(length, depth + 1)
        return length if major == _UNSIGNED else -1 - length

    def _values(self, length: int | None, depth: int) -> Iterator[object]:
        if length is None:
            while (found := self._item(depth)) is not _BREAK:
                yield found
        else:
            for _ in range(length):  # ends with the payload, whatever length it claims
                yield self.value(depth)

    def _string(self, major: int, length: int | None) -> bytes | str:
        if length is None:
            return self._chunks(major)
        taken = self._take(length)
        if major == _BYTES:
            return taken
        try:
            return taken.decode()
        except UnicodeDecodeError:
            raise _malformed("text that is not UTF-8") from None

    def _chunks(self, major: int) -> bytes | str:
        """A string of indefinite length: strings of its own kind up to the break (section 3.2.3)."""
        parts: list[object] = []
        while (found := self._item(self._max_depth)) is not _BREAK:
            parts.append(found)
        texts = [part for part in parts if isinstance(part, str)]
        runs = [part for part in parts if isinstance(part, bytes)]
        if len(texts if major == _TEXT else runs) < len(parts):
            raise _malformed("a string of something else")
        return "".join(texts) if major == _TEXT else b"".join(runs)

    def _map(self, length: int | None, depth: int) -> dict[str | int, object]:
        found: dict[str | int, object] = {}
        keys = self._values(length, depth)
        for key in keys:
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise _malformed("a key that is neither text nor integer")
            if isinstance(key, int) and abs(key) > _MAX_KEY:
                raise _malformed("a key beyond all labels")
            if key in found:
                raise _StopError(Reason.DUPLICATE_KEY, "a map has a key twice")
            found[key] = self.value(depth)
        return found

    def _tagged(self, tag: int, depth: int) -> object:
        content = self.value(depth)
        match content:
            case [int(exponent), int(mantissa)] if tag == _DECIMAL_FRACTION and abs(exponent) <= _MAX_EXPONENT:
                return float(f"{mantissa}e{exponent}")
        raise _malformed("a tag that SenML does not use")
