"""Pages of lists: where the next one begins is sealed into a cursor, bound to who asks and to what was asked."""

from dataclasses import dataclass
from urllib.parse import urlencode

import polars as pl
from fastapi import Request

from telemetry.access.principal import Principal
from telemetry.api.formats import as_json
from telemetry.api.keyed import Cursors


@dataclass(frozen=True, slots=True)
class Paging:
    """One list that somebody asks for. ``asked``: all that the list depends on but the cursor."""

    cursors: Cursors
    principal: Principal
    asked: tuple[object, ...]
    cursor: str | None

    def place(self) -> object | None:
        """Where the page begins; None for the first one. Raises InvalidRequest or CursorExpired."""
        return None if self.cursor is None else self.cursors.open(self.principal, as_json(self.asked), self.cursor)

    def sealed(self, place: object) -> str:
        """The cursor of the page that begins after ``place``."""
        return self.cursors.seal(self.principal, as_json(self.asked), place)

    def of(self, frame: pl.DataFrame, limit: int) -> tuple[pl.DataFrame, str | None]:
        """The rows after the cursor's, sorted by the first column, and the cursor of the next ones."""
        name, place = frame.columns[0], self.place()
        if place is not None:
            frame = frame.filter(pl.col(name) > str(place))
        if frame.height <= limit:
            return frame, None
        shown = frame.head(limit)
        return shown, self.sealed(shown[name][-1])


def link(request: Request, cursor: str | None) -> dict[str, str]:
    """The header that names the next page (RFC 8288)."""
    if cursor is None:
        return {}
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return {"Link": f'<{request.url.path}?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'}
