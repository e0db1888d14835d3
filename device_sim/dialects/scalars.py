"""What the dialects with one scalar a topic have in common."""

from collections.abc import Mapping
from typing import NamedTuple

from device_sim.dialects.spoken import Spoken
from device_sim.message import Reading


class Said(NamedTuple):
    """How a field is said: ``topic`` below the device's, ``per``: the sender's unit in the catalogue's (1000 for
    kWh), ``digits``: decimals.
    """

    topic: str
    per: float = 1.0
    digits: int = 3


def scalars(prefix: str, serial: str, reading: Reading, table: Mapping[str, Said]) -> list[Spoken]:
    """A message for each field of ``reading`` that ``table`` has."""
    spoken = []
    for name, said in table.items():
        value = reading.fields.get(name)
        if isinstance(value, int | float):
            text = f"{value / said.per:.{said.digits}f}"
            kept = float(text) * said.per
            spoken.append(Spoken(f"{prefix}/{said.topic}", text.encode(), serial=serial, field=name, value=kept))
    return spoken
