"""What a codec refuses to look at, whatever the format."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CodecLimits:
    """Bounds on one message. A message beyond any of them is rejected as a whole, before its values are read.

    ``max_message_bytes``: payload as received, compressed or not. ``max_readings_per_message``: rows.
    ``max_depth``: nested arrays and objects; a flat object has depth 1, an array of them depth 2.
    ``max_state_bytes``: what a codec remembers of one gateway, as stored; beyond it the oldest is forgotten.
    """

    max_message_bytes: int = 256 * 1024
    max_readings_per_message: int = 10_000
    max_depth: int = 16
    max_state_bytes: int = 256 * 1024


DEFAULT_LIMITS = CodecLimits()


@dataclass(frozen=True, slots=True)
class Portions:
    """How much work is worth doing at once; changes speed, never results.

    ``worth_a_batch``: payload bytes below which messages are read one by one. ``chunk_bytes``: payload bytes read in
    one go, large enough to pay for the calls, small enough for a core's cache. ``rare``: a shape is read on its own
    if the messages that it occurs in have so many readings; fewer are read one by one.
    """

    worth_a_batch: int = 4096
    chunk_bytes: int = 2 * 1024 * 1024
    rare: int = 64


DEFAULT_PORTIONS = Portions()
