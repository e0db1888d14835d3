"""The Bluetooth devices that may be listened to, and their keys: one sealed file, 0600, under a secret of its own.

The secret `ble` is not among the service's other keys: it lies in ``data_dir``/ble/keys (or $TELEMETRY_SECRET_BLE), so
that neither ingest nor the operator's other commands read it, and a gateway in a home has this one and no other.
docs/decisions/0059-bluetooth.md.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from telemetry.errors import InputError, UnsealError
from telemetry.model.bluetooth import BleDevice, BleFormat
from telemetry.model.fields import DeviceKind
from telemetry.privacy.ble import BleSecret
from telemetry.store.keystore import BLE, BLE_SECRETS, EnvironmentKeystore, FileKeystore

FOLDER: Final = "ble"
_FILE: Final = "devices"
_PURPOSE: Final = "devices"
MAX_DEVICES: Final = 256


def ble_folder(data_dir: Path) -> Path:
    """Where everything of Bluetooth is kept."""
    return data_dir / FOLDER


def open_ble_secret(data_dir: Path, *, create: bool = False) -> BleSecret:
    """The secret; made where there is none and ``create`` says so.

    Raises:
        KeystoreError: missing, readable by others, or wrong.

    """
    environment = EnvironmentKeystore(allowed=BLE_SECRETS)
    if environment.has(BLE):
        return BleSecret(environment.secret(BLE))
    keystore = FileKeystore(ble_folder(data_dir) / "keys", allowed=BLE_SECRETS)
    if create and not (ble_folder(data_dir) / _FILE).exists():
        keystore.ensure(BLE)
    return BleSecret(keystore.secret(BLE))


class BleDevices:
    """The file of devices. Safe for one process at a time; a reader finds the old list or the new one."""

    def __init__(self, data_dir: Path, secret: BleSecret) -> None:
        self._path = ble_folder(data_dir) / _FILE
        self._box = secret.box(_PURPOSE)

    def load(self) -> list[BleDevice]:
        """All devices, in the order in which they were added.

        Raises:
            UnsealError: the file was changed, or is of another secret.

        """
        try:
            sealed = self._path.read_bytes()
        except FileNotFoundError:
            return []
        rows = orjson.loads(self._box.open(sealed))
        try:
            return [_device(row) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise UnsealError("the file of Bluetooth devices is of another version") from error

    def put(self, device: BleDevice) -> BleDevice:
        """Add a device, or replace the one of its address, whose counter then begins anew."""
        devices = self.load()
        before = next((one for one in devices if one.address == device.address), None)
        if before is None and len(devices) >= MAX_DEVICES:
            raise InputError(f"no more than {MAX_DEVICES} devices")
        generation = 0 if before is None else before.generation + 1
        device = BleDevice(device.address, device.format, device.key, device.kind, generation)
        self._save([*(one for one in devices if one.address != device.address), device])
        return device

    def remove(self, address: bytes) -> bool:
        """Forget a device; False where there is none of this address."""
        devices = self.load()
        left = [one for one in devices if one.address != address]
        if len(left) < len(devices):
            self._save(left)
        return len(left) < len(devices)

    def _save(self, devices: Sequence[BleDevice]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        making = self._path.with_name(f".{_FILE}.{os.getpid()}")
        descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._box.seal(orjson.dumps([_row(device) for device in devices])))
            file.flush()
            os.fsync(descriptor)
        making.replace(self._path)


def _row(device: BleDevice) -> dict[str, Any]:
    return {
        "address": device.address.hex(),
        "format": device.format.value,
        "key": None if device.key is None else device.key.hex(),
        "kind": None if device.kind is None else int(device.kind),
        "generation": device.generation,
    }


def _device(row: dict[str, Any]) -> BleDevice:
    return BleDevice(
        bytes.fromhex(row["address"]),
        BleFormat(row["format"]),
        None if row["key"] is None else bytes.fromhex(row["key"]),
        None if row["kind"] is None else DeviceKind(row["kind"]),
        int(row["generation"]),
    )
