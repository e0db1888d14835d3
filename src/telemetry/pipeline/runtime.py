"""The pipeline: batches from the source, through preparation, into the store, and only then acknowledged.

    source ─▶ batcher ─▶ [decode · bind · protect · seal] ─▶ write ─▶ COMMIT ─▶ delivery ─▶ PUBACK
                                one worker thread            up to N in flight    in the order received

While one batch commits the next is prepared. A write that fails is repeated until it succeeds: nothing is
acknowledged before, and the source stops reading when too much is unacknowledged. A batch that the store will
not take is halved until the message at fault is alone; that one goes to quarantine.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from telemetry.errors import PlanOutdated, StoreError, StoreUnavailable
from telemetry.model.batch import RawMessage, Reason, Rejection, Watermark, Withheld, Written
from telemetry.observe import Observer, events
from telemetry.pipeline.batcher import Batcher
from telemetry.pipeline.delivery import Delivery, Ticket, Watermarks, progress
from telemetry.pipeline.memories import Turn
from telemetry.pipeline.preparation import Arrived, Preparation, Prepared
from telemetry.pipeline.requests import Requests
from telemetry.ports import Sink

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0


class PlanReloader(Protocol):
    """Brings the registry up to at least ``version``. Called from the event loop, by several batches at once."""

    def __call__(self, version: int) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """``writes``: transactions in flight. ``drain_s``: how long a stop waits for them."""

    writes: int = 2
    drain_s: float = 10.0


class Pipeline:
    """Runs from ``run`` until ``stop``. One event loop."""

    def __init__(
        self,
        *,
        batcher: Batcher,
        preparation: Preparation,
        sink: Sink,
        delivery: Delivery,
        watermarks: Watermarks,
        requests: Requests,
        reload_plan: PlanReloader,
        observer: Observer,
        limits: Limits,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._batcher = batcher
        self._preparation = preparation
        self._sink = sink
        self._delivery = delivery
        self._watermarks = watermarks
        self._requests = requests
        self._reload_plan = reload_plan
        self._observer = observer
        self._limits = limits
        self._sleep = sleep
        self._slots = asyncio.Semaphore(limits.writes)
        self._stopping = asyncio.Event()
        self._news: dict[Ticket, dict[tuple[str, str], Watermark]] = {}

    def stop(self) -> None:
        """Take no further batch; ``run`` returns when what is in flight is committed, or after ``drain_s``."""
        self._stopping.set()

    async def run(self) -> None:
        """Receive, prepare and write until ``stop``. Raises whatever a defect raises: nothing is acknowledged."""
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        writes: set[asyncio.Task[None]] = set()
        batches = self._batcher.batches()
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                following = asyncio.create_task(_next(batches))
                awaited: set[asyncio.Future[Any]] = {following, stopping, failed}
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                if failed.done():
                    failed.result()
                if not following.done():
                    following.cancel()  # what it held is not acknowledged, and comes again
                    break
                messages = following.result()
                if messages is None:
                    break
                ticket = self._delivery.received(messages)
                arrived = await self._arrive(messages)
                prepared = await self._prepared(arrived)
                await self._slots.acquire()
                task = asyncio.create_task(self._finish(ticket, prepared.slim()))
                del arrived, prepared, messages
                writes.add(task)
                task.add_done_callback(writes.discard)
                task.add_done_callback(lambda done: _pass_on(done, failed))
        finally:
            stopping.cancel()
            await self._drain(writes)
        if failed.done():
            failed.result()

    async def _drain(self, writes: set[asyncio.Task[None]]) -> None:
        if not writes:
            return
        _, pending = await asyncio.wait(writes, timeout=self._limits.drain_s)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _finish(self, ticket: Ticket, prepared: Prepared) -> None:
        try:
            await self._commit(ticket, prepared)
            self._advance(self._delivery.committed(ticket))
        finally:
            self._slots.release()

    async def _commit(self, ticket: Ticket, prepared: Prepared) -> None:
        """Write until it is committed, under the plan of that moment; halve what the store refuses."""
        attempt = 0
        while True:
            started = time.perf_counter()
            try:
                written = await self._sink.write(prepared.write)
            except PlanOutdated as error:
                self._observer.write_failed(events.WriteFailed(attempt, 0.0, error))
                await self._reload_plan(error.current)
                before = prepared.arrived
                prepared = await self._prepared(await self._arrive(before.messages, before.turn))
            except StoreUnavailable as error:
                attempt += 1
                await self._back_off(attempt, error)
            except StoreError as error:
                self._observer.write_failed(events.WriteFailed(attempt, 0.0, error))
                await self._commit_in_parts(ticket, prepared)
                return
            else:
                self._account(ticket, prepared, written, time.perf_counter() - started)
                if written.forgotten_gateways:
                    forgotten = await self._preparation.forget(written.forgotten_gateways)
                    self._requests.stand(dict.fromkeys(forgotten, ()))
                return

    async def _arrive(self, messages: Sequence[RawMessage], again: Turn | None = None) -> Arrived:
        """Decode, and have published what codecs ask for: the second time too, when a gateway may be known that
        was not known before.
        """
        arrived = await self._preparation.arrive(messages, again)
        self._ask(arrived)
        return arrived

    def _ask(self, arrived: Arrived) -> None:
        self._requests.ask(arrived.requests)
        self._requests.stand(arrived.standing)

    async def _prepared(self, arrived: Arrived) -> Prepared:
        """Prepare, however long the store is away: preparing asks it for keys and enrols devices."""
        attempt = 0
        while True:
            try:
                prepared = await self._preparation.prepare(arrived)
            except StoreUnavailable as error:
                attempt += 1
                await self._back_off(attempt, error)
            else:
                if prepared.arrived is not arrived:
                    self._ask(prepared.arrived)
                return prepared

    async def _back_off(self, attempt: int, error: StoreUnavailable) -> None:
        longest = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** min(attempt, 10))
        delay_s = random.uniform(longest / 2, longest)
        self._observer.write_failed(events.WriteFailed(attempt, delay_s, error))
        await self._sleep(delay_s)

    async def _commit_in_parts(self, ticket: Ticket, prepared: Prepared) -> None:
        """The store refused the batch for what is in it. Find the message, spare the others."""
        messages = prepared.arrived.messages
        if len(messages) == 1:
            # Once more as quarantine only. If that too is refused, the defect is not in the message: stop.
            rejection = Rejection(0, Reason.REFUSED, max(1, prepared.arrived.received))
            refused = await self._preparation.refuse(prepared.arrived, rejection, prepared.write.plan_version)
            await self._commit_quarantine(ticket, refused)
            return
        half = len(messages) // 2
        turn = prepared.arrived.turn
        for part in (messages[:half], messages[half:]):
            arrived = await self._arrive(part, turn)
            turn = turn.after(arrived.turn)
            await self._commit(ticket, await self._prepared(arrived))

    async def _commit_quarantine(self, ticket: Ticket, refused: Prepared) -> None:
        attempt = 0
        while True:
            try:
                written = await self._sink.write(refused.write)
            except PlanOutdated as error:
                await self._reload_plan(error.current)
                arrived = await self._arrive(refused.arrived.messages, refused.arrived.turn)
                refused = await self._preparation.refuse(arrived, refused.rejections[0], error.current)
            except StoreUnavailable as error:
                attempt += 1
                await self._back_off(attempt, error)
            else:
                self._account(ticket, refused, written, written.seconds, refused_readings=True)
                return

    def _account(
        self,
        ticket: Ticket,
        prepared: Prepared,
        written: Written,
        write_s: float,
        *,
        refused_readings: bool = False,
    ) -> None:
        arrived, protected = prepared.arrived, prepared.protected
        quarantined: dict[Reason, int] = {}
        for rejection in prepared.rejections:
            quarantined[rejection.reason] = quarantined.get(rejection.reason, 0) + rejection.readings
        withheld_values = dict(protected.withheld_values)
        if unlisted := sum(arrived.decoded.unlisted.values()):
            withheld_values[Withheld.UNLISTED, ""] = unlisted
        if place := sum(arrived.decoded.place.values()):
            withheld_values[Withheld.PLACE, ""] = place
        implausible = dict(arrived.decoded.implausible)
        for name, count in protected.implausible.items():
            implausible[name] = implausible.get(name, 0) + count
        newest = protected.rows["ts"].max() if protected.rows.height else None
        self._observer.batch_committed(
            events.BatchCommitted(
                messages=len(arrived.messages),
                payload_bytes=arrived.payload_bytes,
                evicted=arrived.evicted,
                received=max(1, arrived.received) if refused_readings else arrived.received,
                stored=written.stored,
                duplicate=written.duplicate,
                merged=written.merged,
                conflict=written.conflict,
                late=written.late,
                quarantined_again=written.quarantined_again,
                withheld={} if refused_readings else prepared.withheld,
                quarantined=quarantined,
                withheld_values=withheld_values,
                implausible=implausible,
                decode_s=arrived.decode_s,
                protect_s=prepared.protect_s,
                write_s=write_s,
                commit_s=written.seconds,
                newest_ts_us=newest if isinstance(newest, int) else None,
            )
        )
        if written.watermarks:
            news = self._news.setdefault(ticket, {})
            for mark in written.watermarks:
                who = prepared.numbered.names.get((mark.gateway_key, mark.stream_digest))
                if who is not None:
                    news[who] = mark

    def _advance(self, released: Sequence[Ticket]) -> None:
        """Tell how far gateways are committed, once every batch before is: until then, what a batch that was
        quicker leaves out would look like a gap. Of several states the furthest is the newest.
        """
        furthest: dict[tuple[str, str], Watermark] = {}
        for ticket in released:
            for who, mark in self._news.pop(ticket, {}).items():
                known = furthest.get(who)
                if known is None or progress(mark) >= progress(known):
                    furthest[who] = mark
        for who, mark in furthest.items():
            self._watermarks.update(*who, mark)
        if furthest:
            self._observer.watermarks_advanced(events.WatermarksAdvanced(tuple(furthest.values())))


async def _next(batches: AsyncGenerator[list[RawMessage], None]) -> list[RawMessage] | None:
    """The next batch, None after the last."""
    return await anext(batches, None)


def _pass_on(done: asyncio.Task[None], failed: asyncio.Future[None]) -> None:
    """The first defect of any write ends the pipeline."""
    if not done.cancelled() and (error := done.exception()) is not None and not failed.done():
        failed.set_exception(error)
