"""What a gateway has not got rid of yet. A state machine without I/O or clock: times are passed in, in seconds.

    add ─▶ queue ─take─▶ flight ─acknowledged─▶ gone            (the broker has it)
             ▲              │                 └▶ held ─watermark─▶ gone   (the service has committed it)
             └── lost, refused, overdue ◀──────────┘

A gateway that waits for the watermark keeps a message until ``gw/<gateway>/committed`` shows it as committed, and
sends again, under the same sequence number, what is missing there or what nobody mentions for too long.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from device_sim.message import Message

_LONGEST_RESEND_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far the service has committed: all up to ``sequence``; up to ``highest`` all but ``missing``.

    ``trusted`` is up to where that list is complete: the service names a bounded number of ranges.
    """

    stream: str
    sequence: int
    trusted: int
    missing: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, payload: bytes) -> "Watermark | None":
        """Read the service's JSON; None for anything that is not a watermark."""
        try:
            value: Any = orjson.loads(payload)
            missing = tuple((int(first), int(last)) for first, last in value["missing"])
            sequence, highest = int(value["sequence"]), int(value["highest"])
            named = sum(last - first + 1 for first, last in missing)
            cut = len(missing) >= 64 or value.get("missing_count", named) != named
            trusted = (missing[-1][1] if missing else sequence) if cut else highest
            return cls(str(value["stream"]), sequence, trusted, missing)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def lacks(self, number: int) -> bool:
        """Whether ``number`` is named as missing."""
        return any(first <= number <= last for first, last in self.missing)

    def covers(self, number: int) -> bool:
        """Whether ``number`` is certainly committed."""
        return number <= self.sequence or (number <= self.trusted and not self.lacks(number))


@dataclass(slots=True)
class _Held:
    message: Message
    sent_s: float
    due_s: float


class Outbox:
    """The messages of one gateway and stream. ``capacity`` bounds all of them together."""

    def __init__(
        self, *, wait_watermark: bool, capacity: int, resend_s: float = 15.0, missing_resend_s: float = 3.0
    ) -> None:
        self._wait = wait_watermark
        self._capacity = capacity
        self._resend_s = resend_s
        self._missing_resend_s = missing_resend_s
        self._queue: deque[Message] = deque()
        self._flight: dict[int, Message] = {}
        self._held: dict[int, _Held] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._queue) + len(self._flight) + len(self._held)

    @property
    def full(self) -> bool:
        """Whether another message has no room; a producer waits."""
        return len(self) >= self._capacity

    @property
    def finished(self) -> bool:
        """Whether nothing is left and nothing more will come."""
        return self._closed and len(self) == 0

    @property
    def in_flight(self) -> int:
        """Messages handed to the broker and not yet acknowledged by it."""
        return len(self._flight)

    def close(self) -> None:
        """No more messages will be added."""
        self._closed = True

    def add(self, message: Message) -> None:
        """Append a message; sequences ascend."""
        self._queue.append(message)

    def take(self) -> Message | None:
        """The next message to publish, which is in flight from now on."""
        if not self._queue:
            return None
        message = self._queue.popleft()
        message.sends += 1
        self._flight[message.sequence] = message
        return message

    def acknowledged(self, sequence: int, now_s: float) -> Message | None:
        """The broker sent a PUBACK that accepts. Returns the message when this is its first."""
        message = self._flight.pop(sequence, None)
        if message is None:
            return None
        if self._wait:
            patience = min(_LONGEST_RESEND_S, self._resend_s * 2 ** (message.sends - 1))
            self._held[sequence] = _Held(message, now_s, now_s + patience)
        first, message.acknowledged = not message.acknowledged, True
        return message if first else None

    def refused(self, sequence: int, now_s: float) -> Message | None:
        """The broker sent a PUBACK that refuses: kept, and tried again later."""
        message = self._flight.pop(sequence, None)
        if message is not None:
            patience = min(_LONGEST_RESEND_S, 2.0 ** min(message.sends, 7))
            self._held[sequence] = _Held(message, now_s, now_s + patience)
        return message

    def lost(self) -> int:
        """The connection is gone: what was in flight goes back to the front, in order. Returns how many."""
        again = sorted(self._flight.values(), key=lambda message: message.sequence, reverse=True)
        self._flight.clear()
        self._queue.extendleft(again)
        return len(again)

    def watermark(self, mark: Watermark) -> list[Message]:
        """Forget what is committed, and return it; what is named as missing becomes due soon."""
        done = [
            sequence for sequence, held in self._held.items() if held.message.acknowledged and mark.covers(sequence)
        ]
        for sequence, held in self._held.items():
            if mark.lacks(sequence):
                held.due_s = min(held.due_s, held.sent_s + self._missing_resend_s * held.message.sends)
        committed = [self._held.pop(sequence).message for sequence in done]
        # a resend that turns out to be needless; one the broker never acknowledged goes out all the same
        needless = [each for each in self._queue if each.acknowledged and mark.covers(each.sequence)]
        if needless:
            gone = {message.sequence for message in needless}
            self._queue = deque(message for message in self._queue if message.sequence not in gone)
        return committed + needless

    def overdue(self, now_s: float) -> int:
        """Put what has waited too long at the front again, in order. Returns how many."""
        due: Sequence[int] = sorted(
            (sequence for sequence, held in self._held.items() if held.due_s <= now_s), reverse=True
        )
        self._queue.extendleft(self._held.pop(sequence).message for sequence in due)
        return len(due)
