"""Where the key-encryption key comes from, as configured; and that a staged one is found without a restart."""

import base64
import pickle
import sys

import pytest

from telemetry.config import load_config
from telemetry.errors import ConfigurationError, KeystoreError, UnsealError
from telemetry.ports import Keks
from telemetry.privacy.keys import Bound, Kek
from telemetry.store.keks import KeystoreKeks, kek_places, open_keks
from telemetry.store.keystore import KEK, KEK_NEXT, EnvironmentKeystore, FileKeystore
from tests.support.key_bridge import new_version


@pytest.fixture
def keystore(tmp_path):
    keystore = FileKeystore(tmp_path / "keys")
    keystore.create()
    return keystore


@pytest.mark.parametrize("kek", ["auto", "file"])
def test_from_a_file(keystore, tmp_path, kek):
    found = open_keks(load_config(data_dir=tmp_path, keys={"kek": kek}))
    assert isinstance(found, Keks)
    assert found.newest().kek_id == Kek(keystore.secret(KEK)).kek_id


def test_from_the_environment(keystore, tmp_path, monkeypatch):
    monkeypatch.setenv("TELEMETRY_SECRET_KEK", base64.b64encode(bytes(32)).decode())
    for kek in ("auto", "env"):
        config = load_config(data_dir=tmp_path, keys={"kek": kek})
        assert isinstance(kek_places(config), EnvironmentKeystore)
        assert open_keks(config).newest().kek_id == Kek(bytes(32)).kek_id
    # Other secrets in the environment do not hide a file that is named.
    config = load_config(data_dir=tmp_path, keys={"kek": "file"})
    assert open_keks(config).newest().kek_id == Kek(keystore.secret(KEK)).kek_id


def test_from_a_command(tmp_path):
    new_version(tmp_path)
    command = [sys.executable, "-m", "tests.support.key_bridge", str(tmp_path)]
    config = load_config(data_dir=tmp_path, keys={"kek": "command", "command": command})
    assert kek_places(config) is None
    wrapper = open_keks(config).newest()
    wrapped = wrapper.wrap_all([Bound(bytes(32), "key.token_secret", 1)])
    assert wrapper.unwrap_all([Bound(wrapped[0], "key.token_secret", 1)]) == [bytes(32)]


@pytest.mark.parametrize("keys", [{"kek": "command"}, {"command": ["/bin/true"]}, {"kek": "vault"}])
def test_a_choice_that_cannot_be_is_refused(keys):
    with pytest.raises(ConfigurationError, match="keys"):
        load_config(keys=keys)


def test_a_process_that_runs_finds_the_next_key_and_then_the_only_one(keystore):
    running = KeystoreKeks(keystore)
    old = running.newest()
    keystore.stage_kek()
    staged = keystore.secret(KEK_NEXT)
    assert running.named(Kek(staged).kek_id).kek_id == running.newest().kek_id == Kek(staged).kek_id
    assert running.named(old.kek_id) is not None
    keystore.stage_kek()  # again: it stays the same
    assert keystore.secret(KEK_NEXT) == staged
    keystore.adopt_kek()
    keystore.adopt_kek()
    assert keystore.secret(KEK) == staged
    assert not keystore.has(KEK_NEXT)
    assert KeystoreKeks(keystore).newest().kek_id == Kek(staged).kek_id
    with pytest.raises(UnsealError) as caught:
        KeystoreKeks(keystore).named(old.kek_id)
    assert "restore that key" in caught.value.remedy


@pytest.mark.parametrize("at", [KEK_NEXT, KEK])
def test_the_staged_key_may_take_its_place_between_any_two_looks(keystore, monkeypatch, at):
    running = KeystoreKeks(keystore)
    keystore.stage_kek()
    staged, read = Kek(keystore.secret(KEK_NEXT)), keystore.secret

    def meanwhile(name: str) -> bytes:
        if name == at:
            keystore.adopt_kek()
        return read(name)

    monkeypatch.setattr(keystore, "secret", meanwhile)
    assert running.named(staged.kek_id).kek_id == staged.kek_id
    assert running.newest().kek_id == staged.kek_id


def test_a_staged_key_that_others_can_read_is_refused(keystore, tmp_path):
    keystore.stage_kek()
    (tmp_path / "keys" / KEK_NEXT).chmod(0o644)
    with pytest.raises(KeystoreError, match="open to other users"):
        KeystoreKeks(keystore)


def test_keys_show_nowhere(keystore):
    keks = KeystoreKeks(keystore)
    assert repr(keks) == "<KeystoreKeks>"
    with pytest.raises(TypeError):
        pickle.dumps(keks)
