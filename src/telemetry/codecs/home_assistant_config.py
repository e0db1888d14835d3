"""Home Assistant's discovery messages: what they say about entities, and nothing of what they say about people.

Home Assistant's documentation, "MQTT", sections on discovery: topics, abbreviations, the base topic ``~``, devices
with many components in one message. Kept of an entity: where its state is published and how to read it there, the
catalogue field it is, and the device it belongs to. Names, addresses, areas and links are read for nothing else than
choosing the field, and kept nowhere.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from telemetry.codecs.home_assistant_table import UNITS, choose
from telemetry.codecs.json_text import Refused, parse_json
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.units import SAME
from telemetry.codecs.value_template import Template, parse_template
from telemetry.model.batch import Reason

MAX_COMPONENTS: Final = 256  # of one message
_ABBREVIATIONS: Final[Mapping[str, str]] = {
    "avty": "availability",
    "avty_t": "availability_topic",
    "cmd_t": "command_topic",
    "cmps": "components",
    "dev": "device",
    "dev_cla": "device_class",
    "ent_cat": "entity_category",
    "json_attr_t": "json_attributes_topic",
    "obj_id": "object_id",
    "p": "platform",
    "stat_t": "state_topic",
    "t": "topic",
    "uniq_id": "unique_id",
    "unit_of_meas": "unit_of_measurement",
    "val_tpl": "value_template",
}
_DEVICE_ABBREVIATIONS: Final[Mapping[str, str]] = {
    "cns": "connections",
    "cu": "configuration_url",
    "ids": "identifiers",
    "sa": "suggested_area",
    "sn": "serial_number",
}
# What says who or where: read for nothing (identifiers and unique_id aside), and counted as withheld.
_IDENTITY: Final = ("name", "unique_id", "object_id")
_DEVICE_IDENTITY: Final = ("name", "connections", "configuration_url", "suggested_area", "serial_number", "via_device")
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_NO_FACTOR: Final = Template(None)


class Entity(NamedTuple):
    """One entity. ``field``: None where it is none of the catalogue's. The value is found by ``path`` in a JSON
    payload (None: the payload is the value), times ``times``, by ``by``, plus ``plus``. ``serial``: the device.
    ``companion``: counts only beside another field of the device. As a list it is what the memory holds.
    """

    topic: str
    field: str | None
    path: list[str | int] | None
    times: float
    by: float
    plus: float
    serial: str
    companion: bool


class Discovered(NamedTuple):
    """What one discovery message says: its entities, topics that hold no values (availability, attributes), and
    how often which part that identifies was passed over.
    """

    entities: list[Entity]
    others: list[str]
    withheld: list[str]


def parse_config(topic: Sequence[str], payload: bytes, limits: CodecLimits) -> Discovered | Refused:
    """``topic``: the levels between prefix and ``config``: component, node or none, object."""
    given = parse_json(payload, limits)
    if isinstance(given, Refused):
        return given
    if not isinstance(given, dict):
        return Refused(Reason.MALFORMED, "not an object")
    config = _expanded(given, _ABBREVIATIONS)
    device = _expanded(_mapping(config.get("device")), _DEVICE_ABBREVIATIONS)
    found = Discovered([], [], [f"config.device.{name}" for name in _DEVICE_IDENTITY if device.get(name)])
    components = _mapping(config.get("components"))
    if len(components) > MAX_COMPONENTS:
        return Refused(Reason.TOO_MANY_READINGS, f"more than {MAX_COMPONENTS} components")
    if topic[0] == "device":
        shared = {name: value for name, value in config.items() if name not in {"components", "device", *_IDENTITY}}
        for name, component in components.items():
            own = shared | _expanded(_mapping(component), _ABBREVIATIONS)
            _add(own, device, [str(own.get("platform", "")), *topic[1:], name], found)
    else:
        _add(config, device, topic, found)
    return found


def _add(config: Mapping[str, Any], device: Mapping[str, Any], topic: Sequence[str], found: Discovered) -> None:
    """Note what one component's configuration says. ``topic``: the kind of component first, its id last."""
    found.withheld.extend(f"config.{name}" for name in _IDENTITY if config.get(name))
    base = config.get("~")
    found.others.extend(_full(name, base) for name in _other_topics(config))
    state = config.get("state_topic")
    if not isinstance(state, str):
        return
    serial = _serial(device, config, topic)
    template = _template(config)
    quantity = config.get("device_class")
    unit = config.get("unit_of_measurement", "")
    convert = UNITS.get(quantity, {}).get(unit) if isinstance(quantity, str) and isinstance(unit, str) else None
    choice = None
    if topic[0] == "sensor" and template is not None and convert is not None:
        choice = choose(str(quantity), _words(config, device, topic[-1]))
    where, convert = template or _NO_FACTOR, convert or SAME
    found.entities.append(
        Entity(
            topic=_full(state, base),
            field=choice.field if choice else None,
            path=None if where.path is None else list(where.path),
            times=where.times * convert.times,
            by=where.by * convert.by,
            plus=convert.plus,
            serial=serial,
            companion=bool(choice and (choice.companion or config.get("entity_category") == "diagnostic")),
        )
    )


def _template(config: Mapping[str, Any]) -> Template | None:
    text = config.get("value_template")
    if text is None:
        return _NO_FACTOR
    return parse_template(text) if isinstance(text, str) else None


def _serial(device: Mapping[str, Any], config: Mapping[str, Any], topic: Sequence[str]) -> str:
    """What tells this device from others: its first identifier, else its first connection, else what the entity is
    called in the topic and by itself.
    """
    identifiers = device.get("identifiers")
    if isinstance(identifiers, str):
        return identifiers
    if isinstance(identifiers, list) and identifiers and isinstance(identifiers[0], str | int):
        return str(identifiers[0])
    connections = device.get("connections")
    if isinstance(connections, list) and connections:
        first = connections[0]
        if isinstance(first, list) and len(first) == 2 and isinstance(first[1], str):  # kind, address
            return first[1]
    unique = config.get("unique_id")
    return unique if isinstance(unique, str) and unique else "/".join(topic[1:])


def _words(config: Mapping[str, Any], device: Mapping[str, Any], object_id: str) -> frozenset[str]:
    """The words of the entity's name, else of its id; without the device's name where they begin with it."""
    name = config.get("name")
    own = _split(name if isinstance(name, str) and name else object_id)
    called = device.get("name")
    ahead = _split(called) if isinstance(called, str) else []
    if ahead and own[: len(ahead)] == ahead and len(own) > len(ahead):
        own = own[len(ahead) :]
    numbered = [f"{first}{second}" for first, second in pairwise(own) if len(second) == 1]
    return frozenset(own + numbered)


def _split(text: str) -> list[str]:
    """Words and numbers in lower case: "PV1 YieldDay" → pv, 1, yield, day."""
    return [word.lower() for word in _WORD.findall(text[:200])]


def _other_topics(config: Mapping[str, Any]) -> Iterator[str]:
    listed = config.get("availability")
    entries = listed if isinstance(listed, list) else [listed]
    for entry in entries[:16]:
        yield from _texts([_expanded(_mapping(entry), _ABBREVIATIONS).get("topic")])
    yield from _texts([config.get("availability_topic"), config.get("json_attributes_topic")])


def _texts(values: Sequence[object]) -> Iterator[str]:
    return (value for value in values if isinstance(value, str))


def _full(topic: str, base: object) -> str:
    """The topic with the base in place of a leading or trailing ``~``."""
    if isinstance(base, str):
        if topic.startswith("~"):
            topic = base + topic[1:]
        elif topic.endswith("~"):
            topic = topic[:-1] + base
    return topic


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _expanded(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The configuration with full names; one that is given both ways keeps the full one."""
    full = {names[name]: value for name, value in config.items() if name in names}
    return full | {name: value for name, value in config.items() if name not in names}
