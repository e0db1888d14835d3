"""Alerts: what kinds there are. An alert holds a device, a kind, when it began and ended, and how bad it is."""

from enum import IntEnum
from types import MappingProxyType
from typing import Final


class AlertKind(IntEnum):
    """What is wrong. The number is what tables hold."""

    DEVICE_ALARM = 1  # the device says so itself
    STALE = 2  # a device that reported regularly does no longer
    LOW_PRODUCTION = 3  # it makes far less than it made under the same sun

    @property
    def label(self) -> str:
        """The name shown: lower case, as in ``device_alarm``."""
        return self.name.lower()


ALERT_BY_LABEL: Final = MappingProxyType({kind.label: kind for kind in AlertKind})

# RFC 5424 severities of what the service finds itself.
ERROR: Final = 3
WARNING: Final = 4
