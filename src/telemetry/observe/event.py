"""What every event is; the events themselves are in events.py."""

import re
from typing import ClassVar, Literal

Level = Literal["debug", "info", "warning", "error"]


class Event:
    """Base of all events. ``level`` is the log level; repetitive events are logged at most every ten seconds."""

    __slots__ = ()
    level: ClassVar[Level] = "info"
    repetitive: ClassVar[bool] = False

    @classmethod
    def name(cls) -> str:
        """The event's name in logs: BatchCommitted → batch_committed."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
