"""Messages that nobody should send: each ends in quarantine under a name, and costs only itself."""

import time
from collections.abc import AsyncIterator, Iterator

import orjson
import pytest
import pytest_asyncio

from device_sim.faults import POISON, Faults
from device_sim.formats import single
from device_sim.message import Message, Reading
from telemetry.model.batch import Reason
from tests.support.system import System, system

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 3 * 2**20  # a million elements fit
SERIAL = "INV00000042"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[System]:
    config = {
        "broker": {"max_message_bytes": LIMIT},
        "pipeline": {"batch_messages": 5_000, "batch_age_ms": 1_500},
    }
    async with system(config=config, broker={"max_message_bytes": LIMIT + 1024}) as found:
        yield found


@pytest.fixture
def found(shared: System, seed: int) -> Iterator[System]:
    shared.seed = seed
    if not shared.worker.running:
        shared.worker.start()
    yield shared
    shared.worker.prepare()


def good(sequence: int, now_us: int) -> Message:
    reading = Reading(SERIAL, "inverter", now_us - sequence * 1_000_000, {"ac_power_w": float(sequence)})
    return Message(sequence, *single([reading]), expected=[reading])


def bad(sequence: int, payload: bytes, name: str = "bad") -> Message:
    return Message(sequence, "readings", payload, None, expected=[], poison=name)


async def test_one_poison_message_in_a_batch_of_five_thousand_costs_only_itself(found: System) -> None:
    (gateway,) = await found.enrol()
    await found.worker.until_subscribed()
    await found.worker.stop()  # all of them wait in the broker, so that they arrive together
    now_us = time.time_ns() // 1_000_000_000 * 1_000_000
    payload = POISON["duplicate_key"](SERIAL, now_us)
    # the gateway's birth and its goodbye are messages too: 5,000 with them
    messages = [bad(n, payload) if n == 2_500 else good(n, now_us) for n in range(1, 4_999)]
    feed = found.messages(gateway, messages)
    await feed.finish(stop=False)
    found.worker.start()
    await found.worker.until_committing(5_000)
    batches = await found.worker.metrics()
    await found.worker.stop()
    report = await found.check(feed)
    assert report.exact, report
    assert (report.stored, report.poison_messages) == (4_997, 1)
    assert batches['telemetry_batch_messages_bucket{le="5000.0"}'] == 1
    assert batches['telemetry_batch_messages_bucket{le="2000.0"}'] == 0
    async with found.checker() as checker:
        assert await checker.quarantined(gateway.username) == {2_500: [Reason.DUPLICATE_KEY]}


async def test_nothing_but_poison_does_not_stall(found: System) -> None:
    await found.worker.until_subscribed()
    feed = found.fleet(
        await found.enrol(2), speed=float("inf"), messages=1_000, faults=Faults(poison_share=1.0)
    )
    summary = await feed.finish(stop=False)
    assert summary.figures.poison == 1_000
    await found.settle()  # the last message is behind them all, and arrives
    report = await found.check(feed)
    assert (report.poison_messages, report.unquarantined_messages) == (1_000, 0), report
    assert (report.stored, report.wrongly_quarantined_messages, report.gap_messages) == (0, 0, 0), report


def nasty(now_us: int) -> list[tuple[str, bytes, Reason | None]]:
    """Name, payload, and the reason for which it is refused; None where it is stored."""
    reading = {"serial": SERIAL, "kind": "inverter", "ac_power_w": 1.0}
    valid = orjson.dumps(reading | {"ts": now_us // 1000})
    poison = {name: make(SERIAL, now_us) for name, make in POISON.items()}
    return [
        ("at the size limit", valid + b" " * (LIMIT - len(valid)), None),
        ("at the size limit, and no JSON", b"x" * LIMIT, Reason.MALFORMED),
        ("above the size limit", valid + b" " * (LIMIT + 1 - len(valid)), Reason.TOO_LARGE),
        ("array of a million", b"[" + b"1," * 999_999 + b"1]", Reason.TOO_MANY_READINGS),
        ("depth 2,000", poison["too_deep"], Reason.TOO_DEEP),
        ("objects, depth 2,000", b'{"a":' * 2_000 + b"1" + b"}" * 2_000, Reason.TOO_DEEP),
        ("NaN", poison["not_a_number"], Reason.EMPTY),
        ("1e999", poison["infinite"], Reason.EMPTY),
        ("duplicate keys", poison["duplicate_key"], Reason.DUPLICATE_KEY),
        ("the year 1970", poison["year_1970"], Reason.TOO_OLD),
        ("the year 2100", poison["year_2100"], Reason.IN_THE_FUTURE),
        ("cut short", poison["truncated"], Reason.MALFORMED),
        ("no payload", poison["empty_payload"], Reason.MALFORMED),
        ("no text", poison["not_text"], Reason.MALFORMED),
        ("columns of unequal length", poison["unequal_columns"], Reason.UNEQUAL_COLUMNS),
        ("no serial", poison["no_serial"], Reason.BAD_SERIAL),
        ("no such kind", poison["bad_kind"], Reason.BAD_KIND),
        ("no time", poison["bad_time"], Reason.BAD_TIME),
        ("text for a number", poison["wrong_type"], Reason.EMPTY),
        ("no object", poison["scalar"], Reason.MALFORMED),
    ]


async def test_each_nasty_message_ends_under_a_name_of_its_own(found: System) -> None:
    (gateway,) = await found.enrol()
    await found.worker.until_subscribed()
    now_us = time.time_ns() // 1_000_000_000 * 1_000_000
    cases = nasty(now_us)
    kept = Reading(SERIAL, "inverter", now_us, {"ac_power_w": 1.0})
    messages = [
        bad(number, payload, name)
        if reason
        else Message(number, "readings", payload, None, expected=[kept])
        for number, (name, payload, reason) in enumerate(cases, 1)
    ]
    feed = found.messages(gateway, messages)
    await feed.finish(stop=False)
    await found.settle()
    async with found.checker() as checker:
        held = await checker.quarantined(gateway.username)
        report = await checker.compare([feed.ledger])
    assert {name: held.get(number) for number, (name, *_) in enumerate(cases, 1)} == {
        name: [reason] if reason else None for name, _, reason in cases
    }
    assert report.exact, report
