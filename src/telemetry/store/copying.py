"""Binary COPY of rows that all have one width, read as one array.

PostgreSQL documentation, COPY, "Binary Format": a header, one record per row (a count, then a length and a value for
each column), a trailer of -1. Columns must not be null.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from telemetry.errors import StoreError

POSTGRES_EPOCH_US: Final = 946_684_800 * 1_000_000  # 2000-01-01 UTC, where timestamptz counts from
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"


def columns_from_copy(stream: bytearray, columns: Sequence[tuple[str, str]]) -> Mapping[str, npt.NDArray[Any]]:
    """The columns of a whole COPY stream in machine order. ``columns``: name and big-endian NumPy type of each.

    Raises:
        StoreError: the stream has another form or width.

    """
    parts = [part for name, form in columns for part in ((f"{name}_length", ">i4"), (name, form))]
    record = np.dtype([("fields", ">i2"), *parts])
    if not (stream.startswith(_HEADER) and stream.endswith(_TRAILER)):
        raise StoreError("rows came in another form than expected", remedy="`telemetry migrate`")
    body = memoryview(stream)[len(_HEADER) : -len(_TRAILER)]
    if len(body) % record.itemsize:
        raise StoreError("a row has another width than expected", remedy="`telemetry migrate`")
    records: npt.NDArray[np.void] = np.frombuffer(body, dtype=record)
    for name, form in columns:
        if not (records[f"{name}_length"] == np.dtype(form).itemsize).all():
            raise StoreError(f"{name} has another width than expected", remedy="`telemetry migrate`")
    return {name: records[name].astype(np.dtype(form).newbyteorder("=")) for name, form in columns}


Argument = int | Sequence[int] | None

_INSTANT: Final = re.compile(r"'epoch'::timestamptz \+ \$(\d+)::bigint \* interval '1 microsecond'")
_PARAMETER: Final = re.compile(r"\$(\d+)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def written_out(text: str, arguments: Sequence[Argument]) -> str:
    """The statement with its arguments, all of them numbers, in the text.

    COPY takes no parameters. An instant becomes a constant, so that partitions are left out when it is planned.
    """

    def instant(match: re.Match[str]) -> str:
        us = arguments[int(match[1]) - 1]
        try:
            at = _EPOCH + timedelta(microseconds=us) if isinstance(us, int) else None
        except OverflowError:
            at = None
        return match[0] if at is None or at.year < 1000 else f"'{at.isoformat()}'::timestamptz"

    def value(match: re.Match[str]) -> str:
        argument = arguments[int(match[1]) - 1]
        if argument is None:
            return "NULL"
        if isinstance(argument, int):
            return f"({int(argument)})"
        return "'{" + ",".join(str(int(each)) for each in argument) + "}'"

    return _PARAMETER.sub(value, _INSTANT.sub(instant, text))


async def copied(
    connection: Any, text: str, arguments: Sequence[Argument], columns: Sequence[tuple[str, str]]
) -> Mapping[str, npt.NDArray[Any]]:
    """Run ``text`` by COPY; its columns as ``columns_from_copy`` gives them."""
    stream = bytearray()

    async def receive(data: bytes) -> None:
        stream.extend(data)

    await connection.copy_from_query(written_out(text, arguments), output=receive, format="binary")
    return columns_from_copy(stream, columns)
