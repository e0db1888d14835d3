"""How far a gateway's numbered messages are committed: right whatever the order of commits."""

import asyncio
import random

from telemetry.model.batch import Sequences, Watermark
from tests.support.store import Store, batch


async def record(store: Store, *ranges: tuple[int, int], gateway: int = 1, stream: int = 1) -> Watermark:
    written = await store.sink().write(batch(sequences=[Sequences(gateway, stream, ranges)]))
    (watermark,) = written.watermarks
    assert (watermark.gateway_key, watermark.stream_digest) == (gateway, stream)
    return watermark


async def test_an_unbroken_run_is_committed_to_its_end(store: Store) -> None:
    assert await record(store, (1, 5)) == Watermark(1, 1, sequence=5, highest=5)
    assert await record(store, (6, 6)) == Watermark(1, 1, sequence=6, highest=6)


async def test_a_gap_holds_the_watermark_until_it_closes(store: Store) -> None:
    await record(store, (1, 3))
    expected = Watermark(1, 1, sequence=3, highest=12, missing=((4, 6), (8, 9)), missing_count=5)
    assert await record(store, (7, 7), (10, 12)) == expected
    assert (await record(store, (4, 6))).sequence == 7
    assert await record(store, (8, 9)) == Watermark(1, 1, sequence=12, highest=12)


async def test_numbers_that_arrive_again_change_nothing(store: Store) -> None:
    await record(store, (1, 9))
    assert await record(store, (2, 4)) == Watermark(1, 1, sequence=9, highest=9)


async def test_a_run_that_does_not_start_at_one_lacks_its_start(store: Store) -> None:
    assert await record(store, (3, 4)) == Watermark(1, 1, 0, 4, missing=((1, 2),), missing_count=2)


async def test_a_run_may_start_at_zero(store: Store) -> None:
    assert await record(store, (0, 0)) == Watermark(1, 1, sequence=0, highest=0)
    assert await record(store, (1, 2)) == Watermark(1, 1, sequence=2, highest=2)


async def test_gateways_and_runs_are_apart(store: Store) -> None:
    await record(store, (1, 5), gateway=1, stream=1)
    assert (await record(store, (1, 1), gateway=1, stream=2)).sequence == 1
    assert (await record(store, (1, 2), gateway=-2, stream=1)).sequence == 2


async def test_one_write_of_several_gateways_answers_for_each(store: Store) -> None:
    given = [Sequences(gateway, 1, ((1, gateway),)) for gateway in (9, 3, 5)] + [Sequences(3, 1, ((4, 6),))]
    written = await store.sink().write(batch(sequences=given))
    assert {w.gateway_key: w.sequence for w in written.watermarks} == {9: 9, 3: 6, 5: 5}


async def test_numbers_no_gateway_counts_to_are_ignored(store: Store) -> None:
    written = await store.sink().write(batch(sequences=[Sequences(1, 1, ((2**62, 2**63 - 1), (-5, -1)))]))
    assert written.watermarks == ()


async def test_at_most_64_gaps_are_named_and_all_are_counted(store: Store) -> None:
    watermark = await record(store, *((i, i) for i in range(1, 401, 2)))
    assert watermark.missing == tuple((i, i) for i in range(2, 130, 2))
    assert watermark.missing_count == 199


async def test_endless_gaps_stay_bounded_and_never_claim_too_much(store: Store) -> None:
    for part in range(4):
        start = part * 8000
        watermark = await record(store, *((start + i, start + i) for i in range(1, 8001, 2)))
    assert watermark.sequence == 1
    assert watermark.highest == 31_999
    assert watermark.missing_count >= 16_000 - 1
    admin = await store.admin()
    assert await admin.fetchval("SELECT count(*) FROM readings.sequence, unnest(received)") <= 65_536 // 21
    # Closing the gaps and sending again what was not recorded brings it up to date.
    assert await record(store, (1, 31_999)) == Watermark(1, 1, sequence=31_999, highest=31_999)


async def test_commits_in_any_order_end_in_the_same_state(store: Store) -> None:
    order = random.Random(4)
    numbers = list(range(1, 201))
    order.shuffle(numbers)
    sink = store.sink(connections=4)

    async def one(number: int) -> None:
        gateways = [Sequences(gateway, 1, ((number, number),)) for gateway in order.sample(range(5), 5)]
        await sink.write(batch(sequences=gateways))

    await asyncio.gather(*(one(number) for number in numbers))
    for gateway in range(5):
        expected = Watermark(gateway, 1, sequence=200, highest=200)
        assert await record(store, (1, 1), gateway=gateway) == expected
