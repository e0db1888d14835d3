"""Named secrets: files of mode 0600, or environment variables. Whatever is doubtful is refused.

A process gets only the names it needs: ``FileKeystore(directory, allowed=INGEST_SECRETS)`` cannot read the
key-encryption key, whatever the code around it asks for. A KMS in place of ``kek`` implements ports.KeyWrapper;
the other names stay here.
"""

import base64
import binascii
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from telemetry.errors import KeystoreError
from telemetry.ports import Keystore
from telemetry.privacy.ble import BLE_SECRET_BYTES
from telemetry.privacy.keys import (
    BLIND_KEY_BYTES,
    KEK_BYTES,
    PRIVATE_KEY_BYTES,
    PUBLIC_KEY_BYTES,
    SIGNING_KEY_BYTES,
    new_key_pair,
)
from telemetry.privacy.states import STATE_KEY_BYTES
from telemetry.store.migrate import ROLES

KEK: Final = "kek"
KEK_NEXT: Final = "kek_next"  # beside it while it is being replaced
BLIND_INDEX: Final = "blind_index"
QUARANTINE: Final = "quarantine"  # private half, for messages whose owner is unknown
QUARANTINE_PUBLIC: Final = "quarantine_public"
RECEIPT_SIGNING: Final = "receipt_signing"  # an Ed25519 seed; opens nothing
CODEC_STATE: Final = "codec_state"  # what codecs remember of gateways; the worker writes it and reads it again
ACCESS: Final = "access"  # seals e-mail addresses and TOTP secrets of accounts; without it people prove themselves anew
API: Final = "api"  # seals cursors, keys ETags and CSRF tokens
BLE: Final = "ble"  # in a directory of its own: seals keys of Bluetooth devices and what was heard of them
_PASSWORD: Final = "password-"  # noqa: S105 - a prefix
_LENGTHS: Final[Mapping[str, int]] = {
    KEK: KEK_BYTES,
    BLIND_INDEX: BLIND_KEY_BYTES,
    QUARANTINE: PRIVATE_KEY_BYTES,
    QUARANTINE_PUBLIC: PUBLIC_KEY_BYTES,
    RECEIPT_SIGNING: SIGNING_KEY_BYTES,
    CODEC_STATE: STATE_KEY_BYTES,
    ACCESS: 32,
    API: 32,
}
_REPLACEABLE: Final = frozenset({RECEIPT_SIGNING, CODEC_STATE, ACCESS, API})
_APART: Final[Mapping[str, int]] = {KEK_NEXT: KEK_BYTES, BLE: BLE_SECRET_BYTES}  # not made with the others
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_VARIABLE: Final = "TELEMETRY_SECRET_"
_STAGED: Final = ".created"
_LOST: Final = "restore it from a backup of the keys; a new one would not open what exists"


def password_name(role: str) -> str:
    """The name under which a database role's password is kept."""
    return f"{_PASSWORD}{role}"


SECRET_NAMES: Final = (*_LENGTHS, *(password_name(role) for role in ROLES))
PLAN_SECRETS: Final = frozenset({password_name("telemetry_rights")})
BLE_SECRETS: Final = frozenset({BLE})
LABEL_SECRETS: Final = frozenset({password_name("telemetry_rollup")})
API_SECRETS: Final = frozenset(  # key-encryption keys come from where `store.keks` has them
    {API, ACCESS, BLIND_INDEX, RECEIPT_SIGNING}
    | {password_name(f"telemetry_{role}") for role in ("views", "rights", "operator", "access", "keys")}
)
INGEST_SECRETS: Final = frozenset({BLIND_INDEX, CODEC_STATE, QUARANTINE_PUBLIC, password_name("telemetry_ingest")})


class FileKeystore:
    """Secrets as files ``directory/<name>``. Safe from any thread; every read goes to the file."""

    def __init__(self, directory: Path, *, allowed: frozenset[str] | None = None) -> None:
        self._directory = directory
        self._allowed = allowed

    def secret(self, name: str) -> bytes:
        """The secret's bytes.

        Raises:
            KeystoreError: not allowed here, missing, readable by others, somebody else's, or of a wrong length.

        """
        _check_allowed(name, self._allowed)
        path = self._directory / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            remedy = _LOST if self.exists() else "`telemetry migrate` or the first start makes all keys"
            raise KeystoreError(f"the key file {path} is missing", remedy=remedy) from error
        except OSError as error:
            raise KeystoreError(
                f"cannot open the key file {path}: {error.strerror}",
                remedy="run as the user who owns it; a link is not followed",
            ) from error
        with os.fdopen(descriptor, "rb") as file:
            # Of the open file: what was checked is what is read.
            _check_private(path, os.fstat(descriptor))
            return _checked(name, file.read(_LENGTHS.get(name, 4096) + 1))

    def exists(self) -> bool:
        """Whether any secret was made here, be it incompletely."""
        staged = self._directory / _STAGED
        return staged.is_dir() or any((self._directory / name).exists() for name in SECRET_NAMES)

    def create(self) -> None:
        """Make every secret, all or none; finishes what a crash broke off; never overwrites one.

        Raises:
            KeystoreError: secrets exist already, or the directory is open to others.

        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._exclusively():
            staged = self._directory / _STAGED
            if not staged.is_dir():
                if self.exists():
                    raise KeystoreError(
                        f"there are keys in {self._directory} already",
                        remedy="use them, or choose another data_dir",
                    )
                _stage(self._directory, staged)
            self._publish(staged)

    def add_passwords(self) -> None:
        """Make the passwords of roles, the signing key and the key of codec states, that came with a newer version.
        Other keys never.

        A database takes a new password at the next migration; a new key would open nothing. What was signed under
        a lost signing key is still verified by whoever holds its public half, and what a codec has forgotten it
        learns again.
        """
        with self._exclusively():
            for name, value in _generate():
                if (name not in _LENGTHS or name in _REPLACEABLE) and not (self._directory / name).exists():
                    _write_new(self._directory / name, value)
            _sync_directory(self._directory)

    def has(self, name: str) -> bool:
        """Whether there is a secret of this name, be it unreadable."""
        return os.path.lexists(self._directory / name)

    def ensure(self, name: str) -> None:
        """Make a secret that is kept apart from the others, where there is none."""
        _check_allowed(name, self._allowed)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._exclusively():
            if not self.has(name):
                making = self._directory / f".{name}"
                making.unlink(missing_ok=True)
                _write_new(making, secrets.token_bytes(_APART[name]))
                making.rename(self._directory / name)
                _sync_directory(self._directory)

    def stage_kek(self) -> None:
        """Make the key that shall replace the key-encryption key, beside it; one that was staged before stays."""
        with self._exclusively():
            if not self.has(KEK_NEXT):
                making = self._directory / f".{KEK_NEXT}"
                making.unlink(missing_ok=True)
                _write_new(making, secrets.token_bytes(KEK_BYTES))
                making.rename(self._directory / KEK_NEXT)  # whole, or not there
                _sync_directory(self._directory)

    def adopt_kek(self) -> None:
        """Put the staged key in the place of the old one, which is gone from then on."""
        with self._exclusively():
            if self.has(KEK_NEXT):
                (self._directory / KEK_NEXT).replace(self._directory / KEK)
                _sync_directory(self._directory)

    def _publish(self, staged: Path) -> None:
        for source in sorted(staged.iterdir()):
            target = self._directory / source.name
            with suppress(FileExistsError):
                os.link(source, target)  # refuses to replace, unlike a rename
            if not target.samefile(source):
                raise KeystoreError(f"{target} exists and is another key", remedy=f"keep one of it and {source}")
        _sync_directory(self._directory)
        shutil.rmtree(staged)

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _check_private(self._directory, os.fstat(descriptor))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class EnvironmentKeystore:
    """Secrets as base64 in environment variables: ``blind_index`` in ``TELEMETRY_SECRET_BLIND_INDEX``.

    For containers whose orchestrator injects secrets. Safe from any thread.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, *, allowed: frozenset[str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._allowed = allowed

    def secret(self, name: str) -> bytes:
        """The secret's bytes.

        Raises:
            KeystoreError: not allowed here, missing, not base64, or of a wrong length.

        """
        _check_allowed(name, self._allowed)
        variable = _variable(name)
        encoded = self._environment.get(variable)
        if not encoded:
            raise KeystoreError(f"${variable} is not set", remedy="set it to the secret in base64")
        try:
            decoded = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            # Not chained: the cause's text could quote a part of the secret.
            raise KeystoreError(f"${variable} is not base64", remedy="encode it with `base64 -w0`") from None
        return _checked(name, decoded)

    def has(self, name: str) -> bool:
        """Whether the variable of this secret is set."""
        return bool(self._environment.get(_variable(name)))


def _variable(name: str) -> str:
    return f"{_VARIABLE}{name.upper().replace('-', '_')}"


def open_keystore(data_dir: Path, *, allowed: frozenset[str] | None = None) -> FileKeystore | EnvironmentKeystore:
    """The environment's secrets where any is set there, otherwise the files in ``data_dir``/keys."""
    if any(name.startswith(_VARIABLE) for name in os.environ):
        return EnvironmentKeystore(allowed=allowed)
    return FileKeystore(data_dir / "keys", allowed=allowed)


def role_password(keystore: Keystore, role: str) -> str:
    """The password of a database role, as text."""
    return keystore.secret(password_name(role)).decode("ascii")


def _check_allowed(name: str, allowed: frozenset[str] | None) -> None:
    if not _NAME.fullmatch(name):
        raise KeystoreError("a secret's name has lower-case letters, digits, '-' and '_' only")
    if allowed is not None and name not in allowed:
        raise KeystoreError(
            f"this process may not read the secret {name!r}",
            remedy="run the command that needs it as the operator",
        )


def _check_private(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    directory = stat.S_ISDIR(status.st_mode)
    if not directory and not stat.S_ISREG(status.st_mode):
        raise KeystoreError(f"{path} is not a regular file", remedy=_LOST)
    if status.st_uid != os.geteuid():
        raise KeystoreError(f"{path} belongs to another user", remedy="run as that user, or `chown` it to yourself")
    if mode & 0o077:
        raise KeystoreError(
            f"{path} is open to other users (mode {mode:04o})",
            remedy=f"`chmod {'700' if directory else '600'} {path}`, and replace the key if others could read it",
        )


def _checked(name: str, value: bytes) -> bytes:
    length = _LENGTHS.get(name) or _APART.get(name)
    if length is not None:
        if len(value) != length:
            raise KeystoreError(f"the secret {name!r} has not {length} bytes", remedy=_LOST)
        return value
    text = value.rstrip(b"\r\n")
    if not (16 <= len(text) <= 256 and text.isascii() and text.decode("ascii").isprintable()):
        raise KeystoreError(f"the secret {name!r} is not 16 to 256 printable characters", remedy=_LOST)
    return text


def _stage(directory: Path, staged: Path) -> None:
    """Write all secrets beside, then give the folder its name: from then on they are complete."""
    for broken_off in directory.glob(".creating-*"):
        shutil.rmtree(broken_off)
    making = Path(tempfile.mkdtemp(prefix=".creating-", dir=directory))
    try:
        for name, value in _generate():
            _write_new(making / name, value)
        _sync_directory(making)
        making.rename(staged)
        _sync_directory(directory)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _write_new(path: Path, value: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(value)
        file.flush()
        os.fsync(descriptor)


def _generate() -> Iterator[tuple[str, bytes]]:
    pair = new_key_pair()
    makers: dict[str, Callable[[], bytes]] = {
        QUARANTINE: lambda: pair.private,
        QUARANTINE_PUBLIC: lambda: pair.public,
    }
    for name in SECRET_NAMES:
        if name in makers:
            yield name, makers[name]()
        elif name in _LENGTHS:
            yield name, secrets.token_bytes(_LENGTHS[name])
        else:
            yield name, secrets.token_urlsafe(32).encode("ascii") + b"\n"


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
