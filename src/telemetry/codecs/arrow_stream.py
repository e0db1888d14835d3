"""Arrow IPC streams, read so that none can take more memory than it may.

A stream is a few messages, each with a small flatbuffer that says how many rows and bytes its body holds. They are
added up before the body is looked at: rows, and for compressed bodies the sizes that their buffers claim to have
when unpacked (Arrow allocates exactly those). Source: Arrow columnar format, "IPC Streaming Format" and
"Compression"; the flatbuffers' layout is Message.fbs of the same specification.
"""

import struct
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from telemetry.codecs.json_text import Refused
from telemetry.codecs.limits import CodecLimits
from telemetry.model.batch import Reason

UNPACKED_TIMES: Final = 16  # an unpacked stream may be so many times the limit of a message
_MESSAGE_HEADER, _BATCH_OF_DICTIONARY = 2, 1  # field numbers in Message.fbs
_ROWS, _BUFFERS, _COMPRESSION = 0, 2, 3
_NOT_COMPRESSED: Final = -1
_MAX_BATCHES: Final = 1000
# what Arrow and the reader below raise for streams that are none
REFUSALS: Final = (pa.ArrowException, OSError, ValueError, TypeError, ArithmeticError, LookupError, struct.error)


@dataclass(frozen=True, slots=True)
class _Table:
    """A flatbuffer table: ``at`` is where it begins in ``data``."""

    data: bytes
    at: int

    def _field(self, number: int) -> int | None:
        """Where field ``number`` lies, None where it has its default."""
        vtable = self.at - self._int(self.at, "<i", 4)
        if 4 + 2 * number + 2 > self._int(vtable, "<H", 2):
            return None
        offset = self._int(vtable + 4 + 2 * number, "<H", 2)
        return self.at + offset if offset else None

    def _int(self, at: int, layout: str, size: int) -> int:
        if at < 0 or at + size > len(self.data):
            raise IndexError(at)
        return int(struct.unpack_from(layout, self.data, at)[0])

    def table(self, number: int) -> "_Table | None":
        at = self._field(number)
        return None if at is None else _Table(self.data, at + self._int(at, "<I", 4))

    def long(self, number: int) -> int:
        at = self._field(number)
        return 0 if at is None else self._int(at, "<q", 8)

    def pairs(self, number: int) -> list[tuple[int, int]]:
        """A vector of structs of two longs."""
        at = self._field(number)
        if at is None:
            return []
        at += self._int(at, "<I", 4)
        count = self._int(at, "<I", 4)
        if at + 4 + 16 * count > len(self.data):
            raise IndexError(at)
        return [tuple(pair) for pair in struct.iter_unpack("<qq", self.data[at + 4 : at + 4 + 16 * count])]


def read_stream(payload: bytes, limits: CodecLimits) -> list[pa.RecordBatch] | Refused:
    """The batches of a stream, each valid in all its parts, or why it is refused."""
    if len(payload) > limits.max_message_bytes:
        return Refused(Reason.TOO_LARGE, f"more than {limits.max_message_bytes} bytes")
    try:
        refused = _too_much(payload, limits)
        if refused is not None:
            return refused
        with pa.ipc.open_stream(payload, options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
            if len(set(reader.schema.names)) < len(reader.schema.names):
                return Refused(Reason.DUPLICATE_KEY, "a column twice")
            batches = list(reader)
        if sum(batch.num_rows for batch in batches) > limits.max_readings_per_message:
            return Refused(Reason.TOO_MANY_READINGS, f"more than {limits.max_readings_per_message} readings")
        for batch in batches:
            batch.validate(full=True)
    except REFUSALS:
        return Refused(Reason.MALFORMED, "not an Arrow stream")
    return batches


def _too_much(payload: bytes, limits: CodecLimits) -> Refused | None:
    """Add up what the messages of the stream claim."""
    rows = unpacked = 0
    messages = pa.ipc.MessageReader.open_stream(payload)
    for _ in range(_MAX_BATCHES):
        try:
            message = messages.read_next_message()
        except StopIteration:
            return None
        if message.type == "schema":
            continue
        metadata = message.metadata.to_pybytes()
        header = _Table(metadata, struct.unpack_from("<I", metadata)[0]).table(_MESSAGE_HEADER)
        if header is not None and message.type == "dictionary":
            header = header.table(_BATCH_OF_DICTIONARY)
        if header is None:
            return Refused(Reason.MALFORMED, "not an Arrow stream")
        rows += abs(header.long(_ROWS))
        unpacked += _unpacked_bytes(header, message.body)
        if rows > 2 * limits.max_readings_per_message:  # dictionaries have rows too; readings are counted again
            return Refused(Reason.TOO_MANY_READINGS, f"more than {limits.max_readings_per_message} readings")
        if unpacked > UNPACKED_TIMES * limits.max_message_bytes:
            return Refused(Reason.TOO_LARGE, f"more than {UNPACKED_TIMES} times the limit once unpacked")
    return Refused(Reason.MALFORMED, f"more than {_MAX_BATCHES} batches")


def _unpacked_bytes(header: _Table, body: pa.Buffer) -> int:
    """What the compressed buffers of a record batch claim to be; their first eight bytes say so."""
    if header.table(_COMPRESSION) is None:
        return 0
    total = 0
    for offset, length in header.pairs(_BUFFERS):
        if length >= 8:
            if offset < 0 or offset + 8 > body.size:
                raise IndexError(offset)
            claimed = struct.unpack("<q", body.slice(offset, 8).to_pybytes())[0]
            total += abs(claimed) if claimed != _NOT_COMPRESSED else 0
    return total
