"""What the API tells; a part of the observer."""

from telemetry.observe import events
from telemetry.observe.metrics import Metrics


class ApiTold:
    """Events of the API as metrics and log lines."""

    metrics: Metrics

    def log(self, event: events.Event) -> None:
        """Write the event as a log line."""
        raise NotImplementedError

    def api_started(self, event: events.ApiStarted) -> None:
        self.log(event)

    def request_answered(self, event: events.RequestAnswered) -> None:
        route, method = event.route.value, event.method.value
        self.metrics.api_requests.labels(route, method, str(event.status)).inc()
        self.metrics.api_seconds.labels(route).observe(event.request_s)
        self.metrics.api_sent.labels(route).inc(event.sent_bytes)
        self.log(event)
