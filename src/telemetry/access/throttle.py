"""How often something may be tried: some tries free, then a delay that doubles up to a bound, then again and again.

A try is counted before it is made, in a transaction of its own, so that tries at once do not slip through; what was no
failure is given back. A try that comes too early is refused, counts for nothing and prolongs nothing: whoever pounds
does not lock anybody out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from telemetry.access.records import SQL, Clock, Connections, transaction, utc_now
from telemetry.access.sealing import AccessKeys
from telemetry.errors import TooManyTries

FORGOTTEN_AFTER: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Budget:
    """``free`` tries without delay; then ``first_s`` seconds, twice as many after each try, at most ``most_s``."""

    free: int
    first_s: float
    most_s: float

    def delay_s(self, tries: int) -> float:
        """How long the next try must wait after so many. The same formula is in the statement `take`."""
        return 0.0 if tries <= self.free else min(self.most_s, self.first_s * 2.0 ** min(tries - self.free - 1, 40))


@dataclass(frozen=True, slots=True)
class Try:
    """One budget of somebody's."""

    bucket: bytes
    budget: Budget


@dataclass(frozen=True, slots=True)
class Whence:
    """Where a request comes from: the address of whoever sent it, and the device cookie if there was one."""

    address: str | None = None
    device_cookie: str | None = None


class Throttle:
    """Over a pool of the role ``telemetry_access``. Any number of callers, one event loop."""

    def __init__(self, pool: Connections, keys: AccessKeys, *, clock: Clock = utc_now) -> None:
        self._pool = pool
        self._keys = keys
        self._clock = clock
        self._half: tuple[date, bytes] | None = None

    async def place(self, whence: Whence) -> bytes:
        """A keyed hash of the network, whose key is drawn anew each day (UTC) and then forgotten."""
        today = self._clock().date()
        if self._half is None or self._half[0] != today:
            half = None
            while half is None:  # where another process drew it meanwhile, the next look finds it
                async with transaction(self._pool, "drawing the key of the day") as connection:
                    half = await connection.fetchval(SQL["day_half"], today, AccessKeys.new_half())
            self._half = (today, half)
        return self._keys.place(whence.address, self._half[1])

    async def take(self, *tries: Try) -> None:
        """Count one try of each, all or none.

        Raises:
            TooManyTries: one of them must wait; none was counted.

        """
        now, wait_until = self._clock(), None
        async with transaction(self._pool, "counting tries") as connection:
            inner = connection.transaction()
            await inner.start()
            # In one order, so that two requests cannot wait for each other crosswise.
            for one in sorted(tries, key=lambda one: one.bucket):
                wait_until = await _taken(connection, one, now)
                if wait_until is not None:
                    break
            await (inner.commit() if wait_until is None else inner.rollback())
        if wait_until is not None:
            raise TooManyTries(max(1, math.ceil((wait_until - now).total_seconds())))

    async def give_back(self, tries: Sequence[Try], *, clear: Sequence[Try] = ()) -> None:
        """Uncount one try of each of ``tries``: it was no failure. All of ``clear`` are forgotten."""
        async with transaction(self._pool, "giving tries back") as connection:
            if clear:
                await connection.execute(SQL["clear_tries"], [one.bucket for one in clear])
            if tries:
                await connection.execute(SQL["give_back"], [one.bucket for one in tries], self._clock())


async def _taken(connection: Any, one: Try, now: datetime) -> datetime | None:
    """None where the try counts; otherwise from when on the next one does."""
    budget = one.budget
    arguments = (one.bucket, now, budget.free, budget.first_s, budget.most_s, FORGOTTEN_AFTER)
    if await connection.fetchval(SQL["take"], *arguments) is not None:
        return None
    next_at: datetime | None = await connection.fetchval(SQL["next_at"], one.bucket)
    return next_at or now
