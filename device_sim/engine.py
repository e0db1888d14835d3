"""Runs gateways, simulated or replayed: starts them, reports while they work, and lets them finish."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_sim.figures import Figures, Summary
from device_sim.gateway import Delivery, Gateway, Shared
from device_sim.ledger import Ledger
from device_sim.link import Broker, Credential
from device_sim.message import Message

Progress = Callable[[Figures], None]


@dataclass(frozen=True, slots=True)
class Part:
    """What one gateway will do."""

    name: str
    stream: str
    credential: Credential | None
    messages: Iterator[Message]
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Run:
    """Where a run publishes and how it ends.

    ``duration_s``: producing stops then (None: when the messages end). ``drain_s``: how long after that gateways
    may take to get rid of what they hold.
    """

    broker: Broker
    ledger: Path | None = None
    duration_s: float | None = None
    drain_s: float = 60.0
    seed: int = 0
    description: Mapping[str, Any] | None = None


async def publish(
    parts: Sequence[Part],
    run: Run,
    *,
    devices: int,
    progress: Progress | None = None,
    progress_interval_s: float = 1.0,
    stop: asyncio.Event | None = None,
) -> Summary:
    """Let all ``parts`` publish; ``stop`` ends producing early. ``progress`` gets the live figures every interval.

    Returns when everything is acknowledged (committed, for gateways that wait for it) or ``drain_s`` is over.
    """
    loop = asyncio.get_running_loop()
    stopping, figures, began_s = asyncio.Event(), Figures(), loop.time()
    ledger = Ledger(run.ledger, run.description) if run.ledger is not None else None
    shared = Shared(run.broker, figures, ledger, began_s)
    gateways = [_gateway(part, shared, run.seed) for part in parts]
    tasks = {asyncio.create_task(gateway.run(stopping)) for gateway in gateways}
    helpers = [asyncio.create_task(_stop_later(stop, run.duration_s, stopping))]
    helpers.append(asyncio.create_task(_tell(figures, ledger, progress, progress_interval_s)))
    try:
        await _until_done(tasks, stopping, run.drain_s)
    finally:
        for task in (*tasks, *helpers):
            task.cancel()
        ended = await asyncio.gather(*tasks, *helpers, return_exceptions=True)
        if ledger is not None:
            ledger.close()
    for error in ended:
        if isinstance(error, Exception):
            raise error
    if progress is not None:
        progress(figures)
    return Summary(
        figures=figures,
        gateways=len(gateways),
        devices=devices,
        seconds=loop.time() - began_s,
        unfinished_messages=sum(len(gateway.outbox) for gateway in gateways),
    )


def _gateway(part: Part, shared: Shared, seed: int) -> Gateway:
    jitter = random.Random(f"{seed}/{part.name}")
    return Gateway(part.name, part.stream, part.credential, part.messages, part.delivery, shared, jitter)


async def _until_done(tasks: set[asyncio.Task[None]], stopping: asyncio.Event, drain_s: float) -> None:
    stopped = asyncio.create_task(stopping.wait())
    try:
        pending = set(tasks)
        while pending and not stopping.is_set():
            done, _ = await asyncio.wait({*pending, stopped}, return_when=asyncio.FIRST_COMPLETED)
            pending -= done
            if any(task.exception() for task in done if task is not stopped):
                return
        if pending:
            await asyncio.wait(pending, timeout=drain_s)
    finally:
        stopped.cancel()


async def _stop_later(stop: asyncio.Event | None, duration_s: float | None, stopping: asyncio.Event) -> None:
    asked = asyncio.create_task((stop or asyncio.Event()).wait())
    try:
        await asyncio.wait((asked,), timeout=duration_s)
    finally:
        asked.cancel()
    stopping.set()


async def _tell(figures: Figures, ledger: Ledger | None, progress: Progress | None, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        if ledger is not None:
            ledger.flush()
        if progress is not None:
            progress(figures)


def load_credentials(path: Path) -> tuple[Credential, ...]:
    """Read a JSON list of ``{"username", "password"}``.

    Raises:
        ValueError: not such a list; the message quotes nothing of the file.

    """
    try:
        return tuple(Credential(str(each["username"]), str(each["password"])) for each in json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is not a JSON list of {{"username": …, "password": …}}') from error
