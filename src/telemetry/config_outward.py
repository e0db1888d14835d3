"""Sections of the configuration for what faces outward: the API, accounts, mail, alerts and webhooks."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ApiConfig(Section):
    """The HTTP API, as `telemetry api` serves it."""

    address: str = Field("127.0.0.1", description="where it listens; not loopback needs TLS or a proxy")
    port: int = Field(8420, ge=0, le=65535, description="0 picks a free port")
    metrics_port: int = Field(9465, ge=0, le=65535, description="metrics and health, on observe.address; 0: a free one")
    cert_file: Path | None = Field(None, description="TLS certificate with its chain")
    key_file: Path | None = Field(None, description="its key (0600)")
    trusted_proxies: tuple[str, ...] = Field(
        (), description="addresses of proxies whose X-Forwarded-For and -Proto are believed, as in 10.0.0.2"
    )
    origin: str = Field("", description="what browsers call it, as in https://example.org; without, the Host header's")
    cookie_secure: bool = Field(True, description="sessions over TLS alone; off on loopback without TLS")
    connections: int = Field(4, ge=1, le=32, description="database connections of each role, at most")
    body_bytes: int = Field(64 * 1024, ge=1024, le=2**24, description="larger requests are refused")
    requests_per_minute: int = Field(600, ge=1, le=10**6, description="of one token or account")
    rows_per_hour: int = Field(5_000_000, ge=1000, description="values that one token or account is given")
    rows_per_request: int = Field(200_000, ge=1000, le=2_000_000, description="values that one answer could have")
    concurrent: int = Field(8, ge=1, le=1000, description="requests of one token or account at once")
    streams: int = Field(4, ge=0, le=1000, description="of these, live streams and exports")
    heartbeat_s: float = Field(15.0, gt=0, le=300, description="a live stream without news says so as often")
    shutdown_s: float = Field(10.0, gt=0, le=300, description="requests under way are waited for so long")


class MailConfig(Section):
    """E-mail: alerts, and what accounts need. Leave ``host`` empty for none."""

    host: str = Field("", description="SMTP server; empty: no mail is sent")
    port: int = Field(587, ge=1, le=65535, description="587 with starttls, 465 with tls")
    encryption: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="none for loopback only: mail says who has an account"
    )
    ca_file: Path | None = Field(None, description="certificate authority; the system's without")
    username: str | None = Field(None, description="user at the SMTP server; none: without authentication")
    password_file: Path | None = Field(None, description="file (0600) that holds the password")
    sender: str = Field("", description="address that mail comes from")
    link_base: str = Field("", description="https://… of the page that mails refer to; empty: they name none")
    timeout_s: float = Field(20.0, gt=0, le=300, description="a mail is given up after this, and tried again")


class AccessConfig(Section):
    """People's accounts."""

    sign_up: Literal["open", "invited"] = Field(
        "open", description="open: anybody may become an owner; invited: with a code of `telemetry account invite` only"
    )
    idle_hours: float = Field(12.0, gt=0, le=720, description="a session without a request ends; operators': 1 hour")
    session_days: float = Field(14.0, gt=0, le=90, description="a session ends in any case; operators': 12 hours")


class AlertsConfig(Section):
    """Looking for what is wrong with devices. Nothing leaves the service by it: see webhooks and mail."""

    enabled: bool = Field(True, description="look for alarms, silent devices and low production")
    interval_s: float = Field(60.0, ge=1, le=3600, description="seconds between looks for alarms and silent devices")
    production_interval_s: float = Field(
        10_800.0,
        ge=60,
        le=86_400,
        description="seconds between judgements of production: each reads six weeks of windows",
    )


class WebhooksConfig(Section):
    """Telling recipients' machines of alerts."""

    enabled: bool = Field(False, description="deliver alerts to the addresses that recipients gave")
    loopback: bool = Field(False, description="also take http and https on loopback; for trials on one machine only")
    ca_file: Path | None = Field(None, description="certificate authority; the system's without")
    timeout_s: float = Field(10.0, gt=0, le=60, description="an answer takes no longer, or it is tried again")
    at_once: int = Field(16, ge=1, le=256, description="requests under way at once")
    per_recipient: int = Field(10, ge=1, le=1000, description="webhooks that one recipient may have")
