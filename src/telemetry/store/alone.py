"""One process at a time: a job on a connection that holds an advisory lock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from telemetry.store.connection import Connect

ROLLUP: Final = (7310, 7)  # of the rollup and of retention
ALERTS: Final = (7315, 1)


@asynccontextmanager
async def alone(connect: Connect, lock: tuple[int, int]) -> AsyncIterator[Any]:
    """A connection that holds the lock; None where another process has it. Both end with the block."""
    connection = await connect()
    try:
        held = await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *lock)
        yield connection if held else None
        if held:  # the next one need not wait for the server to notice that the session is over
            await connection.execute("SELECT pg_advisory_unlock($1, $2)", *lock)
    finally:
        connection.terminate()  # in any case the lock goes with the session
