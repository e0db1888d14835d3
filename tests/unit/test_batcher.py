"""When a batch closes: by messages, by bytes, by age; and that nothing is lost, doubled or reordered."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.model.batch import RawMessage
from telemetry.pipeline.batcher import Batcher


class ManualClock:
    def __init__(self):
        self.us = 1_000_000_000

    def now_us(self):
        return self.us


class Arrivals:
    """A source's iterator that hands over what the test puts in; ``None`` ends it."""

    def __init__(self):
        self.queue = asyncio.Queue()

    def put(self, *messages):
        self.queue.put_nowait(list(messages))

    def end(self):
        self.queue.put_nowait(None)

    def __aiter__(self):
        return self

    async def __anext__(self):
        arrived = await self.queue.get()
        if arrived is None:
            raise StopAsyncIteration
        return arrived


def message(token, size=1, received_us=1_000_000_000):
    return RawMessage("home-0001", "readings", bytes(size), token, received_us)


def tokens(batch):
    return [entry.token for entry in batch]


def make(arrivals, clock=None, *, messages=3, size=100, age_s=3600.0):
    batcher = Batcher(arrivals, clock or ManualClock(), max_messages=messages, max_bytes=size, max_age_s=age_s)
    return batcher.batches()


async def test_a_full_batch_closes_at_once():
    arrivals = Arrivals()
    arrivals.put(message(1), message(2))
    arrivals.put(message(3), message(4))
    batches = make(arrivals)
    assert tokens(await anext(batches)) == [1, 2, 3]
    arrivals.put(message(5), message(6))
    assert tokens(await anext(batches)) == [4, 5, 6]
    await batches.aclose()


async def test_a_large_arrival_makes_several_batches():
    arrivals = Arrivals()
    arrivals.put(*(message(token) for token in range(8)))
    batches = make(arrivals)
    assert tokens(await anext(batches)) == [0, 1, 2]
    assert tokens(await anext(batches)) == [3, 4, 5]
    arrivals.end()
    assert tokens(await anext(batches)) == [6, 7]
    assert [batch async for batch in batches] == []


async def test_bytes_close_a_batch_before_the_message_that_would_exceed_them():
    arrivals = Arrivals()
    arrivals.put(message(1, 60), message(2, 40), message(3, 1))
    batches = make(arrivals)
    assert tokens(await anext(batches)) == [1, 2]
    await batches.aclose()


async def test_a_message_larger_than_a_batch_travels_alone():
    arrivals = Arrivals()
    arrivals.put(message(1, 1), message(2, 500), message(3, 1))
    arrivals.end()
    assert [tokens(batch) async for batch in make(arrivals)] == [[1], [2], [3]]


async def test_age_counts_from_receipt_so_that_waiting_in_the_source_counts():
    clock = ManualClock()
    arrivals = Arrivals()
    arrivals.put(message(1))
    clock.us += 5_000_000
    batches = make(arrivals, clock, age_s=5.0)
    assert tokens(await asyncio.wait_for(anext(batches), 20)) == [1]
    await batches.aclose()


async def test_a_young_batch_waits_for_more():
    arrivals = Arrivals()
    arrivals.put(message(1))
    batches = make(arrivals, age_s=3600.0)
    following = asyncio.ensure_future(anext(batches))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not following.done()
    arrivals.put(message(2), message(3))
    assert tokens(await following) == [1, 2, 3]
    await batches.aclose()


async def test_a_clock_set_back_does_not_stall_a_batch():
    clock = ManualClock()
    arrivals = Arrivals()
    arrivals.put(message(1))
    clock.us -= 3_600_000_000
    batches = make(arrivals, clock, age_s=0.01)
    assert tokens(await asyncio.wait_for(anext(batches), 20)) == [1]
    await batches.aclose()


async def test_what_arrived_by_the_end_is_handed_over():
    arrivals = Arrivals()
    arrivals.put(message(1))
    arrivals.end()
    assert [tokens(batch) async for batch in make(arrivals)] == [[1]]


async def test_cancelled_while_waiting_it_leaves_no_task_behind():
    batches = make(Arrivals())
    waiting = asyncio.create_task(anext(batches))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_error_of_the_source_reaches_the_consumer():
    class Broken:
        def __aiter__(self):
            return self

        async def __anext__(self):
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await anext(make(Broken()))


@given(
    st.lists(st.lists(st.integers(0, 150), min_size=1, max_size=12), max_size=12),
    st.integers(1, 7),
    st.integers(1, 200),
)
def test_nothing_is_lost_doubled_reordered_or_above_the_limits(arriving, limit, size):
    async def run():
        arrivals = Arrivals()
        number = 0
        for sizes in arriving:
            arrivals.put(*(message(number + index, length) for index, length in enumerate(sizes)))
            number += len(sizes)
        arrivals.end()
        return number, [batch async for batch in make(arrivals, messages=limit, size=size)]

    number, batches = asyncio.run(run())
    assert [token for batch in batches for token in tokens(batch)] == list(range(number))
    for batch in batches:
        assert 1 <= len(batch) <= limit
        assert len(batch) == 1 or sum(len(entry.payload) for entry in batch) <= size
    for before, after in itertools.pairwise(batches):  # and none closed early
        total = sum(len(entry.payload) for entry in before) + len(after[0].payload)
        assert len(before) == limit or total > size
