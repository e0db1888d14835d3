"""Codec ``victron``: Venus OS (GX devices), ``N/<portal>/<service>/<instance>/<path>`` with ``{"value": 936}``.

Sources: the README files of dbus-flashmq and its predecessor dbus-mqtt; the Venus OS wiki, "dbus". A value of null
is no value, an empty payload says that the device is gone: neither is a reading. Values carry no time (rule 6). A
device is called ``<portal>/<service>/<instance>``: known from the first message on, unlike its serial number, and
the same after the hardware was replaced.

Venus publishes only while somebody asks it to, at least once a minute: the codec remembers the portals of a gateway
and has ``R/<portal>/keepalive`` published. The first keep-alive makes Venus publish everything; those after it do
not. ``settings`` is never looked into: it holds credentials.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from telemetry.codecs.found import Found
from telemetry.codecs.json_text import Refused, parse_json
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.state import Draft, Memory, Remembering, Standing
from telemetry.codecs.units import Conversion
from telemetry.codecs.venus_table import NEVER_DECODED, PHASE_COUNTS, SERVICES, Path, is_place
from telemetry.model.batch import RawMessage, Reason, Withheld

NAME: Final = "victron"
TOPICS: Final = ("N/#",)
RETAINED: Final = ("N/+/system/0/Serial",)  # where a portal makes itself known
MAX_PORTALS: Final = 8  # of one gateway
KEEP_ALIVE_S: Final = 45.0
_PORTAL: Final = "portal/"
_PHASES: Final = "phases/"
_QUIETLY: Final = b'{"keepalive-options":["suppress-republish"]}'
_LONGEST_PORTAL: Final = 64  # VRM portal ids have twelve characters


def venus(limits: CodecLimits) -> Remembering:
    """See the module."""
    return Remembering(NAME, limits, partial(_read, limits))


def standing(memory: Memory) -> tuple[Standing, ...]:
    """A keep-alive for every portal of the gateway."""
    portals = [key.removeprefix(_PORTAL) for key in memory.entries if key.startswith(_PORTAL)]
    return tuple(Standing(f"R/{portal}/keepalive", b"", _QUIETLY, KEEP_ALIVE_S) for portal in portals)


def _read(limits: CodecLimits, message: RawMessage, index: int, memory: Draft, outcome: Outcome) -> None:
    portal, service, instance, path = _parts(message.topic)
    if not portal or not service:
        outcome.reject(index, Reason.UNKNOWN_TOPIC)
        return
    _remember_portal(portal, memory)
    if message.retained:
        outcome.withhold(Withheld.RETAINED, 1)
    elif not path:  # keep-alives and the end of a full publication are of the portal, not of a device
        if instance:
            outcome.reject(index, Reason.UNKNOWN_TOPIC)
    elif not message.payload:
        memory.drop(f"{_PHASES}{portal}/{path}")
    elif is_place(service, path):
        outcome.withhold(Withheld.PLACE, 1)
    elif service == NEVER_DECODED:
        outcome.unlisted[NEVER_DECODED] += 1
        outcome.withhold(Withheld.UNLISTED, 1)
    else:
        document = _document(limits, message.payload)
        if isinstance(document, Refused):
            outcome.reject(index, document.reason, 1, document.detail)
        elif document["value"] is not None:
            _read_value(document, (portal, service, instance, path), index, memory, outcome)


def _parts(topic: str) -> tuple[str, str, str, str]:
    """Portal, service, instance and path; empty where the topic ends before."""
    levels = topic.split("/", 4)[1:] + [""] * 4
    return levels[0], levels[1], levels[2], levels[3]


def _remember_portal(portal: str, memory: Draft) -> None:
    key = _PORTAL + portal
    if (
        key not in memory
        and len(portal) <= _LONGEST_PORTAL
        and sum(known.startswith(_PORTAL) for known in memory) < MAX_PORTALS
    ):
        memory.put(key, True)


def _document(limits: CodecLimits, payload: bytes) -> dict[str, Any] | Refused:
    """The payload: an object with a value, which may be null."""
    document = parse_json(payload, limits)
    if isinstance(document, Refused):
        return document
    if not isinstance(document, dict) or "value" not in document:
        return Refused(Reason.MALFORMED, "not an object with a value")
    return document


def _read_value(
    document: Mapping[str, Any], place: tuple[str, str, str, str], index: int, memory: Draft, outcome: Outcome
) -> None:
    portal, service, instance, path = place
    value = document["value"]
    kind, paths = SERVICES.get(service, (None, {}))
    if service == "system" and path in PHASE_COUNTS.values() and isinstance(value, int):
        memory.put(f"{_PHASES}{portal}/{path}", value)
    found, known = Found(unlisted=[f"{service}.{name}" for name in document if name != "value"]), paths.get(path)
    alone = known is not None and memory.get(f"{_PHASES}{portal}/{PHASE_COUNTS.get(path, '')}") == 1
    if known is not None and known.name:
        _put(found, known, value)
    if known is not None and known.only_phase and alone:
        found.put(known.only_phase, value, known.convert)
    if not found.values and not found.implausible:
        found.unlisted.append(f"{service}.{path.replace('/', '.')}".lower())
    found.close(index, f"{portal}/{service}/{instance}", kind, None, outcome)


def _put(found: Found, known: Path, value: object) -> None:
    """A value by its row of the table: a number, or a status code in the catalogue's codes."""
    if not known.codes:
        found.put(known.name, value, known.convert)
    elif isinstance(value, int) and value in known.codes:
        found.put(known.name, known.codes[value], Conversion())
    else:
        found.implausible.append(known.name)
