"""Stage ``plan``: a million devices of 300,000 owners, all with settings: loading, and one owner's change end to end.

"Readings" are devices here: loaded into a worker's registry a second, against the bare COPY of their rows. Beside it:
from the moment somebody settles a grant until a worker applies it (transaction with its receipt, recompilation,
notification, increment), and how long a withdrawal takes to commit while ingest writes all the time.
"""

import asyncio
import contextlib
import os
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import polars as pl

from benchmarks import plan_load
from benchmarks.measure import CpuMeter, resident_mb, result
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.errors import PlanOutdated
from telemetry.maintenance.replan import check_plans
from telemetry.model.batch import Write
from telemetry.model.sharing import GrantTerms, RecipientKind
from telemetry.observe import Observer
from telemetry.pipeline.reload import RegistryReloader
from telemetry.privacy.binding import Registry
from telemetry.privacy.keys import BlindIndex
from telemetry.privacy.receipts import ReceiptSigner
from telemetry.servers import prepare_database
from telemetry.store.connection import connector
from telemetry.store.keystore import BLIND_INDEX, RECEIPT_SIGNING, FileKeystore, role_password
from telemetry.store.listen import ChangeListener
from telemetry.store.partitions import ensure
from telemetry.store.plans import recompile
from telemetry.store.readings import PostgresSink
from telemetry.store.recipients import Recipients
from telemetry.store.registry import PostgresRegistryStore
from telemetry.store.sharing import Sharing

TERMS = GrantTerms.model_validate({"purpose": "maintenance", "classes": ["production"], "resolution": "P1D"})
BATCH = 50_000


@dataclass
class Bench:
    postgres: EmbeddedPostgres
    keystore: FileKeystore
    stack: contextlib.AsyncExitStack
    admin: Any = None
    changes: list[dict[str, float]] = field(default_factory=list)

    def connect(self, role: str) -> Any:
        name = f"telemetry_{role}"
        return connector(self.postgres.dsn("telemetry", name, role_password(self.keystore, name)))

    async def opened(self, role: str) -> Any:
        connection = await self.connect(role)()
        self.stack.push_async_callback(connection.close)
        return connection


@contextlib.asynccontextmanager
async def bench(directory: Path) -> AsyncIterator[Bench]:
    async with contextlib.AsyncExitStack() as stack:
        (directory / "postgres").mkdir(mode=0o711)
        postgres = await stack.enter_async_context(EmbeddedPostgres(directory / "postgres"))
        keystore = FileKeystore(directory / "keys")
        await prepare_database(postgres, keystore)
        made = Bench(postgres, keystore, stack)
        made.admin = await asyncpg.connect(**postgres.connect_kwargs("telemetry"))
        stack.push_async_callback(made.admin.close)
        yield made


async def copy_seconds(connection: Any) -> float:
    """The limit: the devices' rows over the socket, and nothing done with them."""

    async def dropped(_: bytes) -> None:
        pass

    started = time.perf_counter()
    statement = "SELECT device_key, site_key, gateway_key, kind, serial_blind, plan_class FROM consent.device"
    await connection.copy_from_query(statement, output=dropped, format="binary")
    return time.perf_counter() - started


async def loaded(made: Bench) -> tuple[PostgresRegistryStore, Registry, dict[str, Any], CpuMeter]:
    store = PostgresRegistryStore(made.connect("ingest"))
    made.stack.push_async_callback(store.close)
    before_mb = resident_mb()
    with CpuMeter({"worker": os.getpid()}) as meter:
        started = time.perf_counter()
        gateways, devices, plan = await store.load()
        registry = Registry(BlindIndex(made.keystore.secret(BLIND_INDEX)), gateways, devices, plan)
        seconds = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {
        "registry_load_seconds": round(seconds, 2),
        "registry_load_peak_rss_mb": round(peak_mb),
        "registry_load_added_mb": round(resident_mb() - before_mb),
        "plan_classes": plan.classes,
    }
    return store, registry, figures, meter


class Follower:
    """A worker's side of a change: the listener and the registry, in this process."""

    def __init__(self, made: Bench, store: PostgresRegistryStore, registry: Registry) -> None:
        self._registry = registry
        self._reload = RegistryReloader(registry, store, Observer())
        self._applied = asyncio.Condition()
        self.listener = ChangeListener(made.connect("ingest"), self._changed)

    async def _changed(self, version: int) -> None:
        await self._reload(version)
        async with self._applied:
            self._applied.notify_all()

    async def at(self, version: int) -> None:
        async with self._applied:
            await self._applied.wait_for(lambda: self._registry.plan.version >= version)


async def change_owners(made: Bench, follower: Follower, owners: int, trials: int) -> dict[str, Any]:
    """Settle a grant and withdraw it again, for one owner after another; milliseconds of each part."""
    rights, operator = await made.opened("rights"), await made.opened("operator")
    recipient = await Recipients(operator, None).add("example-installer", RecipientKind.INSTALLER)
    compiled_at: list[float] = []
    follower_version: list[int] = []

    async def compiling(keys: Any) -> None:
        compiled_at.append(time.perf_counter())
        follower_version.append(await recompile(rights, keys))

    sharing = Sharing(rights, ReceiptSigner(made.keystore.secret(RECEIPT_SIGNING)), compiling)
    total, settle, compile_ms, apply = [], [], [], []
    for trial in range(trials):
        owner = await made.admin.fetchval(plan_load.owner_key_sql(), 1 + trial * 7919 % owners)
        grant = None
        for _ in range(2):
            started = time.perf_counter()
            if grant is None:
                grant = await sharing.set_grant(owner, recipient, TERMS)
            else:
                await sharing.withdraw(owner, grant_key=grant.grant_key)
            done = time.perf_counter()
            await follower.at(follower_version[-1])
            ended = time.perf_counter()
            total.append(ended - started)
            settle.append(compiled_at[-1] - started)
            compile_ms.append(done - compiled_at[-1])
            apply.append(ended - done)
    parts = {"change": total, "change_settle": settle, "change_recompile": compile_ms, "change_apply": apply}
    return {
        f"{name}_ms_{which}": round(pick(values) * 1000, 2)
        for name, values in parts.items()
        for which, pick in (("median", statistics.median), ("p99", p99))
    }


async def withdraw_under_load(made: Bench, owners: int, trials: int) -> dict[str, Any]:
    """How long a withdrawal takes to commit, which is when views obey it, while two connections write all the time
    and somebody compiles: the recompilation waits for the writes, the withdrawal must not.
    """
    rights, compiler, operator = [await made.opened(role) for role in ("rights", "rights", "operator")]
    recipient = await Recipients(operator, None).add("example-partner", RecipientKind.ENERGY_PARTNER)
    sharing = Sharing(rights, ReceiptSigner(made.keystore.secret(RECEIPT_SIGNING)))
    await ensure(made.admin, 2)
    sink = PostgresSink(made.connect("ingest"))
    stopping = asyncio.Event()
    writers = [asyncio.create_task(write_on(sink, number, stopping)) for number in range(2)]
    commits, compiles = [], []
    try:
        for trial in range(trials):
            owner = await made.admin.fetchval(plan_load.owner_key_sql(), 2 + trial * 104729 % owners)
            grant = await sharing.set_grant(owner, recipient, TERMS)
            began = time.perf_counter()
            compiling = asyncio.create_task(recompile(compiler, [owner]))
            await asyncio.sleep(0.01)
            started = time.perf_counter()
            await sharing.withdraw(owner, grant_key=grant.grant_key)
            commits.append(time.perf_counter() - started)
            await compiling
            compiles.append(time.perf_counter() - began)
            await recompile(compiler, [owner])
    finally:
        stopping.set()
        await asyncio.gather(*writers)
        await sink.close()
    return {
        "withdraw_under_load_ms_median": round(statistics.median(commits) * 1000, 2),
        "withdraw_under_load_ms_p99": round(p99(commits) * 1000, 2),
        "recompile_under_load_ms_median": round(statistics.median(compiles) * 1000, 2),
        "recompile_under_load_ms_p99": round(p99(compiles) * 1000, 2),
    }


async def write_on(sink: PostgresSink, number: int, stopping: asyncio.Event) -> None:
    """Batches as a busy worker writes them, prepared again when the plan moved."""
    version, step, now_us = 0, 0, int(time.time()) // 3600 * 3_600_000_000
    while not stopping.is_set():
        ts = pl.int_range(step * BATCH, (step + 1) * BATCH, eager=True) % 3_000_000_000 + now_us
        rows = pl.DataFrame({"ts": ts, "device_key": number + 1, "plan_version": version, "ac_power_w": 1.0}).cast(
            {"device_key": pl.Int64, "plan_version": pl.Int64}
        )
        try:
            await sink.write(Write(rows=rows, plan_version=version))
            step += 1
        except PlanOutdated as error:
            version = error.current


def p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


async def measure(quick: bool) -> dict[str, Any]:
    owners, devices, trials = (6_000, 20_000, 40) if quick else (300_000, 1_000_000, 200)
    with tempfile.TemporaryDirectory(prefix="plan-") as place:
        directory = Path(place)
        directory.chmod(0o711)
        async with bench(directory) as made:
            started = time.perf_counter()
            await plan_load.fill(made.admin, owners=owners, devices=devices)
            fill_seconds = time.perf_counter() - started
            store, registry, figures, meter = await loaded(made)
            limit = statistics.median([await copy_seconds(made.admin) for _ in range(3)])
            follower = Follower(made, store, registry)
            listening = asyncio.create_task(follower.listener.run())
            try:
                figures |= await change_owners(made, follower, owners, trials)
                figures |= await withdraw_under_load(made, owners, trials // 2)
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
            if quick:
                checked = await check_plans(await made.opened("rights"))
                assert (checked.owners, checked.failures) == (owners, [])
    return result(
        readings_per_second=devices / figures["registry_load_seconds"],
        limit_per_second=devices / limit,
        cpu_us_per_reading=meter.per_reading(devices),
        owners=owners,
        devices=devices,
        fill_seconds=round(fill_seconds, 1),
        **figures,
    )


def run(quick: bool) -> dict[str, Any]:
    import uvloop

    return uvloop.run(measure(quick))
