"""Which source speaks to the configured broker."""

from telemetry.config import BrokerConfig
from telemetry.ports import Clock
from telemetry.sources.mqtt import MqttSource
from telemetry.sources.mqtt311 import Mqtt311Source


def mqtt_source(config: BrokerConfig, clock: Clock) -> MqttSource | Mqtt311Source:
    """The source of the configured version of MQTT."""
    return MqttSource(config, clock) if config.protocol == "5" else Mqtt311Source(config, clock)
