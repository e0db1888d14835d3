"""Requests as pure rules: connection codes, and that what is accepted never goes beyond what was asked."""

import hmac
import secrets
from datetime import datetime
from typing import Any, Final

from telemetry.errors import InputError, RequestWidened
from telemetry.model.sharing import GrantTerms
from telemetry.privacy.keys import Closed, prefixed

CODE_LENGTH: Final = 8  # 40 bits; bounded by lifetime, single use and attempts (decision 0071)
INVITATION_BYTES: Final = 32
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_READ_AS: Final = str.maketrans("OIL", "011")
_LABEL: Final = b"telemetry/connection-code/1"


def new_code() -> str:
    """A connection code as people read it: ``7K3M-9QXV``."""
    text = "".join(secrets.choice(_CROCKFORD) for _ in range(CODE_LENGTH))
    return f"{text[:4]}-{text[4:]}"


def code_read(text: str) -> str:
    """The code that was meant: case, hyphens, blanks and letters that look like digits do not matter.

    Raises:
        InputError: it is of another form. That says nothing about any owner.

    """
    code = text.upper().replace("-", "").replace(" ", "").translate(_READ_AS)
    if len(code) != CODE_LENGTH or not set(code) <= set(_CROCKFORD):
        raise InputError(f"a connection code has {CODE_LENGTH} digits and letters", remedy="ask the owner for it")
    return code


class CodeIndex(Closed):
    """By what a code is found: HMAC-SHA-256 under a key that no database holds. Safe from any thread."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def digest(self, text: str) -> bytes:
        """32 bytes. Raises InputError as ``code_read``."""
        return hmac.digest(self._key, prefixed(_LABEL, code_read(text).encode()), "sha256")


def acceptable(asked: GrantTerms, at: datetime) -> GrantTerms:
    """What was asked, as it can be granted at ``at``: a start that has passed means now."""
    if asked.start is not None and asked.start <= at:
        return asked.model_copy(update={"start": None})
    return asked


def check_narrower(wished: GrantTerms, asked: GrantTerms, at: datetime) -> None:
    """That a grant of ``wished``, made at ``at``, shows nothing that ``asked`` would not.

    Raises:
        RequestWidened: naming what goes beyond.

    """
    asked = acceptable(asked, at)
    beyond = [name for name, within in _within(wished, asked, at).items() if not within]
    if beyond:
        raise RequestWidened(f"this goes beyond what was asked: {', '.join(beyond)}")


def _within(wished: GrantTerms, asked: GrantTerms, at: datetime) -> dict[str, bool]:
    start, asked_start = max(wished.start or at, at), asked.start or at
    return {
        "purpose": wished.purpose is asked.purpose,
        "classes": wished.classes <= asked.classes,
        "fields": all(asked.admits(field) for field in wished.fields),
        "sites": _subset(wished.sites, asked.sites),
        "kinds": _subset(wished.kinds, asked.kinds),
        "resolution": wished.resolution.rank >= asked.resolution.rank,
        "serial": wished.serial.rank <= asked.serial.rank,
        "place": wished.place.rank <= asked.place.rank,
        "extremes": asked.extremes or not wished.extremes,
        "history": _at_most(wished.history, asked.history),
        # Filled in as privacy.granting.completed does.
        "data_from": (wished.data_from or start) >= (asked.data_from or asked_start),
        "start": start >= asked_start,
        "until": _at_most(wished.until, asked.until),
    }


def _subset(some: frozenset[Any] | None, all_of: frozenset[Any] | None) -> bool:
    return all_of is None or (some is not None and some <= all_of)


def _at_most(value: Any, limit: Any) -> bool:
    return limit is None or (value is not None and value <= limit)
