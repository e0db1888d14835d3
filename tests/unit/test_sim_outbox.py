"""The gateway's outbox: nothing is forgotten before it may be, whatever the network and the service do."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.message import Message, Reading
from device_sim.outbox import Outbox, Watermark


def message(sequence: int) -> Message:
    return Message(sequence, "readings", b"{}", None, [Reading("INV00000042", "inverter", sequence, {"ac_power_w": 1})])


def outbox(count: int = 0, *, wait: bool = False, **more: float) -> Outbox:
    box = Outbox(wait_watermark=wait, capacity=100, **more)  # type: ignore[arg-type]
    for sequence in range(1, count + 1):
        box.add(message(sequence))
    return box


def mark(sequence: int, highest: int = 0, missing: tuple[tuple[int, int], ...] = ()) -> Watermark:
    return Watermark("run", sequence, max(highest, sequence), missing)


def drain(box: Outbox) -> list[int]:
    taken = []
    while (each := box.take()) is not None:
        taken.append(each.sequence)
    return taken


def test_without_watermark_a_puback_ends_it() -> None:
    box = outbox(2)
    box.close()
    assert drain(box) == [1, 2]
    assert not box.finished

    assert box.acknowledged(1, 0.0) is not None
    assert box.acknowledged(2, 0.0) is not None

    assert box.finished


def test_a_puback_counts_once() -> None:
    box = outbox(1)
    drain(box)

    assert box.acknowledged(1, 0.0) is not None
    assert box.acknowledged(1, 0.0) is None
    assert box.acknowledged(99, 0.0) is None


def test_what_was_in_flight_when_the_connection_broke_goes_first_and_in_order() -> None:
    box = outbox(5)
    for _ in range(3):
        box.take()
    box.acknowledged(2, 0.0)

    assert box.lost() == 2

    assert drain(box) == [1, 3, 4, 5]


def test_a_refused_message_is_kept_and_tried_again() -> None:
    box = outbox(1)
    box.close()
    drain(box)

    box.refused(1, 10.0)

    assert not box.finished
    assert box.overdue(10.5) == 0
    assert box.overdue(13.0) == 1
    assert drain(box) == [1]


def test_with_watermark_a_message_stays_until_it_is_committed() -> None:
    box = outbox(3, wait=True)
    box.close()
    for sequence in drain(box):
        box.acknowledged(sequence, 0.0)
    assert len(box) == 3

    assert [m.sequence for m in box.watermark(mark(2))] == [1, 2]
    assert not box.finished
    assert [m.sequence for m in box.watermark(mark(3))] == [3]
    assert box.finished


def test_what_the_watermark_names_as_missing_is_sent_again_soon_with_its_own_number() -> None:
    box = outbox(5, wait=True, resend_s=60.0, missing_resend_s=2.0)
    for sequence in drain(box):
        box.acknowledged(sequence, 0.0)

    done = box.watermark(mark(1, 5, ((2, 3),)))

    assert [m.sequence for m in done] == [1, 4, 5]
    assert box.overdue(1.0) == 0  # it may be in a batch that is being committed
    assert box.overdue(2.5) == 2
    assert drain(box) == [2, 3]


def test_what_nobody_mentions_is_sent_again_after_a_while_and_less_and_less_often() -> None:
    box = outbox(1, wait=True, resend_s=10.0)
    drain(box)
    box.acknowledged(1, 0.0)
    assert box.overdue(9.0) == 0
    assert box.overdue(10.0) == 1
    drain(box)
    box.acknowledged(1, 10.0)

    assert box.overdue(25.0) == 0
    assert box.overdue(30.0) == 1


def test_a_message_the_broker_never_acknowledged_is_not_counted_by_a_watermark() -> None:
    box = outbox(1, wait=True)
    drain(box)
    box.lost()

    assert box.watermark(mark(1)) == []
    assert drain(box) == [1]


def test_a_needless_resend_is_dropped_when_the_watermark_arrives_in_time() -> None:
    box = outbox(1, wait=True, resend_s=1.0)
    drain(box)
    box.acknowledged(1, 0.0)
    box.overdue(2.0)

    assert [m.sequence for m in box.watermark(mark(1))] == [1]
    assert box.take() is None


def test_capacity_counts_all_that_is_kept() -> None:
    box = Outbox(wait_watermark=True, capacity=2)
    box.add(message(1))
    box.add(message(2))
    assert box.full
    drain(box)
    box.acknowledged(1, 0.0)
    assert box.full

    box.watermark(mark(1))

    assert not box.full


def payload(**more: object) -> bytes:
    return orjson.dumps({"stream": "run", "sequence": 3, "highest": 9, "missing": [[4, 5]], **more})


def test_a_watermark_is_read_as_the_service_writes_it() -> None:
    read = Watermark.parse(payload())

    assert read == Watermark("run", 3, 9, ((4, 5),))
    assert read is not None
    assert [n for n in range(1, 12) if read.covers(n)] == [1, 2, 3, 6, 7, 8, 9]


@pytest.mark.parametrize(
    "bad", [b"", b"[]", b"3", b"{}", payload(missing=[[1]]), payload(missing=7), payload(sequence="x"), b"\xff"]
)
def test_what_is_not_a_watermark_is_ignored(bad: bytes) -> None:
    assert Watermark.parse(bad) is None


def test_a_cut_list_of_missing_numbers_is_trusted_up_to_its_end_only() -> None:
    ranges = [[10 * i, 10 * i] for i in range(1, 65)]

    long = Watermark.parse(payload(sequence=9, highest=1000, missing=ranges))
    counted = Watermark.parse(payload(missing=[[4, 5]], missing_count=3))

    assert long is not None
    assert counted is not None
    assert long.covers(639)
    assert not long.covers(641)
    assert not counted.covers(6)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_message_is_committed_in_the_end_whatever_is_lost(data: st.DataObject) -> None:
    """A broker that loses some of what it acknowledged, connections that break, a service that reports late."""
    box = outbox(12, wait=True, resend_s=5.0, missing_resend_s=1.0)
    box.close()
    committed: set[int] = set()
    forgotten: list[int] = []
    now = 0.0
    for round_ in range(400):
        if box.finished:
            break
        calm = round_ > 40  # in the end the network is good
        now += 1.0
        box.overdue(now)
        while (each := box.take()) is not None:
            event = "commit" if calm else data.draw(st.sampled_from(["commit", "lose", "break", "silent commit"]))
            if event in {"commit", "silent commit"}:
                committed.add(each.sequence)
            if event in {"commit", "lose"}:
                box.acknowledged(each.sequence, now)
            if event in {"break", "silent commit"}:
                box.lost()
                break
        highest = max(committed, default=0)
        missing = [n for n in range(1, highest + 1) if n not in committed]
        first = missing[0] - 1 if missing else highest
        if calm or data.draw(st.booleans()):
            done = box.watermark(mark(first, highest, tuple((n, n) for n in missing)))
            forgotten += [m.sequence for m in done]
            assert committed.issuperset(forgotten), "forgot what was not committed"
    assert box.finished
    assert sorted(forgotten) == list(range(1, 13))
