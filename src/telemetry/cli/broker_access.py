"""Who may connect to the broker: mosquitto's password and access files in the data directory.

These two files hold gateways' names in clear, by their nature: the broker compares what a client says. Everything
else in the data directory knows a gateway by its blind index.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from telemetry.embedded.broker import WORKER_USER, reload_running
from telemetry.embedded.mosquitto import ACL_FILE, PASSWORD_FILE, acl_text, password_entry, update_file
from telemetry.embedded.process import private_directory, unprivileged_account
from telemetry.errors import SupervisorError

if TYPE_CHECKING:
    from telemetry.config import Config


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
