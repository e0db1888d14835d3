"""Codec ``tasmota``: devices with Tasmota firmware, ``tele/<topic>/SENSOR`` and ``tele/<topic>/STATE``, JSON.

The topic's middle level is what the user called the device (as delivered, the end of its MAC address): it is the
serial. ``Time`` is local time, as a rule without an offset, and the service does not know the zone: it is used only
where it carries one, and otherwise the reading gets the time of receipt (rule 6), for a time that may be wrong by
hours is worse than one that is late by seconds. Energy is in kWh. A device with several channels or phases reports
arrays; their sums are the device's, their entries are phases where the catalogue has such a field.

Smart meters read by the scripting interface (SML) appear under names of their user's; such an object is told by the
energy counters in it. Its ``Meter_number`` and ``Server_ID`` identify the meter, ``STATE`` carries the access point
(BSSId, SSId): a place. INFO and LWT messages carry addresses and names: all of them are withheld.

Source: the Tasmota documentation, "MQTT", "JSON status responses" and "Smart Meter Interface".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from telemetry.codecs.entries import Reading
from telemetry.codecs.json_text import Refused, parse_json
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.rfc3339 import instant_us
from telemetry.codecs.tasmota_table import ENERGY, METER, METER_SIGNS, STATE, SUMMED
from telemetry.model.batch import Decoded, RawMessage, Reason, Withheld

TOPICS: Final = ("tele/#", "stat/#")
# As delivered %prefix%/%topic%/…; %topic%/%prefix%/… is what Home Assistant users were told to choose.
_TOPIC: Final = re.compile(
    r"(?:tele/(?P<first>[^/]+)|(?:tasmota/)?(?P<second>[^/]+)/tele)/(?P<what>SENSOR|STATE|LWT|INFO[0-9]|[A-Z0-9_]+)"
)
_KINDS_OF_MESSAGE: Final = frozenset({"SENSOR", "STATE"})


@dataclass(frozen=True, slots=True)
class Tasmota:
    """Pure; safe to call from any thread."""

    limits: CodecLimits
    name: str = "tasmota"

    def decode(self, messages: Sequence[RawMessage], indices: Sequence[int]) -> Decoded:
        """Rows, rejections and counts of ``messages``; message ``i`` is called ``indices[i]``."""
        outcome = Outcome(codec_of_message=dict.fromkeys(indices, self.name))
        for message, index in zip(messages, indices, strict=True):
            match = _TOPIC.fullmatch(message.topic)
            if match is None or match["what"] not in _KINDS_OF_MESSAGE:
                outcome.unlisted["message"] += 1
                outcome.withhold(Withheld.UNLISTED, 1)
                continue
            found = parse_json(message.payload, self.limits)
            if isinstance(found, Refused):
                outcome.reject(index, found.reason, 1, found.detail)
            elif not isinstance(found, dict):
                outcome.reject(index, Reason.MALFORMED, 1, "not an object")
            else:
                _read(found, match["first"] or match["second"], match["what"]).account(index, outcome)
        return outcome.decoded()


def claims(topic: str) -> bool:
    """Whether Tasmota publishes on such a topic besides."""
    return _TOPIC.fullmatch(topic) is not None


def _read(content: Mapping[str, object], serial: str, what: str) -> Reading:
    reading = Reading(serial)
    for name, value in content.items():
        if name == "Time":
            reading.ts = instant_us(value) if isinstance(value, str) else None
        elif what == "STATE":
            _state(reading, name, value)
        elif isinstance(value, dict):
            if name == "ENERGY":
                _energy(reading, value)
            elif not METER_SIGNS.isdisjoint(value):
                for inner, one in value.items():
                    reading.put(inner, METER.get(inner), one)
            else:
                reading.put(name, None, value)
        else:
            reading.put(name, None, value)
    return reading


def _state(reading: Reading, name: str, value: object) -> None:
    if name == "Wifi" and isinstance(value, dict):
        for inner, one in value.items():
            reading.put(inner, STATE.get(f"Wifi.{inner}"), one)
    else:
        reading.put(name, STATE.get(name), value)


def _energy(reading: Reading, values: Mapping[str, object]) -> None:
    """The ENERGY object: single numbers, or arrays with one entry a channel or phase."""
    for name, value in values.items():
        if not isinstance(value, list):
            reading.put(name, ENERGY.get(name), value)
            continue
        if name in SUMMED:
            reading.put(name, ENERGY[name], _sum(value))
        for number, one in enumerate(value, 1):
            phase = ENERGY.get(f"{name}[{number}]")
            if phase is not None or name not in SUMMED:
                reading.put(name, phase, one)


def _sum(values: Sequence[object]) -> object:
    """The sum of what are all numbers; anything else is no number either."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return sum(numbers) if len(numbers) == len(values) and numbers else "not numbers"
