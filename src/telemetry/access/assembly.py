"""Everything about who asks, put together for one process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from telemetry.access.accounts import People
from telemetry.access.authenticator import DatabaseAuthenticator
from telemetry.access.claims import Claims
from telemetry.access.keeping import PasswordKeeping, Sessions
from telemetry.access.letters import Letters, unheard
from telemetry.access.logging_in import LoggingIn
from telemetry.access.passwords import Passwords
from telemetry.access.records import SQL, Clock, Connections, transaction, utc_now
from telemetry.access.sealing import AccessKeys
from telemetry.access.second_factor import SecondFactor
from telemetry.access.signing_up import Register, SigningUp
from telemetry.access.throttle import Throttle
from telemetry.access.tokens import MachineTokens
from telemetry.config import AccessConfig
from telemetry.deliver.mail import Mailer
from telemetry.errors import TelemetryError

TIDIED_EVERY_S: Final = 120.0
ENDED_TOKENS_KEPT: Final = timedelta(days=90)  # KEEP-3


@dataclass(frozen=True, slots=True)
class Access:
    """What routes need of authentication, one object for each concern. One event loop, any number of callers."""

    authenticator: DatabaseAuthenticator
    tokens: MachineTokens
    claims: Claims
    signing_up: SigningUp
    logging_in: LoggingIn
    passwords: PasswordKeeping
    second_factor: SecondFactor
    sessions: Sessions
    people: People

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Mails are written, and what is over is deleted, while the block lasts."""
        async with self.people.letters.running():
            task = asyncio.create_task(self._keep_tidy())
            try:
                yield
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def tidy(self) -> None:
        """Delete what is over: tries and codes, sessions, and tokens that ended 90 days ago."""
        now = self.people.clock()
        async with transaction(self.people.pool, "deleting what is over") as connection:
            for statement in ("tidy_attempts", "tidy_sign_ups", "tidy_claims", "tidy_resets"):
                await connection.execute(SQL[statement], now)
            await connection.execute(SQL["tidy_days"], now.date())
            await connection.execute(SQL["tidy_sessions"], now)
            await connection.execute(SQL["tidy_tokens"], now - ENDED_TOKENS_KEPT)

    async def _keep_tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDIED_EVERY_S)
            with suppress(TelemetryError):  # the next pass does it
                await self.tidy()


def assemble(
    pool: Connections,
    *,
    access_key: bytes,
    api_key: bytes,
    mailer: Mailer,
    register: Register | None = None,
    config: AccessConfig | None = None,
    passwords: Passwords | None = None,
    report: Callable[[Exception], object] = unheard,
    clock: Clock = utc_now,
) -> Access:
    """``pool``: of the role ``telemetry_access``. ``access_key``, ``api_key``: the keystore's secrets ACCESS and API.
    ``register``: adds an owner who signs up without a code; not called where the configuration wants codes.
    ``report``: told why a mail was given up.
    """
    config = config or AccessConfig()
    keys = AccessKeys(access_key)
    people = People(
        pool,
        keys,
        passwords or Passwords(),
        Letters(mailer, report=report),
        Throttle(pool, keys, clock=clock),
        timedelta(days=config.session_days),
        timedelta(hours=config.idle_hours),
        clock,
    )
    return Access(
        DatabaseAuthenticator(pool, api_key, idle=timedelta(hours=config.idle_hours), clock=clock),
        MachineTokens(pool, clock=clock),
        Claims(pool, clock=clock),
        SigningUp(people, register if config.sign_up == "open" else None),
        LoggingIn(people),
        PasswordKeeping(people),
        SecondFactor(people),
        Sessions(people),
        people,
    )
