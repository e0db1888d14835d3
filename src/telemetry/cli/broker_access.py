"""Who may connect to the broker: mosquitto's password and access files in the data directory.

These two files hold gateways' names in clear, by their nature: the broker compares what a client says. Everything
else in the data directory knows a gateway by its blind index.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from telemetry.embedded.broker import RUMQTTD_CONFIG, WORKER_USER, mosquitto_runs, reload_running
from telemetry.embedded.mosquitto import ACL_FILE, PASSWORD_FILE, acl_text, check_name, password_entry, update_file
from telemetry.embedded.process import private_directory, unprivileged_account
from telemetry.errors import InputError, SupervisorError

if TYPE_CHECKING:
    from telemetry.config import Config

_LISTENER = "telemetry-identify-"


def admit(config: "Config", credentials: Mapping[str, str]) -> bool:
    """Let gateways (name → credential) connect from now on. Whether a broker on this machine was told."""
    entries = {name: password_entry(name, credential) for name, credential in credentials.items()}
    return _change(config, entries)


def expel(config: "Config", name: str) -> bool:
    """Let a gateway connect no longer; the broker ends its connection. Whether a broker here was told."""
    return _change(config, {name: ""})


def _change(config: "Config", entries: Mapping[str, str]) -> bool:
    home = private_directory(config.data_dir / "broker", mode=0o711)

    def change(text: str) -> str:
        kept = [line for line in text.splitlines() if line.partition(":")[0] not in entries]
        return "".join(f"{line}\n" for line in [*kept, *filter(None, entries.values())])

    _update(home / PASSWORD_FILE, change)
    if not config.embedded:
        # One line with %u serves every gateway: written once. The embedded broker writes its own at every start.
        workers = [config.broker.username or WORKER_USER]
        _update(home / ACL_FILE, lambda text: text or acl_text(workers))
    return reload_running(config.data_dir)


def _update(path: Path, change: Callable[[str], str]) -> None:
    """Change one file; where root makes it, it belongs to the user that the broker runs under."""
    owner = None
    if not path.exists():
        with suppress(SupervisorError):
            account = unprivileged_account(("mosquitto",))
            owner = (account.uid, account.gid) if account else None
    update_file(path, change, owner=owner)


@contextmanager
def listener(config: "Config", gateway: str) -> Iterator[tuple[str | None, str | None]]:
    """A broker user (name and password) that may read this gateway's prefix and nothing else, while this is open.

    Brokers that ask for no password (rumqttd) need none: (None, None). The worker's own user would end its
    connection. One that a killed command left behind goes with the next.

    Raises:
        InputError: the broker's files are not here.

    """
    home = config.data_dir / "broker"
    if config.embedded and (home / RUMQTTD_CONFIG).is_file() and not mosquitto_runs(config.data_dir):
        yield None, None
        return
    if not mosquitto_runs(config.data_dir):
        raise InputError(
            "the broker's files are not on this machine",
            remedy="give it a user that may read the gateway's prefix, and name it with --username and --password-file",
        )
    name, password = f"{_LISTENER}{secrets.token_hex(8)}", secrets.token_urlsafe(24)
    grant = f"user {name}\ntopic read gw/{check_name(gateway)}/#\n"
    try:
        _update(home / PASSWORD_FILE, lambda text: f"{_without_listeners(text)}{password_entry(name, password)}\n")
        _update(home / ACL_FILE, lambda text: f"{_without_listeners(text)}{grant}")
        reload_running(config.data_dir)
        yield name, password
    finally:
        _update(home / PASSWORD_FILE, _without_listeners)
        _update(home / ACL_FILE, _without_listeners)
        reload_running(config.data_dir)


def _without_listeners(text: str) -> str:
    """Password or access file without users of ``listener``; such a user's rights are the line after its name."""
    kept: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"user {_LISTENER}"):
            next(lines, None)
        elif not line.startswith(_LISTENER):
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)
