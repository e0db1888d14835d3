"""A worker that acknowledges each message when it arrives, as a careless one would: for tests of the tests."""

import sys
from collections.abc import Sequence

from telemetry.model.batch import RawMessage
from telemetry.pipeline.delivery import Delivery, Ticket
from tests.support.worker_main import run

_received = Delivery.received


def _acknowledged_on_receipt(self: Delivery, messages: Sequence[RawMessage]) -> Ticket:
    self._source.acknowledge([message.token for message in messages])
    return _received(self, messages)


if __name__ == "__main__":
    Delivery.received = _acknowledged_on_receipt  # type: ignore[method-assign]
    run(sys.argv[1])
