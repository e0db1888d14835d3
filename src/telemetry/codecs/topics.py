"""Topic patterns as MQTT 5 section 4.7 has them: ``+`` is one level, ``/#`` at the end everything below."""

from collections.abc import Sequence


def matches(pattern: str, topic: str) -> bool:
    """Whether ``topic`` is one of those that ``pattern`` names. ``a/#`` names ``a`` too."""
    if "+" not in pattern and "#" not in pattern:
        return topic == pattern
    return _levels_match(pattern.split("/"), topic.split("/"))


def _levels_match(wanted: Sequence[str], given: Sequence[str]) -> bool:
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(level in {"+", other} for level, other in zip(wanted, given, strict=True))
