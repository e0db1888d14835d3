"""Bluetooth devices of a simulated home: a battery shunt that speaks Victron Instant Readout, a metering plug that
speaks BTHome v2, and a fake radio that plays them to a receiver on bleak.

Frames are written here from the makers' descriptions (Victron, "Extra Manufacturer Data", 2022-12-14, and
bthome.io/format), so that they judge a receiver and its libraries. ``SimulatedScanner`` is a FAKE: no radio, no kernel,
no BlueZ.
"""

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakError
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

VICTRON: Final = 0x02E1
BTHOME: Final = "0000fcd2-0000-1000-8000-00805f9b34fb"
_NO_CURRENT: Final = 0x3FFFFF
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Advertisement:
    """What is in the air: the sender's address, its manufacturer and service data; and what they mean."""

    address: str
    manufacturer: Mapping[int, bytes]
    services: Mapping[str, bytes]
    values: Mapping[str, float]

    @property
    def data(self) -> bytes:
        """The bytes of the one format it speaks."""
        return next(iter((*self.manufacturer.values(), *self.services.values())))


@dataclass(slots=True)
class Shunt:
    """A battery monitor. Its counter has 16 bits and wraps."""

    address: str
    key: bytes = field(repr=False)
    seed: int = 0
    counter: int = 0

    def advertise(self, at_s: float, *, without_current: bool = False) -> Advertisement:
        """The frame of ``at_s`` seconds since 1970; ``without_current``: the shunt does not know it."""
        phase = 2 * math.pi * (at_s % _DAY_S) / _DAY_S
        rng = random.Random(f"{self.seed}/{self.address}/{int(at_s)}")
        charging_a = round(40 * math.sin(phase) + rng.uniform(-1, 1), 3)
        voltage_v = round(13.2 + charging_a / 100, 2)
        soc_pct = round(60 - 30 * math.cos(phase), 1)
        current = _NO_CURRENT if without_current else round(charging_a * 1000) & 0x3FFFFF
        bits = 0xFFFF | round(voltage_v * 100) << 16 | 3 << 64 | current << 66
        bits |= 0xFFFFF << 88 | round(soc_pct * 10) << 108
        self.counter = (self.counter + 1) & 0xFFFF
        cipher = Cipher(algorithms.AES(self.key), modes.CTR(self.counter.to_bytes(16, "little"))).encryptor()
        head = b"\x10\x02\x89\xa3\x02" + self.counter.to_bytes(2, "little") + self.key[:1]
        values = {"battery_voltage_v": voltage_v, "battery_soc_pct": soc_pct, "alert_code": 0.0}
        if not without_current:
            values["battery_current_a"] = -charging_a + 0.0
        return Advertisement(self.address, {VICTRON: head + cipher.update(bits.to_bytes(15, "little"))}, {}, values)


@dataclass(slots=True)
class Plug:
    """A metering plug; without a key it speaks in clear. It also tells of motion, which nobody asked for."""

    address: str
    key: bytes | None = field(repr=False)
    seed: int = 0
    counter: int = 0
    energy_wh: float = 100_000.0
    _last_s: float | None = None

    def advertise(self, at_s: float) -> Advertisement:
        """The frame of ``at_s`` seconds since 1970."""
        rng = random.Random(f"{self.seed}/{self.address}/{int(at_s)}")
        power_w = round(rng.uniform(0, 2000), 2)
        if self._last_s is not None:
            self.energy_wh += power_w * max(0.0, at_s - self._last_s) / 3600
        self._last_s = at_s
        energy_wh, voltage_v = float(round(self.energy_wh)), round(rng.uniform(225, 240), 1)
        objects = (
            b"\x0a" + round(energy_wh).to_bytes(3, "little") + b"\x0b" + round(power_w * 100).to_bytes(3, "little")
        )
        objects += b"\x21" + bytes([rng.randrange(2)]) + b"\x4a" + round(voltage_v * 10).to_bytes(2, "little")
        self.counter += 1
        values = {"energy_total_wh": energy_wh, "ac_power_w": power_w, "ac_voltage_v": voltage_v}
        return Advertisement(self.address, {}, {BTHOME: self._framed(objects)}, values)

    def _framed(self, objects: bytes) -> bytes:
        if self.key is None:
            return b"\x40" + objects
        count = self.counter.to_bytes(4, "little")
        nonce = bytes.fromhex(self.address.replace(":", "")) + b"\xd2\xfc\x41" + count
        sealed = AESCCM(self.key, tag_length=4).encrypt(nonce, objects, None)
        return b"\x41" + sealed[:-4] + count + sealed[-4:]


Device = Shunt | Plug


def home_devices(seed: int) -> tuple[Device, ...]:
    """A shunt and a plug with made-up addresses and keys, the same for the same seed."""
    rng = random.Random(seed)

    def address(number: int) -> str:
        return ":".join(f"{byte:02X}" for byte in (0xC2, 0x51, 0x4D, rng.randrange(256), rng.randrange(256), number))

    return Shunt(address(1), rng.randbytes(16), seed), Plug(address(2), rng.randbytes(16), seed)


class SimulatedScanner(BaseBleakScanner):
    """A FAKE bleak backend: plays ``devices`` to whoever scans, each frame ``repeats`` times, as devices do.

    ``adapter`` False is an adapter that was pulled out. Pass the class as ``backend=`` to a BleakScanner.
    """

    devices: ClassVar[Sequence[Device]] = ()
    adapter: ClassVar[bool] = True
    interval_s: ClassVar[float] = 1.0
    speed: ClassVar[float] = 1.0
    repeats: ClassVar[int] = 3
    sent: ClassVar[list[Advertisement]] = []

    def __init__(self, detection_callback: Any, service_uuids: Any, scanning_mode: Any, **_: Any) -> None:
        super().__init__(detection_callback, service_uuids)
        self.mode = scanning_mode
        self._playing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to hear."""
        if not self.adapter:
            raise BleakError("no adapter (this is a simulation)")
        self._playing = asyncio.create_task(self._play())

    async def stop(self) -> None:
        """Hear nothing any more."""
        if self._playing is not None:
            self._playing.cancel()
            await asyncio.gather(self._playing, return_exceptions=True)
            self._playing = None

    async def _play(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for device in self.devices if self.adapter else ():
                found = device.advertise(loop.time() * self.speed)
                self.sent.append(found)
                data = AdvertisementData(
                    f"sim-{found.address[-5:]}", dict(found.manufacturer), dict(found.services), [], None, -60, ()
                )
                for _ in range(self.repeats):
                    told = self.create_or_update_device(found.address, found.address, None, {}, data)
                    self.call_detection_callbacks(told, data)
            await asyncio.sleep(self.interval_s)
