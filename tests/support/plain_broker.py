"""A mosquitto for one test: loopback, a free port, nothing kept on disk, restartable on the same port."""

import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest


class PlainBroker:
    """Starts on construction; `stop` ends it gracefully, `kill` as a power cut would, `start` brings it back."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.skip("mosquitto is not installed: tests/debian-packages.sh installs it")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._program = program
        self._configuration = folder / "mosquitto.conf"
        anonymous = "" if "allow_anonymous" in extra else "allow_anonymous true\n"
        limits = "" if "max_inflight_messages" in extra else "max_inflight_messages 0\nmax_queued_messages 0\n"
        # as root it would change to a user that cannot read files in the test's own folder
        user = f"user {pwd.getpwuid(os.getuid()).pw_name}\n"
        self._configuration.write_text(f"listener {self.port} 127.0.0.1\n{user}{anonymous}{limits}{extra}")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 20
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(f"mosquitto ended with {self._process.returncode}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError("mosquitto did not open its port within 20 s")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None
