"""Finds embedded servers that another process of ours runs, from the data directory alone. Starts nothing."""

import re
from pathlib import Path
from typing import Final

from telemetry.embedded.broker import RUMQTTD_CONFIG
from telemetry.embedded.mosquitto import CONFIG_FILE
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.embedded.postgres_files import find_place
from telemetry.embedded.postgres_settings import SOCKET_PORT
from telemetry.embedded.process import unprivileged_account

_LISTENERS: Final = (
    (CONFIG_FILE, re.compile(r"listener (\d+) ")),
    (RUMQTTD_CONFIG, re.compile(r"listen = .*:(\d+)")),
)


def postgres_in(data_dir: Path) -> EmbeddedPostgres | None:
    """A handle on the PostgreSQL in ``data_dir``/postgres, for its DSN and places; None where it does not run."""
    home = (data_dir / "postgres").resolve()  # drivers take a relative socket directory for a host's name
    if not home.is_dir():
        return None
    place = find_place(home, unprivileged_account())
    if not (place.socket_dir / f".s.PGSQL.{SOCKET_PORT}").exists():
        return None
    return EmbeddedPostgres.attached(home, place)


def broker_port_in(data_dir: Path) -> int | None:
    """The port on loopback that the broker of ``data_dir`` was last started with."""
    home = data_dir / "broker"
    found = [entry for entry in _LISTENERS if (home / entry[0]).is_file()]
    for name, pattern in sorted(found, key=lambda entry: -(home / entry[0]).stat().st_mtime):
        path = home / name
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := pattern.match(line):
                return int(match[1])
    return None
