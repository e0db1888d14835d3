"""Looking for alerts as a job that runs for as long as the service does."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from telemetry.alerts.find import AlertFinder, Found
from telemetry.config import Config
from telemetry.errors import TelemetryError
from telemetry.model.fields import DataClass
from telemetry.observe import Observer, events
from telemetry.ports import Keystore
from telemetry.store.connection import Connect, connector
from telemetry.store.keystore import role_password

ROLE: Final = "telemetry_rollup"


def alert_connector(config: Config, dsn: str, keystore: Keystore) -> Connect:
    """Opens connections as the role that finds alerts."""
    return connector(
        dsn,
        user=ROLE,
        password=role_password(keystore, ROLE),
        statement_timeout_s=config.database.statement_timeout_s,
    )


def make_finder(config: Config, connect: Connect, now_us: Callable[[], int]) -> AlertFinder:
    """As configured."""
    days = config.retention.days_by_class.get(DataClass.ALERT, config.retention.series_days)
    return AlertFinder(connect, now_us, hot_hours=config.retention.hot_hours, k=config.place.k, most_days=days)


class AlertJob:
    """Passes until cancelled; what devices made is judged every few hours. A pass that fails is told and not raised."""

    def __init__(self, config: Config, connect: Connect, observer: Observer, now_us: Callable[[], int]) -> None:
        self._config, self._observer = config.alerts, observer
        self._finder = make_finder(config, connect, now_us)

    async def run(self, tell: Callable[[Found], None] = lambda _: None) -> None:
        """Round after round."""
        due = 0.0
        while True:
            production = time.monotonic() >= due
            found = await self.look(production=production)
            if found is not None:
                tell(found)
                due = time.monotonic() + self._config.production_interval_s if production else due
            await asyncio.sleep(self._config.interval_s)

    async def look(self, *, production: bool) -> Found | None:
        """One pass; None where it failed."""
        began = time.perf_counter()
        try:
            found = await self._finder.run(production=production)
        except (TelemetryError, OSError) as error:
            self._observer.job_failed(events.JobFailed(events.Job.ALERTS, error))
            return None
        if found.ran:
            self._observer.alerts_found(events.AlertsFound(found.devices, found.begun, found.ended))
            seconds = time.perf_counter() - began
            self._observer.job_done(events.JobDone(events.Job.ALERTS, seconds, made=found.begun, removed=found.ended))
        return found
