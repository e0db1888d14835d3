"""The jobs beside the worker, each with a role and a password of its own that the worker's keystore refuses.

    plan        compiles owners whose plan is older than what they settled, or whose grants begin or end by time
    labels      what recipients are shown as place
    rollup      readings to windows; retention: what is kept too long or too fine
    alerts      what is wrong with devices

Several hosts may run them: the database lets one work at a time. A host that lacks a job's password says so and runs
the others.
"""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from telemetry.alerts.job import AlertJob, alert_connector
from telemetry.app import SystemClock
from telemetry.config import Config
from telemetry.errors import KeystoreError
from telemetry.maintenance.jobs import Maintenance, rollup_connector
from telemetry.maintenance.labels import LabelKeeper
from telemetry.maintenance.replan import PlanKeeper
from telemetry.observe import Observer, events
from telemetry.store.connection import connector
from telemetry.store.keystore import LABEL_SECRETS, PLAN_SECRETS, open_keystore, role_password

_RIGHTS: Final = "telemetry_rights"

Job = Coroutine[Any, Any, None]


def jobs(config: Config, dsn: str, observer: Observer) -> Iterator[tuple[str, Job]]:
    """Each job that this host may run, by name, to be awaited until it is cancelled. None where they run elsewhere."""
    if not config.jobs:
        return
    makers: tuple[tuple[events.Job, Callable[[Config, str, Observer], Job]], ...] = (
        (events.Job.PLAN, _plan),
        (events.Job.LABELS, _labels),
        (events.Job.ROLLUP, _rollup),
        *(((events.Job.ALERTS, _alerts),) if config.alerts.enabled else ()),
    )
    for job, make in makers:
        try:
            made = make(config, dsn, observer)
        except KeystoreError as error:
            observer.job_failed(events.JobFailed(job, error))
            continue
        yield job.value, made


def _plan(config: Config, dsn: str, observer: Observer) -> Job:
    password = role_password(open_keystore(config.data_dir, allowed=PLAN_SECRETS), _RIGHTS)
    return PlanKeeper(connector(dsn, user=_RIGHTS, password=password), observer).run()


def _labels(config: Config, dsn: str, observer: Observer) -> Job:
    connect = rollup_connector(config, dsn, open_keystore(config.data_dir, allowed=LABEL_SECRETS))
    return LabelKeeper(connect, observer, k=config.place.k).run()


def _rollup(config: Config, dsn: str, observer: Observer) -> Job:
    connect = rollup_connector(config, dsn, open_keystore(config.data_dir, allowed=LABEL_SECRETS))
    return Maintenance(config, connect, observer, SystemClock().now_us).run()


def _alerts(config: Config, dsn: str, observer: Observer) -> Job:
    connect = alert_connector(config, dsn, open_keystore(config.data_dir, allowed=LABEL_SECRETS))
    return AlertJob(config, connect, observer, SystemClock().now_us).run()
