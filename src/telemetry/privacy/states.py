"""Sealing what codecs remember of gateways: names, serials and topics that the worker must read again by itself.

AES-256-GCM under a key of each (gateway, codec), derived from one secret, so that the bound of 2**32 random nonces
(NIST SP 800-38D, 8.3) holds for one gateway's changes and not for everybody's. A sealed state is bound to gateway,
codec and version: moved to another row, or put back later under a newer version, it does not open.
"""

import hmac
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from telemetry.errors import KeystoreError, UnsealError
from telemetry.privacy.keys import Closed, prefixed

STATE_KEY_BYTES: Final = 32
STATE_OVERHEAD_BYTES: Final = 1 + 12 + 16  # form, nonce, tag
_FORM: Final = b"\x01"
_NONCE_BYTES: Final = 12


class StateSealer(Closed):
    """Seals and opens states. Safe from any thread."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != STATE_KEY_BYTES:
            raise KeystoreError(f"the key of codec states has {STATE_KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    def seal(self, plain: bytes, *, gateway_key: int, codec: str, version: int) -> bytes:
        """The state, encrypted; 29 bytes more."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _FORM + nonce + self._aead(gateway_key, codec).encrypt(nonce, plain, _version(version))

    def open(self, sealed: bytes, *, gateway_key: int, codec: str, version: int) -> bytes:
        """The state again.

        Raises:
            UnsealError: changed, sealed under another key, or for another gateway, codec or version.

        """
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            if sealed[:1] == _FORM:
                return self._aead(gateway_key, codec).decrypt(nonce, body, _version(version))
        except (InvalidTag, ValueError) as error:
            raise _unseal_error() from error
        raise _unseal_error()

    def _aead(self, gateway_key: int, codec: str) -> AESGCM:
        subject = prefixed(b"telemetry/codec-state/1", gateway_key.to_bytes(8, signed=True), codec.encode())
        return AESGCM(hmac.digest(self._key, subject, "sha256"))


def _version(version: int) -> bytes:
    return version.to_bytes(8, signed=True)


def _unseal_error() -> UnsealError:
    return UnsealError(
        "a codec's state does not open",
        remedy="it was changed or moved, or the secret codec_state is another; the format is learnt anew",
    )
