"""Sealing where a recipient wants to be told: address and secret of a webhook, bound to the webhook.

AES-256-GCM under a key of each webhook, derived from the secret ``access``: who has the database alone reads neither.
"""

import hmac
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from telemetry.deliver.webhook import SECRET_BYTES
from telemetry.errors import KeystoreError, UnsealError
from telemetry.privacy.keys import Closed, prefixed

_KEY_BYTES: Final = 32
_FORM: Final = b"\x01"
_NONCE_BYTES: Final = 12
_PAD: Final = 64


class WebhookSealer(Closed):
    """Seals and opens (address, secret). Safe from any thread."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise KeystoreError(f"the secret access has {_KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    def seal(self, url: str, secret: bytes, *, webhook_key: int) -> bytes:
        """Both, encrypted; the length tells the address' to 64 bytes only."""
        nonce, text = secrets.token_bytes(_NONCE_BYTES), url.encode()
        padded = text + bytes(-len(text) % _PAD)
        return _FORM + nonce + self._aead(webhook_key).encrypt(nonce, secret + padded, _FORM)

    def open(self, sealed: bytes, *, webhook_key: int) -> tuple[str, bytes]:
        """Address and secret.

        Raises:
            UnsealError: changed, sealed under another key, or of another webhook.

        """
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            if sealed[:1] == _FORM:
                plain = self._aead(webhook_key).decrypt(nonce, body, _FORM)
                return plain[SECRET_BYTES:].rstrip(b"\0").decode(), plain[:SECRET_BYTES]
        except (InvalidTag, ValueError):
            pass
        raise UnsealError("a webhook does not open", remedy="the secret access is another: it has to be added anew")

    def _aead(self, webhook_key: int) -> AESGCM:
        subject = prefixed(b"telemetry/webhook/1", webhook_key.to_bytes(8, signed=True))
        return AESGCM(hmac.digest(self._key, subject, "sha256"))
