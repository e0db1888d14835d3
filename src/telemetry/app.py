"""The composition root of the worker: builds everything from the configuration, runs it, stops it in order.

    Worker    source → pipeline → store, with its jobs: watermarks, plan changes, partitions, figures

Order of stopping: no new batches → commits in flight → acknowledgements → watermarks → broker → database.
"""

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import asyncpg

from telemetry.bluetooth import open_station
from telemetry.codecs.limits import CodecLimits
from telemetry.config import Config
from telemetry.errors import StoreError, StoreUnavailable
from telemetry.model.batch import MICROSECONDS
from telemetry.model.identity import Enrolled
from telemetry.observe import Observer, events, known_identifiers
from telemetry.pipeline.batcher import Batcher
from telemetry.pipeline.delivery import Delivery, Watermarks
from telemetry.pipeline.memories import Memories
from telemetry.pipeline.preparation import Bounds, Preparation
from telemetry.pipeline.reload import RegistryReloader
from telemetry.pipeline.requests import Requests
from telemetry.pipeline.runtime import Limits, Pipeline
from telemetry.ports import Clock, Keystore
from telemetry.privacy.binding import Registry
from telemetry.privacy.keys import BlindIndex
from telemetry.privacy.known import KnowingBlind, KnownIdentifiers
from telemetry.privacy.states import StateSealer
from telemetry.servers import INGEST, Endpoints
from telemetry.sources.choice import mqtt_source
from telemetry.sources.merged import Sources
from telemetry.store import codec_states, partitions
from telemetry.store.connection import Connect, connector
from telemetry.store.keystore import BLIND_INDEX, CODEC_STATE, QUARANTINE_PUBLIC, role_password
from telemetry.store.listen import ChangeListener
from telemetry.store.readings import PostgresSink
from telemetry.store.registry import PostgresRegistryStore

_PARTITION_INTERVAL_S = 600.0
_FIGURES_INTERVAL_S = 0.5
_START_RETRY_S = 1.0


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Microseconds since 1970 UTC."""
        return time.time_ns() // 1000


class Worker:
    """One ingest process: from the broker to the database. Build it, then ``run`` it once."""

    def __init__(
        self,
        config: Config,
        endpoints: Endpoints,
        keystore: Keystore,
        observer: Observer,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._config = config
        self._endpoints = endpoints
        self._keystore = keystore
        self._observer = observer
        self._clock = clock or SystemClock()
        self._stopping = asyncio.Event()
        self.identifiers = KnownIdentifiers()
        self.ready = asyncio.Event()
        mqtt = mqtt_source(endpoints.broker, self._clock)
        self._station = open_station(config, config.ble.gateway, self._clock) if config.ble.enabled else None
        self.source = mqtt if self._station is None else Sources(mqtt, self._station.source)
        self._pipeline: Pipeline | None = None
        self._connect: Connect | None = None

    def stop(self) -> None:
        """Ask ``run`` to finish what is in flight and return."""
        self._stopping.set()
        if self._pipeline is not None:
            self._pipeline.stop()

    @property
    def connected(self) -> bool:
        """Whether the broker delivers to this worker."""
        return self.source.connected

    async def database_answers(self) -> bool:
        """Whether the database answers a question now."""
        if self._connect is None:
            return False
        try:
            connection = await self._connect()
        except StoreError:
            return False
        await connection.close()
        return True

    async def run(self) -> None:
        """Run until ``stop``. Serials and names that were seen are scrubbed from all that is logged meanwhile.

        Raises:
            SourceRefused: the broker refuses for good.
            StoreError: the database refuses for good.
            KeystoreError: a key is missing or wrong.

        """
        with known_identifiers(self.identifiers.replaced):
            await self._run()

    async def _run(self) -> None:
        started = time.perf_counter()
        blind = BlindIndex(self._keystore.secret(BLIND_INDEX))
        quarantine_key = self._keystore.secret(QUARANTINE_PUBLIC)
        memories = Memories(StateSealer(self._keystore.secret(CODEC_STATE)))
        connect = connector(
            self._endpoints.dsn,
            user=INGEST,
            password=role_password(self._keystore, INGEST),
            statement_timeout_s=self._config.database.statement_timeout_s,
        )
        self._connect = connect
        store = PostgresRegistryStore(connect)
        registry = await self._loaded(store, blind, memories)
        if registry is None:
            return
        reload_plan = RegistryReloader(registry, store, self._observer)
        sink = PostgresSink(
            connect,
            connections=self._config.database.connections,
            hot_hours=self._config.retention.hot_hours,
            statement_timeout_s=self._config.database.statement_timeout_s,
        )
        preparation = self._preparation(
            registry,
            store,
            blind=blind,
            quarantine_key=quarantine_key,
            memories=memories,
            reload_plan=reload_plan,
        )
        watermarks = Watermarks(self.source)
        requests = Requests(self.source, registry.speaks)
        requests.stand(memories.standing())
        self._pipeline = self._build_pipeline(preparation, sink, watermarks, requests, reload_plan)
        if self._stopping.is_set():
            self._pipeline.stop()
        try:
            listener = ChangeListener(connect, functools.partial(_follow, reload_plan, preparation, requests))
            beside = [requests.run(), listener.run(), self._keep_partitions(connect)]
            if self._station is not None:
                name = blind.gateway(self._config.ble.gateway)
                beside += self._station.inside_the_service(connect, name, self._observer)
            await self._run_tasks(self._pipeline, watermarks=watermarks, beside=beside, started=started)
        finally:
            if self._station is not None:
                self._station.source.spool.close()
            preparation.close()
            await sink.close()
            await store.close()

    async def _loaded(self, store: PostgresRegistryStore, blind: BlindIndex, memories: Memories) -> Registry | None:
        """The registry, and into ``memories`` what codecs remember; waits for a database that is not there yet. None
        when stopped meanwhile.
        """
        assert self._connect is not None  # noqa: S101 - set before
        attempt = 0
        while not self._stopping.is_set():
            try:
                gateways, devices, plan = await store.load()
                states = await codec_states.load(self._connect)
            except StoreUnavailable as error:
                attempt += 1
                delay_s = random.uniform(_START_RETRY_S / 2, _START_RETRY_S)
                self._observer.write_failed(events.WriteFailed(attempt, delay_s, error))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay_s)
                continue
            registry = await asyncio.to_thread(Registry, KnowingBlind(blind, self.identifiers), gateways, devices, plan)
            useless = memories.load(states)
            self._observer.states_loaded(events.StatesLoaded(len(states) - useless, useless))
            self._observer.registry_loaded(events.RegistryLoaded(len(gateways), devices.height))
            self._observer.plan_applied(events.PlanApplied(plan.version, plan.classes))
            return registry
        return None

    def _preparation(
        self,
        registry: Registry,
        store: PostgresRegistryStore,
        *,
        blind: BlindIndex,
        quarantine_key: bytes,
        memories: Memories,
        reload_plan: RegistryReloader,
    ) -> Preparation:
        config = self._config
        codec = CodecLimits(
            max_message_bytes=config.broker.max_message_bytes,
            max_readings_per_message=config.pipeline.max_readings_per_message,
            max_depth=config.pipeline.max_depth,
            max_state_bytes=config.pipeline.codec_state_bytes,
        )
        return Preparation(
            registry=registry,
            store=store,
            blind=blind,
            quarantine_key=quarantine_key,
            memories=memories,
            clock=self._clock,
            bounds=Bounds(
                codec=codec,
                future_limit_us=round(config.pipeline.future_limit_s * MICROSECONDS),
                tick_us=round(config.pipeline.tick_s * MICROSECONDS),
                quarantine_bytes_per_hour=config.pipeline.quarantine_bytes_per_hour,
            ),
            reload_plan=reload_plan,
            told=functools.partial(self._enrolled, registry),
        )

    def _build_pipeline(
        self,
        preparation: Preparation,
        sink: PostgresSink,
        watermarks: Watermarks,
        requests: Requests,
        reload_plan: RegistryReloader,
    ) -> Pipeline:
        pipeline = self._config.pipeline
        largest = self._endpoints.largest_batch or pipeline.batch_messages
        batcher = Batcher(
            self.source.batches(),
            self._clock,
            max_messages=min(pipeline.batch_messages, largest),
            max_bytes=pipeline.batch_bytes,
            max_age_s=pipeline.batch_age_ms / 1000,
        )
        return Pipeline(
            batcher=batcher,
            preparation=preparation,
            sink=sink,
            delivery=Delivery(self.source),
            watermarks=watermarks,
            requests=requests,
            reload_plan=reload_plan,
            observer=self._observer,
            limits=Limits(writes=self._config.database.connections),
        )

    def _enrolled(self, registry: Registry, enrolled: Enrolled) -> None:
        told = events.DevicesEnrolled(len(enrolled.devices), enrolled.refused, known=len(registry))
        self._observer.devices_enrolled(told)
        if enrolled.elsewhere:
            self._observer.serial_at_two_sites(events.SerialAtTwoSites(enrolled.elsewhere))

    async def _run_tasks(
        self,
        pipeline: Pipeline,
        *,
        watermarks: Watermarks,
        beside: Sequence[Coroutine[Any, Any, None]],
        started: float,
    ) -> None:
        async with asyncio.TaskGroup() as group:
            jobs = [
                group.create_task(self.source.run(), name="source"),
                group.create_task(watermarks.run(self._config.pipeline.watermark_interval_s), name="watermarks"),
                *(group.create_task(job) for job in beside),
                group.create_task(self._tell_figures(), name="figures"),
            ]
            self.ready.set()
            self._observer.service_started(events.ServiceStarted(time.perf_counter() - started))
            await pipeline.run()
            await watermarks.publish()
            for job in jobs:
                job.cancel()
        self._observer.service_stopped(
            events.ServiceStopped(events.Cause.FINISHED, unacknowledged=self.source.pending_messages)
        )

    async def _keep_partitions(self, connect: Connect) -> None:
        """Make partitions ahead of time; the sink makes what is missing meanwhile."""
        while True:
            began = time.perf_counter()
            try:
                connection = await connect()
                try:
                    await partitions.ensure(connection, self._config.retention.hot_hours)
                finally:
                    await connection.close()
            except (StoreUnavailable, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                self._observer.job_failed(events.JobFailed(events.Job.PARTITIONS, error))
                await asyncio.sleep(_START_RETRY_S)
                continue
            self._observer.job_done(events.JobDone(events.Job.PARTITIONS, time.perf_counter() - began))
            await asyncio.sleep(_PARTITION_INTERVAL_S)

    async def _tell_figures(self) -> None:
        """Connection and back-pressure, from the source to the observer."""
        was: bool | None = None
        while True:
            now = self.source.connected
            if now and not was:
                self._observer.broker_connected(
                    events.BrokerConnected(session_present=self.source.counters.sessions_lost == 0)
                )
            elif was and not now:
                self._observer.broker_lost(events.BrokerLost(0.0, self.source.last_error))
            was = now
            self._observer.in_flight(events.InFlight(self.source.pending_messages, self.source.pending_bytes))
            await asyncio.sleep(_FIGURES_INTERVAL_S)


async def _follow(reload_plan: RegistryReloader, preparation: Preparation, requests: Requests, version: int) -> None:
    """Follow a change of the registry; what codecs remember of whoever has left goes with it."""
    await reload_plan(version)
    requests.stand(dict.fromkeys(await preparation.forget_departed(), ()))


def stopper(worker: Worker) -> Callable[[], None]:
    """What a signal handler calls: the first time a clean stop, the second time an end at once."""
    asked = 0

    def handle() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise SystemExit(130)
        worker.stop()

    return handle
