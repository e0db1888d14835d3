"""The embedded broker's life: start, stop, kill, restart, accounts, two at once, root or not."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import mqtt5
import psutil
import pytest

import telemetry
from telemetry.embedded.broker import PROBE_USER, EmbeddedBroker, find_mosquitto, reload_running
from telemetry.embedded.broker_probe import is_free, mqtt_accepts
from telemetry.embedded.mosquitto import update_file, users, with_user
from telemetry.errors import AlreadyRunning, SupervisorError
from tests.support.broker import (
    PASSWORD,
    Receiver,
    admit,
    eventually,
    gateway,
    numbered,
    publish,
    short_directory,
    temporary_broker,
)
from tests.support.mqtt_wire import publish as wire_publish

needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
KINDS = [pytest.param("mosquitto", marks=needs_mosquitto), "rumqttd"]
SOURCES = Path(telemetry.__file__).parents[1]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def directory():
    with short_directory() as path:
        yield path


def worker_gets_in(broker):
    """With the worker's user, and so only where no worker runs."""
    password = broker.password_file.read_text().strip()
    return mqtt_accepts(broker.host, broker.port, broker.username, password)


async def test_it_starts_on_a_free_port_and_stops(kind, directory):
    broker = EmbeddedBroker(directory, kind)
    await broker.start()
    assert worker_gets_in(broker)
    assert psutil.pid_exists(broker.pid)
    port = broker.port
    await broker.stop()
    assert broker.pid is None
    assert is_free(broker.host, port)
    await broker.stop()


async def test_it_comes_back_on_the_same_port_after_a_kill_and_a_restart(kind, directory):
    async with EmbeddedBroker(directory, kind) as broker:
        port = broker.port
        await broker.kill()
        assert broker.pid is None
        await broker.start()
        await broker.restart()
        assert broker.port == port
        assert worker_gets_in(broker)


async def test_two_instances_refuse_each_other(kind, directory):
    async with EmbeddedBroker(directory, kind) as first:
        second = EmbeddedBroker(directory, kind)
        with pytest.raises(AlreadyRunning, match=str(os.getpid())):
            await second.start()
        with pytest.raises(AlreadyRunning):
            await first_again(directory, kind)
        assert worker_gets_in(first)
    await second.start()
    await second.stop()


async def first_again(directory, kind):
    async with EmbeddedBroker(directory, kind):
        pass


async def test_starting_twice_is_refused(kind, directory):
    async with EmbeddedBroker(directory, kind) as broker:
        with pytest.raises(SupervisorError, match="already runs"):
            await broker.start()
        assert worker_gets_in(broker)


async def test_a_taken_port_is_named(kind, directory):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SupervisorError, match=str(port)):
            await EmbeddedBroker(directory, kind, port).start()
    await first_again(directory, kind)  # the lock is free again


async def test_its_unasked_end_is_noticed(kind, directory):
    async with EmbeddedBroker(directory, kind) as broker:
        noticed = asyncio.create_task(broker.failed())
        await asyncio.sleep(0)
        os.kill(broker.pid, signal.SIGKILL)
        with pytest.raises(SupervisorError, match="SIGKILL"):
            await asyncio.wait_for(noticed, 20)


@needs_mosquitto
async def test_auto_takes_mosquitto_where_it_is_installed(directory, monkeypatch):
    assert EmbeddedBroker(directory).kind == "mosquitto"
    monkeypatch.setenv("PATH", "/nonexistent")
    assert EmbeddedBroker(directory).kind == "mosquitto"  # /usr/sbin, which ordinary users do not have on PATH


async def test_auto_takes_rumqttd_elsewhere_and_asking_for_mosquitto_fails(directory, monkeypatch):
    monkeypatch.setattr("telemetry.embedded.broker.find_mosquitto", lambda: None)
    assert EmbeddedBroker(directory).kind == "rumqttd"
    with pytest.raises(SupervisorError, match="not installed"):
        await EmbeddedBroker(directory, "mosquitto").start()


async def test_it_states_how_much_it_holds(directory):
    assert EmbeddedBroker(directory, "rumqttd").backlog_messages >= 200_000
    assert EmbeddedBroker(directory, "rumqttd").max_in_flight == 100
    assert EmbeddedBroker(directory, "mosquitto").backlog_messages is None
    assert EmbeddedBroker(directory, "mosquitto").max_in_flight is None


async def test_files_are_private_and_hold_no_password_in_clear(kind, directory):
    async with EmbeddedBroker(directory, kind) as broker:
        broker.set_user("home-0001", PASSWORD)
        secret = broker.password_file.read_text().strip()
        assert len(secret) >= 43
        for path in directory.rglob("*"):
            mode = path.stat().st_mode & 0o777
            assert mode == (0o711 if path == broker.home else 0o700) if path.is_dir() else mode == 0o600
            if path.is_file() and path != broker.password_file:
                assert secret.encode() not in path.read_bytes()
                assert PASSWORD.encode() not in path.read_bytes()


async def test_the_worker_s_password_stays(directory, kind):
    async with EmbeddedBroker(directory, kind) as broker:
        first = broker.password_file.read_text()
    async with EmbeddedBroker(directory, kind) as broker:
        assert broker.password_file.read_text() == first
        assert worker_gets_in(broker)


async def test_nothing_about_clients_is_logged(kind, directory):
    async with temporary_broker(kind) as broker:
        async with Receiver(broker) as worker, gateway(broker, "home-0007") as home:
            await publish(home, numbered(0, 5), "gw/home-0007/readings")
            await worker.has(5)
            worker.cut()
        mqtt_accepts(broker.host, broker.port, "home-0007", "wrong")
        await broker.stop()
        assert "home-0007" not in broker.log.read_text()
        assert "127.0.0.1" not in broker.log.read_text()


async def test_rumqttd_exits_with_its_parent(directory):
    await exits_or_stays(directory, "rumqttd", stays=False)


@needs_mosquitto
async def test_the_mosquitto_of_a_killed_supervisor_is_replaced_and_its_queue_kept(directory):
    await exits_or_stays(directory, "mosquitto", stays=True)


async def exits_or_stays(directory, kind, *, stays):
    """A supervisor in another process is killed while its broker holds unacknowledged messages."""
    script = textwrap.dedent(f"""
        import asyncio, json, pathlib
        from telemetry.embedded.broker import EmbeddedBroker
        async def main():
            broker = EmbeddedBroker(pathlib.Path({str(directory)!r}), {kind!r})
            await broker.start()
            print(broker.pid, broker.port, flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
    """)
    supervisor = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCES)},
    )
    with supervisor:
        pid, port = map(int, (await asyncio.to_thread(supervisor.stdout.readline)).split())
        left = psutil.Process(pid)
        broker = EmbeddedBroker(directory, kind, port)
        if stays:
            update_file(broker.home / "passwords", lambda text: with_user(text, "home-0001", PASSWORD))
            assert reload_running(directory)
            await eventually(lambda: mqtt_accepts(broker.host, port, "home-0001", PASSWORD))
            async with Receiver(broker):
                pass
            async with gateway(broker) as home:
                await publish(home, numbered(0, 20))
        supervisor.kill()
        await asyncio.to_thread(supervisor.wait)
    if stays:
        assert left.is_running()
    await eventually(lambda: stays or not left.is_running() or left.status() == psutil.STATUS_ZOMBIE)
    async with EmbeddedBroker(directory, kind) as heir:
        assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
        assert worker_gets_in_unless(heir, stays)
        if stays:
            async with Receiver(heir) as worker:
                await worker.has(20)
                assert worker.payloads == numbered(0, 20)


def worker_gets_in_unless(broker, session_matters):
    """The probe starts clean, which would end the session whose queue the caller wants to see."""
    return session_matters or worker_gets_in(broker)


@needs_mosquitto
class TestMosquitto:
    async def test_users_come_and_go_while_it_runs(self, directory):
        async with EmbeddedBroker(directory, "mosquitto") as broker:
            assert not mqtt_accepts(broker.host, broker.port, "home-0001", PASSWORD)
            await admit(broker, "home-0001")
            broker.remove_user("home-0001")
            await eventually(lambda: not mqtt_accepts(broker.host, broker.port, "home-0001", PASSWORD))
            await broker.restart()
            assert users((broker.home / "passwords").read_text()) == (PROBE_USER, broker.username)

    async def test_a_damaged_file_is_reported_with_its_log(self, directory):
        async with EmbeddedBroker(directory, "mosquitto") as broker:
            state = broker.home / "state" / "mosquitto.db"
        state.write_bytes(b"not a database")
        with pytest.raises(SupervisorError, match=r"broker\.log"):
            await broker.start()

    async def test_an_oversized_message_is_refused_to_its_sender_who_stays_connected(self, directory):
        """Told by PUBACK 0x95, which the standard does not list for PUBACK (3.4.2.1): paho hangs up at it."""
        async with EmbeddedBroker(directory, "mosquitto", max_message_bytes=1000) as broker:
            await admit(broker, "home-0001")
            async with Receiver(broker) as worker:
                reader, writer = await asyncio.open_connection(broker.host, broker.port)
                credentials = {"username": "home-0001", "password": PASSWORD.encode()}
                writer.write(mqtt5.ConnectPacket("any", clean_start=True, keep_alive=60, **credentials).write())
                connack, _ = mqtt5.read(memoryview(await reader.read(4096)))
                assert connack.max_packet_size == 1000 + 128 * 1024
                for size in (1001, 1000):
                    writer.write(wire_publish(size, "gw/home-0001/readings", bytes(size)))
                answers = await asyncio.wait_for(reader.readexactly(9), 20)
                assert answers == b"\x40\x03\x03\xe9\x95" + b"\x40\x02\x03\xe8"
                await worker.has(1)
                assert worker.payloads == [bytes(1000)]
                writer.close()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to drop")
    async def test_root_s_broker_runs_as_another_user_in_a_closed_directory(self, directory):
        closed = directory / "closed"
        closed.mkdir(mode=0o700)
        async with EmbeddedBroker(closed, "mosquitto") as broker:
            assert psutil.Process(broker.pid).uids().effective != 0
            assert worker_gets_in(broker)
            await broker.restart()
        assert closed.stat().st_mode & 0o777 == 0o700

    async def test_saving_every_change_survives_a_kill(self, directory):
        async with EmbeddedBroker(directory, "mosquitto", save_every_change=True) as broker:
            async with Receiver(broker):
                pass
            async with gateway(broker) as home:
                await publish(home, numbered(0, 30))
                await asyncio.sleep(0.2)
            await broker.kill()
            await broker.start()
            async with Receiver(broker) as worker:
                await worker.has(30)
                assert worker.payloads == numbered(0, 30)

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user")
    def test_an_ordinary_user_needs_nothing_but_a_directory(self, directory):
        """In a forked child that gives up root, because another user may be unable to read this Python."""
        nobody = 65_534
        os.chown(directory, nobody, nobody)

        async def start_and_stop():
            async with EmbeddedBroker(directory, "mosquitto") as broker:
                assert psutil.Process(broker.pid).uids().effective == nobody
                assert worker_gets_in(broker)
                await broker.restart()

        "localhost".encode("idna")  # loaded on first use, which must be before the fork
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setgroups([])
                os.setgid(nobody)
                os.setuid(nobody)
                asyncio.run(start_and_stop())
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
