"""Secrets as people and machines carry them: 256 random bits as 43 characters; only their SHA-256 is stored.

Random bits need no slow hash: nobody guesses 256 of them.
"""

import base64
import hashlib
import hmac
import re
import secrets
from typing import Final

from telemetry.privacy.keys import prefixed

TOKEN_PREFIX: Final = "tlm_"  # noqa: S105 - what secret scanners look for
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")


def new_secret() -> str:
    """256 random bits, base64url (RFC 4648, section 5) without padding."""
    return secrets.token_urlsafe(32)


def new_token() -> str:
    """A machine's token: ``tlm_`` and 43 characters."""
    return TOKEN_PREFIX + new_secret()


def secret_hash(text: str) -> bytes | None:
    """What is stored of a secret, 32 bytes; None where the text cannot be one."""
    return hashlib.sha256(text.encode("ascii")).digest() if _SECRET.fullmatch(text) else None


def token_hash(bearer: str) -> bytes | None:
    """What is stored of a machine's token; None where the text cannot be one."""
    if not bearer.startswith(TOKEN_PREFIX):
        return None
    return secret_hash(bearer.removeprefix(TOKEN_PREFIX))


def csrf_token(api_key: bytes, session_secret: str) -> str:
    """What unsafe requests of this session carry: HMAC-SHA-256, 43 characters.

    The secret is in a cookie that scripts cannot read, so who only sends cookies cannot make it.
    """
    mac = hmac.digest(api_key, prefixed(b"telemetry/csrf/1", session_secret.encode()), "sha256")
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode("ascii")
