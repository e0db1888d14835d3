"""Server-sent events without I/O (HTML, 9.2.6): bytes in, events out."""

import codecs
from dataclasses import dataclass, field

from telemetry.client.errors import NotAnApi

_LONGEST = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. ``name``: ``message`` where none is given."""

    name: str
    data: str = field(repr=False)


class EventParser:
    """One stream's."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._name, self._data = "", list[str]()
        self._held = 0

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Events that are whole with this chunk. Raises NotAnApi where one is larger than any of this API."""
        text = self._rest + self._decoder.decode(chunk)
        # A CR at the end may be the first half of CRLF.
        held, text = ("\r", text[:-1]) if text.endswith("\r") else ("", text)
        *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = rest + held
        self._held += len(chunk)
        found = [event for line in lines if (event := self._line(line))]
        if found or not (self._rest or self._data):
            self._held = 0
        if self._held > _LONGEST:
            raise NotAnApi("an event without an end")
        return found

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            name, data = self._name, self._data
            self._name, self._data = "", []
            return ServerEvent(name or "message", "\n".join(data)) if data else None
        field_name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field_name == "data":
            self._data.append(value)
        elif field_name == "event":
            self._name = value
        return None  # comments are heartbeats; ids and retry are not used
