"""What a recipient calls a device or a site: a token that nobody else ever sees (rule 23).

A token is HMAC-SHA-256 under the recipient's key over the length-prefixed (version, kind, epoch of owner and
recipient, the owner's secret, the subject's key), cut to 128 bits. Two recipients' tokens cannot be joined: that
takes both recipients' keys and the owners' secrets. A recipient's key that leaks tests no guess: the owner's secret
is 256 random bits, and the subject's key 64.

Written it is a kind, ``_``, 26 letters of base32 (RFC 4648, lower case) and a check letter, such as ``dev_…`` and
``site_…``: 27 letters that a person can read out. The check is a weighted sum over GF(32) whose weights all differ,
the kind included, so every single wrong letter, every two letters exchanged (neighbours or not) and a wrong kind
before them is noticed. One token has one spelling.

Nothing here logs, reads a clock or does I/O; no object shows its key in repr() or lets itself be pickled.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from telemetry.errors import InputError, KeystoreError
from telemetry.privacy.keys import TOKEN_SECRET_BYTES, Closed, prefixed

RECIPIENT_SECRET_BYTES: Final = 32
TOKEN_BYTES: Final = 16
TOKEN_LETTERS: Final = 27  # 26 of base32, one check letter
DEFAULT_CAPACITY: Final = 200_000

_VERSION: Final = b"telemetry/token/1"
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_VALUE_OF: Final = {letter: value for value, letter in enumerate(_ALPHABET)}
_LETTERS: Final = np.frombuffer(_ALPHABET.encode(), np.uint8)
_POLYNOMIAL: Final = 0b100101  # x^5 + x^2 + 1, primitive over GF(2): the powers of x are all 31 that are not zero


class TokenKind(StrEnum):
    """What a token stands for: its prefix."""

    DEVICE = "dev"
    SITE = "site"


_KEY_FOLLOWS: Final = (8).to_bytes(4)
_EPOCH_FOLLOWS: Final = (8).to_bytes(4)
_SECRET_FOLLOWS: Final = TOKEN_SECRET_BYTES.to_bytes(4)
_HEADS: Final = {kind: prefixed(_VERSION, kind.encode()) + _EPOCH_FOLLOWS for kind in TokenKind}


class OwnerSecret(Closed):
    """What a recipient's tokens for one owner are made from: the epoch of both, and the owner's token secret."""

    __slots__ = ("_epoch", "_secret")

    def __init__(self, epoch: int, secret: bytes) -> None:
        if len(secret) != TOKEN_SECRET_BYTES:
            raise KeystoreError(f"a token secret has {TOKEN_SECRET_BYTES} bytes, not {len(secret)}")
        self._epoch, self._secret = epoch, secret

    @property
    def epoch(self) -> int:
        """The epoch of (owner, recipient): it ends with a withdrawal."""
        return self._epoch

    def message(self, kind: TokenKind) -> bytes:
        """What comes before the subject's key in the HMAC's input, and that key's length."""
        return b"".join((_HEADS[kind], self._epoch.to_bytes(8), _SECRET_FOLLOWS, self._secret, _KEY_FOLLOWS))


class Tokenizer(Closed):
    """Makes one recipient's tokens under one version of its key. Safe from any thread.

    At most ``capacity`` tokens are remembered (about 150 bytes each), by kind, epoch and subject: about 3 µs for
    one that is not, 0.7 µs for one that is.
    """

    __slots__ = ("_capacity", "_inner", "_lock", "_older", "_outer", "_recent")

    def __init__(self, recipient_secret: bytes, *, capacity: int = DEFAULT_CAPACITY) -> None:
        if len(recipient_secret) != RECIPIENT_SECRET_BYTES:
            raise KeystoreError(f"a recipient's key has {RECIPIENT_SECRET_BYTES} bytes, not {len(recipient_secret)}")
        if capacity < 2:
            raise ValueError("the capacity is at least 2")
        # HMAC (RFC 2104) with its two first blocks done: a third of the time of hmac.digest, which does them each time.
        self._inner, self._outer = (
            hashlib.sha256(bytes(byte ^ pad for byte in recipient_secret.ljust(64, b"\0"))) for pad in (0x36, 0x5C)
        )
        self._capacity = capacity
        self._lock = threading.Lock()
        # Two generations: when the recent one is full it becomes the older one, which is forgotten.
        self._recent: dict[tuple[str, int, int], str] = {}
        self._older: dict[tuple[str, int, int], str] = {}

    def __len__(self) -> int:
        """How many tokens are remembered: ``capacity`` at most."""
        return len(self._recent) + len(self._older)

    def token(self, kind: TokenKind, subject_key: int, owner: OwnerSecret) -> str:
        """The token of one device or site, which is ``owner``'s."""
        return self.tokens(kind, [subject_key], [0], {0: owner})[0]

    def tokens(
        self,
        kind: TokenKind,
        subject_keys: Sequence[int],
        owner_keys: Sequence[int],
        owners: Mapping[int, OwnerSecret],
    ) -> list[str]:
        """The tokens of n subjects, whose owners are ``owner_keys`` (n), in the same order.

        A subject belongs to one owner for ever (a device gets a new key with every tenure).

        Raises:
            KeystoreError: an owner's secret is not among ``owners``.

        """
        try:
            epochs = {owner: owners[owner].epoch for owner in set(owner_keys)}
        except KeyError:
            raise KeystoreError(
                "an owner's token secret is missing", remedy="erased owners have none; read grants and keys again"
            ) from None
        name = kind.value
        wanted = [(name, epochs[owner], subject) for subject, owner in zip(subject_keys, owner_keys, strict=True)]
        found = self._remembered(wanted)
        missing = [index for index, token in enumerate(found) if token is None]
        if missing:
            messages = {owner: owners[owner].message(kind) for owner in {owner_keys[index] for index in missing}}
            inner, outer = self._inner.copy, self._outer.copy
            macs = []
            for index in missing:
                within, around = inner(), outer()
                within.update(messages[owner_keys[index]] + subject_keys[index].to_bytes(8, signed=True))
                around.update(within.digest())
                macs.append(around.digest()[:TOKEN_BYTES])
            made = _written(kind, np.frombuffer(b"".join(macs), np.uint8).reshape(-1, TOKEN_BYTES))
            for index, token in zip(missing, made, strict=True):
                found[index] = token
            self._remember([wanted[index] for index in missing], made)
        return found  # type: ignore[return-value]  # what was None has been made

    def remembered(self, kind: TokenKind, subject_keys: Sequence[int], epochs: Sequence[int]) -> list[str | None]:
        """Those tokens of n subjects under n epochs that are remembered; None for the others. Needs no secret."""
        return self._remembered([(kind.value, epoch, key) for key, epoch in zip(subject_keys, epochs, strict=True)])

    def _remembered(self, wanted: Sequence[tuple[str, int, int]]) -> list[str | None]:
        with self._lock:
            recent, older = self._recent.get, self._older.get
            return [recent(each) or older(each) for each in wanted]

    def _remember(self, keys: Sequence[tuple[str, int, int]], made: Sequence[str]) -> None:
        generation = self._capacity // 2
        with self._lock:
            for start in range(0, len(keys), generation):
                piece = dict(zip(keys[start : start + generation], made[start : start + generation], strict=True))
                if len(self._recent) + len(piece) > generation:
                    self._older, self._recent = self._recent, {}
                self._recent |= piece


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was read: its kind and its 128 bits. It says nothing of whom it stands for."""

    kind: TokenKind
    bits: bytes

    def __str__(self) -> str:
        return _written(self.kind, np.frombuffer(self.bits, np.uint8).reshape(1, TOKEN_BYTES))[0]


def parse_token(text: str) -> Token:
    """Read a token as a person or a program gave it.

    Raises:
        InputError: not a token, or one with a letter wrong or two exchanged. The text itself is not repeated.

    """
    prefix, _, letters = text.partition("_")
    values = [_VALUE_OF.get(letter, -1) for letter in letters]
    if prefix not in _KINDS or len(values) != TOKEN_LETTERS or min(values) < 0:
        raise InputError(
            "this is not a token", remedy="a token is dev_ or site_ and 27 of the letters a-z and 2-7, in lower case"
        )
    kind = _KINDS[prefix]
    *data, check = values
    number = _joined(data)
    # 26 letters hold 130 bits: two that are always 0, or one token would have four spellings.
    if number & 0b11 or check != _check_one(kind, data):
        raise InputError("the token has a wrong letter in it", remedy="copy it again, whole")
    return Token(kind, (number >> 2).to_bytes(TOKEN_BYTES))


_KINDS: Final = {kind.value: kind for kind in TokenKind}
_SYMBOLS: Final = {TokenKind.DEVICE: 1, TokenKind.SITE: 2}  # never change one: tokens that exist would not be read


def _joined(values: Sequence[int]) -> int:
    number = 0
    for value in values:
        number = number << 5 | value
    return number


def _times_x(value: int) -> int:
    value <<= 1
    return value ^ _POLYNOMIAL if value > 31 else value


def _products() -> npt.NDArray[np.uint8]:
    """uint8[27, 32]: value × x^(place + 1) in GF(32); the check letter itself has weight 1."""
    table = np.zeros((TOKEN_LETTERS, 32), np.uint8)
    for value in range(32):
        product = value
        for place in range(TOKEN_LETTERS):
            product = _times_x(product)
            table[place, value] = product
    return table


_PRODUCTS: Final = _products()
_ROWS: Final[list[list[int]]] = _PRODUCTS.tolist()
_PLACES: Final = np.arange(TOKEN_LETTERS - 1)


def _check(kind: TokenKind, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The check value of each row of uint8[n, 26]: uint8[n]."""
    products: npt.NDArray[np.uint8] = _PRODUCTS[_PLACES, values]
    summed: npt.NDArray[np.uint8] = np.bitwise_xor.reduce(products, axis=1)
    summed ^= _PRODUCTS[TOKEN_LETTERS - 1, _SYMBOLS[kind]]
    return summed


def _check_one(kind: TokenKind, values: Sequence[int]) -> int:
    """The same for one token, without the cost of an array."""
    check = _ROWS[TOKEN_LETTERS - 1][_SYMBOLS[kind]]
    for row, value in zip(_ROWS, values, strict=False):  # the last row is the kind's
        check ^= row[value]
    return check


def _written(kind: TokenKind, macs: npt.NDArray[np.uint8]) -> list[str]:
    """Tokens as text, from uint8[n, 16]."""
    bits = np.zeros((len(macs), 5 * (TOKEN_LETTERS - 1)), np.uint8)
    bits[:, : 8 * TOKEN_BYTES] = np.unpackbits(macs, axis=1)
    weights = np.array([16, 8, 4, 2, 1], np.uint8)
    values = bits.reshape(len(macs), TOKEN_LETTERS - 1, 5) @ weights
    letters = np.empty((len(macs), TOKEN_LETTERS), np.uint8)
    letters[:, :-1] = _LETTERS[values]
    letters[:, -1] = _LETTERS[_check(kind, values)]
    text, head = letters.tobytes().decode("ascii"), f"{kind.value}_"
    return [head + text[start : start + TOKEN_LETTERS] for start in range(0, len(text), TOKEN_LETTERS)]
