"""Codec ``native-json``: one reading, an array of readings, or columns, on ``gw/<gateway>/readings``.

``decode`` reads whole batches (``native_arrays``, ``native_columns``) and gives what they leave over to the
reference (``native_rows``), message by message. ``decode_one_by_one`` gives everything to the reference. Tests hold
the two equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from telemetry.codecs.columns import frame
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.native_arrays import read_arrays
from telemetry.codecs.native_rows import decode_message
from telemetry.codecs.outcome import Outcome
from telemetry.model.batch import Decoded, RawMessage

WORTH_A_BATCH: Final = 4096  # payload bytes; below, setting up arrays costs more than reading one by one


@dataclass(frozen=True, slots=True)
class NativeJson:
    """See the module. Pure; safe to call from any thread."""

    limits: CodecLimits
    worth_a_batch: int = WORTH_A_BATCH
    name: ClassVar[str] = "native-json"

    def decode(self, messages: Sequence[RawMessage], indices: Sequence[int]) -> Decoded:
        """Rows, rejections and counts of ``messages``; message ``i`` is called ``indices[i]``."""
        payloads = [message.payload for message in messages]
        if sum(map(len, payloads)) < self.worth_a_batch:
            return self.decode_one_by_one(messages, indices)
        outcome = Outcome()
        read = read_arrays(payloads, indices, self.limits)
        outcome.frames.append(frame(read.parts))
        outcome.unlisted.update(read.unlisted)
        for position in read.left:
            decode_message(payloads[position], indices[position], self.limits, outcome)
        return outcome.decoded()

    def decode_one_by_one(self, messages: Sequence[RawMessage], indices: Sequence[int]) -> Decoded:
        """The same, slowly and readably."""
        outcome = Outcome()
        for message, index in zip(messages, indices, strict=True):
            decode_message(message.payload, index, self.limits, outcome)
        return outcome.decoded()
