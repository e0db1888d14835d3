"""Time-based one-time passwords (RFC 6238: SHA-1, 6 digits, 30 seconds) and recovery codes. Pure."""

import base64
import hmac
import re
import secrets
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

SECRET_BYTES: Final = 20  # RFC 4226, section 4: 160 bits
STEP_S: Final = 30
RECOVERY_CODES: Final = 10
ISSUER: Final = "Home energy"
_DIGITS: Final = 6
_WINDOW: Final = (-1, 0, 1)
_CODE: Final = re.compile(r"[0-9]{6}")
_RECOVERY: Final = re.compile(r"[a-z2-7]{16}")


def new_totp_secret() -> bytes:
    """160 random bits."""
    return secrets.token_bytes(SECRET_BYTES)


def is_totp(code: str) -> bool:
    """Whether this is of the form of a time-based code, and not of a recovery code."""
    return _CODE.fullmatch(code.replace(" ", "")) is not None


def matching_step(secret: bytes, code: str, now: datetime) -> int | None:
    """The step (30 s since 1970) whose code this is: the present one, the one before or the one after."""
    if not is_totp(code):
        return None
    totp, present = _totp(secret), int(now.timestamp()) // STEP_S
    given, found = code.replace(" ", "").encode(), None
    for step in (present + shift for shift in _WINDOW):
        if hmac.compare_digest(totp.generate(step * STEP_S), given):
            found = step
    return found


def code_at(secret: bytes, now: datetime) -> str:
    """What an authenticator shows."""
    return _totp(secret).generate(int(now.timestamp())).decode("ascii")


def provisioning_uri(secret: bytes, email: str) -> str:
    """``otpauth://…``, for a QR code."""
    return _totp(secret).get_provisioning_uri(email, ISSUER)


def secret_text(secret: bytes) -> str:
    """The secret as people type it into an authenticator: base32."""
    return base64.b32encode(secret).decode("ascii")


def new_recovery_codes() -> list[str]:
    """Ten codes of 80 random bits, as ``abcd-efgh-ijkl-mnop``."""
    plain = [base64.b32encode(secrets.token_bytes(10)).decode("ascii").lower() for _ in range(RECOVERY_CODES)]
    return ["-".join(code[at : at + 4] for at in range(0, 16, 4)) for code in plain]


def plain_recovery_code(text: str) -> str | None:
    """The sixteen characters of a recovery code however it is typed; None where it cannot be one."""
    plain = re.sub(r"[\s-]", "", text).lower()
    return plain if _RECOVERY.fullmatch(plain) else None


def _totp(secret: bytes) -> TOTP:
    # SHA-1 is what authenticators speak; HMAC does not rest on its collision resistance.
    return TOTP(secret, _DIGITS, SHA1(), STEP_S)  # noqa: S303
