"""Configuration: one TOML file, overridden by environment variables; frozen; unknown keys are refused.

``TELEMETRY_BROKER__PORT=8883`` sets ``broker.port``. ``telemetry config`` prints this file with its comments.
"""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from telemetry.config_outward import AccessConfig, AlertsConfig, ApiConfig, MailConfig, Section, WebhooksConfig
from telemetry.errors import ConfigurationError
from telemetry.model.fields import DataClass

__all__ = ["AccessConfig", "AlertsConfig", "ApiConfig", "MailConfig", "WebhooksConfig"]  # read elsewhere as these

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class BrokerConfig(Section):
    """Where messages come from."""

    host: str = Field("127.0.0.1", description="address of the broker")
    port: int = Field(1883, ge=1, le=65535, description="8883 with TLS")
    protocol: Literal["5", "3.1.1"] = Field(
        "5", description="MQTT version; 3.1.1 (NATS, RabbitMQ, old brokers) knows no sequence numbers: no gaps are seen"
    )
    client_id: str = Field("telemetry-worker-0", description="stable: the broker keeps this client's session under it")
    username: str | None = Field(None, description="broker user; with use_username_as_clientid also client id")
    password_file: Path | None = Field(None, description="file (0600) that holds the password")
    tls: bool = Field(False, description="required for any address that is not loopback")
    ca_file: Path | None = Field(None, description="certificate authority; the system's without")
    cert_file: Path | None = Field(None, description="client certificate")
    key_file: Path | None = Field(None, description="client key (0600)")
    topics: tuple[str, ...] = Field(("gw/#",), description="subscriptions")
    keep_alive_s: int = Field(30, ge=5, le=3600, description="MQTT keep-alive")
    session_expiry_s: int = Field(7 * 86400, ge=60, description="how long the broker keeps our session")
    receive_maximum: int = Field(20_000, ge=1, le=65_534, description="messages unacknowledged at once")
    max_pending_bytes: int = Field(
        32 * 2**20, ge=2**20, description="payload bytes unacknowledged before reading stops"
    )
    max_message_bytes: int = Field(256 * 1024, ge=1024, le=16 * 2**20, description="larger ones are refused")
    reconnect_min_s: float = Field(0.2, gt=0, description="first delay of the jittered back-off")
    reconnect_max_s: float = Field(30.0, gt=0, description="longest delay of the jittered back-off")


class DatabaseConfig(Section):
    """Where rows go. Leave ``dsn`` empty for the embedded PostgreSQL."""

    dsn: str = Field("", description="postgresql://host/telemetry; roles and passwords come from the keystore")
    keys_dsn: str = Field("", description="the database of wrapped keys; same server as dsn where empty")
    connections: int = Field(2, ge=1, le=8, description="transactions in flight while ingesting")
    statement_timeout_s: float = Field(120.0, gt=0, description="a stalled statement is given up after this")


class PipelineConfig(Section):
    """How messages become transactions."""

    batch_messages: int = Field(2_000, ge=1, le=60_000, description="a batch closes at so many messages,")
    batch_bytes: int = Field(8 * 2**20, ge=2**16, description="or so many payload bytes,")
    batch_age_ms: int = Field(100, ge=1, le=10_000, description="or after so long")
    max_readings_per_message: int = Field(10_000, ge=1, description="longer arrays are rejected")
    max_depth: int = Field(16, ge=2, le=64, description="deeper nesting is rejected")
    codec_state_bytes: int = Field(
        256 * 1024, ge=4096, le=16 * 2**20, description="what a format may remember of one gateway"
    )
    tick_s: float = Field(5.0, gt=0, description="receipt times of formats without time are cut to this")
    future_limit_s: float = Field(300.0, ge=0, le=86_400, description="how far ahead of our clock readings may be")
    watermark_interval_s: float = Field(1.0, gt=0, description="how often gw/<gateway>/committed is published")
    enrolment: Literal["auto", "known"] = Field("auto", description="default for new gateways")
    quarantine_bytes_per_hour: int = Field(
        16 * 2**20, ge=0, description="payloads kept of one gateway an hour; further ones are only counted"
    )


class RetentionConfig(Section):
    """How long rows stay."""

    hot_hours: int = Field(2, ge=1, le=48, description="readings at the gateway's resolution, plus one partition")
    series_days: int = Field(3660, ge=1, le=3660, description="windows of the series, where no owner wants less")
    series_class_days: tuple[str, ...] = Field(
        (), description='fewer for single classes of data, as in ["alert=90", "network=30"]'
    )

    @field_validator("series_class_days")
    @classmethod
    def _known_classes(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            name, _, days = entry.partition("=")
            if name not in set(DataClass) or not days.isdecimal() or int(days) < 1:
                raise ValueError("each is a class of data and a number of days, as in alert=90")
        return entries

    @property
    def days_by_class(self) -> dict[DataClass, int]:
        """``series_class_days``, never more than ``series_days``."""
        pairs = (entry.partition("=") for entry in self.series_class_days)
        return {DataClass(name): min(int(days), self.series_days) for name, _, days in pairs}


class KeysConfig(Section):
    """Where the key-encryption key is. All other secrets are in files, or in the environment where any is there."""

    kek: Literal["auto", "file", "env", "command"] = Field(
        "auto", description="auto: where the other secrets are; command: a KMS behind the program below"
    )
    command: tuple[str, ...] = Field((), description="program and arguments that wrap and unwrap, see OPERATIONS.md")
    command_timeout_s: float = Field(20.0, gt=0, le=600, description="the program is given up after this")


class PlaceConfig(Section):
    """What recipients are shown as place."""

    k: int = Field(15, ge=2, le=10_000, description="homes that a cell shown to a recipient holds, at least")


class ObserveConfig(Section):
    """Logs, metrics and health."""

    address: str = Field("127.0.0.1", description="metrics and health listen here")
    port: int = Field(9464, ge=0, le=65535, description="0 picks a free port")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged")
    log_file: Path | None = Field(None, description="JSON lines (0600); standard error without")
    log_max_bytes: int = Field(32 * 2**20, ge=2**16, description="a log file starts anew at this size or daily")
    log_keep_days: int = Field(30, ge=1, le=90, description="older log files are removed")


class BleConfig(Section):
    """Bluetooth. `telemetry ble key add` adds devices, `telemetry ble permit` is the owner's permission."""

    enabled: bool = Field(
        False, description="listen inside the service; `telemetry ble --publish` does it as a gateway"
    )
    gateway: str = Field("", description="the enrolled gateway as which the service listens")
    adapter: str | None = Field(None, description="the adapter, such as hci1; the first one without")
    scanning: Literal["active", "passive"] = Field(
        "active", description="passive sends nothing, and needs BlueZ's experimental advertisement monitor"
    )
    untrusted: bool = Field(False, description="also take what is not authenticated: anybody in range can forge it")
    interval_s: float = Field(5.0, ge=0, le=3600, description="readings of one device are at least so far apart")
    battery_interval_s: float = Field(30.0, ge=5, le=3600, description="how often batteries are connected to")
    silence_s: float = Field(60.0, ge=5, le=3600, description="a scan that hears nothing for so long is begun anew")
    spool_bytes: int = Field(
        16 * 2**20, ge=2**20, le=2**34, description="unacknowledged readings on disk; the oldest go"
    )


class Config(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="TELEMETRY_", env_nested_delimiter="__")

    data_dir: Path = Field(Path("var"), description="keys, embedded servers, broker files; 0700")
    embedded: bool = Field(True, description="start PostgreSQL and a broker of our own; false in production")
    broker_kind: Literal["auto", "mosquitto", "rumqttd"] = Field(
        "auto", description="embedded broker: mosquitto where it is installed, else rumqttd"
    )
    jobs: bool = Field(
        True, description="compile plans, label places, roll up and expire in this process; false where commands do"
    )
    broker: BrokerConfig = Field(default_factory=BrokerConfig, description="where messages come from")
    database: DatabaseConfig = Field(default_factory=DatabaseConfig, description="where rows go")
    pipeline: PipelineConfig = Field(default_factory=PipelineConfig, description="how messages become rows")
    retention: RetentionConfig = Field(default_factory=RetentionConfig, description="how long rows stay")
    place: PlaceConfig = Field(default_factory=PlaceConfig, description="what recipients are shown as place")
    keys: KeysConfig = Field(default_factory=KeysConfig, description="where the key-encryption key is")
    observe: ObserveConfig = Field(default_factory=ObserveConfig, description="logs, metrics and health")
    ble: BleConfig = Field(default_factory=BleConfig, description="listening to Bluetooth devices")
    api: ApiConfig = Field(default_factory=ApiConfig, description="the HTTP API")
    access: AccessConfig = Field(default_factory=AccessConfig, description="people's accounts")
    mail: MailConfig = Field(default_factory=MailConfig, description="e-mail, off without a host")
    alerts: AlertsConfig = Field(default_factory=AlertsConfig, description="what is wrong with devices")
    webhooks: WebhooksConfig = Field(default_factory=WebhooksConfig, description="alerts to recipients' machines")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which arrives as keyword arguments."""
        return (env_settings, init_settings)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        broker = self.broker
        if self.pipeline.batch_messages > broker.receive_maximum:
            raise ValueError("pipeline.batch_messages must not exceed broker.receive_maximum: no batch would fill")
        if bool(broker.cert_file) != bool(broker.key_file):
            raise ValueError("broker.cert_file and broker.key_file go together")
        if not broker.tls and broker.host not in _LOOPBACK:
            raise ValueError("broker.tls is required for an address that is not loopback")
        _check_mail(self.mail)
        if self.ble.enabled and not self.ble.gateway:
            raise ValueError("ble.enabled needs ble.gateway: enrol one with `telemetry gateway enrol`")
        self._reachable()
        if (self.keys.kek == "command") != bool(self.keys.command):
            raise ValueError("keys.kek = command and keys.command go together")
        if not self.embedded and not self.database.dsn:
            raise ValueError("database.dsn is required where embedded = false")
        return self

    def _reachable(self) -> None:
        api = self.api
        local = api.address in _LOOPBACK
        if bool(api.cert_file) != bool(api.key_file):
            raise ValueError("api.cert_file and api.key_file go together")
        if not local and not api.cert_file and not api.trusted_proxies:
            raise ValueError("api.address is not loopback: set api.cert_file, or api.trusted_proxies behind a proxy")
        if not local and not api.cookie_secure:
            raise ValueError("api.cookie_secure is off on loopback only")


def _check_mail(mail: MailConfig) -> None:
    if mail.host and mail.encryption == "none" and mail.host not in _LOOPBACK:
        raise ValueError("mail.encryption = none is for loopback only")
    if mail.host and not mail.sender:
        raise ValueError("mail.host needs mail.sender")
    if mail.username and not mail.password_file:
        raise ValueError("mail.username needs mail.password_file")
    if mail.username and mail.encryption == "none":
        raise ValueError("mail.username needs mail.encryption: a password is not sent in clear")
    if mail.link_base and not mail.link_base.startswith(("https://", *(f"http://{host}" for host in _LOOPBACK))):
        raise ValueError("mail.link_base begins with https://")


def load_config(path: Path | None = None, **overrides: Any) -> Config:
    """Read ``path`` (or $TELEMETRY_CONFIG, or defaults), apply the environment, then check all of it.

    Raises:
        ConfigurationError: naming each key that is unknown or wrong, and what is allowed.

    """
    if path is None and (named := os.environ.get("TELEMETRY_CONFIG")):
        path = Path(named)
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except OSError as error:
            raise ConfigurationError(
                f"cannot read {path}: {error.strerror}",
                remedy="`telemetry config > telemetry.toml` writes one",
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{path} is not TOML: {error}") from error
    try:
        return Config(**(values | overrides))
    except ValidationError as error:
        lines = "; ".join(_complaint(item["loc"], item["type"], item["msg"]) for item in error.errors())
        # Not chained: pydantic's text quotes what was given, passwords in addresses included.
        raise ConfigurationError(lines, remedy="`telemetry config` prints every key with its meaning") from None


def _complaint(place: tuple[int | str, ...], kind: str, message: str) -> str:
    """One line about one key, with the nearest key that exists where this one does not."""
    path = ".".join(map(str, place)) or "configuration"
    if kind != "extra_forbidden":
        return f"{path}: {message}"
    near = difflib.get_close_matches(path, keys(), n=1, cutoff=0.6)
    same = [key for key in keys() if key.rpartition(".")[2] == place[-1]]
    meant = near or same
    return f"{path}: there is no such key" + (f"; did you mean {' or '.join(meant)}?" if meant else "")


def keys() -> list[str]:
    """Every key of the configuration, sections before a dot: ``broker.port``."""
    found: list[str] = []
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            found += [f"{name}.{key}" for key in section.model_fields]
        else:
            found.append(name)
    return found
