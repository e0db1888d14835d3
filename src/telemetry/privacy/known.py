"""Identifiers that this process has seen, by which they are found again in any text: in memory only, and bounded.

Kept are keyed 64-bit hashes of their letters and digits (Python's SipHash, keyed anew in every process), not the
identifiers: what is here can be tested for a guess inside this process and not read out. A text is reduced to its
letters and digits, percent-encoding undone, and every stretch of a length that some identifier has is looked up, after
a first look at its first four letters. The time per letter depends on the number of different lengths, not on how many
identifiers are known: 100,000 cost as much as ten.

Case does not matter, nor up to two separators between any two letters (``%3A`` counts as one), or as many as some
known identifier has itself, up to eight. Identifiers of fewer than four letters go only as whole words, or no text
would be left.
"""

import re
import threading
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple

from telemetry.privacy.keys import BlindIndex

DEFAULT_CAPACITY: Final = 200_000
SHORT: Final = 4
_SEPARATORS: Final = 2
_MOST_SEPARATORS: Final = 8
_ESCAPES: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")


class _Letter(NamedTuple):
    """A letter or digit, case folded: which unit of the text it comes from, and where that unit begins and ends."""

    letter: str
    unit: int
    start: int
    end: int


class KnownIdentifiers:
    """Remembers up to ``capacity`` identifiers, the newest. Safe from any thread. About 120 bytes each."""

    __slots__ = ("_apart", "_capacity", "_heads", "_known", "_lengths", "_lock")

    def __init__(self, known: Iterable[str] = (), *, capacity: int = DEFAULT_CAPACITY) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._known: dict[int, None] = {}  # in order of arrival
        self._heads: set[int] = set()
        self._apart = 1 + _SEPARATORS  # units from one letter to the next, at most
        self._lengths: tuple[int, ...] = ()  # longest first
        self.add(known)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)}>"

    def __len__(self) -> int:
        return len(self._known)

    def add(self, identifiers: Iterable[str]) -> None:
        """Remember serials, names, addresses. One that holds neither letter nor digit is passed over."""
        with self._lock:
            for identifier in identifiers:
                parts = list(_letters(identifier, escapes=False))
                letters = "".join(part.letter for part in parts)
                if not letters or (key := hash(letters)) in self._known:
                    continue
                if len(self._known) >= self._capacity:
                    self._known.pop(next(iter(self._known)))
                self._known[key] = None
                self._heads.add(hash(letters[:SHORT]))
                widest = max((b.unit - a.unit for a, b in pairwise(parts)), default=0)
                self._apart = max(self._apart, min(widest, 1 + _MOST_SEPARATORS))
                if len(letters) not in self._lengths:
                    self._lengths = tuple(sorted({*self._lengths, len(letters)}, reverse=True))

    def replaced(self, text: str, by: str) -> str:
        """``text`` with ``by`` in place of every known identifier."""
        if not self._known or not text:
            return text
        # A percent sign may be an escape's or stand for itself, before letters that belong to the identifier.
        return self._replaced(self._replaced(text, by, escapes=True), by, escapes=False)

    def _replaced(self, text: str, by: str, *, escapes: bool) -> str:
        parts, done = [], 0
        for start, end in self._found(text, escapes=escapes):
            parts += [text[done:start], by]
            done = end
        return "".join((*parts, text[done:])) if parts else text

    def _found(self, text: str, *, escapes: bool) -> Iterator[tuple[int, int]]:
        """Where known identifiers begin and end, the first and longest of those that overlap."""
        letters = list(_letters(text, escapes=escapes))
        joined = "".join(one.letter for one in letters)
        with self._lock:
            lengths, known, heads, apart = self._lengths, self._known, self._heads, self._apart
            at = 0
            while at < len(letters):
                length = 0
                if lengths[-1] < SHORT or hash(joined[at : at + SHORT]) in heads:
                    length = next(
                        (
                            n
                            for n in lengths
                            if at + n <= len(letters)
                            and hash(joined[at : at + n]) in known
                            and _stands_together(letters, at, n, apart)
                        ),
                        0,
                    )
                if length:
                    yield letters[at].start, letters[at + length - 1].end
                at += length or 1


class KnowingBlind:
    """The blind index as binding uses it: what is looked up for the first time is remembered as known."""

    __slots__ = ("_blind", "_known")

    def __init__(self, blind: BlindIndex, known: KnownIdentifiers) -> None:
        self._blind, self._known = blind, known

    def gateway(self, name: str) -> bytes:
        """As BlindIndex.gateway."""
        self._known.add((name,))
        return self._blind.gateway(name)

    def serial(self, serial: str) -> bytes:
        """As BlindIndex.serial."""
        self._known.add((serial,))
        return self._blind.serial(serial)


def _letters(text: str, *, escapes: bool) -> Iterator[_Letter]:
    unit, at = 0, 0
    for match in _ESCAPES.finditer(text) if escapes else ():
        yield from _plain(text, at, match.start(), unit)
        unit += match.start() - at
        decoded = bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "replace")
        for character in decoded:
            # Each may be any part of the run: what is found goes with all of it.
            for letter in character.casefold():
                if letter.isalnum():
                    yield _Letter(letter, unit, match.start(), match.end())
            unit += 1
        at = match.end()
    yield from _plain(text, at, len(text), unit)


def _plain(text: str, start: int, end: int, unit: int) -> Iterator[_Letter]:
    for offset, character in enumerate(text[start:end]):
        for letter in character.casefold():
            if letter.isalnum():
                yield _Letter(letter, unit + offset, start + offset, start + offset + 1)


def _stands_together(letters: list[_Letter], at: int, length: int, apart: int) -> bool:
    """Whether no two letters are further apart than allowed, and a short identifier is a word of its own."""
    last = at + length - 1
    if any(letters[i + 1].unit - letters[i].unit > apart for i in range(at, last)):
        return False
    if length >= SHORT:
        return True
    before = at > 0 and letters[at].unit - letters[at - 1].unit <= 1
    after = last + 1 < len(letters) and letters[last + 1].unit - letters[last].unit <= 1
    return not before and not after
