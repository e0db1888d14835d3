"""Codec ``shelly``: Shelly devices of the second generation and later, ``<prefix>/events/rpc``, a codec with memory.

``NotifyStatus`` carries what changed; what is left out of a component's status is as it was. So a row holds what the
message says, and of the components it names also the last known states (power, voltage) that it leaves out, if the
component was heard of within the last ten minutes. Counters are not repeated: they would look as if they stood still.
``NotifyFullStatus`` is the whole status and replaces what is remembered. ``params.ts`` is in seconds; a device whose
clock is not set writes null or seconds since its start, which is no time.

``src`` is the device's id and ends in its MAC address: the serial. A device's second and further channels
(``switch:1``) are devices of their own, ``<src>:1``. The full status holds MAC, IP addresses and the name of the access
point, none of which is in the table; ``dst`` and the topic's prefix are not read at all.

Source: Shelly's technical documentation, Gen2+: "Notifications", "RPC Protocol", "MQTT" and the components.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from telemetry.codecs.entries import Entry, Meaning, Reading, is_number, plain
from telemetry.codecs.json_text import Refused, parse_json
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.native_rows import is_serial
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.shelly_table import KIND, TABLE
from telemetry.codecs.state import Draft, Remembering
from telemetry.model.batch import MICROSECONDS, RawMessage, Reason, Withheld
from telemetry.model.fields import FIELD_BY_NAME, FieldKind

TOPICS: Final = ("+/events/rpc", "+/+/events/rpc", "+/+/+/events/rpc")  # a prefix may have several levels
REVISION: Final = 1

# The status of one component on a topic of its own says again, without a time, what a notification says.
_OTHER: Final = re.compile(r"(?:[^/]+/){1,3}(?:status/(?:[a-z0-9]+:[0-9]{1,3}|sys|wifi|eth|cloud|mqtt|ble|ws)|online)")
_STATUS: Final = ("NotifyStatus", "NotifyFullStatus")
_ENVELOPE: Final = frozenset({"src", "dst", "method", "params"})
_COMPONENT: Final = re.compile(r"(?P<type>[a-z0-9_]{1,32})(?::(?P<channel>[0-9]{1,3}))?")
_EARLIEST_S: Final = 1_000_000_000  # 2001: before that, a clock that was never set
_LATEST_S: Final = 2**62 // MICROSECONDS
_HELD_US: Final = 600 * MICROSECONDS


def shelly(limits: CodecLimits) -> Remembering:
    """The codec; pure, safe to call from any thread."""

    def read(message: RawMessage, index: int, draft: Draft, outcome: Outcome) -> None:
        if not message.topic.endswith("/events/rpc"):
            outcome.unlisted["message"] += 1
            outcome.withhold(Withheld.UNLISTED, 1)
            return
        content = parse_json(message.payload, limits)
        if isinstance(content, Refused):
            outcome.reject(index, content.reason, 1, content.detail)
        elif not isinstance(content, dict):
            outcome.reject(index, Reason.MALFORMED, 1, "not an object")
        else:
            _read(content, message.received_us, index, draft, outcome)

    return Remembering("shelly", limits, read)


def claims(topic: str) -> bool:
    """Whether Shelly publishes on such a topic besides."""
    return _OTHER.fullmatch(topic) is not None


def _read(content: Mapping[str, object], received_us: int, index: int, draft: Draft, outcome: Outcome) -> None:
    if content.get("method") not in _STATUS:  # events (a button), answers to somebody's questions
        outcome.unlisted["message"] += 1
        outcome.withhold(Withheld.UNLISTED, 1)
        return
    serial, params = content.get("src"), content.get("params")
    if not isinstance(serial, str) or not is_serial(serial):
        outcome.reject(index, Reason.BAD_SERIAL)
        return
    if not isinstance(params, dict):
        outcome.reject(index, Reason.MALFORMED, 1, "no parameters")
        return
    ts = _instant(params.get("ts"))
    full = content["method"] == "NotifyFullStatus"
    status = _Status(serial, ts, received_us if ts is None else ts, {} if full else draft.get(serial) or {})
    for name, component in params.items():
        if name != "ts":
            status.read(name, component)
    for name in content.keys() - _ENVELOPE:
        outcome.unlisted.update(plain(label) for label, value in _leaves(content[name], name) if value is not None)
    if status.after:
        draft.put(serial, status.after)
    else:
        draft.drop(serial)
    for reading in status.readings.values():
        reading.account(index, outcome)


class _Status:
    """One message of a device on its way into readings, one for each channel. ``before``: what is remembered, by
    component: the time in µs and the states; ``after``: the same when all components have been read.
    """

    def __init__(self, serial: str, ts: int | None, at_us: int, before: Mapping[str, Any]) -> None:
        self.readings: dict[str, Reading] = {}
        self.after = dict(before)
        self._serial, self._ts, self._at_us, self._before = serial, ts, at_us, before

    def read(self, name: str, component: object) -> None:
        """Read the status of the component called ``name``, such as ``switch:1``."""
        match = _COMPONENT.fullmatch(name)
        kind, channel = (match["type"], int(match["channel"] or 0)) if match else ("", 0)
        device = f"{self._serial}:{channel}" if channel else self._serial
        reading = self.readings.setdefault(device, Reading(device, None, self._ts))
        reading.kind = reading.kind or KIND.get(kind)
        table = TABLE.get(kind)
        if table is None or not isinstance(component, dict):
            for label, value in _leaves(component, name):
                reading.put(label, None, value)
            return
        states: dict[str, object] = {}
        for label, value in _leaves(component, ""):
            meaning = table.get(label)
            if label != "id":  # says again what the component's name says
                reading.put(label, meaning, value)
            if isinstance(meaning, Entry) and FIELD_BY_NAME[meaning.field].kind is FieldKind.STATE:
                states[label] = value
        self._overlay(name, table, states, reading)

    def _overlay(self, name: str, table: Mapping[str, Meaning], states: Mapping[str, object], reading: Reading) -> None:
        """Add the states that a component's status leaves out, and remember all of them. A null takes one away."""
        before_us, before = self._before.get(name, (0, {}))
        if self._at_us < before_us:
            return  # older than the last: it says nothing about what it leaves out, and changes nothing
        held = before if self._at_us - before_us <= _HELD_US else {}
        for label, value in held.items():
            meaning = table.get(label)
            if label not in states and isinstance(meaning, Entry) and meaning.field not in reading.values:
                reading.put_value(label, meaning, value)
        current = {label: value for label, value in {**held, **states}.items() if _is_finite(value)}
        if current:
            self.after[name] = [self._at_us, current]
        else:
            self.after.pop(name, None)


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Every value that is no object or array, with its path in dots; an array's entries have the array's path."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, value


def _is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def _instant(value: object) -> int | None:
    """µs since 1970, None where the device does not know the time."""
    return round(value * MICROSECONDS) if is_number(value) and _EARLIEST_S <= value < _LATEST_S else None
