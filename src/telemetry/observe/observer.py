"""The one door through which the service tells what happens: a method per event, from events to metrics and logs.

Called once per batch or rarer, from the event loop; a call costs microseconds. Metrics may be read from any
thread, ``snapshot`` from the event loop only.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

import structlog
from prometheus_client import Counter

from telemetry.errors import PlanOutdated, StoreUnavailable
from telemetry.model.batch import MICROSECONDS, Reason, Withheld
from telemetry.model.fields import FIELD_INDEX
from telemetry.observe import events
from telemetry.observe.api_told import ApiTold
from telemetry.observe.metrics import Metrics

_QUIET_S: Final = 10.0  # a repetitive event is logged at most this often
_RATE_WINDOW_S: Final = 5.0
_UNLISTED: Final = "unlisted"
_OTHER: Final = "other"


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _wall_us() -> int:
    return time.time_ns() // 1000


class _Children:
    """The labelled children of a counter, made once each; a key outside ``known`` counts as ``other``."""

    def __init__(self, counter: Counter, known: Mapping[str, Any], other: str) -> None:
        self._counter, self._known, self._other = counter, known, other
        self._made: dict[tuple[str, ...], Counter] = {}

    def add(self, key: str, amount: float, *before: str) -> None:
        label = str(key) if key in self._known else self._other
        labels = (*before, label)
        if (child := self._made.get(labels)) is None:
            child = self._made[labels] = self._counter.labels(*labels)
        child.inc(amount)


def _names(kind: type[StrEnum]) -> dict[str, str]:
    return {member.value: member.value for member in kind}


class Observer(ApiTold):
    """Turns events into metrics and log lines, and keeps the figures that ``snapshot`` shows."""

    def __init__(
        self,
        metrics: Metrics | None = None,
        *,
        now_us: Callable[[], int] = _wall_us,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = metrics if metrics is not None else Metrics()
        self._now_us, self._monotonic = now_us, monotonic
        self._started = monotonic()
        self._log = structlog.get_logger()
        self._logged: dict[type[events.Event], tuple[float, int]] = {}
        self._withheld = _Children(self.metrics.withheld, _names(Withheld), _OTHER)
        self._quarantined = _Children(self.metrics.quarantined, _names(Reason), _OTHER)
        self._values_withheld = _Children(self.metrics.values_withheld, FIELD_INDEX, _UNLISTED)
        self._implausible = _Children(self.metrics.values_implausible, FIELD_INDEX, _UNLISTED)
        self._stages = {stage: self.metrics.stage_seconds.labels(stage) for stage in ("decode", "protect", "write")}
        self._totals: dict[str, int] = dict.fromkeys(
            ("messages", "received", "stored", "late", "duplicates", "merged", "conflicts", "gaps_opened"), 0
        )
        self._withheld_total: dict[str, int] = {}
        self._quarantined_total: dict[str, int] = {}
        self._commits: deque[float] = deque(maxlen=4096)
        self._rate: deque[tuple[float, int]] = deque(maxlen=4096)
        self._missing: dict[tuple[int, int], int] = {}
        self._newest_us: int | None = None
        self._connections = 0
        self._state: dict[str, Any] = {"broker_connected": False, "plan_version": 0, "gateways": 0, "devices": 0}
        self._in_flight = (0, 0)
        self.metrics.lag.set_function(self.lag_s)

    def lag_s(self) -> float:
        """Now less the newest committed reading's instant, cut to whole seconds, 0 before the first."""
        if self._newest_us is None:
            return 0.0
        return float(max(0, (self._now_us() - self._newest_us) // MICROSECONDS))

    def log(self, event: events.Event) -> None:
        """Write the event as a log line, repetitive ones at most every ten seconds with the number left out.

        Nothing is written before ``configure_logging``: structlog's own defaults would print values as they are.
        """
        if not structlog.is_configured():
            return
        kind = type(event)
        more = {}
        if kind.repetitive:
            now = self._monotonic()
            last, suppressed = self._logged.get(kind, (-_QUIET_S, 0))
            if now - last < _QUIET_S:
                self._logged[kind] = (last, suppressed + 1)
                return
            self._logged[kind] = (now, 0)
            more = {"suppressed": suppressed} if suppressed else {}
        fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}  # type: ignore[arg-type]  # every event is a dataclass
        getattr(self._log, kind.level)(kind.name(), **fields, **more)

    def service_started(self, event: events.ServiceStarted) -> None:
        self.log(event)

    def service_stopped(self, event: events.ServiceStopped) -> None:
        self._state["broker_connected"] = False
        self.metrics.broker_connected.set(0)
        self.log(event)

    def server_started(self, event: events.ServerStarted) -> None:
        self.log(event)

    def server_stopped(self, event: events.ServerStopped) -> None:
        if not event.asked:
            self.metrics.server_stops.labels(event.server.value).inc()
        self.log(event)

    def broker_connected(self, event: events.BrokerConnected) -> None:
        self._connections += 1
        if self._connections > 1:
            self.metrics.reconnects.inc()
        self._state["broker_connected"] = True
        self.metrics.broker_connected.set(1)
        self.log(event)

    def broker_lost(self, event: events.BrokerLost) -> None:
        self._state["broker_connected"] = False
        self.metrics.broker_connected.set(0)
        self.log(event)

    def publications_dropped(self, event: events.PublicationsDropped) -> None:
        self.metrics.publications_dropped.inc(event.messages)
        self.log(event)

    def in_flight(self, event: events.InFlight) -> None:
        self._in_flight = (event.messages, event.payload_bytes)
        self.metrics.in_flight_messages.set(event.messages)
        self.metrics.in_flight_bytes.set(event.payload_bytes)

    def batch_committed(self, event: events.BatchCommitted) -> None:
        """Count every reading of a committed batch at its one end. Call once per batch, after COMMIT."""
        self._count_readings(event)
        self._count_reasons(event)
        self._time_batch(event)
        if not event.balanced:
            self.metrics.unbalanced.inc()
            ends = event.stored + event.duplicate + sum(event.withheld.values()) + sum(event.quarantined.values())
            self.log(events.BatchUnbalanced(event.received, event.received - ends))
        if event.quarantined:
            self.log(events.ReadingsQuarantined(event.quarantined))
        self.log(event)

    def _count_readings(self, event: events.BatchCommitted) -> None:
        metrics, totals = self.metrics, self._totals
        for counter, total, amount in (
            (metrics.messages, "messages", event.messages),
            (metrics.received, "received", event.received),
            (metrics.stored, "stored", event.stored),
            (metrics.late, "late", event.late),
            (metrics.duplicate, "duplicates", event.duplicate),
            (metrics.merged, "merged", event.merged),
            (metrics.conflict, "conflicts", event.conflict),
        ):
            counter.inc(amount)
            totals[total] += amount
        metrics.payload.inc(event.payload_bytes)
        metrics.quarantined_again.inc(event.quarantined_again)
        metrics.memory_evictions.inc(event.evicted)

    def _count_reasons(self, event: events.BatchCommitted) -> None:
        for reason, amount in event.withheld.items():
            self._withheld.add(reason, amount)
            label = Withheld(reason).value if reason in _WITHHELD else _OTHER
            self._withheld_total[label] = self._withheld_total.get(label, 0) + amount
        for cause, amount in event.quarantined.items():
            self._quarantined.add(cause, amount)
            label = Reason(cause).value if cause in _REASONS else _OTHER
            self._quarantined_total[label] = self._quarantined_total.get(label, 0) + amount
        for (reason, name), amount in event.withheld_values.items():
            self._values_withheld.add(name, amount, str(reason) if reason in _WITHHELD else _OTHER)
        for name, amount in event.implausible.items():
            self._implausible.add(name, amount)

    def _time_batch(self, event: events.BatchCommitted) -> None:
        self.metrics.batch_messages.observe(event.messages)
        self.metrics.batch_readings.observe(event.received)
        self.metrics.commit_seconds.observe(event.commit_s)
        self._stages["decode"].observe(event.decode_s)
        self._stages["protect"].observe(event.protect_s)
        self._stages["write"].observe(event.write_s)
        self._commits.append(event.commit_s)
        self._rate.append((self._monotonic(), event.received))
        if event.newest_ts_us is not None:
            self._newest_us = max(event.newest_ts_us, self._newest_us or 0)

    def write_failed(self, event: events.WriteFailed) -> None:
        kind = "refused"
        if isinstance(event.error, PlanOutdated):
            kind = "plan_outdated"
        elif isinstance(event.error, StoreUnavailable):
            kind = "unavailable"
        self.metrics.write_failures.labels(kind).inc()
        self.log(event)

    def watermarks_advanced(self, event: events.WatermarksAdvanced) -> None:
        """Add up what is missing over all gateways; only sums leave this method."""
        opened = 0
        for mark in event.watermarks:
            key = (mark.gateway_key, mark.stream_digest)
            opened += max(0, mark.missing_count - self._missing.get(key, 0))
            if mark.missing_count:
                self._missing[key] = mark.missing_count
            else:
                self._missing.pop(key, None)
        missing = sum(self._missing.values())
        self.metrics.gaps_missing.set(missing)
        if opened:
            self.metrics.gaps_opened.inc(opened)
            self._totals["gaps_opened"] += opened
            self.log(events.GapsOpened(opened, missing))

    def plan_applied(self, event: events.PlanApplied) -> None:
        self._state["plan_version"] = event.version
        self.metrics.plan_version.set(event.version)
        self.log(event)

    def registry_loaded(self, event: events.RegistryLoaded) -> None:
        self._state |= {"gateways": event.gateways, "devices": event.devices}
        self.metrics.gateways.set(event.gateways)
        self.metrics.devices.set(event.devices)
        self.log(event)

    def states_loaded(self, event: events.StatesLoaded) -> None:
        self.log(event)

    def devices_enrolled(self, event: events.DevicesEnrolled) -> None:
        self._state["devices"] = event.known
        self.metrics.devices.set(event.known)
        self.metrics.enrolled.inc(event.enrolled)
        self.metrics.enrolment_refused.inc(event.refused)
        self.log(event)

    def serial_at_two_sites(self, event: events.SerialAtTwoSites) -> None:
        self.metrics.two_sites.inc(event.devices)
        self.log(event)

    def advertisements_heard(self, event: events.AdvertisementsHeard) -> None:
        """Count frames by what became of them, and show how the radio stands."""
        metrics = self.metrics
        for outcome in ("taken", "strangers", "repeated", "thinned", "empty"):
            metrics.ble_frames.labels(outcome).inc(getattr(event, outcome))
        for fault, amount in event.refused.items():
            metrics.ble_frames.labels(fault.value).inc(amount)
        metrics.ble_untrusted.inc(event.untrusted)
        metrics.ble_missed.inc(event.missed)
        metrics.ble_dropped.inc(event.dropped)
        metrics.ble_spool.set(event.spool_bytes)
        metrics.ble_scanning.set(event.scanning)
        self.log(event)

    def radio_failed(self, event: events.RadioFailed) -> None:
        self.log(event)

    def job_done(self, event: events.JobDone) -> None:
        self.metrics.job_seconds.labels(event.job.value).observe(event.seconds)
        self.log(event)

    def job_failed(self, event: events.JobFailed) -> None:
        self.metrics.job_failures.labels(event.job.value).inc()
        self.log(event)

    def rollup_passed(self, event: events.RollupPassed) -> None:
        self.metrics.windows_written.inc(event.windows)
        self.metrics.rollup_behind.set(event.behind_s)
        self.log(event)

    def series_retained(self, event: events.SeriesRetained) -> None:
        for cause in ("expired", "coarsened", "superseded"):
            self.metrics.windows_removed.labels(cause).inc(getattr(event, cause))
        self.log(event)

    def alerts_found(self, event: events.AlertsFound) -> None:
        self.metrics.alerts_begun.inc(event.begun)
        self.metrics.alerts_ended.inc(event.ended)
        self.log(event)

    def messages_sent(self, event: events.MessagesSent) -> None:
        for outcome in ("delivered", "failed", "withdrawn", "given_up"):
            self.metrics.messages_sent.labels(outcome).inc(getattr(event, outcome))
        self.metrics.messages_waiting.set(event.waiting)
        self.log(event)

    def clock_jumped(self, event: events.ClockJumped) -> None:
        self.metrics.clock_jumps.inc()
        self.log(event)

    def loop_stalled(self, event: events.LoopStalled) -> None:
        self.metrics.loop_stalls.inc()
        self.log(event)

    def readings_per_second(self) -> float:
        """Readings committed per second over the last five seconds, or since the start."""
        now = self._monotonic()
        while self._rate and now - self._rate[0][0] > _RATE_WINDOW_S:
            self._rate.popleft()
        span = min(_RATE_WINDOW_S, max(1.0, now - self._started))
        return sum(amount for _, amount in self._rate) / span

    def snapshot(self) -> dict[str, Any]:
        """The figures since the start, as JSON takes them: counts of readings, milliseconds, state."""
        ordered = sorted(self._commits)
        return {
            **self._totals,
            "gaps_missing": sum(self._missing.values()),
            "withheld_rows": sum(self._withheld_total.values()),
            "withheld_by_reason": dict(self._withheld_total),
            "quarantined": sum(self._quarantined_total.values()),
            "quarantined_by_reason": dict(self._quarantined_total),
            "readings_per_second": round(self.readings_per_second(), 1),
            "commit_ms": {
                "p50": round(_quantile(ordered, 0.5) * 1e3, 3),
                "p99": round(_quantile(ordered, 0.99) * 1e3, 3),
            },
            "in_flight": {"messages": self._in_flight[0], "bytes": self._in_flight[1]},
            "lag_s": self.lag_s(),
            "reconnects": max(0, self._connections - 1),
            **self._state,
        }


_WITHHELD: Final = _names(Withheld)
_REASONS: Final = _names(Reason)
