"""Another try for quarantined messages, after a codec was mended, a gateway enrolled or a limit raised.

    sealed rows ─▶ open ─▶ decode · bind · protect ─▶ write ─▶ settle as recovered

Readings are judged by the time at which their message was received, so that waiting in quarantine makes nothing
too old. A message is recovered when none of it is rejected for the reason it is held for; what fails for another
reason is quarantined anew under that one. Recovered content is deleted from quarantine after the commit; a crash
in between leaves it held, and the next retry finds its readings stored already.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from telemetry.errors import KeystoreError, PlanOutdated, RegistryError
from telemetry.model.batch import RawMessage, Reason, Write, Written
from telemetry.pipeline.preparation import Preparation, Prepared
from telemetry.pipeline.sealing import SERVICE, open_content
from telemetry.ports import Sink
from telemetry.privacy.keys import Opener, Purpose
from telemetry.store.quarantine import QuarantineStore

_PAGE: Final = 500
_TOGETHER_US: Final = 60_000_000  # messages received within a minute share one "now"
_PLAN_ATTEMPTS: Final = 5


class Openers(Protocol):
    """Gives what opens an owner's messages. Raises RegistryError or KeystoreError where nothing can."""

    async def __call__(self, owner_key: int) -> Opener: ...


@dataclass(slots=True)
class ReceiptClock:
    """A clock that stands at the time of receipt of what is retried."""

    us: int = 0

    def now_us(self) -> int:
        """Microseconds since 1970 UTC."""
        return self.us


@dataclass(slots=True)
class RetryReport:
    """What came of a retry. ``held`` counts messages that stay, by reason; ``unopened``: no key opens them."""

    tried: int = 0
    recovered: int = 0
    stored: int = 0
    duplicate: int = 0
    unopened: int = 0
    held: Counter[Reason] = field(default_factory=Counter)

    def to_json(self) -> Mapping[str, Any]:
        """The report as JSON takes it."""
        return {
            "tried": self.tried,
            "recovered": self.recovered,
            "stored": self.stored,
            "duplicate": self.duplicate,
            "unopened": self.unopened,
            "held": {reason.value: count for reason, count in self.held.items()},
        }


@dataclass(frozen=True, slots=True)
class _Held:
    quarantine_key: int
    reason: Reason
    digest: bytes
    message: RawMessage


@dataclass(slots=True)
class Retry:
    """What a retry needs. ``preparation`` must have been built with ``clock``; one event loop."""

    quarantine: QuarantineStore
    openers: Openers
    preparation: Preparation
    sink: Sink
    clock: ReceiptClock
    reload_plan: Callable[[int], Awaitable[None]]
    report: RetryReport = field(default_factory=RetryReport)
    _known: dict[int, Opener] = field(default_factory=dict)

    async def run(self, keys: Sequence[int]) -> RetryReport:
        """Retry the held messages among ``keys``; see ``retry_messages``."""
        for start in range(0, len(keys), _PAGE):
            rows = await self.quarantine.fetch(keys[start : start + _PAGE])
            held = [opened for row in rows if (opened := await self._open(row)) is not None]
            for group in _together(held):
                await self._retry(group)
        return self.report

    async def _open(self, row: Mapping[str, Any]) -> _Held | None:
        owner = row["owner_key"] or SERVICE
        try:
            if owner not in self._known:
                self._known[owner] = await self.openers(owner)
            opener = self._known[owner]
            plaintext = opener.open(row["sealed"], purpose=Purpose.QUARANTINE, subject_key=owner, bound=row["digest"])
        except (RegistryError, KeystoreError):
            self.report.unopened += 1
            return None
        message = open_content(plaintext).message()
        return _Held(row["quarantine_key"], Reason(row["reason"]), row["digest"], message)

    async def _retry(self, group: Sequence[_Held]) -> None:
        self.clock.us = group[-1].message.received_us
        prepared, written = await self._commit(group)
        failing: list[set[Reason]] = [set() for _ in group]
        for rejection in prepared.rejections:
            failing[rejection.message].add(rejection.reason)
        stay = [held.reason in reasons for held, reasons in zip(group, failing, strict=True)]
        recovered = [held.quarantine_key for held, stays in zip(group, stay, strict=True) if not stays]
        self.report.tried += len(group)
        self.report.recovered += await self.quarantine.settle(recovered, "recovered") if recovered else 0
        self.report.stored += written.stored
        self.report.duplicate += written.duplicate
        self.report.held.update(held.reason for held, stays in zip(group, stay, strict=True) if stays)

    async def _commit(self, group: Sequence[_Held]) -> tuple[Prepared, Written]:
        arrived = await self.preparation.arrive([held.message for held in group])
        known = {held.digest for held in group}
        for attempt in range(1, _PLAN_ATTEMPTS + 1):
            prepared = await self.preparation.prepare(arrived)
            try:
                return prepared, await self.sink.write(_without(prepared.write, known))
            except PlanOutdated as error:
                if attempt == _PLAN_ATTEMPTS:
                    raise
                await self.reload_plan(error.current)
        raise AssertionError("unreachable")


async def retry_messages(
    keys: Sequence[int],
    *,
    quarantine: QuarantineStore,
    openers: Openers,
    preparation: Preparation,
    sink: Sink,
    clock: ReceiptClock,
    reload_plan: Callable[[int], Awaitable[None]],
) -> RetryReport:
    """Retry the held messages among ``keys`` (unknown and settled ones are left out).

    ``openers`` gives the owner's Opener, or with SERVICE (0) the one of the service's quarantine key.
    ``preparation`` must have been built with ``clock``.

    Raises:
        StoreUnavailable: the database went away; what was recovered before stays so, start again.
        StoreError: the database refuses.

    """
    retry = Retry(quarantine, openers, preparation, sink, clock, reload_plan)
    return await retry.run(keys)


def _together(held: Sequence[_Held]) -> Iterator[list[_Held]]:
    """Groups received within a minute, earliest first, ascending within."""
    group: list[_Held] = []
    for one in sorted(held, key=lambda each: each.message.received_us):
        if group and one.message.received_us - group[0].message.received_us > _TOGETHER_US:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _without(write: Write, known: set[bytes]) -> Write:
    """The write without what is in quarantine for the same reason already: it has not come again."""
    return replace(write, quarantined=[one for one in write.quarantined if one.digest not in known])
