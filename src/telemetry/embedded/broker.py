"""The embedded broker: mosquitto where it is installed, otherwise rumqttd, under a supervisor of our own.

    start: lock → leftovers of a killed supervisor → files → broker → an MQTT CONNECT succeeds
    stop:  SIGTERM (mosquitto saves its queues) → SIGKILL → unlock

rumqttd keeps everything in memory and asks for no password: for demonstrations and tests on loopback.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Self

import psutil

from telemetry.embedded.broker_probe import free_port, is_free, mqtt_accepts
from telemetry.embedded.mosquitto import (
    ACL_FILE,
    CONFIG_FILE,
    MAX_MESSAGE_BYTES,
    PASSWORD_FILE,
    STATE_FILE,
    Listener,
    acl_text,
    mosquitto_config,
    password_matches,
    update_file,
    with_user,
    without_user,
)
from telemetry.embedded.process import (
    POLL_S,
    Account,
    InstanceLock,
    ServerProcess,
    private_directory,
    unprivileged_account,
)
from telemetry.embedded.rumqttd import IN_FLIGHT, SEGMENT_BYTES, SEGMENTS, rumqttd_config
from telemetry.errors import SupervisorError

Kind = Literal["mosquitto", "rumqttd"]
HOST: Final = "127.0.0.1"
WORKER_USER: Final = "telemetry-worker"
PROBE_USER: Final = "telemetry-probe"  # may publish under its own name and read nothing

RUMQTTD_CONFIG: Final = "rumqttd.toml"
_STATED_MESSAGE_BYTES: Final = 4096
_LOG_KEPT_BYTES: Final = 4 * 2**20
_MORE_PATH: Final = f"{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin"


class EmbeddedBroker:
    """One broker with its files in ``data_dir``/broker, for one event loop. Not thread-safe.

    ``port`` 0 takes a free one at the first start and keeps it for this object's life. Start it from a thread
    that lives as long as the broker.
    """

    def __init__(
        self,
        data_dir: Path,
        kind: Literal["auto", "mosquitto", "rumqttd"] = "auto",
        port: int = 0,
        *,
        worker_user: str = WORKER_USER,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        save_every_change: bool = False,
        listeners: Sequence[Listener] = (),
        start_timeout_s: float = 30.0,
        stop_timeout_s: float = 30.0,
    ) -> None:
        self.kind: Kind = kind if kind != "auto" else ("mosquitto" if find_mosquitto() else "rumqttd")
        self.home = data_dir / "broker"
        self.host = HOST
        self.port = port
        self.username = worker_user
        self._max_message_bytes = max_message_bytes
        self._save_every_change = save_every_change
        self._listeners = tuple(listeners)
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._account: Account | None = None
        self._lock: InstanceLock | None = None
        self._probe_password = ""
        self._server = ServerProcess(f"the embedded broker ({self.kind})")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # ---- what it is

    @property
    def pid(self) -> int | None:
        """The broker's process id, None when it does not run."""
        return self._server.pid

    @property
    def log(self) -> Path:
        """Errors and warnings of the broker, which name no client."""
        return self.home / "broker.log"

    @property
    def password_file(self) -> Path:
        """The worker's password, for ``broker.password_file``; exists from the first start on."""
        return self.home / "worker-password"

    @property
    def max_in_flight(self) -> int | None:
        """How many messages it sends ahead of PUBACKs: larger batches never fill. None: as many as asked for."""
        return None if self.kind == "mosquitto" else IN_FLIGHT

    @property
    def backlog_messages(self) -> int | None:
        """How many messages of up to 4 KiB it keeps for an absent worker. None: until memory ends.

        Beyond that rumqttd overwrites the oldest, one segment at a time, and tells nobody.
        """
        if self.kind == "mosquitto":
            return None
        return (SEGMENTS - 1) * SEGMENT_BYTES // _STATED_MESSAGE_BYTES

    # ---- life

    async def start(self) -> None:
        """Start, and return when an MQTT client can connect.

        Raises:
            AlreadyRunning: another instance uses the same data directory.
            SupervisorError: no such broker here, its port is taken, or it did not start.

        """
        if self._server.running:
            raise SupervisorError("the embedded broker already runs", remedy="stop() it first")
        try:
            program = self._program()
            self._prepare()
            await self._end_leftovers()
            self.port = self.port or free_port(self.host)
            self._check_port()
            self._write_files()
            self._server.start(program, account=self._account, directory=self.home, log=self.log)
            await self._server.wait_ready(self._accepts, timeout_s=self._start_timeout_s, log=self.log)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End it; mosquitto saves sessions and queues. Does nothing when not started."""
        await self._server.stop((signal.SIGTERM, self._stop_timeout_s))
        if self._lock is not None:
            self._lock.release()

    async def kill(self) -> None:
        """SIGKILL, as a power cut would; the lock stays ours. For crash tests."""
        self._server.expect_exit()
        self._server.send(signal.SIGKILL)
        await self._server.wait_exit(30.0)

    async def restart(self) -> None:
        """Stop gracefully and start again on the same port, without letting go of the data directory."""
        await self._server.stop((signal.SIGTERM, self._stop_timeout_s))
        await self.start()

    def reload(self) -> None:
        """Have mosquitto read its files again (SIGHUP); clients whose password is gone are disconnected."""
        if self.kind == "mosquitto":
            self._server.send(signal.SIGHUP)

    async def save(self) -> None:
        """Have mosquitto write what it holds now over what it saved before: what is acknowledged is gone from there.

        Raises:
            SupervisorError: it did not write in time.

        """
        if self.kind != "mosquitto" or not self._server.running:
            return
        saved = self.home / "state" / STATE_FILE
        before = saved.stat().st_mtime_ns if saved.exists() else 0
        self._server.send(signal.SIGUSR1)
        deadline = time.monotonic() + self._stop_timeout_s
        while not (saved.exists() and saved.stat().st_mtime_ns != before):
            if time.monotonic() > deadline:
                raise SupervisorError("the broker did not save its state", remedy="look into its log")
            await asyncio.sleep(POLL_S)

    async def failed(self) -> None:
        """Run until the broker ends though nobody asked it to; for a TaskGroup.

        Raises:
            SupervisorError: it ended.

        """
        await self._server.failed()

    # ---- users

    def set_user(self, user: str, password: str) -> None:
        """Admit ``user``, or change the password. rumqttd admits everybody."""
        update_file(self.home / PASSWORD_FILE, lambda text: with_user(text, user, password))
        self.reload()

    def remove_user(self, user: str) -> None:
        """Admit ``user`` no longer."""
        update_file(self.home / PASSWORD_FILE, lambda text: without_user(text, user))
        self.reload()

    # ---- parts of start

    def _program(self) -> list[str | Path]:
        if self.kind == "rumqttd":
            child = Path(__file__).with_name("rumqttd.py")
            # -P: no directory of ours on the child's path
            return [sys.executable, "-P", child, RUMQTTD_CONFIG, str(os.getpid())]
        program = find_mosquitto()
        if program is None:
            raise SupervisorError(
                "mosquitto is not installed", remedy="install it, or set broker_kind to auto or rumqttd"
            )
        return [program, "-c", CONFIG_FILE]

    def _prepare(self) -> None:
        """The directory: ours and only passable, so that the broker's user cannot put links where we write.

        mosquitto starts in it and uses relative paths: it needs no permission on any directory above.
        """
        # rumqttd is our own Python, which another user may be unable to read, and listens on loopback only.
        self._account = unprivileged_account(("mosquitto",)) if self.kind == "mosquitto" else None
        private_directory(self.home, mode=0o711)
        self._lock = self._lock or InstanceLock(self.home / "lock")
        self._lock.acquire()
        private_directory(self.home / "state", self._account)
        if self.log.exists() and self.log.stat().st_size > _LOG_KEPT_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))

    def _check_port(self) -> None:
        if not is_free(self.host, self.port):
            raise SupervisorError(
                f"port {self.port} is taken", remedy="stop what listens there, or set another broker.port"
            )

    def _write_files(self) -> None:
        update_file(self.password_file, lambda text: text or secrets.token_urlsafe(32) + "\n")
        if self.kind == "rumqttd":
            update_file(self.home / RUMQTTD_CONFIG, lambda _: rumqttd_config(self.port, self._max_message_bytes))
            update_file(self.home / PASSWORD_FILE, lambda text: text)
            return
        owner = (self._account.uid, self._account.gid) if self._account else (os.geteuid(), os.getegid())
        password = self.password_file.read_text(encoding="utf-8").strip()
        self._probe_password = secrets.token_urlsafe(32)
        config = mosquitto_config(
            [Listener(self.port, self.host), *self._listeners],
            max_message_bytes=self._max_message_bytes,
            save_every_change=self._save_every_change,
        )

        def passwords(text: str) -> str:
            text = with_user(text, PROBE_USER, self._probe_password)
            return text if password_matches(text, self.username, password) else with_user(text, self.username, password)

        update_file(self.home / PASSWORD_FILE, passwords, owner=owner)
        update_file(self.home / ACL_FILE, lambda _: acl_text([self.username]), owner=owner)
        update_file(self.home / CONFIG_FILE, lambda _: config, owner=owner)

    def _accepts(self) -> bool:
        # never the worker's own user: that would take over its session
        return mqtt_accepts(self.host, self.port, PROBE_USER, self._probe_password)

    async def _end_leftovers(self) -> None:
        """Stop the mosquitto of a killed supervisor: two on one state would undo each other's saves."""
        for process in _mosquittos_in(self.home):
            process.terminate()
        deadline = time.monotonic() + self._stop_timeout_s
        while left := _mosquittos_in(self.home):
            if time.monotonic() > deadline:
                raise SupervisorError(
                    f"process {left[0].pid} still works in {self.home}", remedy="end it; it was told to"
                )
            await asyncio.sleep(POLL_S)


def find_mosquitto() -> Path | None:
    """The mosquitto program; also where Debian puts it, which ordinary users do not have on their path."""
    found = shutil.which("mosquitto", path=os.environ.get("PATH", os.defpath) + _MORE_PATH)
    return Path(found) if found else None


def reload_running(data_dir: Path) -> bool:
    """Have the mosquitto that works in ``data_dir``, started by whichever process, read its files again."""
    found = _mosquittos_in(data_dir / "broker")
    for process in found:
        process.send_signal(signal.SIGHUP)
    return bool(found)


def mosquitto_runs(data_dir: Path) -> bool:
    """Whether a mosquitto works in ``data_dir``, started by whichever process."""
    return bool(_mosquittos_in(data_dir / "broker"))


def _mosquittos_in(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = process.name() == "mosquitto" and process.cwd() == str(home.resolve())
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
