"""How far each gateway's numbered messages are committed."""

from collections.abc import Sequence
from typing import Any, Final

from telemetry.model.batch import Sequences, Watermark
from telemetry.store.sql import queries

_QUERIES: Final = queries("readings")
_LARGEST: Final = 2**62  # beyond it ranges would overflow bigint; no gateway counts so far


async def record(connection: Any, sequences: Sequence[Sequences]) -> list[Watermark]:
    """Add the numbers to what is committed; the state after this transaction.

    Locks its rows in key order and must be the transaction's last statement: whoever waits here waits for a
    commit only.
    """
    ranges: dict[tuple[int, int], list[str]] = {}
    for item in sequences:
        kept = [f"[{low},{high}]" for low, high in item.ranges if 0 <= low <= high < _LARGEST]
        if kept:
            ranges.setdefault((item.gateway_key, item.stream_digest), []).extend(kept)
    if not ranges:
        return []
    rows = await connection.fetch(
        _QUERIES["record_sequences"],
        [gateway for gateway, _ in ranges],
        [stream for _, stream in ranges],
        [f"{{{','.join(parts)}}}" for parts in ranges.values()],
    )
    return [
        Watermark(
            gateway_key=row["gateway_key"],
            stream_digest=row["stream_digest"],
            sequence=row["sequence"],
            highest=row["highest"],
            missing=tuple((gap.lower, gap.upper - 1) for gap in row["missing"] or ()),
            missing_count=row["missing_count"],
        )
        for row in rows
    ]
