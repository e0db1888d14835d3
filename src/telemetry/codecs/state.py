"""What a codec remembers of one gateway from one message to the next, and what it wants said to that gateway.

Codecs stay pure: a ``Memory`` is a value that goes in and comes out, and the pipeline stores it with the batch that
changed it. It is a bounded list of entries by key, each a value of plain types, oldest change first.

    memories of the batch's gateways ─▶ codec.decode(messages) ─▶ rows, changed memories, requests
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.outcome import Outcome
from telemetry.model.batch import Decoded, RawMessage

Value = Any
"""None, bool, int, float, str, bytes, and lists and string-keyed dicts of these; never changed once it was put."""

_ENTRY_OVERHEAD: Final = 8  # bytes that framing adds to key and value
_ENCODE: Final = msgspec.msgpack.Encoder().encode
_NOTHING: Final = object()
_UNSTORABLE: Final = 2**62


@dataclass(frozen=True, slots=True, repr=False)
class Memory:
    """What one codec remembers of one gateway. Immutable. It holds identifiers: never log it.

    ``sizes``: bytes of each entry as stored. ``cache``: what a codec works out from the entries once, such as an
    index; never stored, gone with the first change.
    """

    entries: Mapping[str, Value] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, entries: Mapping[str, Value]) -> "Memory":
        """The memory that holds ``entries``, the oldest first."""
        return cls(dict(entries), {key: _size(key, value) for key, value in entries.items()})

    @property
    def size_bytes(self) -> int:
        """Bytes of all entries as stored."""
        return sum(self.sizes.values())


EMPTY: Final = Memory()


@dataclass(frozen=True, slots=True)
class Request:
    """Something to publish once: to ``gw/<gateway>/<topic>``, at QoS 0. It may get lost; ask again with the next
    message that shows the need. The same request is sent at most once in a while, however often it is asked for.
    """

    gateway: str
    topic: str
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Standing:
    """Something to publish again and again, as long as the memory says so: ``first``, then ``payload`` every
    ``every_s`` seconds, to ``topic`` below the gateway's prefix.
    """

    topic: str
    first: bytes
    payload: bytes
    every_s: float


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a codec with memory makes of messages: rows and account, the memories that changed by gateway name,
    requests in the order they came up, and how many entries had to be forgotten for lack of room.
    """

    decoded: Decoded
    memories: Mapping[str, Memory] = field(default_factory=dict)
    requests: Sequence[Request] = ()
    evicted: int = 0


class Draft:
    """A memory while messages change it. Copies on the first change (``changed``), with an empty ``cache``; one
    thread.
    """

    __slots__ = ("_max_bytes", "_size", "_sizes", "cache", "changed", "entries", "evicted", "gateway", "requests")

    def __init__(self, gateway: str, memory: Memory, max_bytes: int) -> None:
        self.gateway = gateway
        self.entries = memory.entries
        self.requests: list[Request] = []
        self.evicted = 0
        self.cache = memory.cache
        self.changed = False
        self._sizes = memory.sizes
        self._size = memory.size_bytes
        self._max_bytes = max_bytes

    def get(self, key: str) -> Value | None:
        """The entry of this key, None where there is none."""
        return self.entries.get(key)

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def put(self, key: str, value: Value) -> dict[str, Value]:
        """Remember ``value``; what is the same as before changes nothing. Returns what was forgotten to make room:
        the entries changed longest ago, or this one where it would more than fill the memory alone.
        """
        if self.entries.get(key, _NOTHING) == value:
            return {}
        size = _size(key, value)
        self.drop(key)
        if size > self._max_bytes:
            self.evicted += 1
            return {key: value}
        entries, sizes = self._own()
        entries[key] = value
        sizes[key] = size
        self._size += size
        forgotten: dict[str, Value] = {}
        while self._size > self._max_bytes:
            forgotten |= self.drop_oldest()
        return forgotten

    def drop_oldest(self) -> dict[str, Value]:
        """Forget the entry changed longest ago, for lack of room; returns it."""
        oldest = next(iter(self.entries))
        gone = {oldest: self.entries[oldest]}
        self.drop(oldest)
        self.evicted += 1
        return gone

    def drop(self, key: str) -> None:
        """Forget an entry, if there is one."""
        if key in self.entries:
            entries, sizes = self._own()
            del entries[key]
            self._size -= sizes.pop(key)

    def ask(self, topic: str, payload: bytes = b"") -> None:
        """Have something published to ``topic`` below the gateway's prefix."""
        self.requests.append(Request(self.gateway, topic, payload))

    def close(self) -> Memory | None:
        """The memory after the changes; None where nothing has changed."""
        return Memory(self.entries, self._sizes, self.cache) if self.changed else None

    def _own(self) -> tuple[dict[str, Value], dict[str, int]]:
        if not self.changed:
            self.entries, self._sizes, self.cache, self.changed = dict(self.entries), dict(self._sizes), {}, True
        assert isinstance(self.entries, dict)  # noqa: S101 - made one line above
        assert isinstance(self._sizes, dict)  # noqa: S101
        return self.entries, self._sizes


Read = Callable[[RawMessage, int, Draft, Outcome], None]
"""Writes down in the outcome what one message (second: its number) holds, and changes the draft."""


@dataclass(frozen=True, slots=True)
class Remembering:
    """A codec with memory, made of a function that reads one message. Pure; safe to call from any thread."""

    name: str
    limits: CodecLimits
    read: Read

    def decode(
        self, messages: Sequence[RawMessage], indices: Sequence[int], memories: Mapping[str, Memory]
    ) -> Recalled:
        """Rows, rejections and counts of ``messages``, message ``i`` called ``indices[i]``; each gateway's messages
        change that gateway's memory in their order. ``memories``: by gateway name, those there are.
        """
        outcome = Outcome(codec_of_message=dict.fromkeys(indices, self.name))
        drafts: dict[str, Draft] = {}
        for message, index in zip(messages, indices, strict=True):
            name = message.gateway
            draft = drafts.get(name)
            if draft is None:
                draft = drafts[name] = Draft(name, memories.get(name, EMPTY), self.limits.max_state_bytes)
            self.read(message, index, draft, outcome)
        changed = {name: memory for name, draft in drafts.items() if (memory := draft.close()) is not None}
        return Recalled(
            decoded=outcome.decoded(),
            memories=changed,
            requests=[request for draft in drafts.values() for request in draft.requests],
            evicted=sum(draft.evicted for draft in drafts.values()),
        )


class _Stored(msgspec.Struct, array_like=True, frozen=True):
    """A memory as bytes: MessagePack. ``revision``: what the codec's keys and values mean."""

    revision: int
    gateway: str
    entries: dict[str, Any]


_DECODER: Final = msgspec.msgpack.Decoder(_Stored)


def pack(memory: Memory, gateway: str, revision: int) -> bytes:
    """A memory and the name of its gateway as bytes, in clear: seal them."""
    return _ENCODE(_Stored(revision, gateway, dict(memory.entries)))


def unpack(packed: bytes, revision: int) -> tuple[str, Memory] | None:
    """The gateway's name and the memory; None where another revision of the codec wrote it, or nobody did."""
    try:
        stored = _DECODER.decode(packed)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        return None
    return (stored.gateway, Memory.of(stored.entries)) if stored.revision == revision else None


def _size(key: str, value: Value) -> int:
    """Bytes of an entry as stored; beyond any limit where it cannot be (lone surrogates, integers beyond 64 bits)."""
    try:
        return _ENTRY_OVERHEAD + len(key.encode()) + len(_ENCODE(value))
    except (UnicodeEncodeError, OverflowError, RecursionError):
        return _UNSTORABLE
