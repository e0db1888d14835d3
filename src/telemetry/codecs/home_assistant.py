"""Codec ``home-assistant``: MQTT discovery, and the state topics that it names.

Discovery (``homeassistant/<component>/[<node>/]<object>/config``, retained or not; an empty payload removes) is what
the codec remembers. State topics lie anywhere below the gateway's prefix: the registry gives this codec whatever no
other claims. Values carry no time (rule 6). Those of one message and device are one row.

Of two entities of a device that claim the same field the one announced first holds it; the other's values are
withheld. Sources: Home Assistant's documentation, "MQTT" and "MQTT Sensor".
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from telemetry.codecs.found import Found, number_in_text
from telemetry.codecs.home_assistant_config import Entity, parse_config
from telemetry.codecs.json_text import Refused, parse_json
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.state import Draft, Remembering
from telemetry.codecs.units import Conversion
from telemetry.model.batch import RawMessage, Reason, Withheld
from telemetry.model.fields import DeviceKind

NAME: Final = "home-assistant"
TOPICS: Final = ("homeassistant/#",)
MAX_CONFIGS: Final = 1024  # discovery messages of one gateway that are remembered
UNKNOWN: Final = "unknown"  # what a topic's codec is called that nobody claims
_PREFIX: Final = "homeassistant"
_BIRTH: Final = "homeassistant/status"
_LONGEST_TEXT: Final = 64
_INDEX: Final = "index"
_NO_VALUES: Final = frozenset({"", "none", "null", "unknown", "unavailable", "nan"})
_LEVELS: Final = (4, 5)  # prefix, component, node or none, object, "config"


Path = tuple[str | int, ...]
Ref = tuple[str, int]
"""An entity: its discovery topic, and which of that message's."""


class _Index:
    """What is where: found again from the memory, kept in its cache. One thread."""

    __slots__ = ("_kinds", "by_topic", "devices", "main", "others")

    def __init__(self) -> None:
        self.by_topic: dict[str, dict[Ref, Entity]] = {}  # by state topic
        self.devices: dict[str, dict[str, list[Ref]]] = {}  # device → field → who claims it; the first holds it
        self.main: dict[str, int] = {}  # device → entities that are not only companions
        self.others: dict[str, int] = {}  # topics without values → how many messages say so
        self._kinds: dict[str, DeviceKind | None] = {}  # worked out so far

    def copy(self) -> "_Index":
        made = _Index()
        made.by_topic = {topic: dict(entities) for topic, entities in self.by_topic.items()}
        made.devices = {
            serial: {field: list(refs) for field, refs in fields.items()} for serial, fields in self.devices.items()
        }
        made.main, made.others = dict(self.main), dict(self.others)
        return made

    def add(self, key: str, entry: Any) -> None:
        self._kinds.clear()
        for number, values in enumerate(entry["e"]):
            ref, entity = (key, number), Entity(*values)
            self.by_topic.setdefault(entity.topic, {})[ref] = entity
            if entity.field is not None:
                self.devices.setdefault(entity.serial, {}).setdefault(entity.field, []).append(ref)
                self.main[entity.serial] = self.main.get(entity.serial, 0) + (not entity.companion)
        for topic in entry["o"]:
            self.others[topic] = self.others.get(topic, 0) + 1

    def remove(self, key: str, entry: Any) -> None:
        self._kinds.clear()
        for number, values in enumerate(entry["e"]):
            ref, entity = (key, number), Entity(*values)
            _dropped(self.by_topic, entity.topic, ref)
            if entity.field is not None:
                refs = self.devices[entity.serial][entity.field]
                refs.remove(ref)
                if not refs:
                    _dropped(self.devices, entity.serial, entity.field)
                self.main[entity.serial] -= not entity.companion
                if entity.serial not in self.devices:
                    del self.main[entity.serial]
        for topic in entry["o"]:
            self.others[topic] -= 1
            if not self.others[topic]:
                del self.others[topic]

    def holds(self, ref: Ref, entity: Entity) -> bool:
        """Whether this entity's values are the device's field: it came first, and it does not stand alone."""
        if entity.field is None or self.devices[entity.serial][entity.field][0] != ref:
            return False
        return not entity.companion or self.main[entity.serial] > 0

    def kind(self, serial: str) -> DeviceKind | None:
        """The kind of a device by the fields that it was announced with; None where they do not tell."""
        if serial not in self._kinds:
            self._kinds[serial] = _kind_of(self.devices.get(serial, ()))
        return self._kinds[serial]


def _kind_of(fields: Iterable[str]) -> DeviceKind | None:
    starts = {field.partition("_")[0].rstrip("1234") for field in fields}
    if "ev" in starts:
        return DeviceKind.EV_CHARGER
    if starts & {"pv", "dc"}:
        return DeviceKind.INVERTER
    if "battery" in starts:
        return DeviceKind.INVERTER if "ac" in starts else DeviceKind.BATTERY
    return DeviceKind.METER if starts & {"grid", "load"} else None


def _dropped(table: dict[str, dict[Any, Any]], key: str, inner: object) -> None:
    del table[key][inner]
    if not table[key]:
        del table[key]


def home_assistant(limits: CodecLimits) -> Remembering:
    """See the module."""
    return Remembering(NAME, limits, partial(_read, limits))


def _read(limits: CodecLimits, message: RawMessage, index: int, memory: Draft, outcome: Outcome) -> None:
    topic = message.topic
    levels = topic.split("/")
    if levels[0] == _PREFIX and levels[-1] == "config" and len(levels) in _LEVELS:
        _read_config(limits, message, index, memory, outcome)
        return
    if topic == _BIRTH:  # Home Assistant's own
        return
    known = _index(memory)
    if topic in known.by_topic:
        if message.retained:
            outcome.withhold(Withheld.RETAINED, 1)
        else:
            _read_state(limits, message, index, known, outcome)
    elif topic in known.others:
        outcome.withhold(Withheld.UNLISTED, 1)
    else:
        outcome.reject(index, Reason.UNKNOWN_TOPIC)
        outcome.codec_of_message[index] = UNKNOWN


def _read_config(limits: CodecLimits, message: RawMessage, index: int, memory: Draft, outcome: Outcome) -> None:
    key = message.topic
    entry: dict[str, Any] | None = None
    if message.payload:
        found = parse_config(key.split("/")[1:-1], message.payload, limits)
        if isinstance(found, Refused):
            outcome.reject(index, found.reason, 1, found.detail)
            return
        outcome.unlisted.update(found.withheld)
        if found.entities or found.others:
            entry = {"e": [list(entity) for entity in found.entities], "o": found.others}
    before = memory.get(key)
    if before == entry:
        return
    known = _index(memory)
    if not memory.changed:  # else it is this batch's own already
        known = known.copy()
    if before is not None:
        known.remove(key, before)
    if entry is None:
        memory.drop(key)
    else:
        known.add(key, entry)
        gone = memory.put(key, entry)
        while len(memory.entries) > MAX_CONFIGS:
            gone |= memory.drop_oldest()
        for name, value in gone.items():
            known.remove(name, value)
    memory.cache[_INDEX] = known


def _index(memory: Draft) -> _Index:
    known: _Index | None = memory.cache.get(_INDEX)
    if known is None:
        known = memory.cache[_INDEX] = _Index()
        for key, entry in memory.entries.items():
            known.add(key, entry)
    return known


def _read_state(limits: CodecLimits, message: RawMessage, index: int, known: _Index, outcome: Outcome) -> None:
    """One message on a state topic: a row for each device that has a value in it."""
    entities = known.by_topic[message.topic]
    document: object = None
    left: dict[Path, None] = {}
    if any(entity.path is not None for entity in entities.values()):
        document = parse_json(message.payload, limits)
        if isinstance(document, Refused):
            outcome.reject(index, document.reason, 1, document.detail)
            return
        left = dict.fromkeys(_leaves(document))
    founds: dict[str, Found] = {}
    unlisted: list[str] = []
    for ref, entity in entities.items():
        value = _text(message.payload) if entity.path is None else _at(document, entity.path)
        if value is None:
            left.pop(tuple(entity.path or ()), None)
        elif known.holds(ref, entity) and entity.field is not None:
            left.pop(tuple(entity.path or ()), None)
            convert = Conversion(entity.times, entity.by, entity.plus)
            founds.setdefault(entity.serial, Found()).put(entity.field, value, convert)
        elif document is None:
            unlisted.append(entity.field or "state")
    unlisted += [".".join(map(str, path)) for path in left]
    if not founds and unlisted:
        outcome.unlisted.update(unlisted)
        outcome.withhold(Withheld.UNLISTED, 1)
    for number, (serial, found) in enumerate(founds.items()):
        found.unlisted = [] if number else unlisted
        found.close(index, serial, known.kind(serial), None, outcome)


def _text(payload: bytes) -> object:
    """A scalar payload as a value: a number, other text as it is, None where it says that there is none."""
    text = payload[:_LONGEST_TEXT].decode("utf-8", "replace").strip()
    if text.lower() in _NO_VALUES:
        return None
    found = number_in_text(payload)
    return text if found is None else found


def _at(document: object, path: Sequence[str | int]) -> object:
    """What stands at ``path``; None where there is nothing, or something that says so."""
    for step in path:
        if isinstance(document, dict) and isinstance(step, str):
            document = document.get(step)
        elif isinstance(document, list) and isinstance(step, int) and step < len(document):
            document = document[step]
        else:
            return None
    return _text(document.encode("utf-8", "replace")) if isinstance(document, str) else document


def _leaves(document: object) -> Iterator[Path]:
    """Where the values of a JSON document are; null is none. Depth is bounded by the parser."""
    if isinstance(document, dict):
        for name, value in document.items():
            yield from ((name, *rest) for rest in _leaves(value))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from ((number, *rest) for rest in _leaves(value))
    elif document is not None:
        yield ()
