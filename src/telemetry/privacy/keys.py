"""Sealing, wrapping and blind indices: the cryptography that keeps identity out of everything that is written.

Three kinds of key, and who holds them:

- an **owner's key pair** seals what says who and where somebody is. Everybody may hold the public half (Sealer);
  the private half (Opener) is stored only wrapped.
- the **key-encryption key** (Kek) wraps owners' private keys and token secrets. The ingest process never has it.
- the **blind-index key** (BlindIndex) turns a serial or a gateway's name into 16 bytes by which it is found again.
  Serials have little entropy: without this key a dictionary would recover them.

Sealing is HPKE base mode (RFC 9180) with the hybrid KEM of ML-KEM-768 and X25519, HKDF-SHA-256 and AES-256-GCM, so
that what is recorded today stays closed to tomorrow's quantum computer. Every ciphertext is bound to its purpose
and its subject: moved to another row, it does not open.

Nothing here logs, reads a clock or does I/O. No object shows its key in repr() or lets itself be pickled.
"""

import hmac
import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NoReturn, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from telemetry.errors import KeystoreError, UnsealError
from telemetry.model.identity import BLIND_BYTES

PRIVATE_KEY_BYTES: Final = 64 + 32  # ML-KEM-768 seed (FIPS 203: d ‖ z), then X25519
PUBLIC_KEY_BYTES: Final = 1184 + 32
KEK_BYTES: Final = 32
BLIND_KEY_BYTES: Final = 32
TOKEN_SECRET_BYTES: Final = 32
SIGNING_KEY_BYTES: Final = 32  # an Ed25519 seed
# What sealing adds to a padded plaintext: format byte, encapsulated key (ML-KEM 1088 + X25519 32), GCM tag.
SEAL_OVERHEAD_BYTES: Final = 1 + 1088 + 32 + 16

_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_MLKEM_SEED_BYTES: Final = 64
_MLKEM_PUBLIC_BYTES: Final = 1184
_NONCE_BYTES: Final = 12
_PAD_TO_BYTES: Final = 64
_SINGLE: Final = b"\x01"  # HPKE of the padded value
_ENVELOPE: Final = b"\x02"  # HPKE of a content key, nonce, AES-256-GCM of the value
_WRAPPED: Final = b"\x01"  # nonce, AES-256-GCM
_ENVELOPE_KEY_BYTES: Final = SEAL_OVERHEAD_BYTES - 1 + 32


class Purpose(StrEnum):
    """What a ciphertext is for. Part of what it is bound to: never rename one."""

    OWNER_NAME = "owner.name"
    OWNER_EMAIL = "owner.email"
    SITE_NAME = "site.name"
    SITE_ADDRESS = "site.address"
    SITE_COORDINATES = "site.coordinates"
    GATEWAY_NAME = "gateway.name"
    DEVICE_SERIAL = "device.serial"
    MEMBER_NAME = "member.name"
    REQUEST_TEXT = "request.text"
    QUARANTINE = "quarantine.message"
    OWNER_PRIVATE_KEY = "key.owner_private"
    TOKEN_SECRET = "key.token_secret"  # noqa: S105 - a name, not a secret
    RECIPIENT_KEY = "key.recipient"


@dataclass(frozen=True, slots=True)
class Bound:
    """A secret, or a wrapped one, and what it is bound to."""

    value: bytes = field(repr=False)
    purpose: str
    owner_key: int


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An owner's (or the quarantine service's) key pair as raw bytes: 96 private, 1216 public."""

    private: bytes = field(repr=False)
    public: bytes = field(repr=False)


def new_key_pair() -> KeyPair:
    """A fresh hybrid key pair from the operating system's generator."""
    mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    return KeyPair(
        private=mlkem.private_bytes_raw() + x25519.private_bytes_raw(),
        public=mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw(),
    )


class Closed:
    """An object that holds a secret: its repr names the class only, and it cannot be pickled or copied out."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} holds a key and is not serialised")


class Sealer:
    """Seals to one public key. Holds nothing secret and cannot open what it sealed. Safe from any thread."""

    __slots__ = ("_public",)

    def __init__(self, public_key: bytes) -> None:
        if len(public_key) != PUBLIC_KEY_BYTES:
            raise KeystoreError(f"a public key has {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}")
        self._public = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public_key[:_MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(public_key[_MLKEM_PUBLIC_BYTES:]),
        )

    def seal(self, value: bytes, *, purpose: Purpose, subject_key: int) -> bytes:
        """Seal one value. Its length is hidden up to the next 64 bytes. About 100 µs."""
        padded = value + b"\x80"
        padded += bytes(-len(padded) % _PAD_TO_BYTES)  # ISO/IEC 7816-4
        return _SINGLE + self._encrypt(padded, _context(_SINGLE, purpose, subject_key))

    def batch(self, *, purpose: Purpose, subject_key: int) -> "BatchSealer":
        """Begin a batch of values for one subject: the public-key part is paid once."""
        content_key = secrets.token_bytes(32)
        context = _context(_ENVELOPE, purpose, subject_key)
        return BatchSealer(content_key, self._encrypt(content_key, context), context)

    def _encrypt(self, plaintext: bytes, context: bytes) -> bytes:
        try:
            return _SUITE.encrypt(plaintext, self._public, info=context)
        except ValueError as error:  # a low-order point
            raise KeystoreError("a public key is not a valid point") from error


class BatchSealer(Closed):
    """Seals many values under one content key, which every result carries sealed. One batch, any thread."""

    __slots__ = ("_aead", "_context", "_numbers", "_sealed_key")

    def __init__(self, content_key: bytes, sealed_key: bytes, context: bytes) -> None:
        self._aead = AESGCM(content_key)
        self._sealed_key = sealed_key
        self._context = context
        self._numbers = itertools.count()

    def seal(self, value: bytes, *, bound: bytes = b"") -> bytes:
        """Seal one value; ``bound`` (such as the row's digest) must be given again to open it. 1185 bytes more."""
        # The content key is random and lives for this batch, so a counter never repeats a nonce.
        nonce = next(self._numbers).to_bytes(_NONCE_BYTES)
        sealed = self._aead.encrypt(nonce, value, prefixed(self._context, bound))
        return b"".join((_ENVELOPE, self._sealed_key, nonce, sealed))


class Opener(Closed):
    """Opens what was sealed to one key pair. Safe from any thread."""

    __slots__ = ("_private",)

    def __init__(self, private_key: bytes) -> None:
        if len(private_key) != PRIVATE_KEY_BYTES:
            raise KeystoreError(f"a private key has {PRIVATE_KEY_BYTES} bytes, not {len(private_key)}")
        self._private = MLKEM768X25519PrivateKey(
            MLKEM768PrivateKey.from_seed_bytes(private_key[:_MLKEM_SEED_BYTES]),
            X25519PrivateKey.from_private_bytes(private_key[_MLKEM_SEED_BYTES:]),
        )

    def open(self, sealed: bytes, *, purpose: Purpose, subject_key: int, bound: bytes = b"") -> bytes:
        """The value of ``Sealer.seal`` or ``BatchSealer.seal``.

        Raises:
            UnsealError: changed, cut short, sealed to another key, or moved from another row or purpose.

        """
        try:
            if sealed[:1] == _SINGLE and not bound:
                context = _context(_SINGLE, purpose, subject_key)
                return _unpadded(_SUITE.decrypt(sealed[1:], self._private, info=context))
            if sealed[:1] == _ENVELOPE:
                return self._open_envelope(sealed[1:], _context(_ENVELOPE, purpose, subject_key), bound)
        except (InvalidTag, ValueError) as error:
            raise _unseal_error() from error
        raise _unseal_error()

    def _open_envelope(self, body: bytes, context: bytes, bound: bytes) -> bytes:
        sealed_key, rest = body[:_ENVELOPE_KEY_BYTES], body[_ENVELOPE_KEY_BYTES:]
        content_key = _SUITE.decrypt(sealed_key, self._private, info=context)
        return AESGCM(content_key).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], prefixed(context, bound))


class Kek(Closed):
    """The key-encryption key in memory: a ports.KeyWrapper, and a ports.Keks of one. AES-256-GCM, random nonces.

    Random 96-bit nonces bound one key to 2**32 secrets (NIST SP 800-38D, 8.3): a thousand times every owner.
    """

    __slots__ = ("_aead", "_kek_id")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEK_BYTES:
            raise KeystoreError(f"the key-encryption key has {KEK_BYTES} bytes, not {len(key)}")
        self._aead = AESGCM(key)
        self._kek_id = hmac.digest(key, prefixed(b"telemetry/kek-id/1"), "sha256")[:8]

    @property
    def kek_id(self) -> bytes:
        """Names this key, 8 bytes, and tells nothing about it."""
        return self._kek_id

    def wrap(self, secret: bytes, *, purpose: str, owner_key: int) -> bytes:
        """The secret, encrypted and bound to its purpose, its owner and this key."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _WRAPPED + nonce + self._aead.encrypt(nonce, secret, self._context(purpose, owner_key))

    def unwrap(self, wrapped: bytes, *, purpose: str, owner_key: int) -> bytes:
        """The secret again.

        Raises:
            UnsealError: changed, or wrapped under another key, purpose or owner.

        """
        nonce, body = wrapped[1 : 1 + _NONCE_BYTES], wrapped[1 + _NONCE_BYTES :]
        try:
            if wrapped[:1] == _WRAPPED:
                return self._aead.decrypt(nonce, body, self._context(purpose, owner_key))
        except (InvalidTag, ValueError) as error:
            raise _unseal_error() from error
        raise _unseal_error()

    def wrap_all(self, secrets: Sequence[Bound]) -> list[bytes]:
        """Each of ``secrets``, wrapped."""
        return [self.wrap(one.value, purpose=one.purpose, owner_key=one.owner_key) for one in secrets]

    def unwrap_all(self, wrapped: Sequence[Bound]) -> list[bytes]:
        """The secrets again. Raises UnsealError if any does not open."""
        return [self.unwrap(one.value, purpose=one.purpose, owner_key=one.owner_key) for one in wrapped]

    def named(self, kek_id: bytes) -> Self:
        """Itself. Raises UnsealError if another key is asked for."""
        if kek_id != self._kek_id:
            raise other_kek()
        return self

    def newest(self) -> Self:
        """Itself."""
        return self

    def _context(self, purpose: str, owner_key: int) -> bytes:
        return wrap_context(purpose, owner_key, self._kek_id)


class BlindIndex(Closed):
    """Keyed digests by which a serial or a name is found without being stored. Safe from any thread.

    HMAC-SHA-256 over the length-prefixed (version, kind, values), cut to 128 bits. About 2 µs each: cache by
    device, never compute by row.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != BLIND_KEY_BYTES:
            raise KeystoreError(f"the blind-index key has {BLIND_KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    def gateway(self, name: str) -> bytes:
        """16 bytes for a gateway's name."""
        return self.digest("gateway", name.encode())

    def serial(self, serial: str) -> bytes:
        """16 bytes for a device's serial, the same at every site."""
        return self.digest("serial", serial.encode())

    def digest(self, kind: str, *values: bytes) -> bytes:
        """16 bytes for ``values`` within ``kind``: two kinds never agree on the same values."""
        return self._mac(kind, values)[:BLIND_BYTES]

    def digest63(self, kind: str, *values: bytes) -> int:
        """A number from 0 to 2**63 - 1 for ``values`` within ``kind``, where a bigint is the key."""
        return int.from_bytes(self._mac(kind, values)[:8]) >> 1

    def _mac(self, kind: str, values: tuple[bytes, ...]) -> bytes:
        return hmac.digest(self._key, prefixed(b"telemetry/blind/1", kind.encode(), *values), "sha256")


def prefixed(*parts: bytes) -> bytes:
    """Every part after its length: no two different lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def _context(form: bytes, purpose: str, subject_key: int) -> bytes:
    return prefixed(b"telemetry/seal/1", form, str(purpose).encode(), subject_key.to_bytes(8, signed=True))


def wrap_context(purpose: str, owner_key: int, kek_id: bytes) -> bytes:
    """What a wrapped secret is bound to."""
    return prefixed(_context(_WRAPPED, purpose, owner_key), kek_id)


def other_kek() -> UnsealError:
    """The error for what is wrapped under a key-encryption key that is not at hand."""
    return UnsealError(
        "the stored keys are wrapped under another key-encryption key than this process holds",
        remedy="restore that key; if it was rotated, run `telemetry keys rotate kek --resume` and restart this process",
    )


def _unpadded(padded: bytes) -> bytes:
    value = padded.rstrip(b"\0")
    if value[-1:] != b"\x80":
        raise ValueError("padding")
    return value[:-1]


def _unseal_error() -> UnsealError:
    return UnsealError(
        "a sealed value does not open",
        remedy="it was changed, moved from another row, or sealed to a key that is not the one given",
    )
