"""Wiring of Bluetooth: one station, for the service (app.Worker) and for a gateway (`telemetry ble --publish`).

radio ─▶ reception ─▶ spool ─▶ pipeline of the service, or the broker
"""

import asyncio
import copy
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final

from telemetry.config import Config
from telemetry.errors import ConfigurationError
from telemetry.model.batch import MICROSECONDS
from telemetry.model.bluetooth import BleFormat, Heard
from telemetry.observe import Observer, events
from telemetry.ports import Clock
from telemetry.sources.ble import BleSource
from telemetry.sources.ble_counters import Counters
from telemetry.sources.ble_gateway import Publisher
from telemetry.sources.ble_gatt import Batteries, find_reader
from telemetry.sources.ble_permission import Permission, follow_file
from telemetry.sources.ble_radio import Radio
from telemetry.sources.ble_receive import Reception
from telemetry.sources.ble_spool import Spool
from telemetry.store.ble_devices import BleDevices, ble_folder, open_ble_secret
from telemetry.store.bluetooth import SitePermission
from telemetry.store.connection import Connect

_TELL_INTERVAL_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Station:
    """What listens at one place."""

    source: BleSource
    radio: Radio
    permission: Permission
    batteries: Batteries | None

    def jobs(self, observer: Observer) -> list[Coroutine[Any, Any, None]]:
        """What must run beside the source."""
        found = [self.radio.run(), self.tell(observer)]
        return [*found, self.batteries.run()] if self.batteries is not None else found

    def inside_the_service(
        self, connect: Connect, name_blind: bytes, observer: Observer
    ) -> list[Coroutine[Any, Any, None]]:
        """As ``jobs``, under the permission that the database holds for the site of the gateway of this name."""
        follow = SitePermission(connect, name_blind, self.permission.set)
        self.permission.asks(follow.confirm)
        return [follow.run(), *self.jobs(observer)]

    async def tell(self, observer: Observer) -> None:
        """Tell the observer every few seconds what was heard since the last time."""
        before, dropped_before, damaged_before, error_before = Heard(), 0, 0, None
        while True:
            await asyncio.sleep(_TELL_INTERVAL_S)
            heard = replace(copy.copy(self.source.heard), refused=self.source.heard.refused.copy())
            spool = self.source.spool
            dropped = self.source.dropped + spool.dropped
            observer.advertisements_heard(
                events.AdvertisementsHeard(
                    taken=heard.taken - before.taken,
                    untrusted=heard.untrusted - before.untrusted,
                    strangers=heard.strangers - before.strangers,
                    repeated=heard.repeated - before.repeated,
                    thinned=heard.thinned - before.thinned,
                    empty=heard.empty - before.empty,
                    missed=heard.missed - before.missed,
                    values_unlisted=heard.values_unlisted - before.values_unlisted,
                    dropped=dropped - dropped_before,
                    damaged=spool.damaged - damaged_before,
                    spool_bytes=spool.size_bytes,
                    permitted=self.permission.granted,
                    scanning=self.radio.scanning,
                    refused=dict(heard.refused - before.refused),
                )
            )
            if self.radio.last_error is not None and self.radio.last_error is not error_before:
                observer.radio_failed(events.RadioFailed(self.radio.last_error))
            before, dropped_before, damaged_before = heard, dropped, spool.damaged
            error_before = self.radio.last_error


def open_station(config: Config, gateway: str, clock: Clock, *, backend: type | None = None) -> Station:
    """Build what listens as ``gateway``. ``backend``: a bleak scanner backend in place of the platform's.

    Raises:
        KeystoreError: the secret `ble` is missing or wrong.
        UnsealError: a file of devices, counters or readings is of another secret or was changed.
        ConfigurationError: no device was added, or one needs what is not installed.

    """
    folder, settings = ble_folder(config.data_dir), config.ble
    secret = open_ble_secret(config.data_dir)
    devices = BleDevices(config.data_dir, secret).load()
    if not devices:
        raise ConfigurationError("no Bluetooth device was added", remedy="`telemetry ble key add`")
    counters = Counters(folder / "counters", secret)
    reception = Reception(
        devices,
        secret,
        counters,
        untrusted=settings.untrusted,
        interval_us=round(settings.interval_s * MICROSECONDS),
    )
    permission = Permission()
    spool = Spool(folder / "spool", secret, settings.spool_bytes)
    source = BleSource(gateway, reception=reception, counters=counters, spool=spool, permission=permission, clock=clock)
    radio = Radio(
        source.hear,
        permission,
        mode=settings.scanning,
        adapter=settings.adapter,
        silence_s=settings.silence_s,
        backend=backend,
    )
    connected = [device for device in devices if device.format is BleFormat.GATT]
    batteries = None
    if connected:
        batteries = Batteries(
            connected,
            read=find_reader(settings.adapter),
            put=source.put,
            heard=source.heard,
            permission=permission,
            clock=clock,
            interval_s=settings.battery_interval_s,
            untrusted=settings.untrusted,
        )
    return Station(source, radio, permission, batteries)


async def publish(config: Config, clock: Clock, observer: Observer, *, backend: type | None = None) -> None:
    """Listen and publish as the gateway that ``broker.username`` names, until cancelled.

    Raises:
        TelemetryError: a part cannot be built, or fails for good.

    """
    name = config.broker.username
    if not name:
        raise ConfigurationError(
            "broker.username is not set", remedy="set it to the gateway's name, and broker.password_file"
        )
    started = time.perf_counter()
    station = open_station(config, name, clock, backend=backend)
    publisher = Publisher(config.broker, station.source)
    try:
        async with asyncio.TaskGroup() as group:
            for job in (
                station.source.run(),
                publisher.run(),
                follow_file(station.permission, ble_folder(config.data_dir)),
                *station.jobs(observer),
            ):
                group.create_task(job)
            observer.service_started(events.ServiceStarted(time.perf_counter() - started))
    finally:
        left = len(station.source.spool)
        station.source.spool.close()
        observer.service_stopped(events.ServiceStopped(events.Cause.SIGNAL, unacknowledged=left))
