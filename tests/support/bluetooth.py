"""A Bluetooth world for tests, and what a receiver needs.

``FakeScanner`` is a fake: a class in place of bleak's backend, without radio, D-Bus or kernel. What it "hears" is what
a test says. The same on a real bleak is in test_ble_dbusmock.py.
"""

import asyncio
import secrets
from typing import ClassVar

from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakError

from telemetry.model.bluetooth import BleDevice, BleFormat
from telemetry.privacy.ble import BleSecret
from telemetry.sources.ble import BleSource
from telemetry.sources.ble_counters import Counters
from telemetry.sources.ble_permission import Permission
from telemetry.sources.ble_radio import Radio
from telemetry.sources.ble_receive import Reception
from telemetry.sources.ble_spool import Spool
from tests.support.broker import WallClock

KEY = bytes.fromhex("00112233445566778899aabbccddeeff")
SHUNT = bytes.fromhex("c0ffee000001")  # made up
PLUG = bytes.fromhex("c0ffee000002")
NEIGHBOUR = "C0:FF:EE:99:99:99"
DEVICES = (BleDevice(SHUNT, BleFormat.VICTRON, KEY), BleDevice(PLUG, BleFormat.BTHOME, KEY))
MIB = 2**20


class FakeScanner(BaseBleakScanner):
    """A FAKE bleak backend: hears what ``advertise`` is told, on an adapter that a test takes away and puts back."""

    adapter: ClassVar[bool] = True
    running: ClassVar["list[FakeScanner]"] = []
    modes: ClassVar[list[str]] = []

    def __init__(self, detection_callback, service_uuids, scanning_mode, **_):
        super().__init__(detection_callback, service_uuids)
        self.modes.append(scanning_mode)

    async def start(self):
        if not self.adapter:
            raise BleakError("No powered Bluetooth adapters found. (a fake)")
        self.running.append(self)

    async def stop(self):
        if self in self.running:
            self.running.remove(self)

    @classmethod
    def reset(cls):
        cls.adapter = True
        cls.running.clear()
        cls.modes.clear()

    @classmethod
    def advertise(cls, address, *, manufacturer=None, services=None, name="canary-name-0006", rssi=-60):
        data = AdvertisementData(name, manufacturer or {}, services or {}, [], None, rssi, ())
        for scanner in cls.running if cls.adapter else ():
            device = scanner.create_or_update_device(address, address, name, {}, data)
            scanner.call_detection_callbacks(device, data)


class Station:
    """A receiver on a directory of its own, as the service and the gateway build it."""

    def __init__(self, directory, *, secret=None, devices=DEVICES, permission=None, backend=FakeScanner, **options):
        self.raw_secret = secret or secrets.token_bytes(32)
        sealer = BleSecret(self.raw_secret)
        self.permission = permission or Permission(granted=True)
        self.counters = Counters(directory / "counters", sealer)
        self.spool = Spool(directory / "spool", sealer, options.pop("spool_bytes", MIB))
        self.clock = options.pop("clock", WallClock())
        reception = Reception(
            devices,
            sealer,
            self.counters,
            untrusted=options.pop("untrusted", False),
            interval_us=options.pop("interval_us", 0),
        )
        self.source = BleSource(
            "home-0001",
            reception=reception,
            counters=self.counters,
            spool=self.spool,
            permission=self.permission,
            clock=self.clock,
        )
        self.radio = Radio(
            self.source.hear,
            self.permission,
            backend=backend,
            silence_s=options.pop("silence_s", 0.4),
            reconnect_s=(0.02, 0.1),
            **options,
        )
        self.messages = []
        self.consume = True

    async def __aenter__(self):
        jobs = [self.source.run(), self.radio.run(), *([self._consume()] if self.consume else [])]
        self._tasks = [asyncio.create_task(job) for job in jobs]
        return self

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.spool.close()

    async def _consume(self):
        async for messages in self.source.batches():
            self.messages += messages
