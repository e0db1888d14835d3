"""The rollup and retention as jobs that run for as long as the service does.

A connection of role telemetry_rollup is opened for each round. A round that fails is told and tried again; several
processes may run the jobs, the database lets one of them work at a time.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from telemetry.config import Config
from telemetry.errors import TelemetryError
from telemetry.maintenance.retention import Retained, Retention
from telemetry.maintenance.rollup import Passed, Rollup
from telemetry.model.batch import MICROSECONDS
from telemetry.model.fields import DataClass
from telemetry.observe import Observer, events
from telemetry.ports import Keystore
from telemetry.store.connection import Connect, connector
from telemetry.store.keystore import role_password

ROLLUP: Final = "telemetry_rollup"
ROLLUP_INTERVAL_S: Final = 15.0  # a pass begins only where a window has ended since the last one
RETENTION_INTERVAL_S: Final = 3600.0


def rollup_connector(config: Config, dsn: str, keystore: Keystore) -> Connect:
    """Opens connections as telemetry_rollup."""
    return connector(
        dsn,
        user=ROLLUP,
        password=role_password(keystore, ROLLUP),
        statement_timeout_s=config.database.statement_timeout_s,
    )


def make_rollup(config: Config, connect: Connect, now_us: Callable[[], int]) -> Rollup:
    """The rollup as configured."""
    return Rollup(connect, now_us, hot_hours=config.retention.hot_hours)


def make_retention(config: Config, connect: Connect, now_us: Callable[[], int]) -> Retention:
    """Retention as configured."""
    days = dict.fromkeys(DataClass, config.retention.series_days) | config.retention.days_by_class
    return Retention(connect, now_us, operator_days=days)


class Maintenance:
    """Runs both until it is cancelled. ``tell`` gets what each round did, for whoever shows it."""

    def __init__(
        self,
        config: Config,
        connect: Connect,
        observer: Observer,
        now_us: Callable[[], int],
        tell: Callable[[Passed | Retained], None] | None = None,
    ) -> None:
        self._rollup = make_rollup(config, connect, now_us)
        self._retention = make_retention(config, connect, now_us)
        self._observer = observer
        self._now_us = now_us
        self._tell = tell or (lambda _: None)

    async def run(self, *, rollup: bool = True, retention: bool = True) -> None:
        """Rounds of both, one after another."""
        due = time.monotonic()
        while True:
            if rollup:
                await self.roll_up()
            if retention and time.monotonic() >= due:
                await self.retain()
                due = time.monotonic() + RETENTION_INTERVAL_S
            await asyncio.sleep(ROLLUP_INTERVAL_S)

    async def roll_up(self) -> None:
        """One pass; a failure is told and not raised."""
        began = time.perf_counter()
        try:
            passed = await self._rollup.run()
        except (TelemetryError, OSError) as error:
            self._observer.job_failed(events.JobFailed(events.Job.ROLLUP, error))
            return
        if passed.as_of_us is not None:
            self._observer.rollup_passed(
                events.RollupPassed(
                    behind_s=(self._now_us() - passed.as_of_us) / MICROSECONDS,
                    windows=passed.windows,
                    devices=passed.devices,
                    sealed_hours=passed.sealed,
                    late_hours=passed.late_hours,
                )
            )
            seconds = time.perf_counter() - began
            self._observer.job_done(
                events.JobDone(events.Job.ROLLUP, seconds, made=passed.windows, removed=len(passed.dropped))
            )
        self._tell(passed)

    async def retain(self) -> None:
        """One run of retention; a failure is told and not raised."""
        began = time.perf_counter()
        try:
            done = await self._retention.run()
        except (TelemetryError, OSError) as error:
            self._observer.job_failed(events.JobFailed(events.Job.RETENTION, error))
            return
        if done.ran:
            self._observer.series_retained(
                events.SeriesRetained(done.expired, done.coarsened, done.superseded, len(done.dropped))
            )
            seconds = time.perf_counter() - began
            removed = done.expired + done.coarsened + done.superseded
            self._observer.job_done(events.JobDone(events.Job.RETENTION, seconds, made=done.written, removed=removed))
        self._tell(done)
