"""Codec ``native-json``: one reading, an array of readings, or columns, on ``gw/<gateway>/readings``.

``decode`` reads whole batches (``native_arrays``, ``native_columns``) and gives what they leave over to the
reference (``native_rows``), message by message. ``decode_one_by_one`` gives everything to the reference. Tests hold
the two equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from telemetry.codecs.columns import frame
from telemetry.codecs.limits import DEFAULT_PORTIONS, CodecLimits, Portions
from telemetry.codecs.native_arrays import read_arrays
from telemetry.codecs.native_columns import looks_like_columns, read_columns
from telemetry.codecs.native_rows import decode_message
from telemetry.codecs.outcome import Outcome
from telemetry.model.batch import Decoded, RawMessage


@dataclass(frozen=True, slots=True)
class NativeJson:
    """See the module. Pure; safe to call from any thread."""

    limits: CodecLimits
    portions: Portions = DEFAULT_PORTIONS
    name: ClassVar[str] = "native-json"

    def decode(self, messages: Sequence[RawMessage], indices: Sequence[int]) -> Decoded:
        """Rows, rejections and counts of ``messages``; message ``i`` is called ``indices[i]``."""
        payloads = [message.payload for message in messages]
        if sum(map(len, payloads)) < self.portions.worth_a_batch:
            return self.decode_one_by_one(messages, indices)
        columns = [i for i, payload in enumerate(payloads) if looks_like_columns(payload)]
        others = sorted(set(range(len(payloads))).difference(columns)) if columns else range(len(payloads))
        outcome = Outcome()
        left, parts = [], []
        for read in (
            read_arrays(payloads, others, indices, self.limits, self.portions),
            read_columns(payloads, columns, indices, self.limits, self.portions),
        ):
            parts += read.parts
            left += read.left
            outcome.unlisted.update(read.unlisted)
        outcome.frames.append(frame(parts))
        for position in sorted(left):
            decode_message(payloads[position], indices[position], self.limits, outcome)
        return outcome.decoded()

    def decode_one_by_one(self, messages: Sequence[RawMessage], indices: Sequence[int]) -> Decoded:
        """The same, slowly and readably."""
        outcome = Outcome()
        for message, index in zip(messages, indices, strict=True):
            decode_message(message.payload, index, self.limits, outcome)
        return outcome.decoded()
