"""Formats that carry no time, need messages before others, or take many messages for one reading.

A dialect is a row of ``DIALECTS`` and a file of its own: what a gateway says when it comes up, how a reading becomes
messages, and the private strings that it mixes in, which no receiver may keep anywhere. Topics are those below
``gw/<gateway>/``. What a speaker says follows from what it was given before, and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from device_sim.dialects import ahoydtu, evcc, home_assistant, opendtu, shelly, sparkplug, tasmota, victron
from device_sim.dialects.spoken import Speaker, Spoken

__all__ = ["DIALECTS", "Dialect", "Speaker", "Spoken"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """``speaker``: somebody who speaks for one gateway from its start on. ``private``: made-up names, addresses and
    places of a gateway that appear somewhere in its messages; serials are private as well.
    """

    speaker: Callable[[], Speaker]
    private: Callable[[str], list[str]]


DIALECTS: Final = MappingProxyType(
    {
        "home-assistant": Dialect(lambda: home_assistant, home_assistant.private),
        "victron": Dialect(lambda: victron, victron.private),
        "opendtu": Dialect(lambda: opendtu, opendtu.private),
        "ahoydtu": Dialect(lambda: ahoydtu, ahoydtu.private),
        "tasmota": Dialect(lambda: tasmota, tasmota.private),
        "evcc": Dialect(lambda: evcc, evcc.private),
        "shelly": Dialect(shelly.Shelly, shelly.private),
        "sparkplug-b": Dialect(sparkplug.SparkplugB, sparkplug.private),
    }
)
