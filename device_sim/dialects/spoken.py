"""What dialects are made of."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from device_sim.devices import Device
from device_sim.message import Reading, Value


class Spoken(NamedTuple):
    """One message, and what a receiver should keep of it: the ``value`` of the catalogue's ``field`` or none, or
    several values, ``kept``, of the device called ``serial``; in formats that carry the time, the ``expected``
    readings, which name the device as the format does.
    """

    topic: str
    payload: bytes
    retain: bool = False
    serial: str = ""
    field: str = ""
    value: float | None = None
    kept: Mapping[str, float] | None = None
    expected: tuple[Reading, ...] = ()


class Speaker(Protocol):
    """One gateway on its way: it may remember what it has said. One thread."""

    def greet(self, gateway: str, devices: Sequence[Device], /) -> list[Spoken]:
        """Retained and other messages of a gateway's start."""
        ...

    def say(self, gateway: str, reading: Reading, /) -> list[Spoken]:
        """The messages of one reading, each with what a receiver should keep of it."""
        ...


def mark(*parts: str) -> str:
    """Eight letters that stand for ``parts``: a made-up name that appears nowhere else."""
    digest = hashlib.blake2b("/".join(parts).encode(), digest_size=8).digest()
    return "".join(chr(97 + byte % 26) for byte in digest)


def values_of(spoken: Spoken) -> list[tuple[str, Mapping[str, Value]]]:
    """What a receiver should keep of a message: device and values by field."""
    if spoken.expected:
        return [(reading.serial, reading.fields) for reading in spoken.expected]
    if spoken.kept is not None:
        return [(spoken.serial, spoken.kept)]
    return [(spoken.serial, {spoken.field: spoken.value})] if spoken.field else []
