"""Which sequence numbers a batch holds, per gateway and stream, as ranges.

The numbers come from MQTT 5 user properties that a gateway may set (WIRE.md); the database unites them with what
it has, so that the order in which transactions commit does not matter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from telemetry.model.batch import RawMessage, Sequences


def ranges_of(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Inclusive ranges, ascending and disjoint, that hold exactly ``numbers`` (any order, repeats allowed)."""
    result: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if result and number == result[-1][1] + 1:
            result[-1] = (result[-1][0], number)
        else:
            result.append((number, number))
    return tuple(result)


@dataclass(frozen=True, slots=True)
class Numbered:
    """The sequence numbers of one batch, ascending by gateway key, and who they belong to.

    ``names``: (gateway name, stream name) of every (gateway key, stream digest), to answer the gateway with.
    """

    sequences: tuple[Sequences, ...] = ()
    names: Mapping[tuple[int, int], tuple[str, str]] = field(default_factory=dict)


def numbered(
    messages: Sequence[RawMessage], gateway_key_of: Callable[[int], int], stream_digest: Callable[[str], int]
) -> Numbered:
    """The sequence numbers of ``messages``.

    ``gateway_key_of`` gives the key of the gateway of message i, 0 where it is unknown: its numbers count for
    nobody.
    """
    numbers: dict[tuple[str, str], tuple[int, list[int]]] = {}
    for index, message in enumerate(messages):
        if message.sequence < 0:
            continue
        entry = numbers.get((message.gateway, message.stream))
        if entry is None:
            entry = numbers[message.gateway, message.stream] = (gateway_key_of(index), [])
        entry[1].append(message.sequence)
    names: dict[tuple[int, int], tuple[str, str]] = {}
    found: list[Sequences] = []
    for name, (gateway_key, listed) in numbers.items():
        if gateway_key:
            digest = stream_digest(name[1])
            names[gateway_key, digest] = name
            found.append(Sequences(gateway_key, digest, ranges_of(listed)))
    return Numbered(tuple(sorted(found, key=lambda item: (item.gateway_key, item.stream_digest))), names)
