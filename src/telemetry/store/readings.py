"""The sink: one batch, one transaction.

hold the plan's version → COPY into hot partitions (or merge) → late rows → quarantine → codec states → sequences
→ COMMIT

The order is the lock order: hot keys ascending, the late lock, quarantine keys, codec states, sequence keys.
Transactions that overlap wait for one another and not in circles; what the database still ends as a deadlock is tried
again.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import polars as pl

from telemetry.errors import PlanOutdated, StoreUnavailable
from telemetry.model.batch import Write, Written
from telemetry.store import codec_states, quarantine, sequences
from telemetry.store.connection import UNAVAILABLE, Connect, closed_is_lost, translated
from telemetry.store.merge import LATE, STAGING_DDL, Counts, merge
from telemetry.store.partitions import PartitionMap, hot_name
from telemetry.store.prepare import Prepared, copy_stream, occurring_columns, prepare
from telemetry.store.sql import queries

_ATTEMPTS: Final = 5
_GRACE_S: Final = 10.0  # the server ends a slow statement first; past this the connection itself is stuck
_QUERIES: Final = queries("readings")
# The same transaction may succeed the next time: nothing of it is stored.
_AGAIN: Final = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.UndefinedTableError,  # a hot partition was dropped since we learned of it
    asyncpg.CheckViolationError,  # no late partition for this hour of receipt yet
    asyncpg.OutdatedSchemaCacheError,
    asyncpg.InvalidCachedStatementError,
)


class PostgresSink:
    """Implements ``telemetry.ports.Sink`` on ``connections`` connections of role telemetry_ingest.

    More writes than connections wait their turn. A connection that failed is replaced by the next write; one
    whose write was cancelled too, since its transaction's fate is unknown.
    """

    def __init__(
        self, connect: Connect, *, connections: int = 2, hot_hours: int = 2, statement_timeout_s: float = 120.0
    ) -> None:
        self._connect = connect
        self._idle: asyncio.LifoQueue[Any | None] = asyncio.LifoQueue()
        self._connections = connections
        for _ in range(connections):
            self._idle.put_nowait(None)
        self._hot_hours = hot_hours
        self._timeout_s = statement_timeout_s + _GRACE_S
        self._partitions = PartitionMap(hot_hours)

    async def write(self, batch: Write) -> Written:
        """Commit ``batch`` as a whole; see ``telemetry.ports.Sink``.

        Raises:
            PlanOutdated: nothing was written.
            StoreUnavailable: the outcome is unknown; writing the same batch again is safe.
            StoreError: the database refused it for good; nothing was written.

        """
        started = time.perf_counter()
        prepared = await asyncio.to_thread(prepare, batch.rows, batch.plan_version)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self._connection() as connection:
                    return await self._attempt(connection, batch, prepared, started)
            except _AGAIN as error:
                self._partitions.forget()
                if attempt == _ATTEMPTS:
                    raise translated(error) from None
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close all connections; waits for the writes in flight."""
        for _ in range(self._connections):
            connection = await self._idle.get()
            if connection is not None:
                with contextlib.suppress(*UNAVAILABLE):
                    await connection.close(timeout=1.0)
        for _ in range(self._connections):
            self._idle.put_nowait(None)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """Lend a connection that is outside any transaction, and take it back only if it still is."""
        connection = await self._idle.get()
        try:
            if connection is None or connection.is_closed():
                connection = None
                connection = await self._open()
            with closed_is_lost():
                async with _while_connected(connection, self._timeout_s):
                    yield connection
        except (PlanOutdated, asyncpg.PostgresError) as error:
            if isinstance(error, UNAVAILABLE) or not await _rolled_back(connection):
                _end(connection)
                connection = None
            if isinstance(error, (PlanOutdated, *_AGAIN)):
                raise
            raise translated(error) from None
        except UNAVAILABLE as error:
            _end(connection)
            connection = None
            raise translated(error) from None
        except BaseException:
            _end(connection)
            connection = None
            raise
        finally:
            self._idle.put_nowait(connection)

    async def _open(self) -> Any:
        connection = await self._connect()
        try:
            await connection.execute(STAGING_DDL)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _attempt(self, connection: Any, batch: Write, prepared: Prepared, started: float) -> Written:
        await self._partitions.learn(connection, (part.hour for part in prepared.slices))
        await connection.execute("BEGIN")
        current = await connection.fetchval(_QUERIES["hold_version"])
        if current != batch.plan_version:
            raise PlanOutdated(current)
        counts = [await self._write_hot(connection, part.hour, part.rows) for part in self._hot(prepared)]
        late = await self._write_late(connection, prepared)
        again = await quarantine.hold(connection, batch.quarantined)
        forgotten = await codec_states.record(connection, batch.codec_states)
        watermarks = await sequences.record(connection, batch.sequences)
        if await connection.execute("COMMIT") != "COMMIT":
            raise StoreUnavailable("the transaction was rolled back", remedy="it is tried again")
        counts.append(late)
        written = Written(
            stored=sum(c.stored for c in counts),
            duplicate=prepared.duplicate + sum(c.duplicate for c in counts),
            merged=prepared.merged + sum(c.merged for c in counts),
            conflict=prepared.conflict + sum(c.conflict for c in counts),
            late=late.stored,
            quarantined_again=again,
            seconds=time.perf_counter() - started,
            watermarks=tuple(watermarks),
            forgotten_gateways=forgotten,
        )
        assert written.stored + written.duplicate == batch.rows.height, "rows got lost or doubled"  # noqa: S101
        return written

    def _hot(self, prepared: Prepared) -> list[Any]:
        return [part for part in prepared.slices if self._partitions.is_hot(part.hour)]

    async def _write_hot(self, connection: Any, hour: int, rows: pl.DataFrame) -> Counts:
        partition = hot_name(hour)
        columns = occurring_columns(rows)
        await connection.execute("SAVEPOINT hot")
        try:
            await connection.copy_to_table(
                partition,
                schema_name="readings",
                columns=columns,
                format="binary",
                source=copy_stream(rows.select(columns)),
            )
        except asyncpg.UniqueViolationError:
            await connection.execute("ROLLBACK TO SAVEPOINT hot")
            return await merge(connection, rows, f"readings.{partition}")
        await connection.execute("RELEASE SAVEPOINT hot")
        return Counts(rows.height)

    async def _write_late(self, connection: Any, prepared: Prepared) -> Counts:
        late = [part.rows for part in prepared.slices if not self._partitions.is_hot(part.hour)]
        if not late:
            return Counts(0)
        await connection.execute(_QUERIES["lock_late"])
        return await merge(connection, pl.concat(late), LATE)


@contextlib.asynccontextmanager
async def _while_connected(connection: Any, timeout_s: float) -> AsyncIterator[None]:
    """Raise TimeoutError after ``timeout_s``, or at once when the connection is lost.

    asyncpg 0.32 does not notice the loss while its COPY waits for the socket to take more.
    """
    loop = asyncio.get_running_loop()
    inside = True

    def lost(_: Any) -> None:
        if inside:
            deadline.reschedule(loop.time())

    try:
        async with asyncio.timeout(timeout_s) as deadline:
            connection.add_termination_listener(lost)
            yield
    finally:
        inside = False
        connection.remove_termination_listener(lost)


async def _rolled_back(connection: Any) -> bool:
    """Leave the transaction; False where that failed and the connection is of no more use."""
    if connection is None:
        return True
    try:
        async with asyncio.timeout(_GRACE_S):
            await connection.execute("ROLLBACK")
    except (*UNAVAILABLE, asyncpg.PostgresError):
        return False
    except BaseException:
        _end(connection)
        raise
    return True


def _end(connection: Any) -> None:
    """Drop a connection without waiting for anything; it may be None or closed already."""
    if connection is not None:
        connection.terminate()
