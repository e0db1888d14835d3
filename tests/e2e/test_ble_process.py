"""`telemetry ble --publish` as a process, on real bleak and a mock of BlueZ: killed, started again, nothing is lost."""

import asyncio
import contextlib
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from device_sim.bluetooth import home_devices
from telemetry.embedded.broker import find_mosquitto
from telemetry.model.bluetooth import BleDevice, BleFormat, parsed_address
from telemetry.store.ble_devices import BleDevices, open_ble_secret
from tests.support.bluez_mock import mocked_bluez, why_not
from tests.support.broker import PASSWORD, Receiver, admit, eventually, temporary_broker

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]


class Gateway:
    """The process, as a home would run it."""

    def __init__(self, directory, broker, devices):
        self.directory = directory
        (directory / "password").write_text(PASSWORD)
        (directory / "password").chmod(0o600)
        self.config = directory / "gateway.toml"
        self.config.write_text(
            f'data_dir = "{directory}/var"\nembedded = false\n[database]\ndsn = "postgresql://nowhere/telemetry"\n'
            f'[broker]\nhost = "{broker.host}"\nport = {broker.port}\nusername = "home-0001"\n'
            f'password_file = "{directory}/password"\nreconnect_min_s = 0.05\nreconnect_max_s = 0.3\n'
            f'[ble]\ninterval_s = 0.0\n[observe]\nlog_level = "debug"\nlog_file = "{directory}/log"\n'
        )
        kept = BleDevices(directory / "var", open_ble_secret(directory / "var", create=True))
        for device, format_ in zip(devices, (BleFormat.VICTRON, BleFormat.BTHOME), strict=True):
            kept.put(BleDevice(parsed_address(device.address), format_, device.key))
        self.process = None

    async def telemetry(self, *arguments):
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "telemetry", *arguments, "--config", str(self.config),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def start(self):
        self.process = await self.telemetry("ble", "--publish")

    async def end(self, number):
        self.process.send_signal(number)
        await asyncio.wait_for(self.process.wait(), 20)
        return self.process.returncode

    def spooled(self):
        return sum(path.stat().st_size for path in (self.directory / "var" / "ble" / "spool").glob("*.spool"))


async def discovering(bluez, times=1):
    async with asyncio.timeout(30):
        while (await bluez.calls()).count("StartDiscovery") < times:
            await asyncio.sleep(0.05)


async def advertise(bluez, devices, seconds):
    for second in seconds:
        for device in devices:
            told = device.advertise(second * 60.0)
            await bluez.advertise(told.address, manufacturer=dict(told.manufacturer), services=dict(told.services))
            await asyncio.sleep(0.005)  # an instant of its own for each


async def test_killed_while_the_broker_is_away_nothing_that_was_on_disk_is_lost(monkeypatch):
    devices = home_devices(5)
    with contextlib.ExitStack() as stack:
        bus, home = (Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bz-"))) for _ in range(2))
        async with mocked_bluez(bus, monkeypatch) as bluez, temporary_broker("mosquitto") as broker:
            await bluez.add_adapter()
            await admit(broker, "home-0001")
            gateway = Gateway(home, broker, devices)
            permit = await gateway.telemetry("ble", "permit")
            assert await permit.wait() == 0
            async with Receiver(broker) as worker:
                await gateway.start()
                await discovering(bluez)
                await advertise(bluez, devices, range(5))
                await worker.has(10)
                worker.acknowledge(worker.messages)
                await broker.kill()
                await advertise(bluez, devices, range(5, 15))
                await eventually(lambda: gateway.spooled() > 20 * 100)
                await asyncio.sleep(0.3)
                assert await gateway.end(signal.SIGKILL) == -signal.SIGKILL
                await broker.start()
                await gateway.start()
                await eventually(lambda: len({message.payload for message in worker.messages}) == 30, timeout_s=40)
                await discovering(bluez, 2)
                forbid = await gateway.telemetry("ble", "forbid")
                assert await forbid.wait() == 0
                async with asyncio.timeout(20):
                    while "StopDiscovery" not in await bluez.calls():
                        await asyncio.sleep(0.05)
                await advertise(bluez, devices, range(15, 18))
                await asyncio.sleep(0.3)
                assert len({message.payload for message in worker.messages}) == 30
                assert await gateway.end(signal.SIGTERM) == 0
                assert await gateway.process.stderr.read() == b""
            said = (home / "log").read_text()
            assert said.count("service_started") == 2
            assert said.count("service_stopped") == 1
            for device in devices:
                for canary in (device.address, device.address.replace(":", "_"), device.key.hex(), "canary"):
                    assert canary not in said
