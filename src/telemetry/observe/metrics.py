"""The Prometheus metrics: every series this service can ever have, in one registry of its own.

Labels are members of enumerations and catalogue fields, never anything that arrived in a message. The table in
docs/OPERATIONS.md describes each; a test holds the two together.
"""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

PREFIX: Final = "telemetry"
_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 120)
_MESSAGES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000)
_READINGS: Final = (1, 10, 100, 1_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)


def package_version() -> str:
    """The version of the installed package, ``unknown`` from a bare source tree."""
    try:
        return version("telemetry")
    except PackageNotFoundError:
        return "unknown"


class Metrics:
    """All metrics of one process. One attribute each, so that a misspelt one is a type error."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter tells nothing
        self.registry = registry if registry is not None else CollectorRegistry()
        self._readings()
        self._flow()
        self._state()
        self._bluetooth()
        self._api()
        self._alerts()

    def _api(self) -> None:
        self.api_requests = self._counter("api_requests", "Requests by route's template", "route", "method", "status")
        self.api_seconds = Histogram(
            "api_request_seconds",
            "Time until a request was answered whole",
            ("route",),
            namespace=PREFIX,
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.api_sent = self._counter("api_sent_bytes", "Bytes of answers", "route")
        self.api_streams = self._gauge("api_streams", "Live streams and exports under way")

    def _alerts(self) -> None:
        self.alerts_begun = self._counter("alerts_begun", "Alerts that began")
        self.alerts_ended = self._counter("alerts_ended", "Alerts that ended")
        self.messages_sent = self._counter(
            "messages_sent", "Attempts to tell of alerts by what became of them", "outcome"
        )
        self.messages_waiting = self._gauge("messages_waiting", "Messages about alerts that wait to be sent")

    def _bluetooth(self) -> None:
        self.ble_frames = self._counter("ble_frames", "Bluetooth frames by what became of them", "outcome")
        self.ble_untrusted = self._counter("ble_untrusted", "Frames taken that nobody had authenticated")
        self.ble_missed = self._counter("ble_missed", "Numbers of Bluetooth frames that never arrived")
        self.ble_dropped = self._counter("ble_dropped", "Bluetooth readings without room, or thrown away as forbidden")
        self.ble_spool = self._gauge("ble_spool_bytes", "Bytes of Bluetooth readings that wait on disk")
        self.ble_scanning = self._gauge("ble_scanning", "1 while Bluetooth is listened to")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=PREFIX, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, namespace=PREFIX, registry=self.registry)

    def _readings(self) -> None:
        self.received = self._counter("readings_received", "Readings in committed batches")
        self.stored = self._counter("readings_stored", "Readings stored as new rows")
        self.late = self._counter("readings_late", "Stored readings that went to the late table")
        self.duplicate = self._counter("readings_duplicate", "Readings of an instant that was stored already")
        self.merged = self._counter("readings_merged", "Duplicates that added fields to the stored reading")
        self.conflict = self._counter("readings_conflict", "Duplicates that contradicted the stored reading")
        self.withheld = self._counter("readings_withheld", "Readings withheld as a whole", "reason")
        self.quarantined = self._counter("readings_quarantined", "Readings sent to quarantine", "reason")
        self.quarantined_again = self._counter("messages_quarantined_again", "Messages that lay in quarantine already")
        self.values_withheld = self._counter("values_withheld", "Values withheld within readings", "reason", "field")
        self.values_implausible = self._counter(
            "values_implausible", "Values dropped as out of range or of a wrong type", "field"
        )
        self.memory_evictions = self._counter(
            "memory_evictions", "Entries that codecs forgot for lack of room: see pipeline.codec_state_bytes"
        )
        self.unbalanced = self._counter("batches_unbalanced", "Batches whose readings do not add up: a defect")

    def _flow(self) -> None:
        self.messages = self._counter("messages_committed", "Messages in committed batches")
        self.payload = self._counter("payload_committed_bytes", "Payload bytes in committed batches")
        self.batch_messages = Histogram(
            "batch_messages",
            "Messages in a batch",
            namespace=PREFIX,
            registry=self.registry,
            buckets=_MESSAGES,
        )
        self.batch_readings = Histogram(
            "batch_readings",
            "Readings in a batch",
            namespace=PREFIX,
            registry=self.registry,
            buckets=_READINGS,
        )
        self.commit_seconds = Histogram(
            "commit_seconds",
            "Duration of committed transactions",
            namespace=PREFIX,
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.stage_seconds = Histogram(
            "stage_seconds",
            "Time of one batch in a stage",
            ("stage",),
            namespace=PREFIX,
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.in_flight_messages = self._gauge("in_flight_messages", "Messages received and not yet acknowledged")
        self.in_flight_bytes = self._gauge("in_flight_bytes", "Payload bytes received and not yet acknowledged")
        self.lag = self._gauge("lag_seconds", "Now less the newest committed reading's instant, whole seconds")
        self.write_failures = self._counter("write_failures", "Transactions that did not commit", "kind")
        self.gaps_opened = self._counter("sequence_gaps_opened", "Messages that turned out missing")
        self.gaps_missing = self._gauge("sequence_missing", "Messages missing now, over all gateways")

    def _state(self) -> None:
        self.broker_connected = self._gauge("broker_connected", "1 while connected to the broker")
        self.reconnects = self._counter("broker_reconnects", "Connections to the broker after the first")
        self.publications_dropped = self._counter(
            "publications_dropped", "Watermarks and keep-alives not sent because the broker was away"
        )
        self.server_stops = self._counter("server_stops", "Unasked stops of an embedded server", "server")
        self.plan_version = self._gauge("plan_version", "Version of the plan in force")
        self.gateways = self._gauge("gateways_loaded", "Gateways known to this worker")
        self.devices = self._gauge("devices_loaded", "Devices known to this worker")
        self.enrolled = self._counter("devices_enrolled", "Devices that appeared for the first time")
        self.enrolment_refused = self._counter("devices_refused", "Devices beyond their gateway's limit")
        self.two_sites = self._counter("serial_at_two_sites", "Devices whose serial another site has already")
        self.job_seconds = Histogram(
            "job_seconds",
            "Duration of rounds of maintenance",
            ("job",),
            namespace=PREFIX,
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.job_failures = self._counter("job_failures", "Rounds of maintenance that failed", "job")
        self.windows_written = self._counter("windows_written", "Versions of windows that the rollup wrote")
        self.windows_removed = self._counter("windows_removed", "Versions of windows that retention removed", "cause")
        self.rollup_behind = self._gauge("rollup_behind_seconds", "Age of the newest windows' end after a pass")
        self.clock_jumps = self._counter("clock_jumps", "Times that this machine's clock was set")
        self.loop_stalls = self._counter("loop_stalls", "Times that the event loop did not run for a while")
        build = Gauge(
            "build_info",
            "Always 1; the labels tell the version",
            ("version", "python"),
            namespace=PREFIX,
            registry=self.registry,
        )
        build.labels(package_version(), platform.python_version()).set(1)
