"""A codec with memory for tests: names are announced (retained), then values come by short alias; and how to have it.

announce  "name=<serial>"  on toy/announce/<alias>      remembered
value     "<watts>"        on toy/value/<alias>         a row of that serial; unknown alias: asks, rejects
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from telemetry.codecs import registry
from telemetry.codecs.found import Found, number_in_text
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.registry import Keeps, by_topic
from telemetry.codecs.state import Draft, Memory, Remembering, Standing
from telemetry.model.batch import RawMessage, Reason
from telemetry.model.fields import DeviceKind

NAME = "toy"


def read(message: RawMessage, index: int, memory: Draft, outcome: Outcome) -> None:
    _, what, alias = message.topic.split("/")
    if what == "announce":
        if message.payload:
            memory.put(alias, message.payload.decode())
        else:
            memory.drop(alias)
        return
    serial = memory.get(alias)
    if serial is None:
        memory.ask("R/toy/keepalive", b"who")
        outcome.reject(index, Reason.MALFORMED, 1, "an alias that nobody announced")
        return
    found = Found()
    found.put("ac_power_w", number_in_text(message.payload))
    found.close(index, serial, DeviceKind.INVERTER, None, outcome)


def standing(memory: Memory) -> tuple[Standing, ...]:
    return (Standing("R/toy/keepalive", b"first", b"again", 30.0),) if memory.entries else ()


ROW = by_topic(
    NAME,
    ("toy/+/+",),
    lambda limits: Remembering(NAME, limits, read),
    Keeps(revision=3, retained=("toy/announce/+",), standing=standing),
)


@contextmanager
def registered() -> Iterator[None]:
    """While this is open, the registry has the codec."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "CODECS", (*registry.CODECS, ROW))
        patch.setitem(registry.CODEC_BY_NAME, NAME, ROW)
        registry._candidates.cache_clear()
        yield
    registry._candidates.cache_clear()
    registry.build.cache_clear()


def announce(alias: str, serial: str, gateway: str = "g", at: int = 1) -> RawMessage:
    return RawMessage(gateway, f"toy/announce/{alias}", serial.encode(), 0, at, retained=True)


def value(alias: str, watts: float, gateway: str = "g", at: int = 1) -> RawMessage:
    return RawMessage(gateway, f"toy/value/{alias}", str(watts).encode(), 0, at)


LIMITS = CodecLimits()
