"""Observability: typed events become metrics and log lines that hold no identifier.

``Observer`` is the door that the service uses; ``events`` says what can be told; ``logs.install`` leads all
logging of the process through one gate; ``metrics.Metrics`` is every Prometheus series there is.
"""

from telemetry.observe.logs import install as install_logging
from telemetry.observe.metrics import Metrics
from telemetry.observe.observer import Observer

__all__ = ["Metrics", "Observer", "install_logging"]
