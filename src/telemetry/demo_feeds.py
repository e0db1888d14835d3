"""The processes that feed a demonstration: a simulated fleet, and replays of recordings where they are present."""

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from telemetry.errors import SupervisorError
from telemetry.store.registration import IssuedGateway

_BEGIN_S: Final = 30.0
_FINISH_S: Final = 90.0
_PUBLISHED_READINGS_PER_S: Final = 2_000
_REPLAYED: Final = (
    ("inverter-serials", ("inverter-serials/TAEFC1044741.csv.gz",), 5_000),
    ("pv-1min", ("pv-1min/ac_power_inv_2173.csv", "pv-1min/ac_power_inv_7539_outliers.csv"), 1_500),
)


@dataclass(slots=True)
class Feed:
    """One process of device_sim. ``recorded``: it replays a recording and ends by itself."""

    arguments: list[str]
    ledger: Path
    recorded: bool = False
    _process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    async def start(self) -> None:
        """Start it; what it tells comes with ``finish``."""
        command = [*self.arguments, "--ledger", str(self.ledger), "--json", "--quiet"]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "device_sim",
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches us, and we tell it
        )

    async def begun(self) -> None:
        """Return when it publishes: from then on it can be told to stop. A process that ended has begun."""
        deadline = asyncio.get_running_loop().time() + _BEGIN_S
        while self._process is not None and self._process.returncode is None:
            if self.ledger.exists() and self.ledger.stat().st_size:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise SupervisorError("the simulator did not begin", remedy="run the demonstration again")
            await asyncio.sleep(0.05)

    def check(self) -> None:
        """Raise SupervisorError when a fleet has ended by itself."""
        if self._process is not None and self._process.returncode is not None:
            raise SupervisorError(f"the simulator ended with status {self._process.returncode}")

    def kill(self) -> None:
        """End it at once, where it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def finish(self) -> dict[str, Any]:
        """Let it send what it has, stop it, and return its summary."""
        process = self._process
        if process is None:
            return {"published": 0, "acknowledged": 0}
        if process.returncode is None and not self.recorded:
            process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(_FINISH_S):
                out, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            raise SupervisorError("the simulator did not end", remedy="run the demonstration again") from None
        try:
            summary: dict[str, Any] = json.loads(out)
        except ValueError:
            raise SupervisorError(f"the simulator ended with status {process.returncode}") from None
        return summary


def fleet(scratch: Path, port: int, credentials: Path) -> Feed:
    """Homes whose gateways publish about 2,000 readings a second, with the faults that the field has."""
    faults = {"duplicate": 0.01, "poison": 0.005, "implausible": 0.002, "unlisted": 0.002}
    arguments = ["fleet", "--port", str(port), "--credentials", str(credentials), "--serial-prefix", "DEMO"]
    arguments += ["--messages-per-second", str(_PUBLISHED_READINGS_PER_S / 50), "--format", "mixed"]
    for name, share in faults.items():
        arguments += [f"--{name}-share", str(share)]
    return Feed(arguments, scratch / "fleet.jsonl")


def replays(scratch: Path, port: int, recordings: Path, gateways: Sequence[IssuedGateway]) -> list[Feed]:
    """A part of each recording that is present under ``recordings``, each through a gateway of its own."""
    feeds = []
    for (mapping, names, limit), issued in zip(_REPLAYED, gateways, strict=True):
        files = [recordings / name for name in names if (recordings / name).is_file()]
        if not files:
            continue
        credentials = scratch / f"{mapping}.json"
        credentials.touch(mode=0o600)
        credentials.write_text(json.dumps([{"username": issued.name, "password": issued.credential}]))
        arguments = ["replay", *map(str, files), "--mapping", mapping, "--limit", str(limit)]
        arguments += ["--port", str(port), "--credentials", str(credentials)]
        feeds.append(Feed(arguments, scratch / f"{mapping}.jsonl", recorded=True))
    return feeds


def recorded_serials(feeds: Sequence[Feed]) -> set[str]:
    """Every serial that the ledgers of ``feeds`` name."""
    serials: set[str] = set()
    for feed in feeds:
        if not feed.ledger.exists():
            continue
        with feed.ledger.open("rb") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except ValueError:
                    break  # the last line of a process that was killed
                serials.update(reading["serial"] for reading in entry.get("r", ()))
    return serials
