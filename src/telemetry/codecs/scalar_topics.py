"""Formats that publish one scalar per topic and no time: the topic says device and value.

By rule 6 each message becomes a row with one field and no time; the core gives it the time of receipt, cut to a tick,
and the store merges the rows of a device and tick field by field. So each message is committed and acknowledged on its
own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from telemetry.codecs.entries import Entry, Erased, Meaning, Reading, scalar
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.outcome import Outcome
from telemetry.model.batch import Decoded, RawMessage
from telemetry.model.fields import DeviceKind


class Found(NamedTuple):
    """What a topic says: the device, and what the format calls the value.

    ``name`` holds none of the topic's levels that name a device: it is counted where the value is withheld.
    ``prepare``: a correction of the sender's number before the table's conversion.
    """

    serial: str
    kind: DeviceKind
    name: str
    meaning: Meaning
    prepare: Callable[[object], object] | None = None


@dataclass(frozen=True, slots=True)
class ScalarTopics:
    """Pure; safe to call from any thread. ``find`` reads a topic; it is a function of the topic alone."""

    limits: CodecLimits
    name: str
    find: Callable[[str], Found]

    def decode(self, messages: Sequence[RawMessage], indices: Sequence[int]) -> Decoded:
        """Rows, rejections and counts of ``messages``; message ``i`` is called ``indices[i]``."""
        outcome = Outcome(codec_of_message=dict.fromkeys(indices, self.name))
        for message, index in zip(messages, indices, strict=True):
            found = self.find(message.topic)
            value: object = scalar(message.payload)
            if value is Erased.ERASED:
                continue  # the sender has no value any more: nothing was read, nothing is withheld
            if found.prepare is not None and isinstance(found.meaning, Entry):
                value = found.prepare(value)
            reading = Reading(found.serial, found.kind)
            reading.put(found.name, found.meaning, value)
            reading.account(index, outcome)
        return outcome.decoded()
