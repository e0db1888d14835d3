"""A process that runs one pass of the rollup and kills itself in the middle of it.

    python -m tests.support.rollup_runner DSN NOW_US STATEMENT DELAY_MS

SIGKILL comes ``DELAY_MS`` after the STATEMENT-th statement was begun: before the server has seen it, while it works
on it, or some statements later.
"""

import asyncio
import os
import signal
import sys
import threading
from typing import Any

from telemetry.maintenance.rollup import Rollup
from telemetry.store.connection import Connect, connector
from tests.support.store import PASSWORD

COUNTED = {"execute", "fetch", "fetchval", "fetchrow", "copy_from_query"}


class Counted:
    """A connection that counts its statements, commits included, and knows at which one to die."""

    def __init__(self, connection: Any, fatal: int, delay_s: float) -> None:
        self._connection, self._fatal, self._delay_s = connection, fatal, delay_s
        self.statements = 0

    def _count(self) -> None:
        self.statements += 1
        if self.statements == self._fatal:
            if self._delay_s == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(self._delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in COUNTED:
            return found

        async def counted(*arguments: Any, **options: Any) -> Any:
            self._count()
            return await found(*arguments, **options)

        return counted

    def transaction(self, **options: Any) -> Any:
        return _Transaction(self, self._connection.transaction(**options))


class _Transaction:
    def __init__(self, counted: Counted, transaction: Any) -> None:
        self._counted, self._transaction = counted, transaction

    async def __aenter__(self) -> None:
        self._counted._count()
        await self._transaction.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        self._counted._count()
        await self._transaction.__aexit__(*error)


async def run_counted(connect: Connect, now_us: int, fatal: int = 0, delay_ms: float = 0) -> int:
    """One pass; how many statements it took."""
    made: list[Counted] = []

    async def counted() -> Any:
        made.append(Counted(await connect(), fatal, delay_ms / 1000))
        return made[-1]

    await Rollup(counted, lambda: now_us, hot_hours=2, devices_at_once=2).run()
    return made[-1].statements


if __name__ == "__main__":
    dsn, now, statement, delay = sys.argv[1:]
    connect = connector(dsn, user="telemetry_rollup", password=PASSWORD)
    asyncio.run(run_counted(connect, int(now), int(statement), float(delay)))
