"""Wires a retry of quarantined messages: the ingest role's way in, with the keys that open what is sealed.

It runs beside the service, which goes on; both write under the same plan and meet in the database.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from telemetry.codecs.limits import CodecLimits
from telemetry.config import Config
from telemetry.maintenance.quarantine import ReceiptClock, RetryReport, retry_messages
from telemetry.model.batch import MICROSECONDS
from telemetry.observe import Observer
from telemetry.pipeline.memories import Memories
from telemetry.pipeline.preparation import Bounds, Preparation
from telemetry.pipeline.reload import RegistryReloader
from telemetry.pipeline.sealing import SERVICE
from telemetry.privacy.binding import Registry
from telemetry.privacy.keys import BlindIndex, Opener
from telemetry.privacy.states import StateSealer
from telemetry.store import codec_states
from telemetry.store.connection import connector
from telemetry.store.keks import open_keks
from telemetry.store.keyring import KeyRing
from telemetry.store.keystore import (
    BLIND_INDEX,
    CODEC_STATE,
    QUARANTINE,
    QUARANTINE_PUBLIC,
    open_keystore,
    role_password,
)
from telemetry.store.quarantine import QuarantineStore
from telemetry.store.readings import PostgresSink
from telemetry.store.registry import PostgresRegistryStore

_INGEST, _KEYS = "telemetry_ingest", "telemetry_keys"


async def retry_quarantined(
    config: Config, quarantine: QuarantineStore, keys: Sequence[int], dsn_of: Callable[[str], str]
) -> RetryReport:
    """Retry held messages by number. ``dsn_of`` gives the address of the databases `telemetry` and `keys`.

    Raises:
        TelemetryError: a key is missing or the database refuses; what was recovered before stays so.

    """
    keystore = open_keystore(config.data_dir)
    blind = BlindIndex(keystore.secret(BLIND_INDEX))
    service_opener = Opener(keystore.secret(QUARANTINE))
    connect = connector(dsn_of("telemetry"), user=_INGEST, password=role_password(keystore, _INGEST))
    connect_keys = connector(dsn_of("keys"), user=_KEYS, password=role_password(keystore, _KEYS))
    clock = ReceiptClock()
    async with AsyncExitStack() as stack:
        ring_connection = await connect_keys()
        stack.push_async_callback(ring_connection.close)
        ring = KeyRing(ring_connection, open_keks(config))
        store = PostgresRegistryStore(connect)
        stack.push_async_callback(store.close)
        gateways, devices, plan = await store.load()
        registry = await asyncio.to_thread(Registry, blind, gateways, devices, plan)
        # What is retried is old: it is read with what is remembered now, and changes nothing of it.
        memories = Memories(StateSealer(keystore.secret(CODEC_STATE)), learns=False)
        memories.load(await codec_states.load(connect))
        reload_plan = RegistryReloader(registry, store, Observer())
        preparation = Preparation(
            registry=registry,
            store=store,
            blind=blind,
            quarantine_key=keystore.secret(QUARANTINE_PUBLIC),
            memories=memories,
            clock=clock,
            bounds=_bounds(config),
            reload_plan=reload_plan,
        )
        stack.callback(preparation.close)
        sink = PostgresSink(connect, connections=1, hot_hours=config.retention.hot_hours)
        stack.push_async_callback(sink.close)

        async def opener(owner_key: int) -> Opener:
            return service_opener if owner_key == SERVICE else await ring.opener(owner_key)

        return await retry_messages(
            keys,
            quarantine=quarantine,
            openers=opener,
            preparation=preparation,
            sink=sink,
            clock=clock,
            reload_plan=reload_plan,
        )


def _bounds(config: Config) -> Bounds:
    return Bounds(
        codec=CodecLimits(
            max_message_bytes=config.broker.max_message_bytes,
            max_readings_per_message=config.pipeline.max_readings_per_message,
            max_depth=config.pipeline.max_depth,
            max_state_bytes=config.pipeline.codec_state_bytes,
        ),
        future_limit_us=round(config.pipeline.future_limit_s * MICROSECONDS),
        tick_us=round(config.pipeline.tick_s * MICROSECONDS),
    )
