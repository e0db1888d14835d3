"""GET /export: all of an answer in one stream, chunk by chunk, each a snapshot of its own."""

import io
from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from telemetry.access.principal import Principal, Scope
from telemetry.api import formats
from telemetry.api.asked import Ranged, field_count, query_of
from telemetry.api.boundary import Aborted
from telemetry.api.context import Context, context_of
from telemetry.api.formats import as_csv, rows_of
from telemetry.api.lasting import Lasting, LastingResponse, Piece, pairs_of
from telemetry.api.limits import Slot
from telemetry.api.principals import recipient
from telemetry.api.problems import responses
from telemetry.errors import NoLongerAvailable, NotVisible
from telemetry.views import query as views_query
from telemetry.views.aside import aside
from telemetry.views.export import Chunk, export
from telemetry.views.sight import Viewer

router = APIRouter(tags=["recipients"])

_ROWS: Final = 20_000  # of a chunk: what is sent lags behind what is granted by one chunk at most


class ExportForm(StrEnum):
    """How an export is written."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    ARROW = "arrow"


MEDIA_TYPES: Final[Mapping[ExportForm, str]] = {
    ExportForm.CSV: "text/csv",
    ExportForm.JSONL: "application/x-ndjson",
    ExportForm.PARQUET: "application/vnd.apache.parquet",
    ExportForm.ARROW: "application/vnd.apache.arrow.stream",
}
_BYTES: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
EXPORT_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "All rows. Whole only where the connection ends as HTTP says it should: an export that cannot "
        "go on is broken off, without a last chunk, an Arrow end or a Parquet footer",
        "content": dict.fromkeys(MEDIA_TYPES.values(), _BYTES),
    }
}


class ExportAsked(Ranged):
    """What to export."""

    format: ExportForm | None = Field(None, description="wins over Accept")


@router.get(
    "/export",
    response_class=Response,
    responses=EXPORT_ANSWER | responses("not-found", "not-acceptable", "invalid-request", "too-costly"),
)
async def read_export(
    request: Request,
    principal: Annotated[Principal, recipient(Scope.EXPORT)],
    context: Annotated[Context, Depends(context_of)],
    asked: Annotated[ExportAsked, Query()],
) -> Response:
    """All rows of a query, however many, as CSV, JSON lines, Parquet or an Arrow stream.

    Each part is read with the grants of its moment. Where nothing is shared any more, or the token is revoked, the
    connection is broken off: what has arrived by then is not whole, and looks so.
    """
    query = query_of(principal, asked)
    return await exported(request, context, Viewer(principal.key, query.purpose), query, asked.format)


async def exported(
    request: Request, context: Context, viewer: Viewer, query: views_query.Query, form: ExportForm | None
) -> Response:
    """All rows of a query that the viewer may see, as they come."""
    form = formats.negotiated(request.headers.get("accept"), form, MEDIA_TYPES)
    context.limits.bound_export(field_count(query), query.range_us, query.resolution)
    state = request.scope["state"]
    lasting = Lasting(context, viewer, query, state["still"])
    context.limits.begin_stream(state["slot"])
    chunks = export(context.views, viewer, query, rows=_ROWS)
    first = await anext(chunks)
    pieces = _pieces(lasting, first, chunks, form, state["slot"])
    return LastingResponse(lasting, pieces, MEDIA_TYPES[form])


async def _pieces(
    lasting: Lasting, first: Chunk, chunks: AsyncIterator[Chunk], form: ExportForm, slot: Slot
) -> AsyncIterator[Piece]:
    """The rows of each chunk as bytes."""
    writer, chunk = _WRITERS[form](first.view.rows), first
    try:
        while True:
            rows = chunk.view.rows
            slot.charge(rows.height)
            if lasting.context.ending.begun or not await lasting.still():
                raise Aborted
            if body := await aside(rows.height, writer.write, rows):
                yield Piece(body, pairs_of(rows))
            try:
                chunk = await anext(chunks)
            except StopAsyncIteration:
                break
            except (NoLongerAvailable, NotVisible):
                raise Aborted from None
        if body := writer.end():
            yield Piece(body)
    finally:
        await chunks.aclose()  # type: ignore[attr-defined]  # it is a generator


class _Csv:
    def __init__(self, _like: pl.DataFrame) -> None:
        self._header = True

    def write(self, rows: pl.DataFrame) -> bytes:
        header, self._header = self._header, False
        return as_csv(rows, header=header)

    def end(self) -> bytes:
        return b""


class _JsonLines:
    def __init__(self, _like: pl.DataFrame) -> None:
        pass

    def write(self, rows: pl.DataFrame) -> bytes:
        return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows_of(rows))

    def end(self) -> bytes:
        return b""


class _Table:
    """What an Arrow writer has written since the last time."""

    def __init__(self, like: pl.DataFrame) -> None:
        self._schema = like.head(0).to_arrow().schema
        self._into = io.BytesIO()
        # Positions in the file count on: what is taken out is counted here.
        self._sink = pa.PythonFile(_Drained(self._into), mode="w")
        self._writer = self._opened()

    def _opened(self) -> Any:
        return pq.ParquetWriter(self._sink, self._schema, compression="zstd")

    def write(self, rows: pl.DataFrame) -> bytes:
        if rows.height:
            self._writer.write_table(rows.to_arrow().cast(self._schema))
        return self._taken()

    def end(self) -> bytes:
        self._writer.close()
        return self._taken()

    def _taken(self) -> bytes:
        self._sink.flush()
        body = self._into.getvalue()
        self._into.seek(0)
        self._into.truncate()
        return body


class _ArrowStream(_Table):
    def _opened(self) -> Any:
        return pyarrow.ipc.new_stream(self._sink, self._schema)


class _Drained(io.RawIOBase):
    """Writes through, and tells positions of the whole."""

    def __init__(self, into: io.BytesIO) -> None:
        self._into, self._position = into, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        written = self._into.write(data)
        self._position += written
        return written

    def tell(self) -> int:
        return self._position


_WRITERS: Final[Mapping[ExportForm, type[_Csv | _JsonLines | _Table]]] = {
    ExportForm.CSV: _Csv,
    ExportForm.JSONL: _JsonLines,
    ExportForm.PARQUET: _Table,
    ExportForm.ARROW: _ArrowStream,
}
