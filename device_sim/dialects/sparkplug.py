"""Sparkplug B: an edge node with the home's devices. Births name metrics, data says their aliases.

Source: the Sparkplug specification 3.0.0 and its protobuf schema, written here field by field.
"""

import struct
from collections.abc import Sequence

from device_sim.devices import Device
from device_sim.dialects.spoken import Spoken, mark
from device_sim.message import Reading, Value

_INT64, _DOUBLE, _STRING = 4, 10, 12
_LENGTH, _VARINT, _EIGHT = 2, 0, 1  # wire types


def varint(value: int) -> bytes:
    """Base 128, least significant group first."""
    out = bytearray()
    while True:
        group, value = value & 0x7F, value >> 7
        out.append(group | (0x80 if value else 0))
        if not value:
            return bytes(out)


def integer(field: int, value: int) -> bytes:
    """A varint field."""
    return varint(field << 3 | _VARINT) + varint(value)


def block(field: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(field << 3 | _LENGTH) + varint(len(content)) + content


def double(field: int, value: float) -> bytes:
    """A 64-bit field."""
    return varint(field << 3 | _EIGHT) + struct.pack("<d", value)


def private(gateway: str) -> list[str]:
    """Group and node, and the installer in a property."""
    return [mark("sparkplug", what, gateway) for what in ("group", "node", "installer")]


class SparkplugB:
    """One edge node. Sequence numbers go from 0 to 255 and round, over all messages of the node."""

    def __init__(self) -> None:
        self._seq = 0
        self._aliases: dict[tuple[str, str], int] = {}
        self._born: dict[str, set[str]] = {}
        self._node_is_born = False

    def greet(self, _gateway: str, _devices: Sequence[Device], /) -> list[Spoken]:
        """Nothing: births carry the time of the first reading."""
        return []

    def say(self, gateway: str, reading: Reading, /) -> list[Spoken]:
        """A DDATA message for each reading, births before that. A birth names all that the device ever reported."""
        spoken = []
        if not self._node_is_born:
            spoken.append(self._node_birth(gateway, reading.ts_us))
            self._node_is_born = True
        names = {name for name, value in reading.fields.items() if isinstance(value, int | float)}
        birth = bool(names - self._born.get(reading.serial, set()))
        if birth:
            self._born[reading.serial] = names | self._born.get(reading.serial, set())
        return [*spoken, self._message("DBIRTH" if birth else "DDATA", gateway, reading, birth=birth)]

    def _node_birth(self, gateway: str, ts_us: int) -> Spoken:
        group, node, _ = private(gateway)
        metric = block(1, b"bdSeq") + integer(4, _INT64) + integer(11, 0)
        payload = integer(1, ts_us // 1000) + block(2, metric) + integer(3, self._next())
        return Spoken(f"spBv1.0/{group}/NBIRTH/{node}", payload)

    def _message(self, kind: str, gateway: str, reading: Reading, *, birth: bool) -> Spoken:
        group, node, installer = private(gateway)
        payload = integer(1, reading.ts_us // 1000)
        kept: dict[str, Value] = {}
        for name in sorted(self._born[reading.serial] if birth else reading.fields):
            value = reading.fields.get(name)
            if isinstance(value, int | float):
                kept[name] = value
                payload += block(2, self._metric(reading.serial, name, value, installer if birth else None))
            elif birth:
                payload += block(2, self._metric(reading.serial, name, None, installer))
        payload += integer(3, self._next())
        expected = Reading(f"{group}/{node}/{reading.serial}", reading.kind, reading.ts_us // 1000 * 1000, kept)
        return Spoken(f"spBv1.0/{group}/{kind}/{node}/{reading.serial}", payload, expected=(expected,))

    def _metric(self, serial: str, name: str, value: float | None, installer: str | None) -> bytes:
        """A metric by alias; in a birth, which has the ``installer`` in its properties, by name and type too."""
        alias = self._aliases.setdefault((serial, name), len(self._aliases) + 1)
        whole = name.endswith(("_code", "_bits"))
        metric = b"" if installer is None else block(1, f"Telemetry/{name}".encode())
        metric += integer(2, alias)
        if installer is not None:
            metric += integer(4, _INT64 if whole else _DOUBLE)
            text = integer(1, _STRING) + block(8, f"{installer} {serial}".encode())
            metric += block(9, block(1, b"installer") + block(2, text))
        if value is None:
            return metric + integer(7, 1)
        return metric + (integer(11, int(value) & 2**64 - 1) if whole else double(13, float(value)))

    def _next(self) -> int:
        seq, self._seq = self._seq, (self._seq + 1) % 256
        return seq
