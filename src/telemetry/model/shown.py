"""Surrogate keys as people handle them: a letter for the kind and 16 hexadecimal digits. They name nobody."""

import re
from collections.abc import Mapping
from typing import Final

from telemetry.errors import InputError

KEY_LETTERS: Final[Mapping[str, str]] = {
    "owner": "o",
    "site": "s",
    "gateway": "g",
    "device": "d",
    "recipient": "r",
    "grant": "c",  # a consent
    "member": "m",
    "request": "q",
    "invitation": "i",
    "token": "t",  # a machine's, not its secret
    "session": "e",
    "webhook": "w",
}


def shown_key(kind: str, key: int) -> str:
    """``o_``, ``s_``, ``g_`` … (KEY_LETTERS) and the key's 64 bits in hexadecimal."""
    return f"{KEY_LETTERS[kind]}_{key % 2**64:016x}"


def key_shown(kind: str, text: str) -> int:
    """The surrogate key of what ``shown_key`` made, or of a plain number.

    Raises:
        InputError: it is neither, or of another kind.

    """
    letter = KEY_LETTERS[kind]
    if match := re.fullmatch(rf"{letter}_([0-9a-f]{{16}})", text):
        return int.from_bytes(bytes.fromhex(match[1]), signed=True)
    if re.fullmatch(r"-?[0-9]{1,19}", text) and -(2**63) <= int(text) < 2**63:
        return int(text)
    raise InputError(f"this is not the key of one {kind}: {letter}_ and 16 hexadecimal digits")
