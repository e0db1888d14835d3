"""Observability: typed events become metrics and log lines that hold no identifier.

``Observer`` is the door that the service uses; ``events`` says what can be told; ``logs.install`` leads all
logging of the process through one gate; ``metrics.Metrics`` is every Prometheus series there is.
"""

from collections.abc import Callable

from telemetry.config import ObserveConfig
from telemetry.observe.logs import install as install_logging
from telemetry.observe.metrics import Metrics
from telemetry.observe.observer import Observer
from telemetry.observe.scrub import known_identifiers

__all__ = ["Metrics", "Observer", "configure_logging", "install_logging", "known_identifiers"]


def configure_logging(config: ObserveConfig) -> Callable[[], None]:
    """Lead all logging of this process where ``config`` says; returns what undoes it."""
    return install_logging(
        level=config.log_level,
        log_file=config.log_file,
        max_bytes=config.log_max_bytes,
        keep_days=config.log_keep_days,
    )
