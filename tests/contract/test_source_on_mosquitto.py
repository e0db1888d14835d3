"""What the source needs of a broker with accounts, access lists, TLS and sessions on disk: mosquitto."""

import asyncio
import os
import ssl

import aiomqtt
import pytest

from telemetry.config import BrokerConfig
from telemetry.embedded.broker import find_mosquitto
from telemetry.embedded.broker_probe import free_port
from telemetry.embedded.mosquitto import Listener
from telemetry.errors import ConfigurationError, SourceRefused
from telemetry.sources.mqtt import MqttSource
from telemetry.sources.mqtt311 import Mqtt311Source
from tests.support.broker import (
    Receiver,
    WallClock,
    admit,
    broker_config,
    eventually,
    gateway,
    numbered,
    publish,
    quiet,
    short_directory,
    taken_in,
    temporary_broker,
)
from tests.support.certificates import make_certificates

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")


@pytest.fixture
async def broker():
    async with temporary_broker("mosquitto") as running:
        yield running


async def refused(source):
    with pytest.raises(SourceRefused) as caught:
        await asyncio.wait_for(source.run(), 20)
    return caught.value


async def test_a_graceful_restart_of_the_broker_loses_nothing(broker):
    async with Receiver(broker) as worker:
        async with gateway(broker) as home:
            await publish(home, numbered(0, 400))
            await worker.has(400)
            worker.acknowledge(worker.messages[:100])
            await asyncio.sleep(0.2)
            before = len(worker.messages)
        await broker.restart()
        async with gateway(broker) as home:
            await publish(home, numbered(400, 600))
        await eventually(lambda: len(set(worker.payloads[before:])) == 500)
        assert worker.payloads[before:] == numbered(100, 600)
        assert worker.source.counters.sessions_lost == 0


async def test_what_was_queued_for_an_absent_worker_survives_a_restart(broker):
    async with Receiver(broker):
        pass
    async with gateway(broker) as home:
        await publish(home, numbered(0, 2000))  # twice mosquitto's own default limit
    await broker.restart()
    async with Receiver(broker) as worker:
        await worker.has(2000)
        assert worker.payloads == numbered(0, 2000)


async def test_a_wrong_password_is_refused_for_good(broker):
    source = MqttSource(broker_config(broker), WallClock(), password="wrong")
    error = await refused(source)
    assert "password" in error.remedy
    assert "wrong" not in str(error)


async def test_a_gateway_cannot_write_under_another_s_prefix(broker):
    await admit(broker, "home-0001", "home-0002")
    async with Receiver(broker) as worker, gateway(broker, "home-0002") as intruder:
        with pytest.raises(aiomqtt.MqttError):
            await asyncio.wait_for(refusal(intruder, "gw/home-0001/readings"), 20)
        await publish(intruder, [b"own"], "gw/home-0002/readings")
        await quiet(worker, 1)
        assert worker.messages[0].gateway == "home-0002"


async def refusal(client, topic):
    """Publish and raise MqttError when the PUBACK says no, which aiomqtt itself ignores."""
    answer = asyncio.get_running_loop().create_future()
    original = client._client.on_publish

    def on_publish(paho, userdata, mid, reason_code, properties):
        answer.set_result(reason_code)
        original(paho, userdata, mid, reason_code, properties)

    client._client.on_publish = on_publish
    try:
        await client.publish(topic, b"forged", 1)
        if (await answer).is_failure:
            raise aiomqtt.MqttError("refused")
    finally:
        client._client.on_publish = original


async def test_a_gateway_reads_its_own_watermark_and_nothing_else(broker):
    await admit(broker, "home-0001", "home-0002")
    async with Receiver(broker) as worker, gateway(broker, "home-0002") as spy, gateway(broker) as home:
        await spy.subscribe("#", 1)
        await publish(home, [b"private"])
        await worker.has(1)
        await worker.source.publish("gw/home-0001/committed", b"theirs")
        await worker.source.publish("gw/home-0002/committed", b"mine")
        received = await asyncio.wait_for(anext(spy.messages), 20)
        assert (str(received.topic), received.payload) == ("gw/home-0002/committed", b"mine")
        assert len(spy.messages) == 0


async def test_taking_the_worker_s_client_id_takes_nothing(broker):
    """use_username_as_clientid: otherwise any gateway could destroy the worker's queue."""
    worker = await Receiver(broker).__aenter__()
    async with gateway(broker) as home:
        await publish(home, numbered(0, 5))
        await worker.has(5)
        async with gateway(broker, "home-0002", identifier=broker.username, clean_start=True):
            await asyncio.sleep(0.3)
            assert worker.source.counters.connections == 1
            assert worker.source.connected
        await worker.kill()
        async with gateway(broker, "home-0002", identifier=broker.username, clean_start=True):
            await publish(home, numbered(5, 10))
    async with Receiver(broker) as heir:
        await quiet(heir, 10)
        assert heir.payloads == numbered(0, 10)


async def test_nobody_gets_in_without_a_password(broker):
    for arguments in ({"username": None, "password": None}, {"username": "stranger"}, {"password": "guess"}):
        with pytest.raises(aiomqtt.MqttError):
            async with gateway(broker, **arguments):
                pass


async def test_a_removed_gateway_is_disconnected(broker):
    async with gateway(broker) as home:
        broker.remove_user("home-0001")
        with pytest.raises(aiomqtt.MqttError):
            await asyncio.wait_for(anext(home.messages), 20)  # which fails when the connection ends


async def test_two_workers_with_one_identity_are_told_what_to_look_for(broker):
    """This broker does not name the take-over (DISCONNECT 0x8E), so it cannot be told from a bad network."""
    config = broker_config(broker, reconnect_min_s=0.01, reconnect_max_s=5.0)
    sources = [MqttSource(config, WallClock(), taken_over_limit=3) for _ in range(2)]
    running = [asyncio.create_task(source.run()) for source in sources]
    await eventually(lambda: any("same broker.client_id" in str(source.last_error) for source in sources))
    assert not any(task.done() for task in running)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


class TestTls:
    @pytest.fixture
    def files(self):
        with short_directory() as directory:
            directory.chmod(0o755)  # the broker's user must read them
            yield make_certificates(directory)

    @pytest.fixture
    async def secure(self, files):
        listener = Listener(
            free_port("127.0.0.1"),
            ca_file=str(files.ca),
            cert_file=str(files.server_cert),
            key_file=str(files.server_key),
            require_certificate=True,
        )
        for directory in (files.ca.parent, *files.ca.parent.parents):
            if os.geteuid() == 0 and not directory.stat().st_mode & 0o001:
                pytest.skip("the temporary directory is closed to the user that mosquitto runs as")
        async with temporary_broker("mosquitto", listeners=[listener]) as running:
            yield running, listener.port

    def config(self, broker, port, files, **overrides):
        found = {"port": port, "tls": True, "ca_file": files.ca, "host": "localhost"}
        found |= {"cert_file": files.client_cert, "key_file": files.client_key}
        return broker_config(broker, **found | overrides)

    @pytest.mark.parametrize("kind", [MqttSource, Mqtt311Source])
    @pytest.mark.parametrize("payload", [b"small", bytes(200_000)])
    async def test_messages_over_tls_with_a_client_certificate(self, secure, files, payload, kind):
        broker, port = secure
        source = kind(self.config(broker, port, files), WallClock())
        async with Receiver(broker, source=source) as worker, gateway(broker) as home:
            for _ in range(3):
                await publish(home, [payload] * 30)
            await worker.has(90)
            assert set(worker.payloads) == {payload}
            worker.acknowledge(worker.messages)
            await taken_in(worker, home)
        async with Receiver(broker) as heir:
            await quiet(heir, 0)

    @pytest.mark.parametrize("kind", [MqttSource, Mqtt311Source])
    async def test_back_pressure_over_tls(self, secure, files, kind):
        broker, port = secure
        source = kind(self.config(broker, port, files, max_pending_bytes=2**20), WallClock())
        async with Receiver(broker, source=source) as worker, gateway(broker) as home:
            await publish(home, [bytes(100_000)] * 60)
            done = 0
            while done < 60:
                await worker.has(done + 1)
                fresh = worker.messages[done:]
                worker.acknowledge(fresh)
                done += len(fresh)
            assert source.counters.connections == 1

    async def test_without_a_client_certificate_it_is_refused(self, secure, files):
        broker, port = secure
        error = await refused(MqttSource(self.config(broker, port, files, cert_file=None, key_file=None), WallClock()))
        assert "TLS" in str(error)

    async def test_the_name_in_the_certificate_is_checked(self, secure, files):
        broker, port = secure
        error = await refused(MqttSource(self.config(broker, port, files, host="127.0.0.1"), WallClock()))
        assert "TLS" in str(error)

    async def test_an_unknown_authority_is_refused(self, secure, files, tmp_path):
        broker, port = secure
        other = make_certificates(tmp_path / "other")
        error = await refused(MqttSource(self.config(broker, port, files, ca_file=other.ca), WallClock()))
        assert "TLS" in str(error)

    async def test_tls_is_at_least_1_2(self, files):
        from telemetry.sources.mqtt_tls import tls_context

        for ca_file in (files.ca, None):
            context = tls_context(BrokerConfig(tls=True, ca_file=ca_file))
            assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
            assert context.check_hostname
            assert context.verify_mode is ssl.CERT_REQUIRED

    async def test_files_that_cannot_be_used_are_named_by_their_setting(self, files, tmp_path):
        empty = tmp_path / "empty.pem"
        empty.write_text("")
        for setting, arguments in (
            ("broker.ca_file", {"ca_file": tmp_path / "none.pem"}),
            ("broker.ca_file", {"ca_file": empty}),
            ("broker.cert_file", {"cert_file": empty, "key_file": files.client_key}),
            ("broker.cert_file", {"cert_file": files.client_cert, "key_file": files.server_key}),
            ("broker.password_file", {"password_file": tmp_path / "none"}),
        ):
            with pytest.raises(ConfigurationError, match=setting):
                MqttSource(BrokerConfig(tls=True, **arguments), WallClock())
