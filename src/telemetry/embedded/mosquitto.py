"""mosquitto's three files as text: configuration, access list, passwords. Pure, except for ``update_file``.

Source: mosquitto.conf(5) and mosquitto_passwd(1) of Mosquitto 2.0.
"""

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from telemetry.errors import ConfigurationError

PASSWORD_FILE: Final = "passwords"  # noqa: S105 - a file's name
STATE_FILE: Final = "mosquitto.db"  # the name that mosquitto gives it
ACL_FILE: Final = "acl"
CONFIG_FILE: Final = "mosquitto.conf"
MAX_MESSAGE_BYTES: Final = 256 * 1024
PACKET_OVERHEAD: Final = 128 * 1024  # topic and properties
NO_LIMIT: Final = 1_000_000_000
ITERATIONS: Final = 1_000
_HASH_TYPE: Final = "7"  # PBKDF2 with SHA-512
_SALT_BYTES: Final = 12
# What the service asks gateways for, below their prefix: as telemetry.codecs.registry has it (a test holds both equal).
REQUEST_TOPICS: Final = ("R/+/keepalive", "spBv1.0/+/NCMD/+")
# No ":" (it ends the name in the password file), no "+", "#", "/" (they would widen `pattern … gw/%u/#`)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@=-]{0,63}")


@dataclass(frozen=True, slots=True)
class Listener:
    """One address on which the broker listens; TLS where certificates are given.

    ``require_certificate``: only clients with a certificate of ``ca_file`` get as far as the password.
    """

    port: int
    address: str = "127.0.0.1"
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    require_certificate: bool = False

    def lines(self) -> list[str]:
        """The listener's part of the configuration.

        Raises:
            ConfigurationError: an address that is not loopback without TLS, or half a pair of files.

        """
        if (self.cert_file is None) != (self.key_file is None) or (self.require_certificate and not self.ca_file):
            raise ConfigurationError("a TLS listener needs cert_file and key_file, and ca_file to require certificates")
        if self.cert_file is None and self.address not in {"127.0.0.1", "::1", "localhost"}:
            raise ConfigurationError(
                "a listener beyond loopback needs TLS: passwords would travel in clear",
                remedy="give cert_file and key_file",
            )
        # The client id becomes the user name: nobody can take over, and so destroy, another user's session.
        lines = [f"listener {self.port} {self.address}", "use_username_as_clientid true"]
        if self.cert_file is not None:
            lines += [f"certfile {self.cert_file}", f"keyfile {self.key_file}", "tls_version tlsv1.2"]
            lines += [f"cafile {self.ca_file}"] if self.ca_file else []
            lines += [f"require_certificate {_flag(self.require_certificate)}"]
        return lines


def mosquitto_config(
    listeners: Sequence[Listener],
    *,
    directory: str = ".",
    persistence_directory: str = "state",
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    autosave_s: int = 30,
    save_every_change: bool = False,
    sys_interval_s: int = 0,
) -> str:
    """The configuration: nothing is dropped because of a count, nobody gets in without a password.

    Paths are relative to where mosquitto is started, or absolute. A graceful end saves the whole queue; SIGKILL or
    a power cut loses what came since the last save (``autosave_s`` seconds). ``save_every_change`` loses nothing
    and costs nearly all throughput (about 230 messages/s).
    """
    state = f"{directory}/{persistence_directory}/"
    lines = [
        "per_listener_settings false",
        "allow_anonymous false",
        "allow_zero_length_clientid false",
        f"password_file {directory}/{PASSWORD_FILE}",
        f"acl_file {directory}/{ACL_FILE}",
        "",
        "# Sessions and their queues survive a restart.",
        "persistence true",
        f"persistence_location {state}",
        f"autosave_interval {1 if save_every_change else autosave_s}",
        f"autosave_on_changes {_flag(save_every_change)}",
        "",
        "# No limits (0 is none). The defaults, 20 and 1000, starve large batches and drop what is queued.",
        "max_inflight_messages 0",
        "# Not 0, with which 2.0.11 disconnects whoever publishes what it refuses.",
        f"max_queued_messages {NO_LIMIT}",
        "queue_qos0_messages false",
        "# A larger payload is refused (PUBACK 0x95); a larger packet ends its connection, unread.",
        f"message_size_limit {max_message_bytes}",
        f"max_packet_size {max_message_bytes + PACKET_OVERHEAD}",
        "set_tcp_nodelay true",
        "",
        "# Notices name clients and their addresses: only errors and warnings are logged.",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "connection_messages false",
        f"sys_interval {sys_interval_s}",
    ]
    for listener in listeners:
        lines += ["", *listener.lines()]
    return "\n".join(lines) + "\n"


def acl_text(workers: Sequence[str]) -> str:
    """The access list: workers read everything, tell how far they are and ask for what formats need; a gateway has
    its own prefix.
    """
    told = ("committed", *REQUEST_TOPICS)
    lines = []
    for worker in workers:
        lines += [f"user {check_name(worker)}", "topic read gw/#", *(f"topic write gw/+/{topic}" for topic in told), ""]
    lines += ["pattern write gw/%u/#", *(f"pattern read gw/%u/{topic}" for topic in told)]
    return "\n".join(lines) + "\n"


def check_name(user: str) -> str:
    """Return ``user`` if it can stand in the password file and in a topic.

    Raises:
        ConfigurationError: it cannot. The message does not quote it.

    """
    if not _NAME.fullmatch(user):
        raise ConfigurationError(
            "this name cannot be a broker user",
            remedy="1 to 64 of A-Z, a-z, 0-9, and, after the first, _ . @ = -",
        )
    return user


def password_entry(user: str, password: str, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """One line of the password file, without its end: PBKDF2-HMAC-SHA-512, as mosquitto_passwd writes it.

    mosquitto computes this for every CONNECT in its only thread, so ``iterations`` is small: enough for the random
    passwords of 256 bits that enrolment issues, not for words that people choose.
    """
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
    parts = (_HASH_TYPE, str(iterations), _b64(salt), _b64(digest))
    return f"{check_name(user)}:${'$'.join(parts)}"


def password_matches(text: str, user: str, password: str) -> bool:
    """Whether ``text``, a password file, admits ``user`` with ``password``."""
    entry = _entries(text).get(user)
    if entry is None:
        return False
    _, hash_type, iterations, salt, _ = entry.partition(":")[2].split("$")
    expected = password_entry(user, password, salt=base64.b64decode(salt), iterations=int(iterations))
    return hash_type == _HASH_TYPE and hmac.compare_digest(expected.encode(), entry.encode())


def users(text: str) -> tuple[str, ...]:
    """The users of a password file, in its order."""
    return tuple(_entries(text))


def with_user(text: str, user: str, password: str) -> str:
    """``text``, a password file, with ``user``'s password set; other lines stay as they are."""
    entries = _entries(text)
    entries[user] = password_entry(user, password)
    return _text(entries)


def without_user(text: str, user: str) -> str:
    """``text`` without ``user``; the same where there is none."""
    entries = _entries(text)
    entries.pop(user, None)
    return _text(entries)


def update_file(path: Path, change: Callable[[str], str], *, owner: tuple[int, int] | None = None) -> bool:
    """Replace ``path`` by ``change(its text)``, all of it or nothing; one process at a time. True if it changed.

    The file becomes 0600, of ``owner`` (uid, gid) or of whom it belonged to. mosquitto reads it again on SIGHUP.
    """
    with _locked(path.with_name(f".{path.name}.lock")):
        old, found = "", None
        with contextlib.suppress(FileNotFoundError):
            old, found = path.read_text(encoding="utf-8"), path.stat()
        new = change(old)
        if found is not None and new == old:
            return False
        if owner is None and found is not None:
            owner = found.st_uid, found.st_gid
        _replace(path, new, owner)
        return True


def _replace(path: Path, text: str, owner: tuple[int, int] | None) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if owner is not None and owner != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, *owner)
        os.fsync(descriptor)
    beside.replace(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _entries(text: str) -> dict[str, str]:
    return {line.partition(":")[0]: line for line in text.splitlines() if ":" in line}


def _text(entries: dict[str, str]) -> str:
    return "".join(f"{line}\n" for line in entries.values())


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
