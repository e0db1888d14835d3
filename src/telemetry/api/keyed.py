"""What the API makes under its own secret: cursors, ETags. Keys of each purpose are derived; none is stored."""

import hmac
import struct
import time
from base64 import b32encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from telemetry.access.principal import Principal
from telemetry.errors import CursorExpired, InvalidRequest
from telemetry.privacy.keys import Closed

CURSOR_S: Final = 24 * 3600
_HOUR_S: Final = 3600
_PAD_BYTES: Final = 64
_NONCE_BYTES: Final = 12
_TIME: Final = struct.Struct(">Q")


def _identity(principal: Principal) -> bytes:
    """Whom an answer is for. Another token of the same recipient goes on with a cursor."""
    return b"%s:%d" % (principal.role.value.encode(), principal.key)


class Cursors(Closed):
    """Places in an answer, sealed (AES-256-GCM, NIST SP 800-38D): bound to who asks and to what was asked, for a day
    up to the next full hour.

    Nothing can be learnt from one, and none can be made up. The same place of the same query gives the same cursor
    for an hour, so that an answer with a next page keeps its ETag: the nonce is a keyed hash of all that is sealed,
    and repeats with it alone (as in SIV, RFC 5297). Places are padded: their lengths would tell of numbers in them.
    """

    __slots__ = ("_aead", "_nonce_key", "_now")

    def __init__(self, secret: bytes, *, now: Callable[[], float] = time.time) -> None:
        self._aead = AESGCM(hmac.digest(secret, b"telemetry/api/cursor/1", "sha256"))
        self._nonce_key = hmac.digest(secret, b"telemetry/api/cursor/nonce/1", "sha256")
        self._now = now

    def seal(self, principal: Principal, query: bytes, place: object) -> str:
        """``query``: what was asked, without the cursor, in one way of writing. ``place``: what JSON takes."""
        hour = -(-int(self._now()) // _HOUR_S) * _HOUR_S
        told, bound = orjson.dumps(place), _bound(principal, query)
        plain = _TIME.pack(hour + CURSOR_S) + told.ljust(-(-len(told) // _PAD_BYTES) * _PAD_BYTES)
        nonce = hmac.digest(self._nonce_key, len(bound).to_bytes(8) + bound + plain, "sha256")[:_NONCE_BYTES]
        sealed = nonce + self._aead.encrypt(nonce, plain, bound)
        return urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, principal: Principal, query: bytes, cursor: str) -> object:
        """The place again.

        Raises:
            InvalidRequest: it is no cursor, or one of somebody else's or of another query.
            CursorExpired: it is older than a day.

        """
        try:
            sealed = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            plain = self._aead.decrypt(nonce, body, _bound(principal, query))
        except (InvalidTag, ValueError):
            raise InvalidRequest(
                "this is not a cursor of this query", where="query.cursor", remedy="ask as before, with `next`"
            ) from None
        if _TIME.unpack_from(plain)[0] < self._now():
            raise CursorExpired
        place: object = orjson.loads(plain[_TIME.size :])
        return place


def _bound(principal: Principal, query: bytes) -> bytes:
    who = _identity(principal)
    return len(who).to_bytes(4) + who + query


class ETags(Closed):
    """Keyed hashes of answers. Two askers' ETags of the same answer differ, and none tells what was answered."""

    __slots__ = ("_key",)

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"telemetry/api/etag/1", "sha256")

    def of(self, principal: Principal | None, body: bytes, media_type: bytes) -> str:
        """A strong ETag, quotes included."""
        who = b"" if principal is None else _identity(principal)
        key = hmac.digest(self._key, who, "sha256")
        tag = hmac.digest(key, media_type + b"\n" + body, "sha256")[:16]
        return f'"{tag.hex()}"'


class GrantNames(Closed):
    """What a recipient calls a grant: a keyed hash, so that keys stay inside (rule 23)."""

    __slots__ = ("_key",)

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"telemetry/api/grant/1", "sha256")

    def of(self, principal: Principal, grant_key: int) -> str:
        """``grant_`` and 26 letters of base32."""
        said = _identity(principal) + b"/" + grant_key.to_bytes(8, signed=True)
        made = b32encode(hmac.digest(self._key, said, "sha256")[:16]).rstrip(b"=").lower()
        return f"grant_{made.decode()}"
