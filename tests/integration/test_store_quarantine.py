"""Quarantine: in the batch's own transaction, once for each message, recoverable by the operator alone."""

from dataclasses import replace

import pytest

from telemetry.errors import PlanOutdated
from telemetry.model.batch import QuarantinedMessage, Reason
from telemetry.store.quarantine import QuarantineStore
from tests.support.store import Store, batch, this_hour_us

MESSAGE = QuarantinedMessage(
    gateway_key=11,
    owner_key=12,
    reason=Reason.MALFORMED,
    codec="native-json",
    readings=1,
    size_bytes=300,
    digest=b"d" * 16,
    sealed=b"sealed",
    detail="not JSON",
)


async def hold(store: Store, *messages: QuarantinedMessage) -> int:
    return (await store.sink().write(batch(quarantined=messages))).quarantined_again


async def operator(store: Store) -> QuarantineStore:
    return QuarantineStore(await store.connect("operator"))


async def test_a_message_is_held_with_all_that_is_known_of_it(store: Store) -> None:
    assert await hold(store, MESSAGE) == 0
    (held,) = await (await operator(store)).messages()
    key = held.pop("quarantine_key")
    assert held.pop("received_hour").timestamp() * 1e6 == this_hour_us()
    assert held == {
        "gateway_key": 11,
        "owner_key": 12,
        "reason": "malformed",
        "codec": "native-json",
        "detail": "not JSON",
        "readings": 1,
        "size_bytes": 300,
        "seen": 1,
        "state": "held",
    }
    (content,) = await (await operator(store)).fetch([key])
    assert content["sealed"] == b"sealed"


async def test_the_same_message_again_is_counted_and_not_held_twice(store: Store) -> None:
    other = replace(MESSAGE, digest=b"e" * 16)
    assert await hold(store, MESSAGE, other, MESSAGE) == 1
    assert await hold(store, MESSAGE) == 1
    assert {m["seen"] for m in await (await operator(store)).messages()} == {1, 3}


async def test_messages_of_unknown_gateways_are_told_apart_by_digest_alone(store: Store) -> None:
    unknown = replace(MESSAGE, gateway_key=None, owner_key=None, reason=Reason.UNKNOWN_GATEWAY)
    assert await hold(store, unknown, MESSAGE) == 0
    assert await hold(store, unknown) == 1
    assert len(await (await operator(store)).messages()) == 2


async def test_text_that_postgresql_refuses_costs_no_batch(store: Store) -> None:
    assert await hold(store, replace(MESSAGE, codec="a\0b", detail="\ud800" + "x" * 500 + "\0", sealed=b"\0" * 9)) == 0
    (held,) = await (await operator(store)).messages()
    assert (held["codec"], held["detail"]) == ("ab", "?" + "x" * 199)


async def test_a_batch_of_poison_alone_is_committed_whole(store: Store) -> None:
    poison = [replace(MESSAGE, digest=i.to_bytes(16), sealed=bytes(3000)) for i in range(5000)]
    assert await hold(store, *poison) == 0
    assert [dict(s) for s in await (await operator(store)).summary()] == [
        {
            "reason": "malformed",
            "codec": "native-json",
            "state": "held",
            "messages": 5000,
            "readings": 5000,
            "seen": 5000,
        }
    ]


async def test_it_is_held_with_its_batch_or_not_at_all(store: Store) -> None:
    await (await store.admin()).execute("SELECT consent.bump_version()")
    with pytest.raises(PlanOutdated):
        await hold(store, MESSAGE)
    assert await (await operator(store)).messages() == []


async def test_a_settled_message_loses_its_content_and_is_still_known(store: Store) -> None:
    await hold(store, MESSAGE, replace(MESSAGE, digest=b"e" * 16))
    desk = await operator(store)
    recovered, discarded = (m["quarantine_key"] for m in await desk.messages())
    assert await desk.settle([recovered], "recovered") == 1
    assert await desk.settle([recovered, discarded], "discarded") == 1
    assert await desk.fetch([recovered, discarded]) == []
    assert {m["state"] for m in await desk.messages(state=None)} == {"recovered", "discarded"}
    admin = await store.admin()
    assert await admin.fetchval("SELECT max(length(sealed)) FROM readings.quarantine") == 0
    assert await hold(store, MESSAGE) == 1


async def test_pages_and_filters(store: Store) -> None:
    messages = [
        replace(
            MESSAGE,
            digest=bytes([i]) * 16,
            reason=Reason.TOO_OLD if i % 2 else Reason.MALFORMED,
            gateway_key=i % 3,
        )
        for i in range(10)
    ]
    await hold(store, *messages)
    desk = await operator(store)
    assert len(await desk.messages(reason="too_old")) == 5
    assert len(await desk.messages(gateway_key=0)) == 4
    assert len(await desk.messages(codec="senml-json")) == 0
    first = await desk.messages(limit=6)
    rest = await desk.messages(limit=6, after=first[-1]["quarantine_key"])
    assert (len(first), len(rest)) == (6, 4)


async def test_a_message_whose_payload_is_not_kept_is_counted_and_cannot_be_fetched(store: Store) -> None:
    unkept = replace(MESSAGE, digest=b"u" * 16, sealed=b"", detail="quota")
    assert await hold(store, MESSAGE, unkept, unkept) == 1
    quarantine = await operator(store)
    (row,) = await quarantine.messages(state="discarded")
    assert (row["seen"], row["detail"]) == (2, "quota")
    assert await quarantine.fetch([row["quarantine_key"]]) == []
