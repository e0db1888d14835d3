"""Which codec reads which message, and what a batch of messages of all kinds comes to.

A new format is a file of its own and a row in ``CODECS`` (docs/ADDING-A-FORMAT.md).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Protocol

from telemetry.codecs import ahoydtu, evcc, home_assistant, opendtu, shelly, sparkplug, tasmota, venus
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.native_arrow import CONTENT_TYPE as ARROW
from telemetry.codecs.native_arrow import NativeArrow, looks_like_arrow
from telemetry.codecs.native_json import NativeJson
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.senml import looks_like_cbor, senml_cbor, senml_json
from telemetry.codecs.state import EMPTY, Memory, Remembering, Request, Standing
from telemetry.codecs.topics import matches
from telemetry.model.batch import DECODED_SCHEMA, Decoded, RawMessage, Reason, Withheld, check_schema

DEFAULT_CODEC: Final = "native-json"  # messages of this codec are not listed in Decoded.codec_of_message
UNKNOWN: Final = home_assistant.UNKNOWN  # the codec's name where no codec claims the topic
# Reads what no codec claims, since its topics are whatever a gateway announces, and rejects what nobody announced.
FALLBACK: Final = home_assistant.NAME
CONTROL_TOPICS: Final = frozenset({"status", "committed"})  # a gateway's birth and will; our own watermarks
# What codecs ask gateways for. The broker lets the worker write there, and hands us our own requests too.
REQUEST_TOPICS: Final[tuple[str, ...]] = ("R/+/keepalive", *sparkplug.REQUESTS)


class Codec(Protocol):
    """What ``telemetry.ports.Codec`` promises: pure, thread-safe, raises for nothing that a message holds."""

    @property
    def name(self) -> str: ...

    def decode(self, messages: Sequence[RawMessage], indices: Sequence[int]) -> Decoded: ...


def _says_nothing(_: Memory) -> tuple[Standing, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Keeps:
    """How a codec keeps its memory. ``revision``: what its keys and values mean; a stored memory of another is not
    read. ``retained``: topics whose retained messages go to the codec; all others are state and withheld (rule 6).
    ``standing``: what to publish to the gateway again and again, given its memory.
    """

    revision: int = 1
    retained: tuple[str, ...] = ()
    standing: Callable[[Memory], Sequence[Standing]] = _says_nothing


@dataclass(frozen=True, slots=True)
class Row:
    """One codec: its name, the topics below ``gw/<gateway>/`` (``+`` and a last ``/#`` as in MQTT), and how to tell
    its messages from others of these topics: the content type, or without one a look at the payload. ``keeps`` is
    there where ``build`` makes a codec with memory. ``also``: further topics, for formats whose users choose the
    first levels.
    """

    name: str
    topics: tuple[str, ...]
    content_types: frozenset[str]
    looks_like: Callable[[bytes], bool]
    build: Callable[[CodecLimits], Codec | Remembering]
    keeps: Keeps | None = None
    also: Callable[[str], bool] | None = None

    def claims_topic(self, topic: str) -> bool:
        """Whether messages of ``topic`` may be this codec's."""
        if any(matches(pattern, topic) for pattern in self.topics):
            return True
        return self.also is not None and self.also(topic)


def _anything(_: bytes) -> bool:
    return True


def by_topic(
    name: str,
    topics: tuple[str, ...],
    build: Callable[[CodecLimits], Codec | Remembering],
    keeps: Keeps | None = None,
    *,
    also: Callable[[str], bool] | None = None,
) -> Row:
    """The row of a codec that reads every message of its topics."""
    return Row(name, topics, frozenset(), _anything, build, keeps, also)


CODECS: Final[tuple[Row, ...]] = (  # of those that claim a topic, the first that fits
    Row("native-arrow", ("readings",), frozenset({ARROW}), looks_like_arrow, NativeArrow),
    Row(DEFAULT_CODEC, ("readings",), frozenset({"application/json"}), _anything, NativeJson),
    Row("senml-cbor", ("senml",), frozenset({"application/senml+cbor"}), looks_like_cbor, senml_cbor),
    Row("senml-json", ("senml",), frozenset({"application/senml+json"}), _anything, senml_json),
    by_topic(venus.NAME, venus.TOPICS, venus.venus, Keeps(retained=venus.RETAINED, standing=venus.standing)),
    by_topic(
        home_assistant.NAME,
        home_assistant.TOPICS,
        home_assistant.home_assistant,
        Keeps(retained=home_assistant.TOPICS),
    ),
    by_topic("evcc", evcc.TOPICS, evcc.evcc),
    by_topic("shelly", shelly.TOPICS, shelly.shelly, Keeps(shelly.REVISION), also=shelly.claims),
    by_topic("sparkplug-b", sparkplug.TOPICS, sparkplug.sparkplug_b, Keeps(sparkplug.REVISION, sparkplug.RETAINED)),
    by_topic("tasmota", tasmota.TOPICS, tasmota.Tasmota, also=tasmota.claims),
    by_topic("opendtu", opendtu.TOPICS, opendtu.opendtu, also=opendtu.claims),
    by_topic("ahoydtu", ahoydtu.TOPICS, ahoydtu.ahoydtu, also=ahoydtu.claims),
)
CODEC_BY_NAME: Final = {row.name: row for row in CODECS}


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """What codecs make of a batch. ``memories``: those that changed, by (gateway, codec). ``requests``: what to
    publish once. ``evicted``: entries of memories that were forgotten for lack of room.
    """

    decoded: Decoded
    memories: Mapping[tuple[str, str], Memory] = field(default_factory=dict)
    requests: Sequence[Request] = ()
    evicted: int = 0


Recall = Callable[[str, str], Memory]
"""The memory of (gateway, codec); the empty one where there is none."""


def forgetful(_gateway: str, _codec: str) -> Memory:
    """Remembers nothing."""
    return EMPTY


@lru_cache(maxsize=32)
def build(name: str, limits: CodecLimits) -> Codec | Remembering:
    """The codec called ``name``; KeyError where there is none."""
    return CODEC_BY_NAME[name].build(limits)


def codec_for(topic: str, content_type: str | None, payload: bytes) -> str | None:
    """The name of the codec that reads such a message, None where nobody claims the topic."""
    for row in _candidates(topic, content_type):
        if row.looks_like(payload):
            return row.name
    return None


@lru_cache(maxsize=65_536)  # formats with a topic for each value have hundreds a home
def _candidates(topic: str, content_type: str | None) -> tuple[Row, ...]:
    """The codecs of a topic; only the one that a content type names, where it names one."""
    rows = tuple(row for row in CODECS if row.claims_topic(topic))
    declared = (content_type or "").partition(";")[0].strip().lower()
    named = tuple(replace(row, looks_like=_anything) for row in rows if declared in row.content_types)
    return named[:1] or rows


def decode_batch(messages: Sequence[RawMessage], limits: CodecLimits) -> Decoded:
    """Everything that ``messages`` hold for codecs that remember nothing: see ``decode_remembering``."""
    return decode_remembering(messages, limits, forgetful).decoded


def decode_remembering(messages: Sequence[RawMessage], limits: CodecLimits, recall: Recall) -> DecodedBatch:
    """Everything that ``messages`` hold: rows of all formats in the order of the messages, and the account.

    Never raises for what a message holds. Rows and rejections name messages by their index. ``recall`` is asked
    for what codecs with memory remember of the gateways that sent them something.
    """
    outcome = Outcome()
    by_codec: defaultdict[str, list[int]] = defaultdict(list)
    for index, message in enumerate(messages):
        topic = message.topic
        if topic in CONTROL_TOPICS:
            continue
        name = codec_for(topic, message.content_type, message.payload)
        if message.retained and not _configures(name, topic):
            outcome.withhold(Withheld.RETAINED, 1)
        elif len(message.payload) > limits.max_message_bytes:
            outcome.reject(index, Reason.TOO_LARGE, 1, f"more than {limits.max_message_bytes} bytes")
            outcome.codec_of_message[index] = name or UNKNOWN
        elif name is not None:
            by_codec[name].append(index)
        elif not is_request(topic):
            by_codec[FALLBACK].append(index)
    batch = _decode_each(messages, by_codec, limits, recall, outcome)
    check_schema(batch.decoded.rows, DECODED_SCHEMA)
    return batch


@lru_cache(maxsize=4096)
def is_request(topic: str) -> bool:
    """Whether this is one of the topics by which a gateway is asked for something."""
    return any(matches(pattern, topic) for pattern in REQUEST_TOPICS)


def _configures(name: str | None, topic: str) -> bool:
    """Whether a retained message of this topic is what its codec remembers, and not the last state of something."""
    keeps = CODEC_BY_NAME[name].keeps if name is not None else None
    return keeps is not None and any(matches(pattern, topic) for pattern in keeps.retained)


def decode_as(
    name: str,
    messages: Sequence[RawMessage],
    limits: CodecLimits,
    recall: Recall = forgetful,
    indices: Sequence[int] | None = None,
) -> DecodedBatch:
    """What the codec called ``name`` makes of ``messages``, which are called ``indices`` (0, 1, … without)."""
    indices = range(len(messages)) if indices is None else indices
    codec = build(name, limits)
    if not isinstance(codec, Remembering):
        return DecodedBatch(codec.decode(messages, indices))
    known = {gateway: recall(gateway, name) for gateway in {message.gateway for message in messages}}
    recalled = codec.decode(messages, indices, known)
    memories = {(gateway, name): memory for gateway, memory in recalled.memories.items()}
    return DecodedBatch(recalled.decoded, memories, recalled.requests, recalled.evicted)


def _decode_each(
    messages: Sequence[RawMessage],
    by_codec: Mapping[str, Sequence[int]],
    limits: CodecLimits,
    recall: Recall,
    outcome: Outcome,
) -> DecodedBatch:
    memories: dict[tuple[str, str], Memory] = {}
    requests: list[Request] = []
    evicted = 0
    for name, indices in by_codec.items():
        part = decode_as(name, [messages[index] for index in indices], limits, recall, indices)
        outcome.add(part.decoded)
        memories.update(part.memories)
        requests += part.requests
        evicted += part.evicted
    return DecodedBatch(outcome.decoded(), memories, requests, evicted)
