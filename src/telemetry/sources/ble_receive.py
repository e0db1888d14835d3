"""From an advertisement to a reading in native JSON, or a count. No I/O, no clock.

    address known? ─▶ decode with the device's key ─▶ trusted? ─▶ counter above the highest? ─▶ interval over? ─▶ JSON

Devices that nobody registered are not looked at: the neighbours' are in range as well. Local names are never read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from telemetry.codecs.advertised import Frame
from telemetry.codecs.bthome import UUID as BTHOME_UUID
from telemetry.codecs.bthome import decode_bthome
from telemetry.codecs.victron import COMPANY as VICTRON
from telemetry.codecs.victron import decode_victron
from telemetry.model.bluetooth import BleDevice, BleFormat, Fault, Heard, parsed_address
from telemetry.model.fields import DeviceKind
from telemetry.privacy.ble import BleSecret
from telemetry.sources.ble_counters import Counters, Verdict

_US_PER_MS: Final = 1000


@dataclass(slots=True)
class _Known:
    device: BleDevice
    digest: str
    taken_us: int | None = None
    last_data: bytes = b""


class Reception:
    """Advertisements of registered devices, one after the other. One event loop."""

    def __init__(
        self,
        devices: Sequence[BleDevice],
        secret: BleSecret,
        counters: Counters,
        *,
        untrusted: bool = False,
        interval_us: int = 0,
    ) -> None:
        self._known = {
            device.address: _Known(device, _digest(device, secret))
            for device in devices
            if device.format is not BleFormat.GATT
        }
        self._counters = counters
        self._untrusted = untrusted
        self._interval_us = interval_us
        self.heard = Heard()

    def hear(
        self, address: str, manufacturer: Mapping[int, bytes], services: Mapping[str, bytes], now_us: int
    ) -> bytes | None:
        """The reading in an advertisement; None where it holds none, which is counted."""
        found = parsed_address(address)
        known = None if found is None else self._known.get(found)
        if known is None:
            self.heard.strangers += 1
            return None
        device = known.device
        victron = device.format is BleFormat.VICTRON
        data = manufacturer.get(VICTRON) if victron else services.get(BTHOME_UUID)
        if data is None:
            return None  # another part of what the device says: its name, a battery service
        decoded = (
            decode_victron(data, device.key)
            if victron
            else decode_bthome(data, device.key, device.address, device.kind or DeviceKind.METER)
        )
        frame = self._accepted(known, decoded, data)
        return None if frame is None else self._reading(known, frame, now_us)

    def _accepted(self, known: _Known, decoded: Frame | Fault, data: bytes) -> Frame | None:
        """The frame, if it may be believed and is new."""
        heard = self.heard
        if isinstance(decoded, Frame) and not decoded.trusted and not self._untrusted:
            decoded = Fault.UNTRUSTED
        if isinstance(decoded, Fault):
            heard.refused[decoded] += 1
            return None
        if decoded.counter is None:
            repeated = data == known.last_data
            known.last_data = data
            heard.repeated += repeated
            return None if repeated else decoded
        verdict, missed = self._counters.see(known.digest, decoded.counter, decoded.counter_bits)
        heard.missed += missed
        if verdict is Verdict.REPEATED:
            heard.repeated += 1
        elif verdict is Verdict.OLD:
            heard.refused[Fault.REPLAYED] += 1
        return decoded if verdict is Verdict.NEW else None

    def _reading(self, known: _Known, frame: Frame, now_us: int) -> bytes | None:
        heard = self.heard
        heard.values_unlisted += sum(frame.unlisted.values()) + len(frame.implausible)
        if not frame.values:
            heard.empty += 1
            return None
        if known.taken_us is not None and 0 <= now_us - known.taken_us < self._interval_us:
            heard.thinned += 1
            return None
        known.taken_us = now_us
        heard.taken += 1
        heard.untrusted += not frame.trusted
        return reading(known.device, known.device.kind or frame.kind, frame.values, now_us)


def reading(device: BleDevice, kind: DeviceKind, values: Mapping[str, float | int], now_us: int) -> bytes:
    """One reading in native JSON, at the instant of receipt in whole milliseconds."""
    return orjson.dumps({"serial": device.serial, "kind": kind.label, "ts": now_us // _US_PER_MS, **values})


def _digest(device: BleDevice, secret: BleSecret) -> str:
    """Names the device's counter: another key, or the device added anew, begins another."""
    return secret.digest(device.address, device.key or b"", device.generation.to_bytes(4)).hex()
