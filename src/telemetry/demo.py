"""The demonstration: the whole system on one machine, fed by simulated homes and, where present, by recordings.

    servers → owners, sites, gateways → worker, API → simulator and replay (processes of their own) → drain → scan

The simulator is the independent client of device_sim: it shares no code with the service, and its ledger of what
it published is what the service's own count is held against.
"""

import asyncio
import contextlib
import importlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from telemetry.app import Worker
from telemetry.config import Config
from telemetry.demo_feeds import Feed, fleet, recorded_serials, replays
from telemetry.embedded.broker import EmbeddedBroker
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.errors import SupervisorError
from telemetry.health import HealthServer
from telemetry.maintenance.scan import ScanReport, scan
from telemetry.maintenance.scan_places import BytesPlace, DatabasePlace, Exclusion, FilePlace
from telemetry.observe import Observer
from telemetry.privacy.keys import BlindIndex, Kek
from telemetry.servers import servers
from telemetry.service import working
from telemetry.store.administration import Administration
from telemetry.store.keyring import KeyRing
from telemetry.store.keystore import BLIND_INDEX, INGEST_SECRETS, KEK, FileKeystore, open_keystore, role_password
from telemetry.store.registration import IssuedGateway, NewGateway, NewOwner, NewSite

if TYPE_CHECKING:
    from telemetry.demo_api import Demonstrated

_TEN_YEARS_US: Final = 30 * 365 * 86_400 * 1_000_000  # recordings reach back to 2010
_DRAIN_S: Final = 60.0
_LATITUDE, _LONGITUDE = 52.37403, 4.88969  # made up homes around a city

Say = Callable[[str], None]
Show = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of one demonstration, in readings; see ``as_json``."""

    published: int
    acknowledged: int
    figures: dict[str, Any]
    scanned: ScanReport
    seconds_to_ready: float
    seconds: float
    replayed: int = 0

    @property
    def balanced(self) -> bool:
        """Published = acknowledged = stored + duplicates + withheld + quarantined, and nothing found."""
        ends = sum(self.figures[name] for name in ("stored", "duplicates", "withheld_rows", "quarantined"))
        return self.published == self.acknowledged == ends and self.scanned.clean

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` writes."""
        figures = self.figures
        return {
            "published": self.published,
            "acknowledged": self.acknowledged,
            "stored": figures["stored"],
            "duplicates": figures["duplicates"],
            "withheld_rows": figures["withheld_rows"],
            "quarantined": figures["quarantined"],
            "quarantined_by_reason": figures["quarantined_by_reason"],
            "readings_per_second": round(figures["received"] / self.seconds, 1) if self.seconds else 0.0,
            "commit_ms": figures["commit_ms"],
            "identifiers_found": self.scanned.identifiers_found,
            "identifiers_searched": self.scanned.canaries,
            "identifiers_found_in": sorted({finding.place for finding in self.scanned.findings}),
            "scan_complete": self.scanned.complete,
            "replayed": self.replayed,
            "seconds_to_ready": round(self.seconds_to_ready, 2),
            "balanced": self.balanced,
        }


@dataclass(slots=True)
class Demo:
    """One demonstration. ``duration_s`` None runs until ``stop`` is called."""

    config: Config
    observer: Observer
    scratch: Path
    say: Say
    show: Show
    gateways: int = 10
    duration_s: float | None = None
    recordings: Path | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _personal: list[str] = field(default_factory=list)
    _sharing_owner: int = 0  # the first home's, who shares with an installer

    def stop(self) -> None:
        """End the feeds, drain, scan, and return."""
        self._stopping.set()

    async def run(self) -> Outcome:
        """Bring everything up, run, drain and scan.

        Raises:
            TelemetryError: a part does not start; the message says which and what to do.

        """
        began = time.monotonic()
        # Passable for the database's own user, so that its files stay here and go with the rest.
        for directory in (self.config.data_dir, self.config.data_dir / "postgres"):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o711)
        self.say("starting PostgreSQL and the broker, making keys and tables")
        loading = asyncio.create_task(asyncio.to_thread(importlib.import_module, "telemetry.demo_api"))
        async with servers(self.config, self.observer) as running:
            postgres, broker = running.postgres, running.broker
            if postgres is None or broker is None:
                raise SupervisorError("the demonstration runs on embedded servers", remedy="set embedded = true")
            self.say(f"PostgreSQL and {broker.kind} are up; enrolling {self.gateways} gateways of made-up homes")
            feeds = await self._feeds(postgres, broker)
            worker = Worker(
                self.config,
                running.endpoints,
                open_keystore(self.config.data_dir, allowed=INGEST_SECRETS),
                self.observer,
            )
            async with (
                working(self.config, worker, running, self.observer) as (health, _),
                self._api((await loading).demonstrated, postgres) as shown,
            ):
                await _until(lambda: worker.connected, 15.0, "the worker did not reach the broker")
                ready_s = time.monotonic() - began
                self._tell_where(health, broker, postgres, ready_s)
                self._tell_api(shown)
                try:
                    return await self._feed(worker, feeds, (postgres, broker), health, ready_s)
                finally:
                    for feed in feeds:
                        feed.kill()

    @contextlib.asynccontextmanager
    async def _api(self, demonstrated: Any, postgres: EmbeddedPostgres) -> AsyncIterator["Demonstrated"]:
        keystore, dsn = open_keystore(self.config.data_dir), partial(postgres.dsn, user="")
        async with demonstrated(self.config, keystore, dsn, self.observer, self._sharing_owner) as shown:
            self._personal += [shown.installer, shown.owner]
            yield shown

    async def _feed(
        self,
        worker: Worker,
        feeds: list[Feed],
        embedded: tuple[EmbeddedPostgres, EmbeddedBroker],
        health: HealthServer,
        ready_s: float,
    ) -> Outcome:
        postgres, broker = embedded
        for feed in feeds:
            await feed.start()
        for feed in feeds:
            await feed.begun()
        started = time.monotonic()
        await self._watch(feeds, started)
        self.say("stopping the simulator and waiting for the last commit")
        summaries = [await feed.finish() for feed in feeds]
        published = sum(summary["published"] for summary in summaries)
        acknowledged = sum(summary["acknowledged"] for summary in summaries)
        with contextlib.suppress(TimeoutError):
            await _until(lambda: self._drained(worker, published), _DRAIN_S, "not all was committed")
        seconds = time.monotonic() - started
        figures = self.observer.snapshot()
        await broker.save()  # it kept messages until they were acknowledged, which all are now
        self.say("searching every table, file and metric for serials, names, addresses and coordinates")
        scanned = await self._scan(postgres, health, feeds)
        replayed = sum(summary["published"] for feed, summary in zip(feeds, summaries, strict=True) if feed.recorded)
        return Outcome(published, acknowledged, figures, scanned, ready_s, seconds, replayed)

    def _drained(self, worker: Worker, published: int) -> bool:
        return worker.source.pending_messages == 0 and self.observer.snapshot()["received"] >= published

    async def _watch(self, feeds: list[Feed], started: float) -> None:
        while not self._stopping.is_set():
            left = None if self.duration_s is None else self.duration_s - (time.monotonic() - started)
            if left is not None and left <= 0:
                return
            live = [feed for feed in feeds if not feed.recorded]
            for feed in live:
                feed.check()
            self.show(self.observer.snapshot())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(1.0, left if left is not None else 1.0))

    async def _feeds(self, postgres: EmbeddedPostgres, broker: EmbeddedBroker) -> list[Feed]:
        """Enrol the homes and prepare the processes that will speak for their gateways."""
        keystore = FileKeystore(self.config.data_dir / "keys")
        homes, recorders = await self._enrol(postgres, keystore)
        for issued in (*homes, *recorders):
            broker.set_user(issued.name, issued.credential)
        credentials = self.scratch / "credentials.json"
        with os.fdopen(os.open(credentials, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            json.dump([{"username": issued.name, "password": issued.credential} for issued in homes], file)
        feeds = [fleet(self.scratch, broker.port, credentials)]
        if self.recordings is not None:
            feeds += replays(self.scratch, broker.port, self.recordings, recorders)
        return feeds

    async def _enrol(
        self, postgres: EmbeddedPostgres, keystore: FileKeystore
    ) -> tuple[list[IssuedGateway], list[IssuedGateway]]:
        async with administration(postgres, keystore) as admin:
            homes: list[IssuedGateway] = []
            recorders: list[IssuedGateway] = []
            async with admin.registering() as registration:
                for number in range(1, self.gateways + 1):
                    owner = registration.owner(self._owner(number))
                    self._sharing_owner = self._sharing_owner or owner.owner_key
                    site_key = registration.site(owner, self._site(number))
                    homes.append(registration.gateway(owner, site_key, NewGateway()))
                owner = registration.owner(self._owner(0))
                site_key = registration.site(owner, self._site(0))
                recorders = [
                    registration.gateway(owner, site_key, NewGateway(backfill_us=_TEN_YEARS_US)) for _ in range(2)
                ]
        return homes, recorders

    def _owner(self, number: int) -> NewOwner:
        name, email = f"Demonstration Owner {number:04}", f"owner{number:04}@example.invalid"
        self._personal += [name, email]
        return NewOwner(name=name, email=email)

    def _site(self, number: int) -> NewSite:
        address = f"{number:04} Demonstration Street"
        latitude, longitude = _LATITUDE + number / 1000, _LONGITUDE + number / 1000
        self._personal += [address, f"{latitude!r},{longitude!r}"]
        return NewSite(name=f"Home {number:04}", address=address, latitude=latitude, longitude=longitude)

    def _tell_where(
        self, health: HealthServer, broker: EmbeddedBroker, postgres: EmbeddedPostgres, ready_s: float
    ) -> None:
        self.say(f"ready after {ready_s:.1f} s")
        self.say(f"  metrics    http://{self.config.observe.address}:{health.port}/metrics  (also /readyz)")
        self.say(f"  broker     {broker.kind} on {broker.host}:{broker.port}")
        self.say(f"  database   psql on the socket in {postgres.place.socket_dir}")
        self.say(f"  data       {self.config.data_dir}")

    def _tell_api(self, shown: "Demonstrated") -> None:
        self.say(f"  API        {shown.base}/api/docs")
        self.say(f"one home shares with an installer. {shown.sees[-1]}")
        self.say("what the installer reads, and what the owner sees of it:")
        for line in shown.lines():
            self.say(line)

    async def _scan(self, postgres: EmbeddedPostgres, health: HealthServer, feeds: list[Feed]) -> ScanReport:
        canaries = sorted({*self._personal, *recorded_serials(feeds)})
        connection = await asyncpg.connect(**postgres.connect_kwargs("telemetry"))
        try:
            await connection.execute("CHECKPOINT")  # so that the raw files hold what memory holds
        finally:
            await connection.close()
        return await scan(places(self.config, postgres, health), canaries)


def places(
    config: Config, postgres: EmbeddedPostgres, health: HealthServer | None = None
) -> list[DatabasePlace | FilePlace | BytesPlace]:
    """Everywhere that the embedded system writes."""
    data_dir = config.data_dir.resolve()
    found: list[DatabasePlace | FilePlace | BytesPlace] = [
        DatabasePlace("database", postgres.dsn("postgres")),
        FilePlace("data directory", data_dir, _sockets(data_dir)),
    ]
    if data_dir not in postgres.place.home.resolve().parents:
        found.append(FilePlace("database files", postgres.place.home, _sockets(postgres.place.home)))
    if health is not None:
        found.append(BytesPlace("metrics", health.metrics_page))
    return found


def _sockets(directory: Path) -> tuple[Exclusion, ...]:
    return tuple(Exclusion(path, "a socket") for path in directory.glob("**/.s.*") if path.is_socket())


@contextlib.asynccontextmanager
async def administration(postgres: EmbeddedPostgres, keystore: FileKeystore) -> AsyncIterator[Administration]:
    """The registry as operator of the embedded database, with the owners' keys."""
    async with contextlib.AsyncExitStack() as stack:
        roles = (("telemetry", "telemetry_operator"), ("keys", "telemetry_keys"))
        connections = []
        for database, role in roles:
            arguments = postgres.connect_kwargs(database, role, role_password(keystore, role))
            connection = await asyncpg.connect(**arguments)
            stack.push_async_callback(connection.close)
            connections.append(connection)
        ring = KeyRing(connections[1], Kek(keystore.secret(KEK)))
        yield Administration(connections[0], BlindIndex(keystore.secret(BLIND_INDEX)), ring)


def recordings_folder() -> Path | None:
    """Where recordings are: $TELEMETRY_SHARED, or shared/data beside the checkout; None where there are none."""
    named = os.environ.get("TELEMETRY_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    return folder if folder.is_dir() else None


async def _until(condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
    """Wait until ``condition`` holds. Raises SupervisorError with ``otherwise`` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise SupervisorError(otherwise, remedy="see the log lines above")
        await asyncio.sleep(0.1)
