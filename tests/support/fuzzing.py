"""Damaged and made-up messages for codecs: whatever comes, there are rows and typed rejections, and the sum is right.

for_format("victron", seeds)      hypothesis strategy: one of the seeds, cut, extended, with flipped bits, or JSON
"""

import json
import math
from collections.abc import Sequence

from hypothesis import strategies as st

from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.registry import DecodedBatch, decode_remembering
from telemetry.codecs.state import EMPTY
from telemetry.model.batch import DECODED_SCHEMA, RawMessage, Reason, check_schema
from telemetry.model.fields import FIELD_BY_NAME

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
    """A seed (topic, payload) with its payload cut, extended, or with flipped bits; or with random JSON for it."""
    topic, payload = draw(st.sampled_from(seeds))
    match draw(st.sampled_from(["cut", "extend", "flip", "json", "bytes"])):
        case "cut":
            payload = payload[: draw(st.integers(0, len(payload)))]
        case "extend":
            payload += draw(st.binary(min_size=1, max_size=20))
        case "flip" if payload:
            changed = bytearray(payload)
            for _ in range(draw(st.integers(1, 4))):
                changed[draw(st.integers(0, len(payload) - 1))] ^= 1 << draw(st.integers(0, 7))
            payload = bytes(changed)
        case "json":
            payload = json.dumps(draw(JSON)).encode()
        case _:
            payload = draw(st.binary(max_size=40))
    return topic, payload


def holds(messages: Sequence[RawMessage], limits: CodecLimits | None = None) -> DecodedBatch:
    """Decode and check what must be true of every batch whatever was in it."""
    batch = decode_remembering(messages, limits or CodecLimits(), lambda *_: EMPTY)
    decoded = batch.decoded
    check_schema(decoded.rows, DECODED_SCHEMA)
    for row in decoded.rows.iter_rows(named=True):
        assert row["message"] < len(messages)
        for name in FIELD_BY_NAME.keys() & row.keys():
            assert row[name] is None or math.isfinite(row[name])
    for one in decoded.rejections:
        assert isinstance(one.reason, Reason)
        assert one.readings > 0
        assert 0 <= one.message < len(messages)
    return batch
