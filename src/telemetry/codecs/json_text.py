"""JSON text to Python values, once and strictly: what RFC 8259 allows and nothing that readers disagree on."""

import json
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from telemetry.codecs.limits import CodecLimits
from telemetry.model.batch import Reason

_BRACKETS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_OTHERS: Final = bytes(set(range(256)) - set(b'[{]}"\\'))
_INT64_DIGITS: Final = 20  # with sign; longer ones cannot be a field's value as integers


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a message cannot be read. ``detail`` never quotes it."""

    reason: Reason
    detail: str = ""


class _DuplicateKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _DuplicateKeyError
    return found


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= _INT64_DIGITS else float(text)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)


def parse_json(payload: bytes, limits: CodecLimits) -> object | Refused:
    """The value that ``payload`` writes, or why it is refused.

    NaN, Infinity and numbers beyond binary64 become such floats: the caller drops them one by one. Integers of
    more than 20 characters become floats. Depth is bounded before parsing, without recursion.
    """
    text = _bounded(payload, limits)
    if isinstance(text, Refused):
        return text
    try:
        return _DECODER.decode(text)  # type: ignore[no-any-return]
    except _DuplicateKeyError:
        return Refused(Reason.DUPLICATE_KEY, "an object has a key twice")
    except json.JSONDecodeError as error:
        return Refused(Reason.MALFORMED, f"not JSON at character {error.pos}")
    except RecursionError:  # cannot happen below the limit; a caller may stand deep in its own stack
        return Refused(Reason.TOO_DEEP, "nested deeper than the parser goes")


def _bounded(payload: bytes, limits: CodecLimits) -> str | Refused:
    """The payload as text, if it is within the limits."""
    if len(payload) > limits.max_message_bytes:
        return Refused(Reason.TOO_LARGE, f"more than {limits.max_message_bytes} bytes")
    if depth(payload, limits.max_depth) > limits.max_depth:
        return Refused(Reason.TOO_DEEP, f"nested more than {limits.max_depth} deep")
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return Refused(Reason.MALFORMED, "not UTF-8")


def depth(payload: bytes, enough: int) -> int:
    """How deep arrays and objects nest outside strings, at least where that exceeds ``enough``."""
    opening = payload.count(b"[") + payload.count(b"{")
    if opening <= enough:
        return opening
    marks = payload.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _OTHERS)
    outside = b"".join(marks.split(b'"')[::2]).replace(b"\\", b"").translate(_BRACKETS)
    if not outside:
        return 0
    return int(np.frombuffer(outside, np.int8).cumsum(dtype=np.int64).max())
