"""Publishes recordings: files and a mapping in, the same messages a gateway would have sent out."""

import asyncio
import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import polars as pl

from device_sim.engine import Part, Progress, Run, publish
from device_sim.figures import Summary
from device_sim.formats import FORMATS
from device_sim.gateway import Delivery
from device_sim.link import Broker, Credential
from device_sim.mapping import KEY, Expected, Mapping, load_mapping, read_recordings
from device_sim.message import Message, Reading


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """What is replayed, and how.

    ``gateway`` replaces the mapping's gateway names; without it a single credential's user name does.
    ``speed``: recorded seconds per wall second; math.inf as fast as the broker acknowledges. ``until``: all times
    move by whole seconds so that the last reading lies there. ``limit``: readings of each file.
    """

    files: tuple[Path, ...]
    mapping: Path
    broker: Broker = field(default_factory=Broker)
    credentials: tuple[Credential, ...] = ()
    gateway: str | None = None
    format: str = "array"
    readings_per_message: int = 200
    speed: float = math.inf
    limit: int | None = None
    until: datetime | None = None
    delivery: Delivery = field(default_factory=Delivery)
    ledger: Path | None = None
    drain_s: float = 60.0


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What the files hold and what became of it."""

    expected: Expected
    summary: Summary


async def run(
    settings: ReplaySettings, *, progress: Progress | None = None, stop: asyncio.Event | None = None
) -> ReplayResult:
    """Publish all readings of the files, in the order of their times, each gateway on its own connection."""
    frame, expected = prepare(settings)
    times = frame["ts"]
    start_us = int(times.min() or 0)  # type: ignore[arg-type]
    parts = [
        Part(
            str(name),
            _stream(settings, str(name), time.time_ns()),
            _credential(settings, str(name)),
            messages(settings, rows, start_us),
            settings.delivery,
        )
        for (name,), rows in frame.group_by(["gateway"], maintain_order=True)
    ]
    summary = await publish(
        parts,
        Run(settings.broker, ledger=settings.ledger, drain_s=settings.drain_s, description={"replay": True}),
        devices=frame.select("gateway", "serial").n_unique(),
        progress=progress,
        stop=stop,
    )
    return ReplayResult(expected, summary)


def prepare(settings: ReplaySettings) -> tuple[pl.DataFrame, Expected]:
    """Read the files: rows of KEY (ts in µs since 1970 UTC) and fields, in the order of time; and the account."""
    mapping: Mapping = load_mapping(settings.mapping)
    name = settings.gateway
    if name is None and len(settings.credentials) == 1:
        name = settings.credentials[0].username
    if name is not None:
        mapping = replace(mapping, gateway=name)
    frame, expected = read_recordings(settings.files, mapping, settings.limit)
    if settings.until is not None and frame.height:
        newest_s = int(frame["ts"].max() or 0) // 1_000_000  # type: ignore[arg-type]
        shift_s = math.floor(settings.until.timestamp()) - newest_s
        frame = frame.with_columns(pl.col("ts") + shift_s * 1_000_000)
    return frame, expected


def messages(settings: ReplaySettings, rows: pl.DataFrame, start_us: int) -> Iterator[Message]:
    """The messages of one gateway; its first reading's time counts from ``start_us``, the whole replay's start."""
    encode = FORMATS[settings.format]
    names = [name for name in rows.columns if name not in KEY]
    for sequence, part in enumerate(rows.iter_slices(settings.readings_per_message), 1):
        readings = list(_readings(part, names))
        due_s = 0.0 if math.isinf(settings.speed) else (readings[-1].ts_us - start_us) / 1e6 / settings.speed
        yield Message(sequence, *encode(readings), expected=readings, due_s=due_s)


def _readings(rows: pl.DataFrame, names: Sequence[str]) -> Iterator[Reading]:
    for _, serial, kind, ts_us, *values in rows.select(*KEY, *names).iter_rows():
        fields = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        yield Reading(serial, kind, ts_us, fields)


def _credential(settings: ReplaySettings, name: str) -> Credential | None:
    for credential in settings.credentials:
        if credential.username == name:
            return credential
    if settings.credentials:
        raise ValueError("a gateway of this replay is not among the credentials: name it with --gateway")
    return None


def _stream(settings: ReplaySettings, name: str, salt: int) -> str:
    """Each replay is a stream of its own: its sequence begins at 1, and it may stop anywhere."""
    text = f"{name}/{salt}/{[path.name for path in settings.files]}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
