"""`telemetry ble`: keys that stay sealed, and the permission of a gateway."""

import base64
import json
import secrets
import sys

import pytest
from typer.testing import CliRunner

from telemetry.bluetooth import open_station
from telemetry.cli.ble import ble
from telemetry.config import load_config
from telemetry.errors import ConfigurationError, KeystoreError
from telemetry.model.bluetooth import BleFormat
from telemetry.store.ble_devices import BleDevices, open_ble_secret
from telemetry.store.keystore import BLE, FileKeystore
from tests.support.bluetooth import KEY
from tests.support.broker import WallClock

ADDRESS = "C0:FF:EE:00:00:01"


@pytest.fixture
def place(tmp_path):
    config = tmp_path / "telemetry.toml"
    config.write_text(f'data_dir = "{tmp_path}/var"\n[ble]\nuntrusted = false\n')
    return config


def run(config, *arguments, given="", code=0):
    result = CliRunner().invoke(ble, [*arguments, "--config", str(config)], input=given)
    assert result.exit_code == code, result.output
    return result.output


def test_a_key_is_asked_for_sealed_and_never_shown(place, tmp_path):
    told = run(place, "key", "add", "--format", "victron-ble", given=f"{ADDRESS}\n{KEY.hex()}\n")
    told += run(place, "key", "add", "--format", "bthome", "--no-key", given="C0:FF:EE:00:00:02\n")
    told += run(place, "key", "list")
    assert KEY.hex() not in told
    listed = json.loads(run(place, "key", "list", "--json"))
    assert [(row["format"], row["key"], row["address"]) for row in listed] == [
        ("victron-ble", True, None),
        ("bthome", False, None),
    ]
    assert json.loads(run(place, "key", "list", "--reveal", "--json"))[0]["address"] == ADDRESS
    for path in (tmp_path / "var").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert path.stat().st_mode & 0o777 == 0o600
            for canary in (KEY, KEY.hex().encode(), ADDRESS.encode(), bytes.fromhex(ADDRESS.replace(":", ""))):
                assert canary not in content
    assert "1 left" in run(place, "key", "remove", given=f"{ADDRESS}\n")
    run(place, "key", "remove", given=f"{ADDRESS}\n", code=2)


def test_a_key_from_a_file_and_what_is_refused(place, tmp_path):
    (tmp_path / "key").write_text(KEY.hex())
    run(place, "key", "add", "--format", "bthome", "--key-file", str(tmp_path / "key"), given=f"{ADDRESS}\n")
    for arguments, given in (
        (("--format", "bthome"), f"{ADDRESS}\nnot-a-key\n"),
        (("--format", "bthome"), "nowhere\n"),
        (("--format", "bthome", "--kind", "toaster"), f"{ADDRESS}\n"),
    ):
        told = run(place, "key", "add", *arguments, given=given, code=2)
        assert "not-a-key" not in told.splitlines()[-1]


def test_only_bluetooth_may_read_its_secret(place, tmp_path):
    run(place, "key", "add", "--format", "gatt", given=f"{ADDRESS}\n")
    folder = tmp_path / "var" / "ble" / "keys"
    assert FileKeystore(folder, allowed=frozenset({BLE})).secret(BLE)
    with pytest.raises(KeystoreError):
        FileKeystore(folder, allowed=frozenset({"blind_index"})).secret(BLE)
    assert not (tmp_path / "var" / "keys").exists()
    (folder / BLE).unlink()
    run(place, "key", "list", code=2)
    run(place, "key", "add", "--format", "gatt", given=f"{ADDRESS}\n", code=2)  # never a new one beside what it sealed


def test_the_secret_in_the_environment(place, tmp_path, monkeypatch):
    monkeypatch.setenv("TELEMETRY_SECRET_BLE", base64.b64encode(secrets.token_bytes(32)).decode())
    run(place, "key", "add", "--format", "gatt", given=f"{ADDRESS}\n")
    assert not (tmp_path / "var" / "ble" / "keys").exists()
    assert "gatt" in run(place, "key", "list")


def test_a_device_added_again_begins_its_counter_anew(place, tmp_path):
    for _ in range(2):
        run(place, "key", "add", "--format", "bthome", given=f"{ADDRESS}\n{KEY.hex()}\n")
    data_dir = tmp_path / "var"
    (device,) = BleDevices(data_dir, open_ble_secret(data_dir)).load()
    assert (device.generation, device.format, device.key) == (1, BleFormat.BTHOME, KEY)


def test_permission_of_a_gateway_is_a_file_of_its_own(place, tmp_path):
    run(place, "permit")
    assert (tmp_path / "var" / "ble" / "permitted").exists()
    run(place, "forbid")
    run(place, "forbid")
    assert not (tmp_path / "var" / "ble" / "permitted").exists()


def test_without_devices_or_on_an_old_python_it_says_so(place, tmp_path):
    config = load_config(place)
    with pytest.raises(KeystoreError):
        open_station(config, "home-0001", WallClock())
    run(place, "key", "add", "--format", "gatt", given=f"{ADDRESS}\n")
    if tuple(sys.version_info) < (3, 12):
        with pytest.raises(ConfigurationError, match=r"3\.12"):
            open_station(config, "home-0001", WallClock())
    run(place, "key", "remove", given=f"{ADDRESS}\n")
    with pytest.raises(ConfigurationError, match="no Bluetooth device"):
        open_station(config, "home-0001", WallClock())


def test_the_service_needs_the_name_of_a_gateway(tmp_path):
    (tmp_path / "c.toml").write_text("[ble]\nenabled = true\n")
    with pytest.raises(ConfigurationError, match=r"ble\.gateway"):
        load_config(tmp_path / "c.toml")
