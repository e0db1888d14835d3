"""Codec ``sparkplug-b``: Sparkplug B, ``spBv1.0/<group>/<type>/<node>[/<device>]``, a codec with memory.

A birth names a node's or device's metrics with type, unit and alias; data afterwards only the alias. The memory holds
that for each node and device: listed metrics by field, all others as unlisted, without their names. Where it is missing
(the service is new, or has lost it), or the node's sequence number has a gap, the node is asked to be born again, by
``NCMD`` with ``Node Control/Rebirth``; what cannot be read goes to quarantine meanwhile. The values of a birth are
readings like any other, each at its metric's own time (milliseconds), else the message's.

A device is called ``<group>/<node>/<device>``, a node ``<group>/<node>``: only together are they unique. Property sets
(but for ``engUnit``) and all text are withheld: makers put serial numbers and sites there.

Source: the Sparkplug specification 3.0.0, chapters 4 (topics), 5 (operational behaviour) and 6 (payloads).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from telemetry.codecs.entries import Reading
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.protobuf_wire import WireError, bytes_field, number_field
from telemetry.codecs.sparkplug_payload import DataType, Metric, NotANumber, Payload, read_payload
from telemetry.codecs.sparkplug_table import entry_of, field_of
from telemetry.codecs.state import Draft, Remembering
from telemetry.model.batch import RawMessage, Reason, Withheld
from telemetry.model.fields import KIND_BY_LABEL, DeviceKind

TOPICS: Final = ("spBv1.0/#",)
RETAINED: Final = ("spBv1.0/+/NBIRTH/+", "spBv1.0/+/DBIRTH/+/+")  # kept by some brokers against the specification
REQUESTS: Final = ("spBv1.0/+/NCMD/+",)
REVISION: Final = 1

_NODE_TYPES: Final = frozenset({"NBIRTH", "NDATA", "NDEATH"})
_DEVICE_TYPES: Final = frozenset({"DBIRTH", "DDATA", "DDEATH"})
_COMMANDS: Final = (["NCMD"], ["DCMD"])
_SEQUENCE: Final = 256
_BD_SEQ: Final = "bdSeq"
_REBIRTH: Final = "Node Control/Rebirth"
_CONTROL: Final = ("Node Control/", "Device Control/")
_KIND: Final = "kind"
_US_PER_MS: Final = 1000
_MAX_MS: Final = 2**63 // _US_PER_MS
_WITHOUT_MEANING: Final = ("", 0, "")


@dataclass(frozen=True, slots=True)
class _Born:
    """What a birth said, as the memory holds it. ``kind``: a DeviceKind, or 0. ``metrics``: by "#<alias>" and
    "=<name>": field ("" for unlisted), datatype, unit.
    """

    kind: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Topic:
    """``node`` and ``serial``: what the node and the sender of the message are called."""

    type: str
    node: str
    serial: str
    rebirth: str

    @property
    def is_birth(self) -> bool:
        return self.type.endswith("BIRTH")


def sparkplug_b(limits: CodecLimits) -> Remembering:
    """The codec; pure, safe to call from any thread."""

    def read(message: RawMessage, index: int, draft: Draft, outcome: Outcome) -> None:
        _read(message, index, draft, outcome, limits)

    return Remembering("sparkplug-b", limits, read)


def _read(message: RawMessage, index: int, draft: Draft, outcome: Outcome, limits: CodecLimits) -> None:
    topic = _parse_topic(message.topic)
    if message.topic.split("/")[2:3] in _COMMANDS:  # ours or another host's: nothing that a device says
        return
    if topic is None:
        outcome.unlisted["message"] += 1
        outcome.withhold(Withheld.UNLISTED, 1)
        return
    try:
        payload = read_payload(message.payload, limits.max_readings_per_message)
    except WireError as error:
        outcome.reject(index, Reason.MALFORMED, 1, str(error))
        return
    if topic.type.endswith("DEATH"):
        _bury(topic, payload, draft)
        return
    complete = _follow(topic, payload, draft)
    if topic.is_birth:
        _remember(topic, payload, draft)
    if message.retained:
        outcome.withhold(Withheld.RETAINED, 1)
        return
    born = _Born(**(draft.get(topic.serial) or {}))
    if not _account(topic, payload, born, index, outcome) or not complete:
        draft.ask(topic.rebirth, rebirth(message.received_us // _US_PER_MS))


def _parse_topic(topic: str) -> _Topic | None:
    levels = topic.split("/")
    node_level = len(levels) == 4 and levels[2] in _NODE_TYPES
    device_level = len(levels) == 5 and levels[2] in _DEVICE_TYPES
    if not (node_level or device_level):
        return None
    _, group, type_, node, *device = levels
    name = f"{group}/{node}"
    return _Topic(type_, name, "/".join([name, *device]), f"spBv1.0/{group}/NCMD/{node}")


def rebirth(now_ms: int) -> bytes:
    """The payload that asks a node to be born again (section 5.14): a command metric that is true."""
    metric = bytes_field(1, _REBIRTH.encode()) + number_field(4, DataType.BOOLEAN) + number_field(14, 1)
    return number_field(1, now_ms) + bytes_field(2, metric)


def _follow(topic: _Topic, payload: Payload, draft: Draft) -> bool:
    """Keep the node's sequence number (section 6.4.19, 0 to 255 and round); whether everything since its birth has
    come. What is not newer than what we have is a repetition or came late, and says nothing about gaps.
    """
    seq, at_ms = payload.seq, payload.timestamp_ms or 0
    key = _session(topic.node)
    if topic.type == "NBIRTH":
        draft.put(key, {"seq": seq, "at_ms": at_ms, "bdSeq": _bd_seq(payload), "whole": True})
        return True
    session = draft.get(key)
    if session is None:
        return False
    if seq is not None and session["seq"] is not None and at_ms >= session["at_ms"]:
        ahead = (seq - session["seq"]) % _SEQUENCE
        if ahead:
            whole = session["whole"] and ahead == 1
            draft.put(key, {**session, "seq": seq % _SEQUENCE, "at_ms": at_ms, "whole": whole})
            return bool(whole)
    return bool(session["whole"])


def _session(node: str) -> str:
    """The key of what is remembered of a node's session; no topic holds a #."""
    return f"#{node}"


def _bd_seq(payload: Payload) -> int | None:
    """The number of a node's session, which its death repeats."""
    for metric in payload.metrics:
        if metric.name == _BD_SEQ and isinstance(number := metric.value(DataType.UINT64), int):
            return number
    return None


def _bury(topic: _Topic, payload: Payload, draft: Draft) -> None:
    """Forget what died: its aliases mean nothing until it is born again. A node takes its devices along, unless the
    death is that of a session before (section 5.9: the will of a connection that was replaced).
    """
    if topic.type == "DDEATH":
        _follow(topic, payload, draft)
        draft.drop(topic.serial)
        return
    session = draft.get(_session(topic.node))
    if session is not None and session["bdSeq"] is not None and session["bdSeq"] != _bd_seq(payload):
        return
    draft.drop(_session(topic.node))
    draft.drop(topic.node)
    _drop_devices(topic.node, draft)


def _drop_devices(node: str, draft: Draft) -> None:
    for key in [key for key in draft if key.startswith(f"{node}/")]:
        draft.drop(key)


def _remember(topic: _Topic, payload: Payload, draft: Draft) -> None:
    """Note what the metrics of a birth mean. A node's birth ends what its devices' aliases meant before."""
    if topic.type == "NBIRTH":
        _drop_devices(topic.node, draft)
    metrics: dict[str, tuple[str, int, str]] = {}
    kind = 0
    for metric in payload.metrics:
        listed = field_of(metric.name)
        if metric.name.rpartition("/")[2] == _KIND:
            kind = KIND_BY_LABEL.get(str(metric.value(metric.datatype)), 0)
        meaning = _WITHOUT_MEANING
        if listed is not None:
            meaning = metrics[f"={metric.name}"] = (listed, metric.datatype, metric.unit)
        if metric.alias is not None:
            metrics[f"#{metric.alias}"] = meaning
    draft.put(topic.serial, {"kind": int(kind), "metrics": {key: list(value) for key, value in metrics.items()}})


def _account(topic: _Topic, payload: Payload, born: _Born, index: int, outcome: Outcome) -> bool:
    """Write down what the metrics say, one reading for each instant; whether all of them could be read."""
    readings: dict[int | None, Reading] = {}
    kind = DeviceKind(born.kind) if born.kind else None
    lost = 0
    for metric in payload.metrics:
        if metric.name == _BD_SEQ or metric.name.startswith(_CONTROL):
            continue
        meaning = _meaning(metric, born.metrics)
        if meaning is None:
            lost += 1
            continue
        ts = _instant(metric, payload)
        reading = readings.setdefault(ts, Reading(topic.serial, kind, ts))
        reading.unlisted += metric.unread
        _put(reading, metric, meaning)
    outcome.unlisted.update(payload.unread)
    for reading in readings.values():
        reading.account(index, outcome)
    if lost:
        outcome.reject(index, Reason.UNKNOWN_ALIAS, lost)
    return not lost


def _meaning(metric: Metric, known: Mapping[str, Any]) -> tuple[str, int, str] | None:
    """Field, datatype and unit; None for what only a birth can say that we have not seen."""
    if metric.name:
        listed = field_of(metric.name) or ""
        _, datatype, unit = known.get(f"={metric.name}", _WITHOUT_MEANING)
        datatype = metric.datatype or datatype
        if listed and not datatype and metric.is_integer:
            return None  # whether it is signed only its type says
        return listed, datatype, metric.unit or unit
    if (named := known.get(f"#{metric.alias}")) is None:
        return None
    listed, datatype, unit = named
    return listed, metric.datatype or datatype, metric.unit or unit


def _put(reading: Reading, metric: Metric, meaning: tuple[str, int, str]) -> None:
    listed, datatype, unit = meaning
    value = metric.value(datatype)
    if value is None:
        return
    if not listed or metric.is_transient:
        reading.put("metric", None, value)
        return
    entry = entry_of(listed, unit)
    if entry is None or isinstance(value, NotANumber):
        reading.implausible.append(listed)
    else:
        reading.put_value("metric", entry, value)


def _instant(metric: Metric, payload: Payload) -> int | None:
    """µs since 1970; None, for the time of receipt, where nobody says one that a calendar has."""
    at_ms = payload.timestamp_ms if metric.timestamp_ms is None else metric.timestamp_ms
    return at_ms * _US_PER_MS if at_ms is not None and at_ms < _MAX_MS else None
