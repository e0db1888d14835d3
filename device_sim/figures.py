"""What a run counts, while it runs and at its end. Units are readings unless the name says messages."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Figures:
    """Live counts of all gateways together.

    ``published`` counts each message's readings when it is first handed to the broker, deliberate repetitions
    (``duplicates``) included, a poison message as one; ``acknowledged`` when the broker's PUBACK accepts it.
    Sending again after a lost connection or at the watermark's word counts in ``resent_messages`` alone.
    """

    published: int = 0
    acknowledged: int = 0
    committed: int = 0
    duplicates: int = 0
    messages: int = 0
    poison: int = 0
    resent_messages: int = 0
    refused_messages: int = 0
    buffered_messages: int = 0
    connections: int = 0
    gateways_online: int = 0
    connection_errors: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Summary:
    """A run's result; ``unsent_messages`` were produced and never handed to the broker or not acknowledged."""

    figures: Figures
    gateways: int
    devices: int
    seconds: float
    unfinished_messages: int

    @property
    def complete(self) -> bool:
        """Whether everything produced was acknowledged (and committed, for gateways that wait for it)."""
        return self.unfinished_messages == 0 and self.figures.published == self.figures.acknowledged

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        figures = asdict(self.figures)
        figures["connection_errors"] = dict(self.figures.connection_errors)
        for live in ("buffered_messages", "gateways_online"):
            del figures[live]
        return figures | {
            "gateways": self.gateways,
            "devices": self.devices,
            "seconds": round(self.seconds, 3),
            "readings_per_second": round(self.figures.acknowledged / self.seconds, 1) if self.seconds else 0.0,
            "unfinished_messages": self.unfinished_messages,
            "complete": self.complete,
        }
