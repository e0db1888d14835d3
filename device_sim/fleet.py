"""A fleet of homes behind their gateways.

    settings = FleetSettings(broker=Broker(port=1883), gateways=10, speed=60, duration_s=30)
    summary = await run(settings, progress=print)

The same settings (seed and start included) give the same messages, byte for byte.
"""

import asyncio
import hashlib
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np

from device_sim.devices import Device, columns, devices_of_home
from device_sim.dialects import DIALECTS, Dialect
from device_sim.dialects.spoken import values_of
from device_sim.engine import Part, Progress, Run, publish
from device_sim.faults import POISON, Faults, spoil
from device_sim.figures import Summary
from device_sim.formats import FORMATS
from device_sim.gateway import Delivery
from device_sim.home import Home
from device_sim.link import Broker, Credential
from device_sim.message import Message, Reading
from device_sim.timeline import Timeline

_BLOCK_READINGS = 3_000  # computed at once for a home
_MIXED = ("array", "columns", "arrow", "senml")


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """What a fleet is and does.

    ``credentials``: one gateway each, named by its user name; without any, ``gateways`` anonymous ones named
    ``<gateway_prefix>0001`` and on. Three ways of pacing: ``speed`` (simulated per wall second, default 1),
    ``messages_per_second`` (of the whole fleet), or ``math.inf`` for speed (as fast as the broker acknowledges).
    ``interval_s`` between a device's readings and ``start_s`` (seconds since 1970) are chosen to fit when None,
    such that no reading is ever ahead of the clock. ``messages`` bounds the whole fleet's number of messages.
    ``linger_s``: a message waits at most so long (wall time, pacing by speed) to be filled.
    ``outage_every_s``: mean time between outages of a gateway, by seed, each ``outage_length_s`` long.
    """

    broker: Broker = field(default_factory=Broker)
    credentials: tuple[Credential, ...] = ()
    gateways: int = 1
    gateway_prefix: str = "gw-"
    devices_per_home: int = 6
    serial_prefix: str = ""
    seed: int = 0
    format: str = "array"
    readings_per_message: int = 50
    interval_s: float | None = None
    start_s: float | None = None
    speed: float | None = None
    messages_per_second: float | None = None
    linger_s: float = 5.0
    duration_s: float | None = None
    messages: int | None = None
    faults: Faults = field(default_factory=Faults)
    delivery: Delivery = field(default_factory=Delivery)
    outage_every_s: float | None = None
    outage_length_s: float = 5.0
    ledger: Path | None = None
    drain_s: float = 60.0

    def __post_init__(self) -> None:
        if self.format not in {*FORMATS, *DIALECTS, "mixed"}:
            raise ValueError(f"format {self.format!r} is none of {', '.join((*FORMATS, *DIALECTS))}, mixed")
        if self.format == "single" and self.readings_per_message != 1:
            raise ValueError("format single takes one reading per message: set readings_per_message to 1")
        if self.speed is not None and self.messages_per_second is not None:
            raise ValueError("speed and messages_per_second exclude each other")
        for name in ("gateways", "devices_per_home", "readings_per_message"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")

    @property
    def names(self) -> tuple[str, ...]:
        """The gateways' names, which are their broker user names."""
        if self.credentials:
            return tuple(credential.username for credential in self.credentials)
        return tuple(f"{self.gateway_prefix}{number:04}" for number in range(1, self.gateways + 1))


async def run(
    settings: FleetSettings,
    *,
    progress: Progress | None = None,
    progress_interval_s: float = 1.0,
    stop: asyncio.Event | None = None,
) -> Summary:
    """Run the fleet until its duration or number of messages is reached, or ``stop`` is set; then drain.

    ``progress`` is called with the live figures (read them, do not keep them) every ``progress_interval_s``.
    """
    times = timeline(settings, time.time())
    settings = replace(settings, start_s=times.start_us / 1e6)
    return await publish(
        parts(settings, times),
        Run(
            settings.broker,
            ledger=settings.ledger,
            duration_s=settings.duration_s,
            drain_s=settings.drain_s,
            seed=settings.seed,
            description=_describe(settings),
        ),
        devices=len(settings.names) * settings.devices_per_home,
        progress=progress,
        progress_interval_s=progress_interval_s,
        stop=stop,
    )


def timeline(settings: FleetSettings, now_s: float) -> Timeline:
    """When readings are taken and messages are due, for every gateway alike."""
    return Timeline.fit(
        now_s=now_s,
        gateways=len(settings.names),
        devices=settings.devices_per_home,
        readings_per_message=settings.readings_per_message,
        interval_s=settings.interval_s,
        start_s=settings.start_s,
        speed=settings.speed,
        messages_per_second=settings.messages_per_second,
        duration_s=settings.duration_s,
        messages=settings.messages,
        linger_s=settings.linger_s,
    )


def parts(settings: FleetSettings, times: Timeline) -> list[Part]:
    """The fleet's gateways, each with its messages still to be made."""
    return [
        Part(
            name,
            _stream(settings, name, times),
            credential,
            messages(settings, times, index),
            _delivery(settings, index),
        )
        for index, (name, credential) in enumerate(
            zip(settings.names, settings.credentials or (None,) * settings.gateways, strict=True)
        )
    ]


def messages(settings: FleetSettings, times: Timeline, index: int) -> Iterator[Message]:
    """The messages of gateway ``index``, without end unless ``settings.messages`` bounds them."""
    rng = random.Random(f"{settings.seed}/{index}/messages")
    kind = _MIXED[index % len(_MIXED)] if settings.format == "mixed" else settings.format
    devices = devices_of_home(index, settings.devices_per_home, settings.serial_prefix)
    source = _chunks(settings, index, devices, times)
    fleet = len(settings.names)
    bound = None if settings.messages is None else (settings.messages + fleet - 1 - index) // fleet
    if kind in DIALECTS:
        said = _spoken(DIALECTS[kind], settings.names[index], devices, source)
        for message, ts_us in islice(said, bound):
            message.due_s = times.due_s(message.sequence, ts_us or times.start_us, index)
            yield message
        return
    encode = FORMATS[kind]
    past: list[Message] = []
    faults, sequence, ts_us = settings.faults, 0, times.start_us
    while bound is None or sequence < bound:
        sequence += 1
        draw = rng.random()
        if draw < faults.poison_share:
            message = _poison(rng, sequence, devices[0].serial, ts_us)
        elif past and draw < faults.poison_share + faults.duplicate_share:
            again = rng.choice(past)
            message = Message(
                sequence,
                again.topic,
                again.payload,
                again.content_type,
                again.expected,
                duplicate_of=again.sequence,
            )
        else:
            readings = next(source)
            ts_us = readings[-1].ts_us
            spoilt = [spoil(rng, faults, reading) for reading in readings]
            encoded = encode([sent for sent, _ in spoilt])
            message = Message(sequence, *encoded, expected=[kept for _, kept in spoilt])
            past = [*past[-19:], message]
        message.due_s = times.due_s(sequence, ts_us, index)
        yield message


def _spoken(
    dialect: Dialect, gateway: str, devices: tuple[Device, ...], source: Iterator[list[Reading]]
) -> Iterator[tuple[Message, int]]:
    """The messages of a dialect, each with the time of its reading: those of the start (0), then those of every
    reading. No faults are mixed in.
    """
    numbers = count(1)
    speaker = dialect.speaker()
    for said in speaker.greet(gateway, devices):
        yield Message(next(numbers), said.topic, said.payload, None, [], retain=said.retain), 0
    for reading in chain.from_iterable(source):
        for said in speaker.say(gateway, reading):
            message = Message(next(numbers), said.topic, said.payload, None, list(said.expected), retain=said.retain)
            message.values = 0 if said.expected else len(values_of(said))
            yield message, reading.ts_us


def _poison(rng: random.Random, sequence: int, serial: str, ts_us: int) -> Message:
    name = rng.choice(list(POISON))
    return Message(sequence, "readings", POISON[name](serial, ts_us), None, expected=[], poison=name)


def _chunks(
    settings: FleetSettings, index: int, devices: tuple[Device, ...], times: Timeline
) -> Iterator[list[Reading]]:
    """Readings in the order taken, cut into messages' worth: full, or as long as a message may linger."""
    chunk: list[Reading] = []
    for ticks, tick in enumerate(_ticks(settings, index, devices, times), 1):
        for reading in tick:
            chunk.append(reading)
            if len(chunk) == settings.readings_per_message:
                yield chunk
                chunk = []
        if chunk and times.linger_ticks and ticks % times.linger_ticks == 0:
            yield chunk
            chunk = []


def _ticks(
    settings: FleetSettings, index: int, devices: tuple[Device, ...], times: Timeline
) -> Iterator[list[Reading]]:
    kinds = {device.kind for device in devices}
    home = Home(settings.seed, index, battery="battery" in kinds, car="ev_charger" in kinds)
    block = max(1, _BLOCK_READINGS // len(devices))
    begin = 0
    while True:
        ts_us = times.start_us + np.arange(begin, begin + block, dtype=np.int64) * times.interval_us
        at_s = ts_us / 1e6
        sample = home.sample(at_s)
        stamps = ts_us.tolist()
        per_device = [_readings(device, columns(device, home, at_s, sample), stamps) for device in devices]
        yield from (list(tick) for tick in zip(*per_device, strict=True))
        begin += block


def _readings(device: Device, reported: dict[str, Any], stamps: list[int]) -> list[Reading]:
    names = tuple(reported)
    rows = zip(*reported.values(), strict=True)
    serial, kind = device.serial, device.kind
    if kind == "ev_charger":  # the one kind with values that come and go
        return [
            Reading(serial, kind, ts, {k: v for k, v in zip(names, row, strict=True) if v is not None})
            for ts, row in zip(stamps, rows, strict=True)
        ]
    return [Reading(serial, kind, ts, dict(zip(names, row, strict=True))) for ts, row in zip(stamps, rows, strict=True)]


def _stream(settings: FleetSettings, name: str, times: Timeline) -> str:
    """Another run of the same gateway is another stream, because its sequence begins at 1 again."""
    text = f"{settings.seed}/{settings.serial_prefix}/{name}/{times.start_us}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _delivery(settings: FleetSettings, index: int) -> Delivery:
    if settings.outage_every_s is None:
        return settings.delivery
    rng = random.Random(f"{settings.seed}/{index}/outages")
    outages, at_s = list(settings.delivery.outages), 0.0
    while at_s < (settings.duration_s or 86_400):
        at_s += rng.expovariate(1 / settings.outage_every_s)
        outages.append((at_s, settings.outage_length_s))
        at_s += settings.outage_length_s
    return replace(settings.delivery, outages=tuple(sorted(outages)))


def _describe(settings: FleetSettings) -> dict[str, Any]:
    """What a ledger says about its run: nothing secret, nothing about this machine."""
    values = asdict(settings)
    for name in ("broker", "credentials", "ledger"):
        del values[name]
    return {
        "settings": {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
    }
