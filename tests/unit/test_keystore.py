"""The keystore refuses whatever is doubtful, and says how to mend it."""

import base64
import os
import threading
from pathlib import Path

import pytest

from telemetry.errors import KeystoreError
from telemetry.ports import Keystore
from telemetry.privacy.keys import Opener, Purpose, Sealer
from telemetry.store import keystore as module
from telemetry.store.keystore import (
    API_SECRETS,
    CODEC_STATE,
    INGEST_SECRETS,
    KEK,
    QUARANTINE,
    QUARANTINE_PUBLIC,
    SECRET_NAMES,
    EnvironmentKeystore,
    FileKeystore,
    password_name,
    role_password,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    FileKeystore(tmp_path / "keys").create()
    return tmp_path / "keys"


def refused(keystore: Keystore, name: str = KEK) -> str:
    with pytest.raises(KeystoreError) as caught:
        keystore.secret(name)
    assert caught.value.remedy
    return str(caught.value)


def test_created_secrets_are_private_complete_and_different(directory: Path):
    keystore = FileKeystore(directory)
    values = [keystore.secret(name) for name in SECRET_NAMES]
    assert len(set(values)) == len(SECRET_NAMES)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in directory.iterdir()} == set(SECRET_NAMES)
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    assert {path.stat().st_nlink for path in directory.iterdir()} == {1}


def test_the_quarantine_halves_belong_together(directory: Path):
    keystore = FileKeystore(directory)
    sealed = Sealer(keystore.secret(QUARANTINE_PUBLIC)).seal(b"x", purpose=Purpose.QUARANTINE, subject_key=0)
    opener = Opener(keystore.secret(QUARANTINE))
    assert opener.open(sealed, purpose=Purpose.QUARANTINE, subject_key=0) == b"x"


def test_keys_are_never_overwritten(directory: Path):
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(KeystoreError, match="already"):
        FileKeystore(directory).create()
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


@pytest.mark.parametrize("left", list(SECRET_NAMES))
def test_a_lost_key_is_not_replaced_by_a_new_one(directory: Path, left: str):
    for name in SECRET_NAMES:
        if name != left:
            (directory / name).unlink()
    keystore = FileKeystore(directory)
    with pytest.raises(KeystoreError, match="already"):
        keystore.create()
    missing = next(name for name in SECRET_NAMES if name != left)
    assert "restore" in refused(keystore, missing)


def test_before_the_first_start_the_remedy_is_to_make_keys(tmp_path: Path):
    assert "makes all keys" in refused(FileKeystore(tmp_path / "keys"))
    assert not FileKeystore(tmp_path / "keys").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o602, 0o610])
def test_a_file_open_to_others_is_refused(directory: Path, mode: int):
    (directory / KEK).chmod(mode)
    assert "chmod 600" in refused(FileKeystore(directory))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_refused(directory: Path):
    os.chown(directory / KEK, 65534, -1)
    assert "another user" in refused(FileKeystore(directory))


@pytest.mark.parametrize("length", [0, 31, 33, 4096])
def test_a_key_of_another_length_is_refused(directory: Path, length: int):
    (directory / KEK).write_bytes(bytes(length))
    assert "32 bytes" in refused(FileKeystore(directory))


def test_a_link_is_not_followed(directory: Path):
    (directory / KEK).rename(directory / "elsewhere")
    (directory / KEK).symlink_to("elsewhere")
    assert "link" in refused(FileKeystore(directory))


def test_a_pipe_neither_blocks_nor_counts_as_a_key(directory: Path):
    (directory / KEK).unlink()
    os.mkfifo(directory / KEK, 0o600)
    assert "regular" in refused(FileKeystore(directory))


@pytest.mark.parametrize("name", ["../kek", "", "KEK", "a/b", "kek\0", "."])
def test_names_are_no_paths(directory: Path, name: str):
    with pytest.raises(KeystoreError):
        FileKeystore(directory).secret(name)


def test_a_process_reads_only_what_it_was_given(directory: Path):
    ingest = FileKeystore(directory, allowed=INGEST_SECRETS)
    for name in INGEST_SECRETS:
        assert ingest.secret(name) == FileKeystore(directory).secret(name)
    for name in set(SECRET_NAMES) - INGEST_SECRETS:
        assert "may not" in refused(ingest, name)


def test_ingest_is_given_nothing_that_opens():
    assert not INGEST_SECRETS & {KEK, QUARANTINE, password_name("telemetry_keys")}


def test_the_api_is_given_nothing_of_those_who_ingest_and_roll_up():
    others = {password_name("telemetry_ingest"), password_name("telemetry_rollup"), CODEC_STATE, QUARANTINE}
    assert not API_SECRETS & others
    assert set(SECRET_NAMES) >= API_SECRETS


def test_passwords_are_text_without_the_line_end(directory: Path):
    password = role_password(FileKeystore(directory), "telemetry_ingest")
    assert len(password) >= 43
    assert password.isprintable()
    (directory / password_name("telemetry_ingest")).write_text("short\n")
    assert "16 to 256" in refused(FileKeystore(directory), password_name("telemetry_ingest"))


@pytest.mark.parametrize("survivors", [0, 1, 4])
def test_creation_broken_off_while_publishing_is_finished_with_the_same_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survivors: int
):
    directory, links = tmp_path / "keys", []

    def crash(source, target):
        if len(links) == survivors:
            raise KeyboardInterrupt
        links.append(target.name)
        real(source, target)

    real = os.link
    monkeypatch.setattr(module.os, "link", crash)
    with pytest.raises(KeyboardInterrupt):
        FileKeystore(directory).create()
    monkeypatch.undo()
    first = {name: (directory / name).read_bytes() for name in links}
    assert FileKeystore(directory).exists()
    FileKeystore(directory).create()
    keystore = FileKeystore(directory)
    assert {name: (directory / name).read_bytes() for name in links} == first
    assert all(keystore.secret(name) for name in SECRET_NAMES)


def test_creation_broken_off_while_generating_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def crash() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "new_key_pair", crash)
    with pytest.raises(KeyboardInterrupt):
        FileKeystore(tmp_path / "keys").create()
    assert not FileKeystore(tmp_path / "keys").exists()


def test_of_several_that_create_at_once_one_succeeds(tmp_path: Path):
    outcomes: list[str] = []

    def create() -> None:
        try:
            FileKeystore(tmp_path / "keys").create()
            outcomes.append("created")
        except KeystoreError:
            outcomes.append("refused")

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["created"] + ["refused"] * 5
    assert all(FileKeystore(tmp_path / "keys").secret(name) for name in SECRET_NAMES)


def test_a_directory_open_to_others_is_refused(tmp_path: Path):
    (tmp_path / "keys").mkdir(mode=0o755)
    with pytest.raises(KeystoreError, match="chmod 700"):
        FileKeystore(tmp_path / "keys").create()


def test_a_newer_versions_passwords_are_added_and_no_key_is(directory: Path):
    lost = [password_name("telemetry_rollup"), "codec_state", "blind_index"]
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.name not in lost}
    for name in lost:
        (directory / name).unlink()
    FileKeystore(directory).add_passwords()
    after = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert after.keys() == before.keys() | set(lost[:2])
    assert {name: after[name] for name in before} == before


def test_a_newer_versions_signing_key_is_added_but_never_replaced(directory: Path):
    made = (directory / "receipt_signing").read_bytes()
    FileKeystore(directory).add_passwords()
    assert (directory / "receipt_signing").read_bytes() == made
    (directory / "receipt_signing").unlink()
    FileKeystore(directory).add_passwords()
    assert (directory / "receipt_signing").stat().st_mode & 0o777 == 0o600
    assert len(FileKeystore(directory).secret("receipt_signing")) == 32
    assert (directory / "receipt_signing").read_bytes() != made


def test_the_ingest_process_may_not_sign_receipts(directory: Path):
    with pytest.raises(KeystoreError, match="may not read"):
        FileKeystore(directory, allowed=INGEST_SECRETS).secret("receipt_signing")


class TestEnvironment:
    def test_secrets_come_from_base64_variables(self):
        values = {
            "TELEMETRY_SECRET_KEK": base64.b64encode(bytes(range(32))).decode(),
            "TELEMETRY_SECRET_PASSWORD_TELEMETRY_INGEST": base64.b64encode(b"a password of some length").decode(),
        }
        keystore = EnvironmentKeystore(values)
        assert keystore.secret(KEK) == bytes(range(32))
        assert role_password(keystore, "telemetry_ingest") == "a password of some length"

    @pytest.mark.parametrize("value", ["", "not base64: CANARY", base64.b64encode(b"CANARY").decode()])
    def test_a_wrong_one_is_refused_without_being_quoted(self, value: str):
        message = refused(EnvironmentKeystore({"TELEMETRY_SECRET_KEK": value}))
        assert "CANARY" not in message

    def test_it_reads_only_what_it_was_given(self):
        values = {"TELEMETRY_SECRET_KEK": base64.b64encode(bytes(32)).decode()}
        assert "may not" in refused(EnvironmentKeystore(values, allowed=INGEST_SECRETS))


@pytest.mark.parametrize("keystore", [FileKeystore(Path("unused")), EnvironmentKeystore({})])
def test_both_are_the_port(keystore):
    assert isinstance(keystore, Keystore)
