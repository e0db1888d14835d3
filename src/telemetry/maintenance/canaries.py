"""The forms in which a string may have been written down: what a scan looks for when it looks for a canary.

Text in UTF-8, UTF-16, Latin-1, JSON and URL escapes, each in any case; hexadecimal as PostgreSQL prints bytea;
base64 at its three alignments (RFC 4648, both alphabets); numbers as IEEE 754 doubles of either byte order; MAC
addresses with any separator, without, and as six bytes; and unkeyed digests, which a dictionary reverses.
"""

import base64
import hashlib
import json
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import quote

from telemetry.errors import InputError

MIN_LENGTH: Final = 6  # shorter strings occur by chance in any gigabyte
_MAC: Final = re.compile(r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}|[0-9A-Fa-f]{12}")
_COORDINATE: Final = re.compile(r"-?\d{1,3}\.\d{4,}")
_LOWER: Final = bytes.maketrans(bytes(range(65, 91)), bytes(range(97, 123)))


class Form(StrEnum):
    """How the canary was written where it was found."""

    TEXT = "text"
    UTF16 = "utf-16"
    ESCAPED = "escaped"
    HEX = "hex"
    BASE64 = "base64"
    BINARY = "binary"
    DIGEST = "unkeyed digest"


@dataclass(frozen=True, slots=True)
class Pattern:
    """Bytes to look for. ``exact`` patterns must match in case; others match in any (ASCII letters)."""

    content: bytes
    form: Form
    exact: bool = False


def fold(content: bytes) -> bytes:
    """``content`` with its ASCII letters in lower case."""
    return content.translate(_LOWER)


def read_canaries(path: Path) -> list[str]:
    """The strings in a UTF-8 file, one a line; the canary's number is its line's. Empty lines hold none.

    Raises:
        InputError: the file cannot be read, holds none, or one that is too short (named by its line).

    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "the file of canaries cannot be read", remedy="give a UTF-8 text file, one string a line"
        ) from error
    canaries = [line.strip() for line in lines]
    check_canaries(canaries)
    return canaries


def check_canaries(canaries: Sequence[str]) -> None:
    """Refuse a list that would find nothing or everything.

    Raises:
        InputError: naming the line of the first that is too short.

    """
    if not any(canaries):
        raise InputError("there is no canary to look for", remedy="one string a line")
    for number, canary in enumerate(canaries, 1):
        if canary and len(canary) < MIN_LENGTH:
            raise InputError(
                f"canary {number} has fewer than {MIN_LENGTH} characters",
                remedy="shorter strings occur by chance; give a longer part",
            )


def _base64_cores(content: bytes) -> Iterator[bytes]:
    """What of ``content`` is the same in base64 whatever stands before and after it, at each alignment."""
    for before in range(3):
        padded = base64.b64encode(bytes(before) + content + bytes(3))
        first = -(-before * 8 // 6)
        yield padded[first : (before + len(content)) * 8 // 6]


def _texts(canary: str) -> Iterator[Pattern]:
    yield Pattern(canary.encode(), Form.TEXT)
    # The last byte of the last unit is left off: what remains is found in either byte order.
    yield Pattern(canary.encode("utf-16-le")[:-1], Form.UTF16)
    yield Pattern(json.dumps(canary)[1:-1].encode(), Form.ESCAPED)
    yield Pattern(quote(canary, safe="").encode(), Form.ESCAPED)
    if not canary.isascii():
        yield Pattern(canary.encode("latin-1", "ignore"), Form.TEXT)


def _encoded(content: bytes) -> Iterator[Pattern]:
    yield Pattern(content.hex().encode(), Form.HEX)
    for core in _base64_cores(content):
        yield Pattern(core, Form.BASE64, exact=True)
        yield Pattern(core.translate(bytes.maketrans(b"+/", b"-_")), Form.BASE64, exact=True)


def _digests(content: bytes) -> Iterator[Pattern]:
    for algorithm in (hashlib.md5, hashlib.sha1, hashlib.sha256):
        digest = algorithm(content, usedforsecurity=False).digest()[:16]
        yield Pattern(digest, Form.DIGEST, exact=True)
        yield Pattern(digest.hex().encode(), Form.DIGEST)


def _special(canary: str) -> Iterator[Pattern]:
    """MAC addresses and coordinates, which have more ways of being written."""
    if _MAC.fullmatch(canary):
        octets = bytes.fromhex(re.sub("[:-]", "", canary))
        for order in (octets, octets[::-1]):
            yield Pattern(order, Form.BINARY, exact=True)
            yield Pattern(order.hex().encode(), Form.TEXT)
            yield Pattern(order.hex(":").encode(), Form.TEXT)
            yield Pattern(order.hex("-").encode(), Form.TEXT)
    if _COORDINATE.fullmatch(canary):
        for layout in ("<d", ">d"):
            yield Pattern(struct.pack(layout, float(canary)), Form.BINARY, exact=True)


def patterns(canary: str, *, digests: bool = True) -> list[Pattern]:
    """Every form of ``canary``, each once."""
    found: dict[tuple[bytes, bool], Pattern] = {}
    for text in dict.fromkeys((canary, canary.lower(), canary.upper())):
        content = text.encode()
        for pattern in (*_texts(text), *_encoded(content), *(_digests(content) if digests else ())):
            key = pattern.content if pattern.exact else fold(pattern.content)
            found.setdefault((key, pattern.exact), pattern)
    for pattern in _special(canary):
        key = pattern.content if pattern.exact else fold(pattern.content)
        found.setdefault((key, pattern.exact), pattern)
    return [pattern for pattern in found.values() if len(pattern.content) >= MIN_LENGTH]
