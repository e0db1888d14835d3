"""The last net under error messages, logs and the output of ``telemetry decode``: identifiers become placeholders.

Messages are written without identifiers in the first place; this catches what a library, a broker or a peer puts
into a text of its own. Two layers: identifiers that are known (privacy/known.py) go in whatever case and with whatever
separators; what merely looks like one goes by pattern. Patterns err on the side of removing: a
version number of four parts is taken for an IP address.

What this cannot do: recognise a name of a person or a street that nobody told it, or an identifier that is encoded
(base64, a hash). It is no licence to log payloads.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from telemetry.privacy.known import KnownIdentifiers

KNOWN: Final = "<identifier>"
EMAIL: Final = "<email>"
MAC: Final = "<mac>"
IP: Final = "<ip>"
COORDINATES: Final = "<coordinates>"
SERIAL: Final = "<serial>"
DIGITS: Final = "<digits>"

_SERIAL_LENGTH: Final = 8
_SERIAL_DIGITS: Final = 4
_DIGIT_RUN: Final = 7

_EMAIL: Final = re.compile(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})*")
_HEX: Final = "[0-9A-Fa-f]"
_MAC: Final = re.compile(
    rf"(?<![0-9A-Za-z])(?:{_HEX}{{2}}(?:[:\-._ ]{_HEX}{{2}}){{5,7}}|{_HEX}{{4}}(?:[.:\-]{_HEX}{{4}}){{2,3}}"
    rf"|{_HEX}{{12}}|{_HEX}{{16}})(?![0-9A-Za-z])"
)
_IPV4: Final = re.compile(r"(?<!\d)\d{1,3}(?:\.\d{1,3}){3}(?!\d)")
_IPV6: Final = re.compile(r"[0-9A-Fa-f:]{0,41}:[0-9A-Fa-f:.]{1,45}(?:%\w{1,16})?")
_NUMBER: Final = r"[-+]?\d{1,3}[.,]\d"
_COORDINATES: Final = (
    # 52.5200, 13.4050 and 52.5200° N; 13.4050° E
    re.compile(rf"{_NUMBER}{{3,20}}\s?°?\s?[NSns]?\s{{0,3}}[,;/|\s]\s{{0,3}}{_NUMBER}{{3,20}}(?:\s?°?\s?[EWew]\b)?"),
    # "latitude": 52.5, lon=13
    re.compile(r"\b(?:latitude|longitude|lat|lon|lng|long)\b\W{1,5}\d{1,3}(?:[.,]\d{1,20})?", re.IGNORECASE),
    # 52°31'12"N
    re.compile(r"\d{1,3}\s?°\s?\d{1,2}(?:[.,]\d{1,10})?\s?['′](?:\s?\d{1,2}(?:[.,]\d{1,10})?\s?[\"″])?\s?[NSEWnsew]?"),
    # one number as fine as a metre
    re.compile(rf"(?<![\d.]){_NUMBER}{{5,20}}(?!\d)"),
)
_WORD: Final = re.compile(r"[^\W_]+")
_RUN: Final = re.compile(rf"\d{{{_DIGIT_RUN},}}")


class Scrubber:
    """Replaces identifiers in texts. Safe from any thread; ``known`` may go on learning."""

    __slots__ = ("_known",)

    def __init__(self, known: Iterable[str] | KnownIdentifiers = ()) -> None:
        """``known``: serials, names, addresses. One that holds neither letter nor digit is passed over."""
        self._known = known if isinstance(known, KnownIdentifiers) else KnownIdentifiers(known)

    def __repr__(self) -> str:
        return "<Scrubber>"

    def __call__(self, text: str) -> str:
        """``text`` without known identifiers and without what looks like one."""
        text = self._known.replaced(text, KNOWN)
        text = _EMAIL.sub(EMAIL, text)
        text = _MAC.sub(MAC, text)
        text = _IPV6.sub(_address, text)
        text = _IPV4.sub(IP, text)
        for pattern in _COORDINATES:
            text = pattern.sub(COORDINATES, text)
        return _WORD.sub(_word, text)


def scrub(text: str, known: Iterable[str] | KnownIdentifiers = ()) -> str:
    """``text`` without the ``known`` identifiers, in any case and with any separators, and without lookalikes.

    Lookalikes: MAC and IP addresses, e-mail addresses, coordinates, words that mix letters with four digits or
    more, runs of seven digits. Each becomes a placeholder in angle brackets.
    """
    return Scrubber(known)(text)


def _address(match: re.Match[str]) -> str:
    """An IPv6 address becomes a placeholder; other text with colons stays, and so do :: and ::1."""
    text = match[0]
    start = len(text) - len(text.lstrip(":")) if not text.startswith("::") else 0
    core = text[start:].rstrip(".:")
    if sum(character.isalnum() for character in core) < 2:
        return text
    for candidate in (core, text[start : start + len(core) + 2]):  # the second keeps a final "::"
        try:
            ipaddress.IPv6Address(candidate.rstrip("."))
        except ValueError:
            continue
        return text[:start] + IP + text[start + len(candidate) :]
    return text


def _word(match: re.Match[str]) -> str:
    word = match[0]
    if word.isdigit():
        return DIGITS if len(word) >= _DIGIT_RUN else word
    digits = sum(character.isdigit() for character in word)
    if _RUN.search(word) or (len(word) >= _SERIAL_LENGTH and digits >= _SERIAL_DIGITS):
        return SERIAL
    return word
