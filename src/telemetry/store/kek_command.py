"""A KMS behind a program of the operator's: it wraps and unwraps, and the key never comes here.

One process for each call, JSON in and JSON out, so that any language and any KMS will do:

    {"op": "describe"}                                      → {"kek_id": "16 hexadecimal digits"}
    {"op": "wrap",   "kek_id": "…", "items": ["base64", …]}   → {"items": ["base64", …]}
    {"op": "unwrap", "kek_id": "…", "items": ["base64", …]}   → {"items": ["base64" or null, …]}

``describe`` names the key that new secrets go under; an older name must still open what was wrapped under it.
``null`` says that an item does not open. The program must use authenticated encryption; that a secret is not moved
to another owner is checked here, by a digest wrapped with it, so the KMS learns nothing of whose it is.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from telemetry.errors import KeystoreError, UnsealError
from telemetry.privacy.keys import Bound, wrap_context

_AT_ONCE: Final = 500  # items a process
_DIGEST_BYTES: Final = 32
_ID: Final = re.compile(r"[0-9a-f]{16}")
_REMEDY: Final = "try the command of keys.command by hand; docs/OPERATIONS.md says what it is asked"


class CommandKek:
    """One key of the KMS: a ports.KeyWrapper. Holds no key. Safe from any thread; blocks for a process."""

    def __init__(self, command: "_Command", kek_id: bytes) -> None:
        self._command = command
        self._kek_id = kek_id

    @property
    def kek_id(self) -> bytes:
        """What the KMS calls the key."""
        return self._kek_id

    def wrap_all(self, secrets: Sequence[Bound]) -> list[bytes]:
        """Each of ``secrets``, wrapped by the KMS. Raises KeystoreError where it does not do so."""
        items = [self._digest(one, one.value) + one.value for one in secrets]
        wrapped = self._command.items("wrap", self._kek_id, items)
        if None in wrapped or any(item in result for item, result in zip(items, wrapped, strict=True) if result):
            raise KeystoreError("the key command did not wrap what it was given", remedy=_REMEDY)
        return [each for each in wrapped if each is not None]

    def unwrap_all(self, wrapped: Sequence[Bound]) -> list[bytes]:
        """The secrets again. Raises UnsealError if any does not open or belongs elsewhere."""
        opened = self._command.items("unwrap", self._kek_id, [one.value for one in wrapped])
        secrets = []
        for one, content in zip(wrapped, opened, strict=True):
            digest, secret = (content or b"")[:_DIGEST_BYTES], (content or b"")[_DIGEST_BYTES:]
            if content is None or not hmac.compare_digest(digest, self._digest(one, secret)):
                raise UnsealError(
                    "the key command does not open a stored key, or it belongs to another row",
                    remedy="restore it from a backup of the database of keys, or the key version in the KMS",
                )
            secrets.append(secret)
        return secrets

    def _digest(self, one: Bound, secret: bytes) -> bytes:
        context = wrap_context(one.purpose, one.owner_key, self._kek_id)
        return hashlib.sha256(len(context).to_bytes(4) + context + secret).digest()


class CommandKeks:
    """The keys of the KMS by name: a ports.Keks."""

    def __init__(self, command: Sequence[str], *, timeout_s: float) -> None:
        """Raises KeystoreError where the program is missing or others may change it."""
        self._command = _Command(command, timeout_s)

    def named(self, kek_id: bytes) -> CommandKek:
        """The key of this name, which the KMS is asked for when it is used."""
        return CommandKek(self._command, kek_id)

    def newest(self) -> CommandKek:
        """The key that the KMS wraps under now."""
        named = self._command.ask({"op": "describe"}).get("kek_id")
        if not isinstance(named, str) or not _ID.fullmatch(named):
            raise KeystoreError("the key command does not name its key in 16 hexadecimal digits", remedy=_REMEDY)
        return CommandKek(self._command, bytes.fromhex(named))


class _Command:
    """Runs the program, once for each question."""

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._argv = list(command)
        self._timeout_s = timeout_s
        _check_program(Path(self._argv[0]))

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The program's answer. Its standard error and what it printed are never repeated: they may hold secrets."""
        try:
            done = subprocess.run(
                self._argv,
                input=json.dumps(question).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=self._timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise KeystoreError(
                f"the key command took longer than {self._timeout_s:g} s", remedy="see to the KMS, then try again"
            ) from None
        except OSError as error:
            raise KeystoreError(f"the key command does not start: {error.strerror}", remedy=_REMEDY) from None
        if done.returncode:
            raise KeystoreError(f"the key command ended with code {done.returncode}", remedy=_REMEDY)
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise KeystoreError("the key command did not answer with a JSON object", remedy=_REMEDY)
        return answer

    def items(self, operation: str, kek_id: bytes, items: Sequence[bytes]) -> list[bytes | None]:
        """What became of each of ``items``."""
        found: list[bytes | None] = []
        for start in range(0, len(items), _AT_ONCE):
            piece = items[start : start + _AT_ONCE]
            encoded = [base64.b64encode(item).decode() for item in piece]
            answer = self.ask({"op": operation, "kek_id": kek_id.hex(), "items": encoded}).get("items")
            if not isinstance(answer, list) or len(answer) != len(piece):
                raise KeystoreError("the key command answered for other items than it was given", remedy=_REMEDY)
            found += [_decoded(each) for each in answer]
        return found


def _decoded(item: object) -> bytes | None:
    if item is None:
        return None
    try:
        return base64.b64decode(item, validate=True)  # type: ignore[arg-type]  # whatever it is, it raises
    except (binascii.Error, ValueError, TypeError):
        raise KeystoreError("the key command answered with something that is not base64", remedy=_REMEDY) from None


def _check_program(path: Path) -> None:
    if not path.is_absolute():
        raise KeystoreError("keys.command names its program by a relative path", remedy="give the absolute path")
    try:
        status = path.stat()
    except OSError as error:
        raise KeystoreError(f"the program of keys.command: {error.strerror}", remedy="install it there") from None
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid not in {0, os.geteuid()}:
        raise KeystoreError("others may change the program of keys.command", remedy=f"`chmod go-w {path}` and own it")
