"""What keeps Bluetooth's files closed: device keys, counters and the spool, all under one secret.

AES-256-GCM under keys derived by purpose (HKDF-SHA-256), each text bound to what it is and where it belongs. Devices
are named in files by keyed digest, so that no address stands there.
"""

import hmac
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from telemetry.errors import KeystoreError, UnsealError
from telemetry.privacy.keys import Closed, prefixed

BLE_SECRET_BYTES: Final = 32
SEAL_BYTES: Final = 12 + 16  # nonce and tag
_DIGEST_BYTES: Final = 16
_NONCE_BYTES: Final = 12


class BleSecret(Closed):
    """Seals and opens for one purpose each. Safe from any thread."""

    __slots__ = ("_digest_key", "_secret")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != BLE_SECRET_BYTES:
            raise KeystoreError(f"the Bluetooth secret has {BLE_SECRET_BYTES} bytes, not {len(secret)}")
        self._secret = secret
        self._digest_key = self._derived("digest")

    def digest(self, *values: bytes) -> bytes:
        """16 bytes that name a device and tell nothing about it."""
        return hmac.digest(self._digest_key, prefixed(b"telemetry/ble/1", *values), "sha256")[:_DIGEST_BYTES]

    def box(self, purpose: str) -> "Box":
        """What seals for ``purpose``."""
        return Box(AESGCM(self._derived(f"box/{purpose}")), purpose)

    def _derived(self, purpose: str) -> bytes:
        info = prefixed(b"telemetry/ble/1", purpose.encode())
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._secret)


class Box(Closed):
    """Seals and opens texts of one purpose. Safe from any thread."""

    __slots__ = ("_aead", "_purpose")

    def __init__(self, aead: AESGCM, purpose: str) -> None:
        self._aead, self._purpose = aead, purpose

    def seal(self, value: bytes, *, bound: bytes = b"") -> bytes:
        """``value``, sealed and bound; 28 bytes longer."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, value, prefixed(self._purpose.encode(), bound))

    def open(self, sealed: bytes, *, bound: bytes = b"") -> bytes:
        """What ``seal`` was given.

        Raises:
            UnsealError: changed, cut short, of another secret, purpose or place.

        """
        try:
            return self._aead.decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], prefixed(self._purpose.encode(), bound)
            )
        except (InvalidTag, ValueError) as error:
            raise UnsealError(
                f"the Bluetooth {self._purpose} does not open",
                remedy="restore the key `ble` it was made under, or remove the file and add the devices again",
            ) from error
