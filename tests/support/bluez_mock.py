"""A mock of BlueZ on a private D-Bus, for a real bleak: python-dbusmock, told over D-Bus what to show.

The mock runs on Debian's own Python (packages dbus, python3-dbus, python3-gi, python3-dbusmock). There is no radio and
no kernel in it: what it proves is how we and bleak speak to bluetoothd.
"""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio.message_bus import MessageBus

PYTHON = "/usr/bin/python3"
ADAPTER = "/org/bluez/hci0"
_MOCK = "org.freedesktop.DBus.Mock"
_MANAGER = "org.freedesktop.DBus.ObjectManager"
_DEVICE = "org.bluez.Device1"
_SERVICE, _CHARACTERISTIC = "org.bluez.GattService1", "org.bluez.GattCharacteristic1"


def why_not() -> str:
    """Why there can be no mock here; empty where there can."""
    if shutil.which("dbus-daemon") is None:
        return "dbus-daemon is not installed: tests/debian-packages.sh installs it"
    found = (
        Path(PYTHON).exists()
        and not subprocess.run([PYTHON, "-c", "import dbus, dbusmock, gi"], capture_output=True, check=False).returncode
    )
    return "" if found else "python3-dbusmock is not installed: tests/debian-packages.sh installs it"


class BlueZ:
    """What a test does to the mock."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._known: set[str] = set()

    async def add_adapter(self) -> None:
        properties = {
            "Address": Variant("s", "00:00:5E:00:53:01"),
            "AddressType": Variant("s", "public"),
            "Name": Variant("s", "mock"),
            "Alias": Variant("s", "mock"),
            "Powered": Variant("b", True),
            "Discovering": Variant("b", False),
            "UUIDs": Variant("as", []),
            "Roles": Variant("as", ["central"]),
        }
        methods = [
            ["StartDiscovery", "", "", ""],
            ["StopDiscovery", "", "", ""],
            ["SetDiscoveryFilter", "a{sv}", "", ""],
        ]
        await self._add(ADAPTER, "org.bluez.Adapter1", properties, methods)

    async def add_monitor_manager(self) -> None:
        """What passive scanning asks of BlueZ (experimental there)."""
        interface = "org.bluez.AdvertisementMonitorManager1"
        properties = {
            "SupportedMonitorTypes": Variant("as", ["or_patterns"]),
            "SupportedFeatures": Variant("as", []),
        }
        methods = [[name, "o", "", ""] for name in ("RegisterMonitor", "UnregisterMonitor")]
        await self._call("AddMethods", "sa(ssss)", [interface, methods], path=ADAPTER)
        await self._call("AddProperties", "sa{sv}", [interface, properties], path=ADAPTER)
        await self._signal("InterfacesAdded", [Variant("o", ADAPTER), Variant("a{sa{sv}}", {interface: properties})])

    async def remove_adapter(self) -> None:
        """As when it is pulled out: its devices go with it."""
        for path in sorted(self._known, key=len, reverse=True):
            await self._call("RemoveObject", "s", [path])
            await self._signal("InterfacesRemoved", [Variant("o", path), Variant("as", [_interface(path)])])
        self._known.clear()

    async def calls(self, path: str = ADAPTER) -> list[str]:
        """The names of the methods that were called on an object."""
        reply = await self._call("GetCalls", "", [], path=path)
        return [call[1] for call in reply.body[0]]

    async def advertise(
        self,
        address: str,
        *,
        manufacturer: dict[int, bytes] | None = None,
        services: dict[str, bytes] | None = None,
        name: str = "canary-name-0006",
    ) -> None:
        path = device_path(address)
        said = {
            "RSSI": Variant("n", -60),
            "ManufacturerData": Variant("a{qv}", {k: Variant("ay", v) for k, v in (manufacturer or {}).items()}),
            "ServiceData": Variant("a{sv}", {k: Variant("ay", v) for k, v in (services or {}).items()}),
        }
        if path in self._known:
            # The mock's own UpdateProperties knows no dictionaries.
            changed = [Variant("s", _DEVICE), Variant("a{sv}", said), Variant("as", [])]
            await self._signal("PropertiesChanged", changed, path=path, interface="org.freedesktop.DBus.Properties")
            return
        properties = said | {
            "Address": Variant("s", address),
            "AddressType": Variant("s", "public"),
            "Name": Variant("s", name),
            "Alias": Variant("s", name),
            "Adapter": Variant("o", ADAPTER),
            "UUIDs": Variant("as", []),
            **{key: Variant("b", False) for key in ("Paired", "Connected", "Trusted", "Blocked", "ServicesResolved")},
        }
        yes = "{'Connected': dbus.Boolean(True), 'ServicesResolved': dbus.Boolean(True)}"
        no = "{'Connected': dbus.Boolean(False), 'ServicesResolved': dbus.Boolean(False)}"
        methods = [
            ["Connect", "", "", f"self.UpdateProperties('{_DEVICE}', {yes})"],
            ["Disconnect", "", "", f"self.UpdateProperties('{_DEVICE}', {no})"],
        ]
        await self._add(path, _DEVICE, properties, methods)

    async def add_characteristic(self, address: str, service: str, uuid: str, value: bytes) -> str:
        """A service with one characteristic that can be read and notifies; its path."""
        at = f"{device_path(address)}/service0001"
        held = {
            "UUID": Variant("s", service),
            "Device": Variant("o", device_path(address)),
            "Primary": Variant("b", True),
        }
        await self._add(at, _SERVICE, held, [])
        path = f"{at}/char0002"
        properties = {
            "UUID": Variant("s", uuid),
            "Service": Variant("o", at),
            "Value": Variant("ay", value),
            "Notifying": Variant("b", False),
            "Flags": Variant("as", ["read", "notify", "write"]),
            "MTU": Variant("q", 185),
        }
        text = f"ret = dbus.Array({list(value)}, signature='y')"
        on = f"self.UpdateProperties('{_CHARACTERISTIC}', {{'Notifying': dbus.Boolean(True)}})"
        off = f"self.UpdateProperties('{_CHARACTERISTIC}', {{'Notifying': dbus.Boolean(False)}})"
        methods = [
            ["ReadValue", "a{sv}", "ay", text],
            ["StartNotify", "", "", on],
            ["StopNotify", "", "", off],
            ["WriteValue", "aya{sv}", "", ""],
        ]
        await self._add(path, _CHARACTERISTIC, properties, methods)
        return path

    async def notify(self, path: str, value: bytes) -> None:
        await self._call("UpdateProperties", "sa{sv}", [_CHARACTERISTIC, {"Value": Variant("ay", value)}], path=path)

    async def _add(self, path: str, interface: str, properties: dict[str, Any], methods: list[list[str]]) -> None:
        await self._call("AddObject", "ssa{sv}a(ssss)", [path, interface, properties, methods])
        self._known.add(path)
        shown = {interface: properties}
        await self._signal("InterfacesAdded", [Variant("o", path), Variant("a{sa{sv}}", shown)])

    async def _signal(self, name: str, arguments: list[Variant], *, path: str = "/", interface: str = _MANAGER) -> None:
        signature = "".join(argument.signature for argument in arguments)
        await self._call("EmitSignal", "sssav", [interface, name, signature, arguments], path=path)

    async def _call(self, member: str, signature: str, body: list[Any], *, path: str = "/") -> Message:
        reply = await self._bus.call(
            Message(destination="org.bluez", path=path, interface=_MOCK, member=member, signature=signature, body=body)
        )
        assert reply.message_type is not MessageType.ERROR, reply.body
        return reply


def device_path(address: str) -> str:
    return f"{ADAPTER}/dev_{address.replace(':', '_')}"


def _interface(path: str) -> str:
    kinds = {"service": _SERVICE, "char": _CHARACTERISTIC, "dev": _DEVICE}
    last = path.rpartition("/")[2]
    return next((name for start, name in kinds.items() if last.startswith(start)), "org.bluez.Adapter1")


@contextlib.asynccontextmanager
async def mocked_bluez(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BlueZ]:
    """A private bus with the mock on it, without an adapter; bleak finds it as the system's."""
    address = f"unix:path={directory}/bus"
    daemon = await asyncio.create_subprocess_exec(
        "dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={address}", "--print-address",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert daemon.stdout is not None
    await asyncio.wait_for(daemon.stdout.readline(), 20)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    mock = await asyncio.create_subprocess_exec(
        PYTHON, "-m", "dbusmock", "--system", "--template", "bluez5",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    try:
        await _owned(bus, "org.bluez")
        yield BlueZ(bus)
    finally:
        bus.disconnect()
        for process in (mock, daemon):
            process.terminate()
            await process.wait()


async def _owned(bus: MessageBus, name: str) -> None:
    async with asyncio.timeout(20):
        while True:
            asked = Message(
                destination="org.freedesktop.DBus",
                path="/org/freedesktop/DBus",
                interface="org.freedesktop.DBus",
                member="NameHasOwner",
                signature="s",
                body=[name],
            )
            if (await bus.call(asked)).body[0]:
                return
            await asyncio.sleep(0.05)
