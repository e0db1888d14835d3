"""What a codec refuses to look at, whatever the format."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CodecLimits:
    """Bounds on one message. A message beyond any of them is rejected as a whole, before its values are read.

    ``max_message_bytes``: payload as received, compressed or not. ``max_readings_per_message``: rows.
    ``max_depth``: nested arrays and objects; a flat object has depth 1, an array of them depth 2.
    """

    max_message_bytes: int = 256 * 1024
    max_readings_per_message: int = 10_000
    max_depth: int = 16


DEFAULT_LIMITS = CodecLimits()
