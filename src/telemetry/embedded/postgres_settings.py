"""What the configuration of the embedded PostgreSQL says.

Source: PostgreSQL 18 documentation, chapters 19 "Server Configuration" and 20 "Client Authentication".
"""

from collections.abc import Mapping
from pathlib import Path

SOCKET_PORT = 5432

# No log line holds a value of a row. ERROR texts quote values ("invalid input syntax for type integer: …"), so
# they go to the client only: `log` lets LOG, FATAL and PANIC through. TERSE drops DETAIL ("Key (serial)=(…)
# already exists", "Failed process was running: …"), HINT, QUERY and CONTEXT ("COPY readings, line 7: …").
_QUIET = {
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_destination": "stderr",
    "lc_messages": "C",
}
_DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "pglz",  # the wheel is built without lz4 and zstd
    "max_wal_size": "8GB",  # above what is written in checkpoint_timeout, so that time alone starts a checkpoint
    "min_wal_size": "256MB",
    "checkpoint_timeout": "5min",
}
_GENERAL = {
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "ssl": "off",
    "allow_alter_system": "off",  # this file is the only place of settings
    "timezone": "UTC",
    "max_connections": "60",
    "shared_buffers": "128MB",
    "max_locks_per_transaction": "256",  # one transaction may touch every hourly partition
    "jit": "off",
    "default_toast_compression": "pglz",
    "cluster_name": "telemetry",
}


def settings_for(socket_dir: Path, port: int | None, overrides: Mapping[str, str]) -> dict[str, str]:
    """All settings of an instance: ours, then ``overrides``."""
    listening = {"listen_addresses": "127.0.0.1" if port else "", "port": str(port or SOCKET_PORT)}
    return _GENERAL | _DURABLE | _QUIET | listening | {"unix_socket_directories": str(socket_dir)} | dict(overrides)


def configuration_text(settings: Mapping[str, str]) -> str:
    """`postgresql.conf`, every value quoted (19.1.2: a quote is doubled)."""
    lines = ["# Written at every start; changes here are lost.\n"]
    for name, value in settings.items():
        quoted = value.replace("\\", "\\\\").replace("'", "''")
        lines.append(f"{name} = '{quoted}'\n")
    return "".join(lines)


def authentication_text(port: int | None) -> str:
    """`pg_hba.conf`: a SCRAM password for everybody, over the socket and, with a port, over loopback."""
    lines = ["local all all scram-sha-256\n"]
    if port:
        lines.append("host all all 127.0.0.1/32 scram-sha-256\n")
    return "".join(lines)
