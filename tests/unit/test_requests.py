"""What codecs ask gateways for: once, again and again, never too often, and of nobody who left."""

from dataclasses import dataclass, field

import pytest

from telemetry.codecs.state import Request, Standing
from telemetry.pipeline.requests import Requests

KEEP = Standing("R/x/keepalive", b"first", b"again", 30.0)


@dataclass
class Wire:
    now: float = 100.0
    sends: bool = True
    sent: list = field(default_factory=list)
    gone: set = field(default_factory=set)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        assert not retain
        if self.sends:
            self.sent.append((topic, payload))
        return self.sends

    def taken(self) -> list:
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def requests(wire: Wire) -> Requests:
    return Requests(wire, lambda name: name not in wire.gone, monotonic=lambda: wire.now)


async def test_a_request_is_published_once_below_the_gateways_prefix(wire: Wire, requests: Requests):
    requests.ask(
        [Request("g", "R/b/keepalive", b"x"), Request("g", "R/b/keepalive", b"x"), Request("h", "R/b/keepalive")]
    )
    assert await requests.publish() == 2
    assert wire.taken() == [("gw/g/R/b/keepalive", b"x"), ("gw/h/R/b/keepalive", b"")]
    assert await requests.publish() == 0


async def test_the_same_is_asked_for_again_only_after_a_while(wire: Wire, requests: Requests):
    for moment, sent in ((0, 1), (9, 0), (10, 1)):
        wire.now = 100 + moment
        requests.ask([Request("g", "R/a/keepalive")])
        assert await requests.publish() == sent


async def test_what_cannot_be_sent_waits(wire: Wire, requests: Requests):
    wire.sends = False
    requests.ask([Request("g", "R/a/keepalive")])
    requests.stand({("g", "x"): [KEEP]})
    assert await requests.publish() == 0
    wire.sends = True
    assert await requests.publish() == 2
    assert wire.taken() == [("gw/g/R/a/keepalive", b""), ("gw/g/R/x/keepalive", b"first")]


async def test_a_standing_request_goes_out_in_its_interval_the_first_time_otherwise(wire: Wire, requests: Requests):
    requests.stand({("g", "x"): [KEEP]})
    for moment, payload in ((0, b"first"), (1, None), (29, None), (30, b"again"), (59, None), (61, b"again")):
        wire.now = 100 + moment
        requests.stand({("g", "x"): [KEEP]})  # wanting the same again does not begin anew
        await requests.publish()
        assert wire.taken() == ([("gw/g/R/x/keepalive", payload)] if payload else [])


async def test_what_is_no_longer_wanted_ends(wire: Wire, requests: Requests):
    requests.stand({("g", "x"): [KEEP], ("g", "y"): [KEEP]})
    requests.stand({("g", "x"): ()})
    assert await requests.publish() == 1


async def test_a_gateway_that_was_revoked_is_asked_for_nothing(wire: Wire, requests: Requests):
    requests.stand({("g", "x"): [KEEP]})
    requests.ask([Request("g", "R/a/keepalive")])
    wire.gone.add("g")
    assert await requests.publish() == 0
    wire.gone.clear()
    assert await requests.publish() == 0


async def test_what_waits_is_bounded(wire: Wire, requests: Requests):
    wire.sends = False
    requests.ask(Request("g", f"R/{number}/keepalive") for number in range(20_000))
    await requests.publish()
    wire.sends = True
    assert await requests.publish() == 10_000


@pytest.mark.parametrize(
    "topic",
    ["committed", "status", "readings", "R/+/keepalive", "R/#", "R/x\0/keepalive", f"R/{'x' * 70_000}/keepalive"],
)
async def test_nothing_goes_where_the_registry_does_not_list_or_a_broker_would_not_take(
    wire: Wire, requests: Requests, topic: str
):
    requests.ask([Request("g", topic)])
    requests.stand({("g", "x"): [Standing(topic, b"", b"", 30.0)]})
    assert await requests.publish() == 0
