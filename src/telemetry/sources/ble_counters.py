"""The highest counter seen of each device, kept through restarts: what a frame must be above to be new.

A frame is handed on only when its counter is on disk, so that it cannot be played again after a crash. Source for
counters that wrap: RFC 1982, serial number arithmetic.
"""

import enum
import os
from pathlib import Path
from typing import Final

import orjson

from telemetry.errors import UnsealError
from telemetry.privacy.ble import BleSecret

_PURPOSE: Final = "counters"
_WRAPS_BELOW: Final = 32  # bits; a counter of 32 bits does not wrap in the life of a device


class Verdict(enum.Enum):
    """How a counter stands to those before it."""

    NEW = enum.auto()
    REPEATED = enum.auto()  # the highest one, again: devices send each frame several times
    OLD = enum.auto()


class Counters:
    """One event loop, or one thread. ``save`` writes what changed, all or nothing.

    Raises:
        UnsealError: the file was changed or is of another secret.

    """

    def __init__(self, path: Path, secret: BleSecret) -> None:
        self._path = path
        self._box = secret.box(_PURPOSE)
        self._highest: dict[str, int] = {}
        self._dirty = False
        try:
            sealed = path.read_bytes()
        except FileNotFoundError:
            return
        found = orjson.loads(self._box.open(sealed))
        if not isinstance(found, dict):
            raise UnsealError("the Bluetooth counters are not what was written")
        self._highest = found

    def see(self, device: str, counter: int, bits: int) -> tuple[Verdict, int]:
        """Note a counter. How it stands, and how many between it and the highest before never arrived."""
        highest = self._highest.get(device)
        ahead = 1 if highest is None else counter - highest
        if highest is not None and bits < _WRAPS_BELOW:
            ahead %= 1 << bits
            if ahead >= 1 << (bits - 1):
                ahead -= 1 << bits
        if ahead == 0:
            return Verdict.REPEATED, 0
        if ahead < 0:
            return Verdict.OLD, 0
        self._highest[device] = counter
        self._dirty = True
        return Verdict.NEW, ahead - 1

    def save(self) -> None:
        """Write the file anew (0600), and return when it is on disk."""
        if not self._dirty:
            return
        self._dirty = False
        write_whole(self._path, self._box.seal(orjson.dumps(self._highest)))


def write_whole(path: Path, value: bytes) -> None:
    """Replace a file (0600) so that a reader, or a crash, finds the old one or the new one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    making = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(value)
        file.flush()
        os.fsync(descriptor)
    making.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Return when names made or removed in ``directory`` are on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
