"""What a gateway's messages are: formats, devices, fields that would be kept, and what would be withheld and why.

Nothing that identifies is told: devices are counted, names that may hold something are ``<name>``, topics show their
shape. What an owner's settings withhold beyond the formats' tables is told by `telemetry plan`.
"""

import base64
import binascii
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.names import safe_name
from telemetry.codecs.registry import (
    CONTROL_TOPICS,
    DEFAULT_CODEC,
    UNKNOWN,
    codec_for,
    decode_remembering,
    is_request,
)
from telemetry.codecs.state import EMPTY, Memory
from telemetry.errors import InputError
from telemetry.model.batch import Decoded, RawMessage, Reason, Withheld
from telemetry.model.fields import DeviceKind
from telemetry.privacy.known import KnownIdentifiers

MAX_MESSAGES: Final = 20_000
MAX_BYTES: Final = 64 * 2**20
_IDENTITY: Final = frozenset({"message", "serial", "kind", "ts"})
_NAMES: Final = 60  # shown of a format
_WHY: Final = {
    Withheld.UNLISTED: "nothing in it is in the format's table",
    Withheld.PLACE: "it tells a place",
    Withheld.RETAINED: "retained: the last state, and no reading",
}
_PREFIX: Final = "gw/"


@dataclass(slots=True)
class Format:
    """What was seen of one format. ``kept``: values by field. ``withheld`` and ``place``: values by the sender's name,
    made safe.
    ``readings_withheld`` and ``rejected``: by reason. ``with_time``: rows that carry a time of their own.
    ``unknown_topics``: shapes of topics that nobody reads.
    """

    name: str
    messages: int = 0
    payload_bytes: int = 0
    rows: int = 0
    with_time: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    withheld: Counter[str] = field(default_factory=Counter)
    place: Counter[str] = field(default_factory=Counter)
    implausible: Counter[str] = field(default_factory=Counter)
    readings_withheld: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    unknown_topics: Counter[str] = field(default_factory=Counter)
    kinds: set[str] = field(default_factory=set)
    devices: set[str] = field(default_factory=set, repr=False)

    def to_json(self) -> Mapping[str, Any]:
        """As JSON takes it; devices are counted."""
        return {
            "format": self.name,
            "messages": self.messages,
            "payload_bytes": self.payload_bytes,
            "rows": self.rows,
            "rows_with_time": self.with_time,
            "devices": len(self.devices),
            "kinds": sorted(self.kinds),
            "kept": dict(self.kept.most_common()),
            "withheld": dict(self.withheld.most_common(_NAMES)),
            "withheld_why": "in no table of the format",
            "place": dict(self.place.most_common(_NAMES)),
            "place_why": _WHY[Withheld.PLACE],
            "readings_withheld": {
                name: {"readings": n, "why": _why(name)} for name, n in self.readings_withheld.items()
            },
            "implausible": dict(self.implausible),
            "rejected": dict(self.rejected),
            "unknown_topics": dict(self.unknown_topics.most_common(_NAMES)),
        }


def _why(name: str) -> str:
    return _WHY.get(Withheld(name), name)


def identify(messages: Iterable[RawMessage], limits: CodecLimits | None = None) -> list[Format]:
    """The formats of these messages, most messages first; topics that nobody reads are format "unknown".

    Messages are taken in their order, so that what announces comes before what it announces.
    """
    limits = limits or CodecLimits()
    memories: dict[tuple[str, str], Memory] = {}
    formats: dict[str, Format] = {}
    known = KnownIdentifiers()
    for message in messages:
        if message.topic in CONTROL_TOPICS or is_request(message.topic):
            continue
        known.add([message.gateway])
        batch = decode_remembering([message], limits, lambda gateway, codec: memories.get((gateway, codec), EMPTY))
        memories.update(batch.memories)
        decoded = batch.decoded
        name = decoded.codec_of_message.get(0, DEFAULT_CODEC)
        if name == DEFAULT_CODEC:  # or nobody looked at it, since it is retained
            name = codec_for(message.topic, message.content_type, message.payload) or UNKNOWN
        found = formats.setdefault(name, Format(name))
        _note(found, message, decoded, known)
    return sorted(formats.values(), key=lambda one: -one.messages)


def _note(found: Format, message: RawMessage, decoded: Decoded, known: KnownIdentifiers) -> None:
    found.messages += 1
    found.payload_bytes += len(message.payload)
    rows = decoded.rows
    found.rows += rows.height
    found.with_time += rows["ts"].len() - rows["ts"].null_count()
    serials = rows["serial"].drop_nulls().to_list()
    known.add(serials)
    found.devices.update(serials)
    found.kinds.update(DeviceKind(kind).label for kind in rows["kind"].drop_nulls().to_list())
    for name in rows.columns:
        if name not in _IDENTITY and (values := rows[name].len() - rows[name].null_count()):
            found.kept[name] += values
    for name, count in decoded.unlisted.items():
        found.withheld[known.replaced(safe_name(name), "<name>")] += count
    for name, count in decoded.place.items():
        found.place[known.replaced(safe_name(name), "<name>")] += count
    found.implausible.update(decoded.implausible)
    for reason, count in decoded.withheld_rows.items():
        found.readings_withheld[reason.value] += count
    for one in decoded.rejections:
        found.rejected[one.reason.value] += one.readings
        if one.reason is Reason.UNKNOWN_TOPIC:
            found.unknown_topics[_shape(message.topic, known)] += 1


def _shape(topic: str, known: KnownIdentifiers) -> str:
    """The topic with a placeholder for every level that may hold a name."""
    levels = topic.split("/")[:12]
    return "/".join(known.replaced(safe_name(level), "<name>") for level in levels)


def read_capture(path: Path) -> Iterator[RawMessage]:
    """The messages of a capture: JSON lines with ``topic`` (below the gateway's prefix, or with ``gw/<gateway>/``),
    ``payload`` (base64), and ``retained`` or ``content_type`` where it matters.

    Raises:
        InputError: not such a file; nothing of it is quoted.

    """
    now_us = time.time_ns() // 1000
    size = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                message = _captured(line, number, now_us)
                size += len(message.payload)
                if number > MAX_MESSAGES or size > MAX_BYTES:
                    return
                yield message
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the capture: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None


def _captured(line: str, number: int, now_us: int) -> RawMessage:
    try:
        given = json.loads(line)
        payload = base64.b64decode(given.get("payload", ""), validate=True)
        return to_message(
            given["topic"], payload, now_us, bool(given.get("retained")), content_type=given.get("content_type")
        )
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error):
        raise InputError(
            f"line {number} of the capture is no message",
            remedy='a line is {"topic": "…", "payload": "base64", "retained": false}',
        ) from None


def to_message(
    topic: str, payload: bytes, received_us: int, retained: bool, *, content_type: str | None = None
) -> RawMessage:
    """A message by its whole topic; one without ``gw/<gateway>/`` in front is a gateway's own."""
    gateway, rest = "gateway", topic
    if topic.startswith(_PREFIX):
        gateway, _, rest = topic.removeprefix(_PREFIX).partition("/")
    return RawMessage(gateway, rest, payload, 0, received_us, content_type, retained=retained)
