"""From commit to acknowledgement: after it, in order, once; and what a gateway is told about it."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.model.batch import RawMessage, Watermark
from telemetry.pipeline.delivery import Delivery, Watermarks


class Recorder:
    """A source that writes down what it is asked to do."""

    def __init__(self):
        self.acknowledged = []
        self.published = []
        self.connected = True

    def acknowledge(self, tokens):
        self.acknowledged.append(list(tokens))

    async def publish(self, topic, payload, *, retain=False):
        if self.connected:
            self.published.append((topic, json.loads(payload), retain))
        return self.connected


def messages(*tokens):
    return [RawMessage("home-0001", "readings", b"", token, 0) for token in tokens]


def mark(sequence, highest=None, missing=(), count=0, digest=1):
    return Watermark(1, digest, sequence, highest or sequence, missing, count)


class TestDelivery:
    def test_nothing_is_acknowledged_before_its_commit(self):
        source = Recorder()
        delivery = Delivery(source)
        ticket = delivery.received(messages(1, 2))
        assert source.acknowledged == []
        delivery.committed(ticket)
        assert source.acknowledged == [[1, 2]]
        assert delivery.in_flight == 0

    def test_a_later_commit_waits_for_the_earlier_batch_and_both_leave_in_one_call(self):
        source = Recorder()
        delivery = Delivery(source)
        first, second, third = (delivery.received(messages(token)) for token in (1, 2, 3))
        delivery.committed(second)
        assert source.acknowledged == []
        delivery.committed(first)
        assert source.acknowledged == [[1, 2]]
        delivery.committed(third)
        assert source.acknowledged == [[1, 2], [3]]

    def test_a_batch_that_is_never_committed_holds_back_what_follows(self):
        source = Recorder()
        delivery = Delivery(source)
        delivery.received(messages(1))
        for token in range(2, 10):
            delivery.committed(delivery.received(messages(token)))
        assert source.acknowledged == []
        assert delivery.in_flight == 9

    def test_committing_twice_acknowledges_once(self):
        source = Recorder()
        delivery = Delivery(source)
        ticket = delivery.received(messages(1))
        delivery.committed(ticket)
        delivery.committed(ticket)
        assert source.acknowledged == [[1]]

    @given(st.lists(st.integers(0, 4), max_size=12), st.randoms())
    def test_every_token_once_in_the_order_received_whatever_the_order_of_commits(self, sizes, rng):
        source = Recorder()
        delivery = Delivery(source)
        tokens = iter(range(100))
        tickets = [delivery.received(messages(*(next(tokens) for _ in range(size)))) for size in sizes]
        committed = set()
        for index in rng.sample(range(len(tickets)), len(tickets)):
            delivery.committed(tickets[index])
            committed.add(index)
            released = [token for call in source.acknowledged for token in call]
            ready = next((number for number in range(len(sizes)) if number not in committed), len(sizes))
            assert released == list(range(sum(sizes[:ready])))


class TestWatermarks:
    @pytest.fixture
    def source(self):
        return Recorder()

    async def test_what_a_gateway_is_told(self, source):
        watermarks = Watermarks(source)
        watermarks.update("home-0001", "boot-7", mark(41, 50, ((42, 43), (47, 47)), 3))
        assert await watermarks.publish() == 1
        body = {"stream": "boot-7", "sequence": 41, "highest": 50, "missing": [[42, 43], [47, 47]]}
        assert source.published == [("gw/home-0001/committed", body, True)]

    async def test_only_gateways_with_a_commit_since_the_last_time(self, source):
        watermarks = Watermarks(source)
        watermarks.update("home-0001", "s", mark(1))
        watermarks.update("home-0002", "s", mark(2))
        await watermarks.publish()
        watermarks.update("home-0002", "s", mark(3))
        assert await watermarks.publish() == 1
        assert await watermarks.publish() == 0
        assert [topic for topic, _, _ in source.published] == [
            "gw/home-0001/committed",
            "gw/home-0002/committed",
            "gw/home-0002/committed",
        ]

    async def test_the_furthest_of_an_interval(self, source):
        watermarks = Watermarks(source)
        for sequence in (5, 9, 7):  # commits may end in another order than they began
            watermarks.update("home-0001", "s", mark(sequence))
        assert await watermarks.publish() == 1
        assert source.published[0][1]["sequence"] == 9

    async def test_a_filled_gap_is_progress_though_nothing_higher_came(self, source):
        watermarks = Watermarks(source)
        watermarks.update("home-0001", "s", mark(1, 9, ((2, 8),), 7))
        watermarks.update("home-0001", "s", mark(1, 9, ((2, 4), (6, 8)), 6))
        watermarks.update("home-0001", "s", mark(1, 9, ((2, 8),), 7))
        await watermarks.publish()
        assert source.published[0][1]["missing"] == [[2, 4], [6, 8]]

    async def test_a_commit_that_changes_nothing_tells_again_because_the_gateway_sent_again(self, source):
        watermarks = Watermarks(source)
        for _ in range(2):
            watermarks.update("home-0001", "s", mark(5))
            assert await watermarks.publish() == 1

    async def test_each_stream_the_newest_last_so_that_it_stays_retained(self, source):
        watermarks = Watermarks(source)
        watermarks.update("home-0001", "new", mark(1, digest=2))
        watermarks.update("home-0001", "old", mark(9, digest=1))
        watermarks.update("home-0001", "new", mark(2, digest=2))
        await watermarks.publish()
        assert [body["stream"] for _, body, _ in source.published] == ["old", "new"]

    async def test_what_cannot_be_sent_now_is_sent_when_the_broker_is_back(self, source):
        watermarks = Watermarks(source)
        watermarks.update("home-0001", "s", mark(5))
        source.connected = False
        assert await watermarks.publish() == 0
        source.connected = True
        assert await watermarks.publish() == 1
        assert source.published[0][1]["sequence"] == 5

    async def test_it_publishes_every_interval(self, source):
        watermarks = Watermarks(source)
        running = asyncio.create_task(watermarks.run(0.001))
        for sequence in (1, 2):
            watermarks.update("home-0001", "s", mark(sequence))
            async with asyncio.timeout(20):
                while len(source.published) < sequence:
                    await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert len(source.published) == 2
