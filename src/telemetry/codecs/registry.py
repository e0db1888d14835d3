"""Which codec reads which message, and what a batch of messages of all kinds comes to.

A new format is a file of its own and a line in ``CODECS``.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Protocol

from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.native_arrow import CONTENT_TYPE as ARROW
from telemetry.codecs.native_arrow import NativeArrow, looks_like_arrow
from telemetry.codecs.native_json import NativeJson
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.senml import looks_like_cbor, senml_cbor, senml_json
from telemetry.model.batch import DECODED_SCHEMA, Decoded, RawMessage, Reason, Withheld, check_schema

DEFAULT_CODEC: Final = "native-json"  # messages of this codec are not listed in Decoded.codec_of_message
UNKNOWN: Final = "unknown"  # the codec's name where no codec claims the topic
CONTROL_TOPICS: Final = frozenset({"status", "committed"})  # a gateway's birth and will; our own watermarks


class Codec(Protocol):
    """What ``telemetry.ports.Codec`` promises: pure, thread-safe, raises for nothing that a message holds."""

    @property
    def name(self) -> str: ...

    def decode(self, messages: Sequence[RawMessage], indices: Sequence[int]) -> Decoded: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One codec: its name, the topic below ``gw/<gateway>/`` (exact, or a prefix ending in ``/#``), and how to tell
    its messages from others of that topic: the content type, or without one a look at the payload.
    """

    name: str
    topic: str
    content_types: frozenset[str]
    looks_like: Callable[[bytes], bool]
    build: Callable[[CodecLimits], Codec]

    def claims_topic(self, topic: str) -> bool:
        """Whether messages of ``topic`` may be this codec's."""
        if self.topic.endswith("/#"):
            return topic == self.topic[:-2] or topic.startswith(self.topic[:-1])
        return topic == self.topic


def _anything(_: bytes) -> bool:
    return True


CODECS: Final[tuple[Row, ...]] = (  # of those that claim a topic, the first that fits
    Row("native-arrow", "readings", frozenset({ARROW}), looks_like_arrow, NativeArrow),
    Row(DEFAULT_CODEC, "readings", frozenset({"application/json"}), _anything, NativeJson),
    Row("senml-cbor", "senml", frozenset({"application/senml+cbor"}), looks_like_cbor, senml_cbor),
    Row("senml-json", "senml", frozenset({"application/senml+json"}), _anything, senml_json),
)
CODEC_BY_NAME: Final = {row.name: row for row in CODECS}


@lru_cache(maxsize=8)
def build(name: str, limits: CodecLimits) -> Codec:
    """The codec called ``name``; KeyError where there is none."""
    return CODEC_BY_NAME[name].build(limits)


def codec_for(topic: str, content_type: str | None, payload: bytes) -> str | None:
    """The name of the codec that reads such a message, None where nobody claims the topic."""
    for row in _candidates(topic, content_type):
        if row.looks_like(payload):
            return row.name
    return None


@lru_cache(maxsize=1024)
def _candidates(topic: str, content_type: str | None) -> tuple[Row, ...]:
    """The codecs of a topic; only the one that a content type names, where it names one."""
    rows = tuple(row for row in CODECS if row.claims_topic(topic))
    declared = (content_type or "").partition(";")[0].strip().lower()
    named = tuple(replace(row, looks_like=_anything) for row in rows if declared in row.content_types)
    return named[:1] or rows


def decode_batch(messages: Sequence[RawMessage], limits: CodecLimits) -> Decoded:
    """Everything that ``messages`` hold: rows of all formats in the order of the messages, and the account.

    Never raises for what a message holds. Rows and rejections name messages by their index.
    """
    outcome = Outcome()
    by_codec: defaultdict[str, list[int]] = defaultdict(list)
    for index, message in enumerate(messages):
        if message.topic in CONTROL_TOPICS:
            continue
        if message.retained:
            outcome.withhold(Withheld.RETAINED, 1)
            continue
        name = codec_for(message.topic, message.content_type, message.payload)
        if len(message.payload) > limits.max_message_bytes:
            outcome.reject(index, Reason.TOO_LARGE, 1, f"more than {limits.max_message_bytes} bytes")
            outcome.codec_of_message[index] = name or UNKNOWN
        elif name is None:
            outcome.reject(index, Reason.UNKNOWN_TOPIC)
            outcome.codec_of_message[index] = UNKNOWN
        else:
            by_codec[name].append(index)
    for name, indices in by_codec.items():
        outcome.add(build(name, limits).decode([messages[index] for index in indices], indices))
    decoded = outcome.decoded()
    check_schema(decoded.rows, DECODED_SCHEMA)
    return decoded
