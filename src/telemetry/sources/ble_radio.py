"""Scanning with bleak: as long as it is permitted, on an adapter that may come and go.

    until permitted ─▶ scan ─▶ forbidden: stop at once ─▶ until permitted …
                        └─▶ adapter gone, silence, refusal: back off, scan again

bleak does not say when an adapter vanishes: the scan goes on and hears nothing. So a scan that has been silent for
``silence_s`` is begun anew, which costs nothing where it is only quiet and fails where there is no adapter.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from telemetry.codecs.bthome import UUID as BTHOME_UUID
from telemetry.codecs.victron import COMPANY as VICTRON
from telemetry.errors import ConfigurationError, SourceUnavailable
from telemetry.sources.backoff import Backoff
from telemetry.sources.ble_permission import Permission

Hear = Callable[[str, Mapping[int, bytes], Mapping[str, bytes]], None]
_START_TIMEOUT_S: Final = 20.0
_SHORT_UUID: Final = slice(4, 8)


class Radio:
    """One event loop. ``hear`` is called for every advertisement of anybody; it must be quick.

    ``backend``: a bleak scanner backend to use instead of the platform's.
    """

    def __init__(
        self,
        hear: Hear,
        permission: Permission,
        *,
        mode: Literal["active", "passive"] = "active",
        adapter: str | None = None,
        silence_s: float = 60.0,
        reconnect_s: tuple[float, float] = (0.5, 60.0),
        backend: type | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._hear, self._permission = hear, permission
        self._mode: Literal["active", "passive"] = mode
        self._adapter, self._silence_s, self._backend = adapter, silence_s, backend
        self._backoff = Backoff(*reconnect_s, rng)
        self._heard_at = 0.0
        self.scanning = False
        self.scans = 0
        self.last_error: SourceUnavailable | None = None

    async def run(self) -> None:
        """Scan until cancelled.

        Raises:
            ConfigurationError: bleak is not installed.

        """
        while True:
            await self._permission.until_granted()
            self.last_error = await self._scan_once()
            if self.last_error is not None:
                await asyncio.sleep(self._backoff.next_s())

    async def _scan_once(self) -> SourceUnavailable | None:
        """One scan from beginning to end; why it ended, None where it may begin anew at once."""
        scanner = self._scanner()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await scanner.start()
        except Exception as error:  # bleak passes on whatever D-Bus and the platform raise; its texts hold addresses
            with contextlib.suppress(Exception):
                await scanner.stop()
            return SourceUnavailable(
                f"Bluetooth cannot be scanned: {type(error).__name__}",
                remedy="check the adapter, bluetoothd, and the rights to both",
            )
        self.scanning, self.scans = True, self.scans + 1
        began = self._heard_at = loop.time()
        forbidden = asyncio.create_task(self._permission.until_not_granted())
        try:
            while not forbidden.done() and loop.time() - self._heard_at < self._silence_s:
                await asyncio.wait([forbidden], timeout=self._silence_s / 4)
        finally:
            self.scanning = False
            forbidden.cancel()
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_START_TIMEOUT_S):
                    await scanner.stop()
        if self._heard_at > began:
            self._backoff.reset()
        return None

    def _on_advertisement(self, device: Any, data: Any) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if self.scanning and self._permission.granted:
            self._hear(device.address, data.manufacturer_data, data.service_data)

    def _scanner(self) -> Any:
        try:
            from bleak import BleakScanner
            from bleak.args.bluez import BlueZScannerArgs, OrPattern
            from bleak.assigned_numbers import AdvertisementDataType as Kind
        except ImportError:
            raise ConfigurationError("Bluetooth needs bleak", remedy="pip install 'telemetry[ble]'") from None
        bluez: BlueZScannerArgs = {}
        if self._adapter is not None:
            bluez["adapter"] = self._adapter
        if self._mode == "passive":
            bluez["or_patterns"] = [
                OrPattern(0, Kind.MANUFACTURER_SPECIFIC_DATA, VICTRON.to_bytes(2, "little")),
                OrPattern(0, Kind.SERVICE_DATA_UUID16, bytes.fromhex(BTHOME_UUID[_SHORT_UUID])[::-1]),
            ]
        return BleakScanner(self._on_advertisement, scanning_mode=self._mode, bluez=bluez, backend=self._backend)
