"""Batteries that have to be connected to, by `aiobmsble` (Python 3.12 or newer): about forty makers' protocols.

Each is polled in turn: connect, read once, disconnect, so that an app of the owner's can connect in between. A battery
that does not answer is tried again with back-off. None of these protocols is authenticated: whoever can take the
battery's address can pretend to be it, so they are taken only where ``ble.untrusted`` allows it.
"""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from telemetry.codecs.advertised import Gathered
from telemetry.errors import ConfigurationError
from telemetry.model.bluetooth import BleDevice, Fault, Heard, parsed_address
from telemetry.model.fields import DeviceKind
from telemetry.ports import Clock
from telemetry.sources.backoff import Backoff
from telemetry.sources.ble_permission import Permission
from telemetry.sources.ble_receive import reading

_READ_TIMEOUT_S: Final = 60.0
_DISCOVER_S: Final = 5.0
_PYTHON: Final = (3, 12)

# aiobmsble's name of a value -> field, factor. Its currents and powers are positive while charging; the catalogue's
# are positive on discharge. Names, serial numbers and everything else it tells are in no row.
FIELDS: Final = MappingProxyType(
    {
        "voltage": ("battery_voltage_v", 1.0),
        "current": ("battery_current_a", -1.0),
        "power": ("battery_power_w", -1.0),
        "battery_level": ("battery_soc_pct", 1.0),
        "battery_health": ("battery_soh_pct", 1.0),
        "temperature": ("battery_temperature_c", 1.0),
        "cycles": ("battery_cycles_count", 1.0),
        "problem_code": ("alert_code", 1.0),
    }
)
_CELLS: Final = "cell_voltages"

ReadBattery = Callable[[BleDevice], Awaitable[Mapping[str, Any]]]


def battery_values(sample: Mapping[str, Any]) -> Gathered:
    """The values of one sample as aiobmsble tells it; what is impossible or in no row is counted and left out."""
    found = Gathered()
    for name, value in sample.items():
        field, factor = FIELDS.get(name, (None, 1.0))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name == _CELLS and isinstance(value, list) and value:
            found.add("battery_cell_voltage_min_v", min(value), name)
            found.add("battery_cell_voltage_max_v", max(value), name)
        else:
            found.add(field if number else None, value * factor if number else 0.0, name)
    for name in list(found.out_of_range()):
        del found.values[name]
        found.unlisted[name] += 1
    return found


def find_reader(adapter: str | None = None) -> ReadBattery:
    """What reads a battery.

    Raises:
        ConfigurationError: this Python is too old, or aiobmsble is not installed.

    """
    if tuple(sys.version_info) < _PYTHON:
        raise ConfigurationError(
            "batteries over GATT need Python 3.12 or newer: their library aiobmsble does",
            remedy="run this gateway on Python 3.12, or remove the device with `telemetry ble key remove`",
        )
    try:
        import aiobmsble  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "batteries over GATT need the library aiobmsble", remedy="pip install 'telemetry[ble]'"
        ) from None
    return BatteryReader(adapter)


class BatteryReader:
    """Finds the maker's protocol by the battery's advertisement, and reads by it.

    Several may match one advertisement; the first that answers is kept. ``scanner``: in place of bleak's.
    """

    def __init__(self, adapter: str | None = None, *, scanner: Any = None, matching: Any = None) -> None:
        self._adapter, self._scanner, self._matching = adapter, scanner, matching
        self._protocols: dict[bytes, Any] = {}

    async def __call__(self, device: BleDevice) -> Mapping[str, Any]:
        """One sample, as aiobmsble names its values.

        Raises:
            TimeoutError: the battery is not in range.
            LookupError: nobody knows its protocol, or none that matches got an answer.

        """
        ble, advertisement = await self._found(device)
        known = self._protocols.get(device.address)
        matching = self._matching or _bms_matching()
        candidates = [known] if known else sorted(await matching(advertisement, device.serial), key=_module)
        for protocol in candidates:
            with contextlib.suppress(Exception):  # another protocol's battery answers with whatever it likes
                async with protocol(ble_device=ble, keep_alive=False) as battery:
                    sample: Mapping[str, Any] = await battery.async_update()
                self._protocols[device.address] = protocol
                return sample
        raise LookupError("no protocol for this battery got an answer")

    async def _found(self, device: BleDevice) -> tuple[Any, Any]:
        from bleak import BleakScanner
        from bleak.args.bluez import BlueZScannerArgs

        bluez: BlueZScannerArgs = {} if self._adapter is None else {"adapter": self._adapter}
        scanner = self._scanner or BleakScanner
        seen = await scanner.discover(timeout=_DISCOVER_S, return_adv=True, bluez=bluez)
        for ble, advertisement in seen.values():
            if parsed_address(ble.address) == device.address:
                return ble, advertisement
        raise TimeoutError("the battery is not in range")


def _bms_matching() -> Any:
    from aiobmsble.utils import bms_matching

    return bms_matching


def _module(protocol: Any) -> str:
    return str(protocol.__module__)


class Batteries:
    """Polls batteries one after the other, and gives their readings to ``put``. One event loop."""

    def __init__(
        self,
        devices: Sequence[BleDevice],
        *,
        read: ReadBattery,
        put: Callable[[bytes], None],
        heard: Heard,
        permission: Permission,
        clock: Clock,
        interval_s: float = 30.0,
        untrusted: bool = False,
    ) -> None:
        self._devices, self._read, self._put, self._heard = devices, read, put, heard
        self._permission, self._clock = permission, clock
        self._interval_s, self._untrusted = interval_s, untrusted

    async def run(self) -> None:
        """Poll until cancelled; a battery that fails does not hold up the others' next turn."""
        if not self._untrusted:
            self._heard.refused[Fault.UNTRUSTED] += len(self._devices)
            return
        async with asyncio.TaskGroup() as group:
            one_at_a_time = asyncio.Lock()
            for device in self._devices:
                group.create_task(self._poll(device, one_at_a_time))

    async def _poll(self, device: BleDevice, one_at_a_time: asyncio.Lock) -> None:
        backoff = Backoff(self._interval_s, self._interval_s * 20)
        while True:
            await self._permission.until_granted()
            async with one_at_a_time:
                worked = await self._once(device)
            if worked:
                backoff.reset()
            await asyncio.sleep(self._interval_s if worked else backoff.next_s())

    async def _once(self, device: BleDevice) -> bool:
        """One reading, given up at once where it is forbidden meanwhile."""
        reading_it = asyncio.ensure_future(self._read(device))
        forbidden = asyncio.create_task(self._permission.until_not_granted())
        try:
            await asyncio.wait([reading_it, forbidden], timeout=_READ_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if not reading_it.done() or not self._permission.granted:
                return False
            sample = reading_it.result()
        except Exception:  # whatever library and platform raise; their texts hold addresses
            return False
        finally:
            forbidden.cancel()
            reading_it.cancel()
            await asyncio.gather(reading_it, forbidden, return_exceptions=True)
        found = battery_values(sample)
        self._heard.values_unlisted += sum(found.unlisted.values())
        if not found.values:
            self._heard.empty += 1
            return True
        self._heard.taken += 1
        self._heard.untrusted += 1
        kind = device.kind or DeviceKind.BATTERY
        self._put(reading(device, kind, found.values, self._clock.now_us()))
        return True
