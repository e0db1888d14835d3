"""A KMS behind a program: real processes, and what goes wrong with them."""

import sys

import pytest

from telemetry.errors import KeystoreError, UnsealError
from telemetry.ports import Keks, KeyWrapper
from telemetry.privacy.keys import Bound, Kek
from telemetry.store.kek_command import CommandKeks
from tests.support.key_bridge import new_version


@pytest.fixture
def directory(tmp_path):
    new_version(tmp_path)
    return tmp_path


def keks(directory, fault="", timeout_s=20.0) -> CommandKeks:
    return CommandKeks((sys.executable, "-m", "tests.support.key_bridge", str(directory), fault), timeout_s=timeout_s)


def secrets(count=3):
    return [Bound(bytes([number]) * 32, "key.token_secret", number) for number in range(count)]


def test_both_ways_of_holding_a_key_keep_the_contract(directory):
    for found in (keks(directory), Kek(bytes(32))):
        wrapper = found.newest()
        assert isinstance(found, Keks)
        assert isinstance(wrapper, KeyWrapper)
        wrapped = wrapper.wrap_all(secrets(7))
        again = [Bound(value, one.purpose, one.owner_key) for value, one in zip(wrapped, secrets(7), strict=True)]
        assert found.named(wrapper.kek_id).unwrap_all(again) == [one.value for one in secrets(7)]
        for moved in (Bound(wrapped[0], "key.token_secret", 1), Bound(wrapped[0], "key.owner_private", 0)):
            with pytest.raises(UnsealError):
                wrapper.unwrap_all([moved])
        with pytest.raises(UnsealError):
            wrapper.unwrap_all([Bound(wrapped[0][:-1] + bytes([wrapped[0][-1] ^ 1]), "key.token_secret", 0)])


def test_what_was_wrapped_under_an_older_version_still_opens(directory):
    found = keks(directory)
    old = found.newest()
    wrapped = old.wrap_all(secrets(1))
    new_version(directory)
    assert found.newest().kek_id != old.kek_id
    assert found.named(old.kek_id).unwrap_all([Bound(wrapped[0], "key.token_secret", 0)]) == [bytes(32)]
    with pytest.raises(KeystoreError):
        found.newest().unwrap_all([Bound(wrapped[0], "key.token_secret", 0)])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("fails", "ended with code 3"),
        ("text", "JSON object"),
        ("few", "other items"),
        ("clear", "did not wrap"),
        ("letters", "not base64"),
    ],
)
def test_a_command_that_fails_is_said_to_and_nothing_of_it_is_repeated(directory, fault, said):
    wrapper = keks(directory).newest()
    with pytest.raises(KeystoreError, match=said) as caught:
        keks(directory, fault).named(wrapper.kek_id).wrap_all(secrets())
    assert "a secret" not in str(caught.value)
    assert caught.value.remedy


def test_a_command_that_hangs_is_given_up(directory):
    with pytest.raises(KeystoreError, match=r"took longer than 0\.2 s"):
        keks(directory, "slow", timeout_s=0.2).newest()


def test_a_command_that_does_not_name_its_key_is_refused(directory):
    with pytest.raises(KeystoreError, match="16 hexadecimal"):
        keks(directory, "name").newest()


def test_a_program_that_others_may_change_is_refused(tmp_path):
    program = tmp_path / "bridge"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o775)
    with pytest.raises(KeystoreError, match="others may change"):
        CommandKeks((str(program),), timeout_s=1)
    program.chmod(0o644)
    with pytest.raises(KeystoreError, match="does not start"):
        CommandKeks((str(program),), timeout_s=1).newest()
    with pytest.raises(KeystoreError, match="relative"):
        CommandKeks(("bridge",), timeout_s=1)
    with pytest.raises(KeystoreError, match="install"):
        CommandKeks((str(tmp_path / "none"),), timeout_s=1)
