"""The whole system for tests that break it: durable servers, a worker that can be killed, fleets with a ledger.

    async with system(directory, kind="mosquitto", seed=7) as found:
        feed = found.fleet(await found.enrol(4), messages_per_second=200)
        …                                   # kill, restart, stall, cut
        await feed.finish()
        await found.settle()                # everything published so far is committed, the worker has stopped
        report = await found.check(feed)

    fleet ──▶ broker ◀── broker_link (proxy) ◀── worker ──▶ database_link (proxy) ──▶ PostgreSQL

PostgreSQL runs with fsync, the worker is a process of its own, and what happens at random happens by seed.
"""

import asyncio
import atexit
import contextlib
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import asyncpg

from device_sim import fleet as simulator
from device_sim.engine import Part, Run, publish
from device_sim.figures import Figures, Summary
from device_sim.gateway import Delivery
from device_sim.link import Broker, Credential
from device_sim.message import Message, Reading
from telemetry.demo import administration
from telemetry.embedded.broker import EmbeddedBroker
from telemetry.embedded.broker_probe import free_port
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.privacy.keys import Kek, Opener
from telemetry.servers import prepare_database
from telemetry.store.administration import Administration
from telemetry.store.keyring import KeyRing
from telemetry.store.keystore import KEK, FileKeystore, role_password
from telemetry.store.registration import IssuedGateway, NewGateway, NewOwner, NewSite
from tests.support.checker import Checker, Report
from tests.support.proxy import Proxy
from tests.support.worker_process import WORKER, WorkerProcess

Kind = Literal["mosquitto", "rumqttd"]
_RUMQTTD_BATCH = 100  # it keeps no more in flight, so a larger batch would never fill
_SETTLE_S = 120.0


@dataclass
class Feed:
    """A run of the simulator in the background. ``summary`` is what ``finish`` returned."""

    ledger: Path
    task: asyncio.Task[Summary]
    stopping: asyncio.Event
    figures: Figures | None = None
    summary: Summary | None = None

    async def until(self, acknowledged: int = 0, *, poison: int = 0, timeout_s: float = 60.0) -> None:
        """Wait until the broker has acknowledged so many readings, and so many poison messages went out."""
        deadline = time.monotonic() + timeout_s
        while self.figures is None or self.figures.acknowledged < acknowledged or self.figures.poison < poison:
            if self.task.done():
                await self.task
                raise AssertionError("the feed ended too early")
            assert time.monotonic() < deadline, f"not {acknowledged} readings, {poison} poison in {timeout_s} s"
            await asyncio.sleep(0.05)

    async def finish(self, *, stop: bool = True) -> Summary:
        """Produce no more (``stop``), deliver the rest, and return what was published.

        Raises:
            AssertionError: something was not acknowledged: then published and acknowledged would differ.

        """
        if stop:
            self.stopping.set()
        self.summary = await self.task
        assert self.summary.complete, f"the feed could not deliver everything: {self.summary.as_dict()}"
        return self.summary


@dataclass
class System:
    """See the module. Everything in it was started for it, and is stopped with it."""

    directory: Path
    kind: Kind
    seed: int
    rng: random.Random
    keystore: FileKeystore
    postgres: EmbeddedPostgres
    broker: EmbeddedBroker
    database_link: Proxy
    broker_link: Proxy
    worker: WorkerProcess
    feeds: list[Feed] = field(default_factory=list)
    _sentinel: Credential = field(default_factory=lambda: Credential(""))
    _settled: int = 0

    # ---- who exists

    @contextlib.asynccontextmanager
    async def administration(self) -> AsyncIterator[Administration]:
        async with administration(self.postgres, self.keystore) as found:
            yield found

    async def enrol(self, count: int = 1, **gateway: Any) -> tuple[Credential, ...]:
        """So many gateways, each alone at the home of an owner of its own, known to database and broker."""
        async with self.administration() as admin, admin.registering() as registration:
            issued: list[IssuedGateway] = []
            for number in range(count):
                owner = registration.owner(NewOwner(f"Example Owner {number}"))
                site = registration.site(owner, NewSite(f"Example Home {number}"))
                issued.append(registration.gateway(owner, site, NewGateway(**gateway)))
        for each in issued:
            self.broker.set_user(each.name, each.credential)
        return tuple(Credential(each.name, each.credential) for each in issued)

    async def admin(self, database: str = "telemetry") -> Any:
        """A connection as superuser, not through the proxy."""
        return await asyncpg.connect(**self.postgres.connect_kwargs(database))

    @contextlib.asynccontextmanager
    async def openers(self) -> AsyncIterator[KeyRing]:
        """The owners' keys: what no worker has."""
        arguments = self.postgres.connect_kwargs(
            "keys", "telemetry_keys", role_password(self.keystore, "telemetry_keys")
        )
        connection = await asyncpg.connect(**arguments)
        try:
            yield KeyRing(connection, Kek(self.keystore.secret(KEK)))
        finally:
            await connection.close()

    # ---- what they publish

    def fleet(self, credentials: Sequence[Credential], **settings: Any) -> Feed:
        """Start simulated homes behind these gateways; ``settings`` as of device_sim.fleet.FleetSettings."""
        number = len(self.feeds)
        values = {
            "broker": Broker(port=self.broker.port),
            "credentials": tuple(credentials),
            "seed": self.seed + number,
            "serial_prefix": f"T{number}",
            "readings_per_message": 20,
            "format": "mixed",
            "drain_s": 120.0,
            "ledger": self.directory / f"fleet-{number}.jsonl",
        }
        chosen = simulator.FleetSettings(**(values | settings))
        feed = self._feed(chosen.ledger)
        feed.task = asyncio.create_task(
            simulator.run(
                chosen,
                progress=lambda figures: setattr(feed, "figures", figures),
                progress_interval_s=0.1,
                stop=feed.stopping,
            )
        )
        return feed

    def messages(
        self,
        credential: Credential,
        messages: Iterable[Message],
        *,
        stream: str = "stream-1",
        delivery: Delivery | None = None,
    ) -> Feed:
        """Start publishing these messages as this gateway; sequences count from 1."""
        feed = self._feed(self.directory / f"messages-{len(self.feeds)}.jsonl")
        part = Part(credential.username, stream, credential, iter(messages), delivery or Delivery())
        run = Run(Broker(port=self.broker.port), ledger=feed.ledger, drain_s=120.0)
        feed.task = asyncio.create_task(
            publish(
                [part],
                run,
                devices=1,
                progress=lambda figures: setattr(feed, "figures", figures),
                progress_interval_s=0.1,
                stop=feed.stopping,
            )
        )
        return feed

    def _feed(self, ledger: Path) -> Feed:
        feed = Feed(ledger, asyncio.get_running_loop().create_future(), asyncio.Event())  # type: ignore[arg-type]
        self.feeds.append(feed)
        return feed

    async def reached(self, event: asyncio.Event, timeout_s: float = 60.0) -> None:
        """Wait for something that a worker must do, or say what it died of."""
        deadline = time.monotonic() + timeout_s
        while not event.is_set():
            self.worker.check()
            assert time.monotonic() < deadline, f"not in {timeout_s} s: {self.worker.last_words()}"
            await asyncio.sleep(0.02)

    # ---- the end of a run

    async def settle(self, timeout_s: float = _SETTLE_S) -> None:
        """Wait until all that was published is committed, then stop the worker: the database is final.

        A last message goes out behind all others. Brokers deliver in order, so when it is committed the worker has
        received everything, and a worker that stops cleanly commits what it has received.
        """
        await self._sentinel_arrives(timeout_s)
        await self.worker.stop()

    async def drain(self, timeout_s: float = _SETTLE_S) -> None:
        """The same with a worker that goes on: wait until all that was published is committed."""
        await self._sentinel_arrives(timeout_s)
        # What was received before the last message may still be on its way; the figure is renewed twice a second.
        deadline = time.monotonic() + timeout_s
        await asyncio.sleep(0.7)
        while await self.worker.metric("telemetry_in_flight_messages"):
            self.worker.check()
            assert time.monotonic() < deadline, f"not all was committed in {timeout_s} s"
            await asyncio.sleep(0.1)

    async def _sentinel_arrives(self, timeout_s: float) -> None:
        self._settled += 1
        ts_us = time.time_ns() // 1_000_000_000 * 1_000_000 + self._settled
        reading = Reading("SENTINEL", "meter", ts_us, {"grid_power_w": float(self._settled)})
        payload = simulator.FORMATS["single"]([reading]).payload
        message = Message(1, "readings", payload, None, expected=[reading])
        sentinel = self._sentinel
        assert sentinel is not None
        part = Part(sentinel.username, f"settle-{self._settled}", sentinel, iter([message]), Delivery())
        await publish([part], Run(Broker(port=self.broker.port)), devices=1)
        await self._until_stored(ts_us, timeout_s)

    async def _until_stored(self, ts_us: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        connection = await self.admin()
        try:
            while not await connection.fetchval(
                "SELECT count(*) FROM readings.hot"
                " WHERE ts = 'epoch'::timestamptz + $1::bigint * interval '1 microsecond'",
                ts_us,
            ):
                self.worker.check()
                if time.monotonic() > deadline:
                    raise AssertionError(f"not all was committed in {timeout_s} s: {self.worker.last_words()}")
                await asyncio.sleep(0.05)
        finally:
            await connection.close()

    async def check(self, *feeds: Feed) -> Report:
        """What these feeds published against what is stored for their gateways."""
        async with self.checker() as checker:
            return await checker.compare([feed.ledger for feed in feeds])

    @contextlib.asynccontextmanager
    async def checker(self) -> AsyncIterator[Checker]:
        connection = await self.admin()
        try:
            async with self.openers() as ring:
                yield Checker(connection, self.keystore, ring.opener)
        finally:
            await connection.close()

    async def execute(self, *statements: str) -> None:
        """Run statements, as superuser."""
        connection = await self.admin()
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        """Rows, as superuser."""
        connection = await self.admin()
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        """One value, as superuser."""
        (row,) = await self.fetch(query, *arguments)
        return row[0]


@contextlib.asynccontextmanager
async def system(
    *,
    kind: Kind = "mosquitto",
    seed: int = 0,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    broker: Mapping[str, Any] | None = None,
    worker: str = WORKER,
    start: bool = True,
) -> AsyncIterator[System]:
    """Bring everything up. ``config`` changes sections of the worker's configuration, ``broker`` the broker's.

    ``worker`` is the module that runs the worker.
    """
    directory = Path(tempfile.mkdtemp(prefix="ts-"))
    directory.chmod(0o711)  # the servers run as other users where we are root
    try:
        async with contextlib.AsyncExitStack() as stack:
            data_dir = directory / "data"
            process = WorkerProcess(
                directory / "telemetry.toml", directory / "worker.log", free_port("127.0.0.1"), worker
            )
            stack.callback(process.end)
            process.prepare()  # imports while the servers start
            await _copy_migrated(data_dir)
            postgres = await stack.enter_async_context(EmbeddedPostgres(data_dir / "postgres"))
            keystore = FileKeystore(data_dir / "keys")
            served = await stack.enter_async_context(EmbeddedBroker(data_dir, kind, **(broker or {})))
            database_link, broker_link = await _links(stack, directory, postgres, served)
            _write_config(process, data_dir, database_link, broker_link, served, config or {})
            rng = random.Random(f"{seed}/{kind}")
            found = System(
                directory,
                kind,
                seed,
                rng,
                keystore,
                postgres,
                served,
                database_link,
                broker_link,
                process,
            )
            stack.push_async_callback(_end, found)
            # Enrolled here and not when it is needed: mosquitto, once restarted, reads its files again on SIGHUP
            # and from then on drops what arrives for a worker that is away (measured with 2.0.11).
            (found._sentinel,) = await found.enrol()
            if start:
                process.start()
                await process.until_subscribed()  # before that the broker keeps nothing for it
            yield found
    finally:
        shutil.rmtree(directory, ignore_errors=True)


_migrated: list[Path] = []


async def _copy_migrated(data_dir: Path) -> None:
    """A data directory with keys and an empty, migrated cluster: made once in a process, copied after that."""
    if not _migrated:
        directory = Path(tempfile.mkdtemp(prefix="ts-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        made = directory / "data"
        (made / "postgres").mkdir(parents=True)
        for each in (directory, made, made / "postgres"):
            each.chmod(0o711)  # the server's user passes, so the cluster lies here and can be copied
        async with EmbeddedPostgres(made / "postgres") as postgres:
            await prepare_database(postgres, FileKeystore(made / "keys"))
        assert postgres.place.home == made / "postgres"
        _migrated.append(made)
    copying = await asyncio.create_subprocess_exec("cp", "-a", str(_migrated[0]), str(data_dir))
    assert await copying.wait() == 0


async def _links(
    stack: contextlib.AsyncExitStack, directory: Path, postgres: EmbeddedPostgres, broker: EmbeddedBroker
) -> tuple[Proxy, Proxy]:
    arguments = postgres.connect_kwargs()
    name = f".s.PGSQL.{arguments['port']}"
    sockets = directory / "link"
    sockets.mkdir(mode=0o700)
    database = Proxy(Path(str(arguments["host"])) / name, sockets / name)
    return (
        await stack.enter_async_context(database),
        await stack.enter_async_context(Proxy((broker.host, broker.port))),
    )


def _write_config(
    worker: WorkerProcess,
    data_dir: Path,
    database_link: Proxy,
    broker_link: Proxy,
    broker: EmbeddedBroker,
    changes: Mapping[str, Mapping[str, Any]],
) -> None:
    socket = Path(str(database_link.address))
    host, port = broker_link.address  # type: ignore[misc]
    sections: dict[str, dict[str, Any]] = {
        "database": {"dsn": f"postgresql:///telemetry?host={socket.parent}&port={socket.suffix[1:]}"},
        "broker": {
            "host": host,
            "port": port,
            "username": broker.username,
            "client_id": broker.username,
            "password_file": str(broker.password_file),
            "reconnect_max_s": 1.0,
        },
        "pipeline": {"batch_messages": broker.max_in_flight or 2_000, "watermark_interval_s": 0.3},
        "observe": {"port": worker.port, "log_level": "info"},
    }
    for name, values in changes.items():
        sections.setdefault(name, {}).update(values)
    lines = [f"data_dir = {_toml(str(data_dir))}", "embedded = false"]
    for name, values in sections.items():
        lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
    worker.config.write_text("\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else f'"{value}"'


async def _end(found: System) -> None:
    found.worker.end()
    for feed in found.feeds:
        feed.task.cancel()
    await asyncio.gather(*(feed.task for feed in found.feeds), return_exceptions=True)


__all__ = ["Feed", "Kind", "Opener", "System", "system"]
