"""Passwords: which are fit, and argon2id (RFC 9106) in threads, a bounded number at a time.

Length counts, not kinds of characters (NIST SP 800-63B, 3.1.1.2).
"""

import asyncio
import os
import secrets
import unicodedata
from typing import Final

import argon2
from argon2 import Parameters, PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from telemetry.errors import AccessBusy, PasswordUnfit

MIN_CHARACTERS: Final = 12
MAX_BYTES: Final = 1024
# RFC 9106, section 4, second choice: 3 passes over 64 MiB, 4 lanes. The first needs 2 GiB a login.
PARAMETERS: Final = argon2.profiles.RFC_9106_LOW_MEMORY
_WAITING: Final = 32
# What is tried first once 12 characters are asked for, as stems: digits around them change nothing.
_STEMS: Final = frozenset(
    {
        "password", "passwordpassword", "passphrase", "qwertyuiop", "qwertyuiopas", "qwertzuiop", "asdfghjkl",
        "zxcvbnm", "letmein", "letmeinplease", "iloveyou", "iloveyouforever", "welcome", "welcomehome", "administrator",
        "changeme", "changemenow", "correcthorsebatterystaple", "princess", "sunshine", "football", "trustno",
        "abcdefghijkl", "abcdefghijklm", "installer", "solarpower", "solarenergy", "photovoltaic", "photovoltaik",
    }
)  # fmt: skip
_RUNS: Final = ("01234567890123456789", "98765432109876543210", "abcdefghijklmnopqrstuvwxyz", "1qaz2wsx3edc4rfv5tgb")


def check_password(password: str, email: str) -> None:
    """Refuse what cannot be a password.

    Raises:
        PasswordUnfit: under 12 characters, over 1024 bytes, the address, or among the first that anybody tries.

    """
    folded = _normal(password).casefold()
    if len(_normal(password)) < MIN_CHARACTERS:
        raise PasswordUnfit(f"a password has at least {MIN_CHARACTERS} characters", remedy="several words are easy")
    if len(_encoded(password)) > MAX_BYTES:
        raise PasswordUnfit(f"a password has at most {MAX_BYTES} bytes", remedy="shorten it")
    if folded in {email.casefold(), email.casefold().partition("@")[0]}:
        raise PasswordUnfit("the password is the address", remedy="choose another")
    if _is_common(folded):
        raise PasswordUnfit("this password is among the first that are tried", remedy="choose another")


class Passwords:
    """Hashes and verifies. One event loop; at most as many at once as there are cores, the others wait.

    ``memory``: 64 MiB for each at once.
    """

    def __init__(self, parameters: Parameters | None = None, *, at_once: int | None = None) -> None:
        self._hasher = PasswordHasher.from_parameters(parameters or PARAMETERS)
        self._slots = asyncio.Semaphore(at_once or os.cpu_count() or 1)
        self._waiting = 0
        # What is verified where there is no account: of the same cost, and right for nobody.
        self.nobodys = self._hasher.hash(secrets.token_bytes(32))

    async def hash(self, password: str) -> str:
        """The hash with its parameters and its salt (PHC string). Raises AccessBusy."""
        return str(await self._in_thread(self._hasher.hash, _encoded(password)))

    async def verify(self, stored: str, password: str) -> bool:
        """Whether ``password`` made the hash. Raises AccessBusy."""
        return bool(await self._in_thread(self._verify, stored, _encoded(password)))

    def is_outdated(self, stored: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def _verify(self, stored: str, password: bytes) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_thread(self, function: object, *arguments: object) -> object:
        if self._waiting >= _WAITING:
            raise AccessBusy
        self._waiting += 1
        try:
            async with self._slots:
                return await asyncio.to_thread(function, *arguments)  # type: ignore[arg-type]  # one of two above
        finally:
            self._waiting -= 1


def _normal(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


def _encoded(password: str) -> bytes:
    # Longer ones are cut to what no password has, so that no request makes us hash megabytes.
    return _normal(password[: MAX_BYTES + 1]).encode("utf-8", "surrogatepass")[: MAX_BYTES + 1]


def _is_common(folded: str) -> bool:
    if folded.strip("0123456789!?.#*-_ ") in _STEMS or folded in _STEMS:
        return True
    if any(folded in run + run for run in _RUNS):
        return True
    # One piece again and again: aaaaaaaaaaaa, abcabcabcabc, passwordpassword.
    return any(folded == (folded[:size] * len(folded))[: len(folded)] for size in range(1, len(folded) // 2 + 1))
