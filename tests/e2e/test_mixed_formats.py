"""A gateway that speaks three makers' formats loses its connection, and the service dies: nothing lost, and what
carries its time stored once. Afterwards no identity and no place of what it said is anywhere.
"""

import asyncio
import itertools
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace

import aiomqtt
import polars as pl

from device_sim import fleet as simulator
from device_sim import ledger as ledgers
from device_sim.devices import devices_of_home
from device_sim.dialects import DIALECTS, Spoken
from device_sim.dialects.spoken import values_of
from device_sim.gateway import Delivery
from device_sim.link import Credential
from device_sim.message import Message
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.registry import decode_batch
from telemetry.config import load_config
from telemetry.demo import places
from telemetry.maintenance.scan import scan
from telemetry.maintenance.scan_places import FilePlace
from telemetry.model.batch import RawMessage
from tests.support.moments import Moment, kill_worker
from tests.support.system import Feed, System, system

TIMED = ("shelly", "sparkplug-b")
TIMELESS = "opendtu"
COUNT = 900
TICK_US = 5_000_000


@dataclass
class Script:
    """What one gateway will say: three dialects of one home, reading by reading. ``serials``: all that it names."""

    gateway: Credential
    messages: list[Message] = field(default_factory=list)
    timeless: list[Spoken] = field(default_factory=list)
    serials: set[str] = field(default_factory=set)

    @classmethod
    def write(cls, gateway: Credential, seed: int, per_second: float = 60.0) -> "Script":
        script = cls(gateway)
        settings = simulator.FleetSettings(seed=seed % 1000, interval_s=5.0, start_s=time.time() - 3600.0)
        devices = devices_of_home(0, 6, f"S{seed % 1000}")
        readings = simulator._chunks(settings, 0, devices, simulator.timeline(settings, time.time()))
        speakers = {name: DIALECTS[name].speaker() for name in (*TIMED, TIMELESS)}
        said = [(name, one) for name in speakers for one in speakers[name].greet(gateway.username, devices)]
        for reading in itertools.chain.from_iterable(readings):
            said += [(name, one) for name in speakers for one in speakers[name].say(gateway.username, reading)]
            if len(said) >= COUNT:
                break
        for number, (name, one) in enumerate(said, 1):
            message = Message(number, one.topic, one.payload, None, list(one.expected), due_s=number / per_second)
            message.values = int(name == TIMELESS and bool(values_of(one)))
            script.messages.append(message)
            script.timeless += [one] if message.values else []
            script.serials |= {serial for serial, _ in values_of(one)}
        script.serials |= {device.serial for device in devices}
        return script

    def start(self, found: System, *outages: tuple[float, float]) -> Feed:
        return found.messages(self.gateway, self.messages, delivery=Delivery(outages=outages))


def repeated(script: Script) -> set[tuple[str, int, str]]:
    """(serial, ts, field) of what a Shelly's message leaves out because it has not changed."""
    found = set()
    for message in script.messages:
        if message.topic.endswith("/events/rpc"):
            (reading,) = message.expected
            alone = decode_batch([RawMessage("g", message.topic, message.payload, 0, 1)], CodecLimits()).rows.to_dicts()
            found |= {(reading.serial, reading.ts_us, name) for name in reading.fields if name not in alone[0]}
    return found


async def check(found: System, feed: Feed, script: Script, *, crashed: bool = False) -> None:
    """Timed readings exactly, once each; of the others every message committed, and no value that was not said.

    ``crashed``: a message that comes again after a later one was committed adds nothing to what it says itself.
    """
    recorded = ledgers.read(feed.ledger)
    assert recorded.messages["acknowledged"].all()
    names = pl.DataFrame({"gateway": script.gateway.username, "serial": sorted({s.serial for s in script.timeless})})
    async with found.checker() as checker:
        report = await checker.compare_readings(recorded.distinct().drop("acknowledged"))
        gateways = await checker._gateways([script.gateway.username])
        devices = await checker._devices(names, gateways)
        timed = await checker._devices(recorded.readings, gateways)
        stored = await checker._stored([site for _, site, _ in gateways.values()])
        gaps = await checker._gaps(gateways)
        quarantined = await checker.quarantined(script.gateway.username)
    assert quarantined == {}
    assert gaps == set()  # every number that it gave a message is committed
    assert (report.missing, report.duplicates) == (0, 0), report
    assert report.published > 200
    may_lack = repeated(script) if crashed else set()
    expected = (
        recorded.distinct().join(timed, on=["gateway", "serial"]).join(stored, on=["ts", "device_key"], suffix="_is")
    )
    assert expected.height == report.published
    for row in expected.iter_rows(named=True):
        for name in (column for column in recorded.readings.columns if f"{column}_is" in row):
            lacking = row[f"{name}_is"] is None and (row["serial"], row["ts"], name) in may_lack
            assert row[name] == row[f"{name}_is"] or lacking, (row["serial"], row["ts"], name)
    keys = {serial: key for _, serial, key in devices.rows()}
    said: defaultdict[tuple[int, str], set[float]] = defaultdict(set)
    for one in script.timeless:
        said[keys[one.serial], one.field].add(one.value)
    kept: defaultdict[tuple[int, str], set[float]] = defaultdict(set)
    for row in stored.filter(pl.col("device_key").is_in(list(keys.values()))).iter_rows(named=True):
        assert row["ts"] % TICK_US == 0
        for name, value in row.items():
            if name not in {"ts", "device_key"} and value is not None:
                kept[row["device_key"], name].add(value)
    assert kept.keys() == said.keys()
    assert all(values <= said[key] for key, values in kept.items())


async def scanned(found: System, script: Script) -> None:
    """Nothing of what identifies or places is anywhere: databases, files, the broker's queue, the log, metrics."""
    private = {one for name in (*TIMED, TIMELESS) for one in DIALECTS[name].private(script.gateway.username)}
    macs = {serial.rpartition("-")[2] for serial in script.serials if serial.startswith("shelly")}
    canaries = sorted(private | macs | script.serials)
    page = str(await found.worker.metrics())
    assert not [canary for canary in canaries if canary in page]
    await found.worker.stop()
    await found.broker.stop()  # its queues are in its file now
    await found.execute("CHECKPOINT")
    where = [*places(load_config(found.worker.config), found.postgres), FilePlace("log", found.worker.log)]
    result = await scan(where, canaries, self_test=True)
    assert result.clean, [(each.place, canaries[each.canary - 1]) for each in result.findings] or result.skipped
    assert result.control


async def test_a_backlog_of_three_formats(seed: int) -> None:
    """Twice offline for some seconds; what was said meanwhile comes as a backlog. The worker's own line is cut too."""
    async with system(seed=seed) as found:
        (gateway,) = await found.enrol()
        script = Script.write(gateway, seed)
        feed = script.start(found, (3.0, 3.0), (9.0, 2.0))
        await feed.until(100)
        found.broker_link.cut()
        await feed.finish(stop=False)
        await found.drain()
        await check(found, feed, script)
        assert await found.worker.metric("telemetry_memory_evictions_total") == 0
        await scanned(found, script)


async def test_the_worker_dies_between_births_and_data(seed: int) -> None:
    """Killed before, after and during its commits: what it remembers is of the same commit as what it stored."""
    async with system(seed=seed) as found:
        found.worker.prepare()
        (gateway,) = await found.enrol()
        script = Script.write(gateway, seed, per_second=25.0)
        feed = script.start(found, (6.0, 2.0))
        deaths = [Moment.BEFORE_COMMIT, Moment.AFTER_COMMIT, Moment.BEFORE_PUBACK]
        for left, moment in reversed(list(enumerate(deaths))):
            await found.worker.until_committing()
            await kill_worker(found, moment)
            found.worker.start(spare=left > 0)
        await feed.finish(stop=False)
        await found.settle()
        await check(found, feed, script, crashed=True)
        assert found.worker.starts == len(deaths) + 1


async def test_a_node_without_a_birth_is_asked_for_one_and_read_from_then_on(seed: int) -> None:
    """NCMD goes out through the gateway's own prefix; quarantine keeps what came before the birth."""
    async with system(seed=seed) as found:
        (gateway,) = await found.enrol()
        script = Script.write(gateway, seed)
        spoken = [one for one in script.messages if one.topic.startswith("spBv1.0/")]
        births = [one for one in spoken if "BIRTH/" in one.topic]
        data = [one for one in spoken if "/DDATA/" in one.topic]
        node = births[0].topic.replace("NBIRTH", "NCMD")
        listener = aiomqtt.Client(
            "127.0.0.1", found.broker.port, username=gateway.username, password=gateway.password, identifier="node"
        )
        async with listener as client:
            await client.subscribe(f"gw/{gateway.username}/{node}")
            await client.publish(f"gw/{gateway.username}/{data[0].topic}", data[0].payload, qos=1)
            async with asyncio.timeout(60):
                asked = await anext(aiter(client.messages))
        assert b"Node Control/Rebirth" in bytes(asked.payload)
        again = [replace(one, sequence=n, due_s=0.0) for n, one in enumerate((*births, data[1]), 1)]
        feed = found.messages(gateway, again, stream="b")
        await feed.finish(stop=False)
        await found.settle()
        async with found.checker() as checker:
            report = await checker.compare_readings(ledgers.read(feed.ledger).distinct().drop("acknowledged"))
            quarantined = await checker.quarantined(gateway.username)
        assert (report.missing, report.different, report.duplicates) == (0, 0, 0), report
        assert list(quarantined.values()) == [["unknown_alias"]]
