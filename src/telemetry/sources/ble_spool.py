"""What was received and is not acknowledged: a queue on disk that survives a restart, sealed, bounded by bytes.

    00000000000000000001.spool   00000000000000000388.spool   …       named by the number of their first record
    record: length u32 | nonce 12 | AES-256-GCM of the value, bound to its number

A record is on disk when ``append`` returns. A torn or altered one ends its file: what stands before it is kept, what
follows cannot be found. Files go whole, when all of it is acknowledged, or, oldest first, when there are too many
bytes; what was not acknowledged then counts as dropped. After a crash acknowledged records may come again.
"""

import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from telemetry.errors import ConfigurationError, UnsealError
from telemetry.privacy.ble import SEAL_BYTES, BleSecret
from telemetry.sources.ble_counters import sync_directory

MAX_RECORD_BYTES: Final = 64 * 1024
_LENGTH: Final = struct.Struct("<I")
_NAME: Final = re.compile(r"(\d{20})\.spool")
_FILES: Final = 8  # that the bound is divided into: what is dropped at once


@dataclass(slots=True)
class _Segment:
    path: Path
    first: int
    size: int = 0
    count: int = 0
    done: set[int] = field(default_factory=set)

    @property
    def left(self) -> int:
        return self.count - len(self.done)


class Spool:
    """One thread, or one event loop. Reads its files when it is opened, and each record once more when it is taken.

    Raises:
        ConfigurationError: the directory is open to others, or the bound is too small.

    """

    def __init__(self, directory: Path, secret: BleSecret, max_bytes: int) -> None:
        if max_bytes < _FILES * (MAX_RECORD_BYTES + SEAL_BYTES):
            raise ConfigurationError("ble.spool_bytes is too small", remedy="1 MiB is the least")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o077:
            raise ConfigurationError("the spool's directory is open to others", remedy="chmod 700 it")
        self._directory, self._box = directory, secret.box("spool")
        self._max_bytes, self._segment_bytes = max_bytes, max_bytes // _FILES
        self.dropped = self.damaged = 0
        self._segments: list[_Segment] = []
        self._file: BinaryIO | None = None
        for path in sorted(directory.iterdir()):
            if (match := _NAME.fullmatch(path.name)) is not None:
                self._load(path, int(match[1]))
        self._next = max([1, *(one.first + max(one.count, 1) for one in self._segments)])
        self._read = self._segments[0].first if self._segments else self._next

    def __len__(self) -> int:
        """Records not acknowledged."""
        return sum(segment.left for segment in self._segments)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(segment.size for segment in self._segments)

    def append(self, values: Sequence[bytes]) -> None:
        """Store ``values``; they are on disk on return. The oldest are dropped where there is no room."""
        for value in values:
            if len(value) > MAX_RECORD_BYTES:
                self.dropped += 1
                continue
            sealed = self._box.seal(value, bound=self._next.to_bytes(8))
            record = _LENGTH.pack(len(sealed)) + sealed
            segment, file = self._open_segment(len(record))
            file.write(record)
            segment.size += len(record)
            segment.count += 1
            self._next += 1
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._bound()

    @property
    def next_number(self) -> int:
        """The number that the next record gets."""
        return self._next

    @property
    def read_number(self) -> int:
        """The number from which on nothing was taken yet."""
        return self._read

    def take(self, limit: int, *, before: int | None = None) -> list[tuple[int, bytes]]:
        """The next records that were not taken yet, with their numbers; only those below ``before``."""
        before = self._next if before is None else before
        taken: list[tuple[int, bytes]] = []
        for segment in list(self._segments):
            if len(taken) >= limit:
                break
            if segment.first + segment.count <= self._read:
                continue
            for number, value in self._records(segment, self._read):
                if number >= before:
                    return taken
                taken.append((number, value))
                self._read = number + 1
                if len(taken) >= limit:
                    break
        return taken

    def rewind(self) -> None:
        """Take again what is not acknowledged."""
        self._read = self._segments[0].first if self._segments else self._next

    def acknowledge(self, numbers: Iterable[int]) -> None:
        """These are done. Unknown ones are ignored."""
        for number in numbers:
            for segment in self._segments:
                if segment.first <= number < segment.first + segment.count:
                    segment.done.add(number)
        for segment in [one for one in self._segments if one.count and not one.left]:
            self._remove(segment)

    def clear(self) -> None:
        """Forget everything; what was not acknowledged counts as dropped."""
        for segment in list(self._segments):
            self.dropped += segment.left
            self._remove(segment)

    def close(self) -> None:
        """Close the file that is being written."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open_segment(self, size: int) -> tuple[_Segment, BinaryIO]:
        if self._file is not None and self._segments and self._segments[-1].size + size <= self._segment_bytes:
            return self._segments[-1], self._file
        self.close()
        path = self._directory / f"{self._next:020d}.spool"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        sync_directory(self._directory)
        self._segments.append(_Segment(path, self._next))
        return self._segments[-1], self._file

    def _bound(self) -> None:
        while self.size_bytes > self._max_bytes and len(self._segments) > 1:
            oldest = self._segments[0]
            self.dropped += oldest.left
            self._remove(oldest)

    def _remove(self, segment: _Segment) -> None:
        if self._segments[-1] is segment:
            self.close()
        self._segments.remove(segment)
        segment.path.unlink(missing_ok=True)
        self._read = max(self._read, segment.first + segment.count)

    def _load(self, path: Path, first: int) -> None:
        """Count the records of a file that an earlier process left; cut off what does not open."""
        segment = _Segment(path, first)
        data = path.read_bytes()
        for length in _whole_records(data):
            sealed = data[segment.size + _LENGTH.size : segment.size + length]
            try:
                self._box.open(sealed, bound=(first + segment.count).to_bytes(8))
            except UnsealError:
                break
            segment.size += length
            segment.count += 1
        if segment.size < len(data):
            self.damaged += 1
            os.truncate(path, segment.size)
        if segment.count:
            self._segments.append(segment)
        else:
            path.unlink()

    def _records(self, segment: _Segment, start: int) -> Iterator[tuple[int, bytes]]:
        """Records from ``start`` on that are not acknowledged."""
        data = segment.path.read_bytes()
        at = 0
        for index, length in enumerate(_whole_records(data)):
            number = segment.first + index
            if number >= start and number not in segment.done:
                yield number, self._box.open(data[at + _LENGTH.size : at + length], bound=number.to_bytes(8))
            at += length


def _whole_records(data: bytes) -> Iterator[int]:
    """The length of each record with its head, up to the first that is not whole."""
    at = 0
    while at + _LENGTH.size <= len(data):
        length = _LENGTH.size + int(_LENGTH.unpack_from(data, at)[0])
        if length > MAX_RECORD_BYTES + SEAL_BYTES + _LENGTH.size or at + length > len(data):
            return
        yield length
        at += length
