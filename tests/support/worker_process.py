"""The service in a process of its own: started as an operator starts it, watched, killed, stopped.

Only the process that was started here is ever signalled.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_ROOT = Path(__file__).resolve().parents[2]
_POLL_S = 0.05
WORKER = "tests.support.worker_main"


@dataclass
class WorkerProcess:
    """``telemetry run`` with ``config``; its log goes to ``log``, its metrics to 127.0.0.1:``port``.

    ``module``: what runs it, which must wait for the end of its standard input before it begins.
    """

    config: Path
    log: Path
    port: int
    module: str = WORKER
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _spare: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self, *, spare: bool = False) -> None:
        """Start it; it may be started again after its end. ``spare``: the next start will need no imports."""
        if self.running:
            raise AssertionError("the worker runs already")
        self._process, self._spare = self._spare or self._new(), None
        self._process.stdin.close()  # the word to begin
        self.starts += 1
        if spare:
            self.prepare()

    def prepare(self) -> None:
        """Have the next start ready: a process that has everything imported and waits."""
        if self._spare is None:
            self._spare = self._new()

    def _new(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(_ROOT / "src"), str(_ROOT)])
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", self.module, str(self.config)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # the threads are what the command line sets before it imports anything
                env=os.environ | {"PYTHONPATH": path, "POLARS_MAX_THREADS": "1"},
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def process(self) -> psutil.Process:
        """The running process, to look at."""
        self.check()
        return psutil.Process(self._process.pid)

    @property
    def rss_bytes(self) -> int:
        """Resident memory now."""
        return int(self.process.memory_info().rss)

    def check(self) -> None:
        """Raise where it has ended though nobody asked it to."""
        if self._process is None:
            raise AssertionError("the worker was never started")
        status = self._process.poll()
        if status is not None:
            raise AssertionError(f"the worker ended by itself (status {status}): {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def kill(self) -> None:
        """SIGKILL, whatever it is doing."""
        if self.running:
            self._process.kill()
            self._process.wait(30)

    def end(self) -> None:
        """Kill it and its spare."""
        self.kill()
        if self._spare is not None:
            self._spare.kill()
            self._spare.communicate()

    async def stop(self) -> None:
        """SIGTERM, and wait for a clean end."""
        self.check()
        self._process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(self._process.wait, 60)
        if status != 0:
            raise AssertionError(f"the worker stopped with status {status}: {self.last_words()}")

    async def metrics(self) -> dict[str, float]:
        """Every sample of its metrics page by name and labels; empty while the page does not answer."""
        return await asyncio.to_thread(self._metrics)

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 while the page does not answer."""
        found = await self.metrics()
        return sum(value for key, value in found.items() if key.partition("{")[0] == name)

    async def until_subscribed(self, timeout_s: float = 60.0) -> None:
        """Wait until the broker delivers to it: what is published from then on is not lost."""
        await self._until("telemetry_broker_connected", 1, timeout_s)

    async def until_committing(self, messages: int = 1, timeout_s: float = 60.0) -> None:
        """Wait until this process has committed so many messages."""
        await self._until("telemetry_messages_committed_total", messages, timeout_s)

    async def _until(self, name: str, least: float, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while await self.metric(name) < least:
            self.check()
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} stays below {least}: {self.last_words()}")
            await asyncio.sleep(_POLL_S)

    async def page(self) -> bytes:
        """Its metrics page as it is; empty while it does not answer."""
        return await asyncio.to_thread(self._page)

    def _page(self) -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            return b""

    def _metrics(self) -> dict[str, float]:
        page = self._page().decode()
        return {
            name: float(value) for name, value in re.findall(r"^([a-z][^ ]*(?:\{.*?\})?) (\S+)$", page, re.MULTILINE)
        }
