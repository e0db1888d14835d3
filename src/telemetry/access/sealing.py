"""What the keystore's secret ACCESS is used for: finding addresses, sealing them, and telling tries apart.

One key for each use, derived from the secret (HMAC-SHA-256 as in HKDF-Expand, RFC 5869, one block).
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import secrets
from datetime import date
from enum import StrEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from telemetry.errors import KeystoreError, UnsealError
from telemetry.privacy.keys import BlindIndex, Closed, prefixed

ACCESS_KEY_BYTES: Final = 32
DEVICE_COOKIE_DAYS: Final = 180
_FORM: Final = b"\x01"  # nonce, AES-256-GCM of the padded value
_NONCE_BYTES: Final = 12
_PAD_TO_BYTES: Final = 64
_BUCKET_BYTES: Final = 16
_DEVICE_BYTES: Final = 16
_IPV4_PREFIX: Final = 24
_IPV6_PREFIX: Final = 56


class Sealed(StrEnum):
    """What a sealed value is. Part of what it is bound to: never rename one."""

    EMAIL = "account.email"
    NAME = "account.name"
    PASSWORD = "account.password"  # noqa: S105 - a name
    TOTP = "account.totp"


class AccessKeys(Closed):
    """Everything that is derived from the secret. Safe from any thread."""

    __slots__ = ("_aead", "_blind", "_codes", "_devices", "_places")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != ACCESS_KEY_BYTES:
            raise KeystoreError(f"the access key has {ACCESS_KEY_BYTES} bytes, not {len(secret)}")
        self._aead = AESGCM(_derived(secret, b"seal"))
        self._blind = BlindIndex(_derived(secret, b"address"))
        self._codes = _derived(secret, b"recovery")
        self._devices = _derived(secret, b"device")
        self._places = _derived(secret, b"place")

    def email_blind(self, email: str) -> bytes:
        """16 bytes by which an address is found. Upper and lower case are the same person's."""
        return self._blind.digest("account.email", email.casefold().encode())

    def seal(self, value: bytes, *, kind: Sealed, account_key: int) -> bytes:
        """Seal one value for one account. Its length is hidden up to the next 64 bytes."""
        padded = value + b"\x80"
        padded += bytes(-len(padded) % _PAD_TO_BYTES)  # ISO/IEC 7816-4
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _FORM + nonce + self._aead.encrypt(nonce, padded, _context(kind, account_key))

    def open(self, sealed: bytes, *, kind: Sealed, account_key: int) -> bytes:
        """The value again.

        Raises:
            UnsealError: changed, sealed under another key, or moved from another account.

        """
        # Bound to its form as well: see _context.
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            padded = self._aead.decrypt(nonce, body, _context(kind, account_key)).rstrip(b"\0")
        except (InvalidTag, ValueError):
            raise UnsealError(
                "what is sealed of an account does not open", remedy="restore the keystore's secret `access`"
            ) from None
        return padded[:-1]

    def code_hash(self, account_key: int, code: str) -> bytes:
        """32 bytes for a recovery code of one account."""
        return hmac.digest(self._codes, prefixed(_eight(account_key), code.encode()), "sha256")

    def bucket(self, kind: str, *parts: bytes) -> bytes:
        """16 bytes by which tries of one kind are counted."""
        return hmac.digest(self._places, prefixed(kind.encode(), *parts), "sha256")[:_BUCKET_BYTES]

    def place(self, address: str | None, day_half: bytes) -> bytes:
        """A keyed hash of the network that a request comes from, for one day.

        The key is the secret's and the day's: neither a dump of the database nor, a day later, the secret tells it.
        """
        day_key = hmac.digest(self._places, prefixed(b"day", day_half), "sha256")
        return hmac.digest(day_key, network_of(address).encode(), "sha256")[:_BUCKET_BYTES]

    @staticmethod
    def new_half() -> bytes:
        """The day's half of the key of ``place``."""
        return secrets.token_bytes(32)

    def device_cookie(self, email_blind: bytes, today: date) -> str:
        """For a browser that logged in: proves for 180 days that it did, and tells nothing else."""
        body = today.toordinal().to_bytes(4) + secrets.token_bytes(_DEVICE_BYTES)
        return base64.urlsafe_b64encode(body + self._device_mac(email_blind, body)).decode("ascii")

    def device(self, cookie: str | None, email_blind: bytes, today: date) -> bytes | None:
        """Which browser this is, 16 bytes; None where it never logged in to this account, or too long ago."""
        try:
            raw = base64.b64decode((cookie or "").encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        body, mac = raw[: 4 + _DEVICE_BYTES], raw[4 + _DEVICE_BYTES :]
        if not hmac.compare_digest(mac, self._device_mac(email_blind, body)):
            return None
        age_days = today.toordinal() - int.from_bytes(body[:4])
        return body[4:] if 0 <= age_days <= DEVICE_COOKIE_DAYS else None

    def _device_mac(self, email_blind: bytes, body: bytes) -> bytes:
        return hmac.digest(self._devices, prefixed(email_blind, body), "sha256")


def network_of(address: str | None) -> str:
    """The network that is told apart from others: an IPv4 /24, an IPv6 /56. Whoever has no address is one network."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return "none"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return str(ipaddress.ip_network((found.packed, _IPV6_PREFIX), strict=False))
        found = found.ipv4_mapped
    return str(ipaddress.ip_network((found.packed, _IPV4_PREFIX), strict=False))


def _derived(secret: bytes, use: bytes) -> bytes:
    return hmac.new(secret, b"telemetry/access/1/" + use + b"\x01", hashlib.sha256).digest()


def _context(kind: Sealed, account_key: int) -> bytes:
    return prefixed(b"telemetry/access/1", _FORM, kind.value.encode(), _eight(account_key))


def _eight(key: int) -> bytes:
    return key.to_bytes(8, signed=True)
