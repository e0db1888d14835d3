"""A gateway that sends nothing but poison fills its quota of the hour, and not the disk."""

import numpy as np

from telemetry.model.batch import QuarantinedMessage, RawMessage, Reason, Rejection
from telemetry.pipeline.sealing import OVER_QUOTA, SERVICE, QuarantineSealer, Senders
from telemetry.privacy.keys import BlindIndex, Sealer, new_key_pair

HOUR_US = 3600 * 1_000_000


def message(payload: bytes, received_us: int = 0) -> RawMessage:
    return RawMessage("gw-made-up", "readings", payload, token=1, received_us=received_us)


def sealer(quota_bytes: int) -> QuarantineSealer:
    return QuarantineSealer({SERVICE: Sealer(new_key_pair().public)}, BlindIndex(b"k" * 32), quota_bytes=quota_bytes)


def seal(
    sealing: QuarantineSealer, *messages: RawMessage, gateway_key: int = 7, reason: Reason = Reason.MALFORMED
) -> list[QuarantinedMessage]:
    senders = Senders(np.full(len(messages), gateway_key), np.zeros(len(messages), np.int64))
    return sealing.seal(messages, [Rejection(number, reason) for number in range(len(messages))], senders, {})


def kept(found: list[QuarantinedMessage]) -> list[bool]:
    return [len(one.sealed) > 0 for one in found]


def test_payloads_are_kept_up_to_the_quota_and_counted_beyond_it():
    found = seal(sealer(20), message(b"a" * 10), message(b"b" * 10), message(b"c"), message(b"d"))
    assert kept(found) == [True, True, False, False]
    assert [one.detail for one in found[2:]] == [OVER_QUOTA] * 2
    assert [one.size_bytes for one in found] == [10, 10, 1, 1]


def test_those_beyond_share_one_row_by_gateway_reason_and_hour():
    sealing = sealer(0)
    one, two = seal(sealing, message(b"a"), message(b"b"))
    (other_reason,) = seal(sealing, message(b"c"), reason=Reason.TOO_DEEP)
    (other_gateway,) = seal(sealing, message(b"d"), gateway_key=8)
    (later,) = seal(sealing, message(b"e", HOUR_US))
    assert one.digest == two.digest
    assert len({one.digest, other_reason.digest, other_gateway.digest, later.digest}) == 4


def test_each_gateway_has_a_quota_of_its_own_which_returns_with_the_hour():
    sealing = sealer(10)
    assert kept(seal(sealing, message(b"a" * 10), message(b"b"))) == [True, False]
    assert kept(seal(sealing, message(b"c" * 10), gateway_key=8)) == [True]
    assert kept(seal(sealing, message(b"d" * 10, HOUR_US))) == [True]
    assert kept(seal(sealing, message(b"e", HOUR_US - 1))) == [False], "a clock that goes back opens nothing"


def test_a_message_that_comes_again_takes_no_further_room():
    assert kept(seal(sealer(10), message(b"a" * 10), message(b"a" * 10), message(b"b"))) == [True, True, False]
