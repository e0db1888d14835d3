"""`telemetry ble --publish`, its parts: from a fake radio through the spool to a real broker."""

import asyncio
import secrets

import pytest

from telemetry.config import BrokerConfig
from telemetry.embedded.broker import find_mosquitto
from telemetry.sources.ble_gateway import Publisher
from telemetry.sources.merged import Sources
from tests.support.bluetooth import FakeScanner, Station
from tests.support.broker import PASSWORD, Receiver, admit, eventually, source_for, temporary_broker
from tests.unit.test_ble_source import plug, scanning, shunt

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")


@pytest.fixture(autouse=True)
def quiet_world():
    FakeScanner.reset()
    yield
    FakeScanner.reset()


@pytest.fixture
async def broker():
    async with temporary_broker("mosquitto") as running:
        await admit(running, "home-0001", "home-0002")
        yield running


def config_of(broker, directory, name="home-0001"):
    password = directory / "password"
    password.write_text(PASSWORD)
    return BrokerConfig(
        host=broker.host,
        port=broker.port,
        username=name,
        password_file=password,
        reconnect_min_s=0.05,
        reconnect_max_s=0.3,
    )


class Gateway(Station):
    """A station that publishes."""

    def __init__(self, directory, broker, **options):
        name = options.pop("name", "home-0001")
        super().__init__(directory, **options)
        self.consume = False
        self.publisher = Publisher(config_of(broker, directory, name), self.source)

    async def __aenter__(self):
        await super().__aenter__()
        self._tasks.append(asyncio.create_task(self.publisher.run()))
        return self


async def test_what_is_heard_is_published_numbered_and_leaves_the_spool(broker, tmp_path):
    async with Receiver(broker) as worker, Gateway(tmp_path, broker) as gateway:
        await scanning(gateway)
        for counter in range(1, 121):
            plug(counter)
        await worker.has(120)
        assert [message.sequence for message in worker.messages] == list(range(1, 121))
        assert len({message.stream for message in worker.messages}) == 1
        assert worker.messages[0].content_type == "application/json"
        await eventually(lambda: len(gateway.spool) == 0)
        assert gateway.publisher.acknowledged == 120


async def test_a_broker_that_is_away_costs_nothing_and_neither_does_a_restart_meanwhile(broker, tmp_path):
    secret = secrets.token_bytes(32)
    async with Receiver(broker) as worker:
        await worker.stop()
        await broker.kill()
        async with Gateway(tmp_path, broker, secret=secret) as gateway:
            await scanning(gateway)
            for counter in range(1, 31):
                plug(counter)
            await eventually(lambda: len(gateway.spool) == 30)
            await eventually(lambda: gateway.publisher.last_error is not None)
        await broker.start()
        async with Receiver(broker) as heir, Gateway(tmp_path, broker, secret=secret) as gateway:
            await scanning(gateway)
            plug(31)
            await heir.has(31)
            await eventually(lambda: len(gateway.spool) == 0)
            assert sorted(message.sequence for message in heir.messages) == list(range(1, 32))


async def test_a_refusal_is_no_acknowledgement(broker, tmp_path):
    """home-0002 may not publish under the prefix of home-0001: mosquitto answers 0x87."""
    async with Gateway(tmp_path, broker, name="home-0002") as gateway:
        await scanning(gateway)
        shunt(1)
        await eventually(lambda: gateway.publisher.last_error is not None)
        await asyncio.sleep(0.3)
        assert (len(gateway.spool), gateway.publisher.acknowledged) == (1, 0)


async def test_forbidden_while_the_broker_is_away_is_never_sent(broker, tmp_path):
    async with Receiver(broker) as worker, Gateway(tmp_path, broker) as gateway:
        await eventually(lambda: gateway.publisher.connected)
        await broker.kill()
        await scanning(gateway)
        shunt(1)
        await eventually(lambda: len(gateway.spool) == 1)
        await gateway.permission.set(False)
        await eventually(lambda: len(gateway.spool) == 0)
        await broker.start()
        await eventually(lambda: worker.source.connected)
        await gateway.permission.set(True)
        await scanning(gateway)
        shunt(2, volts=13.0)
        await worker.has(1)
        assert b'"battery_voltage_v":13.0' in worker.messages[0].payload
        assert worker.messages[0].sequence == 1
        assert len(worker.messages) == 1


async def test_broker_and_radio_as_one_source(broker, tmp_path):
    station = Station(tmp_path)
    station.consume = False
    merged = Sources(source_for(broker), station.source)
    async with station, Receiver(broker, source=merged) as worker:
        station._tasks[0].cancel()  # the merged source runs it
        async with Gateway(tmp_path / "other", broker) as gateway:
            await scanning(station)
            await scanning(gateway)
            shunt(1)
            await worker.has(2)  # one from the radio here, one through the broker
            assert len({message.token for message in worker.messages}) == 2
            assert merged.pending_messages == 2
            worker.acknowledge(worker.messages)
            assert merged.pending_messages == 0
            assert len(station.spool) == 0
            assert await merged.publish("gw/home-0001/committed", b"{}")
