"""What codecs remember of gateways, sealed: written with the batch that changed it, read when a worker starts."""

from collections.abc import Sequence
from typing import Any, Final

from telemetry.model.batch import CodecState
from telemetry.store.connection import Connect
from telemetry.store.failures import reported
from telemetry.store.sql import queries

_QUERIES: Final = queries("codec_states")


async def record(connection: Any, states: Sequence[CodecState]) -> tuple[int, ...]:
    """Store states in the caller's transaction, each unless a newer version is there. Returns the keys of gateways
    of which nothing is kept: revoked, unknown, or of an erased owner. For role telemetry_ingest.
    """
    if not states:
        return ()
    rows = await connection.fetch(
        _QUERIES["record"],
        [one.gateway_key for one in states],
        [one.codec for one in states],
        [one.version for one in states],
        [one.sealed for one in states],
    )
    return tuple(row["gateway_key"] for row in rows)


async def load(connect: Connect) -> list[CodecState]:
    """All states. Raises StoreUnavailable."""
    with reported("reading what codecs remember"):
        connection = await connect()
        try:
            rows = await connection.fetch(_QUERIES["load"])
        finally:
            await connection.close()
    return [CodecState(row["gateway_key"], row["codec"], row["version"], row["sealed"]) for row in rows]
