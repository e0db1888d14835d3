"""The key-encryption keys a process may use: from files or the environment, or of a KMS behind a command.

While one key replaces another both are at hand, and a process that started before looks again where keys are kept
when it meets a name it does not know. Nothing falls back to another key than the one named.
"""

import threading

from telemetry.config import Config
from telemetry.errors import KeystoreError
from telemetry.ports import Keks
from telemetry.privacy.keys import Closed, Kek, other_kek
from telemetry.store.kek_command import CommandKeks
from telemetry.store.keystore import KEK, KEK_NEXT, EnvironmentKeystore, FileKeystore, open_keystore

KeyPlaces = FileKeystore | EnvironmentKeystore


class KeystoreKeks(Closed):
    """The keys ``kek`` and, while it is being replaced, ``kek_next`` of a keystore: a ports.Keks."""

    __slots__ = ("_keystore", "_known", "_lock", "_newest")

    def __init__(self, keystore: KeyPlaces) -> None:
        """Raises KeystoreError when the key is missing, readable by others or of a wrong length."""
        self._keystore = keystore
        self._lock = threading.Lock()
        self._known: dict[bytes, Kek] = {}
        self._newest: Kek
        self._read()

    def named(self, kek_id: bytes) -> Kek:
        """The key of this name. Raises UnsealError where neither is it."""
        with self._lock:
            if kek_id not in self._known:
                self._read()
            if kek_id not in self._known:
                raise other_kek()
            return self._known[kek_id]

    def newest(self) -> Kek:
        """The staged key where there is one."""
        with self._lock:
            self._read()
            return self._newest

    def _read(self) -> None:
        staged = self._keystore.has(KEK_NEXT)
        try:
            # The staged one first: where it takes the old one's place in between, it is read twice.
            keks = [Kek(self._keystore.secret(name)) for name in ((KEK_NEXT, KEK) if staged else (KEK,))]
        except KeystoreError:
            if not staged or self._keystore.has(KEK_NEXT):
                raise
            return self._read()  # it took its place before it was read
        self._known = {kek.kek_id: kek for kek in keks}
        self._newest = keks[0]
        return None


def kek_places(config: Config) -> KeyPlaces | None:
    """Where the key-encryption key is kept; None where a command keeps it."""
    if config.keys.kek == "command":
        return None
    if config.keys.kek == "file":
        return FileKeystore(config.data_dir / "keys")
    return EnvironmentKeystore() if config.keys.kek == "env" else open_keystore(config.data_dir)


def open_keks(config: Config) -> Keks:
    """The key-encryption keys that the configuration names.

    Raises:
        KeystoreError: missing, readable by others, of a wrong length, or the command does not answer.

    """
    places = kek_places(config)
    if places is None:
        return CommandKeks(config.keys.command, timeout_s=config.keys.command_timeout_s)
    return KeystoreKeks(places)
