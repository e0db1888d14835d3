"""mosquitto's files: what is written, what is refused, and that the program itself agrees with our passwords."""

import os
import shutil
import subprocess
import threading

import pytest

from telemetry.codecs import registry
from telemetry.embedded.mosquitto import (
    REQUEST_TOPICS,
    Listener,
    acl_text,
    mosquitto_config,
    password_entry,
    password_matches,
    update_file,
    users,
    with_user,
    without_user,
)
from telemetry.errors import ConfigurationError


def settings(text):
    return [line for line in text.splitlines() if line and not line.startswith("#")]


class TestConfiguration:
    def test_nothing_is_lost_by_a_count_and_nobody_gets_in_unasked(self):
        found = settings(mosquitto_config([Listener(1883)], max_message_bytes=1000))
        for line in (
            "allow_anonymous false",
            "password_file ./passwords",
            "acl_file ./acl",
            "persistence true",
            "autosave_interval 30",
            "autosave_on_changes false",
            "max_inflight_messages 0",
            "max_queued_messages 1000000000",
            "message_size_limit 1000",
            "max_packet_size 132072",
            "use_username_as_clientid true",
            "listener 1883 127.0.0.1",
        ):
            assert line in found

    def test_logs_name_no_client(self):
        found = settings(mosquitto_config([Listener(1883)]))
        assert [line for line in found if line.startswith("log_type")] == ["log_type error", "log_type warning"]
        assert "connection_messages false" in found

    def test_saving_every_change(self):
        found = settings(mosquitto_config([Listener(1883)], save_every_change=True))
        assert "autosave_interval 1" in found
        assert "autosave_on_changes true" in found

    def test_directories(self):
        found = settings(mosquitto_config([Listener(1883)], directory="/etc/m", persistence_directory="data"))
        assert "password_file /etc/m/passwords" in found
        assert "persistence_location /etc/m/data/" in found

    def test_every_listener_makes_the_user_name_the_client_id(self):
        found = settings(
            mosquitto_config(
                [
                    Listener(1883),
                    Listener(8883, "0.0.0.0", "ca", "cert", "key", require_certificate=True),
                ]
            )
        )
        assert found.count("use_username_as_clientid true") == 2
        tls = found[found.index("listener 8883 0.0.0.0") :]
        for line in (
            "certfile cert",
            "keyfile key",
            "cafile ca",
            "require_certificate true",
            "tls_version tlsv1.2",
        ):
            assert line in tls

    @pytest.mark.parametrize(
        "listener",
        [
            Listener(1883, "0.0.0.0"),
            Listener(8883, cert_file="cert"),
            Listener(8883, key_file="key"),
            Listener(8883, cert_file="cert", key_file="key", require_certificate=True),
        ],
    )
    def test_listeners_that_would_be_open_or_broken_are_refused(self, listener):
        with pytest.raises(ConfigurationError):
            mosquitto_config([listener])


def test_the_access_list():
    assert settings(acl_text(["worker-0", "worker-1"])) == [
        "user worker-0",
        "topic read gw/#",
        "topic write gw/+/committed",
        *(f"topic write gw/+/{topic}" for topic in REQUEST_TOPICS),
        "user worker-1",
        "topic read gw/#",
        "topic write gw/+/committed",
        *(f"topic write gw/+/{topic}" for topic in REQUEST_TOPICS),
        "pattern write gw/%u/#",
        "pattern read gw/%u/committed",
        *(f"pattern read gw/%u/{topic}" for topic in REQUEST_TOPICS),
    ]


def test_the_access_list_lets_through_what_codecs_ask_for():
    assert registry.REQUEST_TOPICS == REQUEST_TOPICS


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "+", "a#", "a b", "a\nuser x", "-a", "ä", "a" * 65, "%u", "$SYS"])
def test_names_that_would_break_a_file_or_widen_a_topic_are_refused_unquoted(name):
    for make in (lambda: password_entry(name, "x"), lambda: acl_text([name])):
        with pytest.raises(ConfigurationError) as caught:
            make()
        assert len(name) < 4 or name not in str(caught.value)


class TestPasswords:
    def test_the_format(self):
        entry = password_entry("home-0001", "secret", salt=bytes(12), iterations=101)
        name, _, rest = entry.partition(":")
        _, hash_type, iterations, salt, digest = rest.split("$")
        assert (name, hash_type, iterations, salt) == ("home-0001", "7", "101", "A" * 16)
        assert len(digest) == 88  # 64 bytes

    def test_salted(self):
        assert password_entry("a", "secret") != password_entry("a", "secret")

    @pytest.mark.skipif(shutil.which("mosquitto_passwd") is None, reason="mosquitto_passwd is not installed")
    @pytest.mark.parametrize("password", ["secret", "pässwörd", "x" * 200])
    def test_what_mosquitto_passwd_writes_is_understood(self, tmp_path, password):
        file = tmp_path / "passwords"
        command = ["mosquitto_passwd", "-c", "-b", str(file), "home-0001", password]
        subprocess.run(command, check=True, capture_output=True, umask=0o077)
        assert password_matches(file.read_text(), "home-0001", password)
        assert not password_matches(file.read_text(), "home-0001", password + "x")

    def test_users_come_change_and_go(self):
        text = with_user(with_user("", "a", "1"), "b", "2")
        assert users(text) == ("a", "b")
        assert password_matches(text, "a", "1")
        assert not password_matches(text, "a", "2")
        assert not password_matches(text, "c", "1")
        changed = with_user(text, "a", "3")
        assert users(changed) == ("a", "b")
        assert password_matches(changed, "a", "3")
        assert changed.splitlines()[1] == text.splitlines()[1]
        assert users(without_user(changed, "a")) == ("b",)
        assert without_user(changed, "nobody") == changed


class TestUpdateFile:
    def test_private_and_whole(self, tmp_path):
        file = tmp_path / "passwords"
        assert update_file(file, lambda text: text + "one\n")
        assert file.read_text() == "one\n"
        assert file.stat().st_mode & 0o777 == 0o600
        assert not update_file(file, lambda text: text)

    def test_a_change_that_fails_changes_nothing(self, tmp_path):
        file = tmp_path / "passwords"
        update_file(file, lambda _: "old\n")
        with pytest.raises(ConfigurationError):
            update_file(file, lambda text: with_user(text, "a:b", "x"))
        assert file.read_text() == "old\n"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_the_owner_stays(self, tmp_path):
        file = tmp_path / "passwords"
        update_file(file, lambda _: "one\n", owner=(12345, 23456))
        update_file(file, lambda text: text + "two\n")
        assert (file.stat().st_uid, file.stat().st_gid) == (12345, 23456)

    def test_two_writers_lose_nothing(self, tmp_path):
        file = tmp_path / "passwords"

        def add(prefix):
            for number in range(20):
                line = f"{prefix}{number}\n"
                update_file(file, lambda text, line=line: text + line)

        threads = [threading.Thread(target=add, args=(prefix,)) for prefix in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(file.read_text().splitlines())) == 80
