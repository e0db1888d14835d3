"""The API's parts without a server: buckets, cursors, forms."""

import re

import pytest

from telemetry.access.principal import Principal, Role
from telemetry.api.formats import MEDIA_TYPES, Form, negotiated
from telemetry.api.keyed import CURSOR_S, Cursors, ETags, GrantNames
from telemetry.api.limits import Limits, windows_of
from telemetry.config import ApiConfig
from telemetry.errors import CursorExpired, InvalidRequest, NotAcceptable, RateLimited, TooCostly
from telemetry.model.sharing import Resolution

SECRET = b"s" * 32
ONE, TWO = (Principal(Role.RECIPIENT, key, token_key=key) for key in (1, 2))
HOUR_US = 3_600_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class TestCursors:
    def test_it_opens_for_whom_and_what_it_was_sealed(self):
        cursors = Cursors(SECRET)
        sealed = cursors.seal(ONE, b"q", ["site", "device"])
        assert cursors.open(ONE, b"q", sealed) == ["site", "device"]
        for other in (lambda: cursors.open(TWO, b"q", sealed), lambda: cursors.open(ONE, b"p", sealed)):
            with pytest.raises(InvalidRequest):
                other()
        with pytest.raises(InvalidRequest):
            Cursors(b"t" * 32).open(ONE, b"q", sealed)

    def test_another_token_of_the_same_recipient_goes_on(self):
        cursors = Cursors(SECRET)
        assert cursors.open(Principal(Role.RECIPIENT, 1, token_key=9), b"q", cursors.seal(ONE, b"q", 7)) == 7

    def test_an_owner_and_a_recipient_of_one_key_are_two(self):
        cursors = Cursors(SECRET)
        with pytest.raises(InvalidRequest):
            cursors.open(Principal(Role.OWNER, 1), b"q", cursors.seal(ONE, b"q", 7))

    def test_it_is_honoured_for_a_day(self):
        clock = Clock()
        cursors = Cursors(SECRET, now=clock)
        sealed = cursors.seal(ONE, b"q", 7)
        clock.now += CURSOR_S
        assert cursors.open(ONE, b"q", sealed) == 7
        clock.now += 3600  # the end lies on a whole hour
        with pytest.raises(CursorExpired):
            cursors.open(ONE, b"q", sealed)

    @pytest.mark.parametrize("text", ["", "A", "A" * 60, "é" * 40, "!" * 40])
    def test_what_is_no_cursor_is_refused(self, text):
        with pytest.raises(InvalidRequest):
            Cursors(SECRET).open(ONE, b"q", text)


class TestKeyedNames:
    def test_an_etag_depends_on_asker_body_and_form(self):
        etags = ETags(SECRET)
        tags = {etags.of(who, body, kind) for who in (ONE, TWO, None) for body in (b"", b"x") for kind in (b"a", b"b")}
        assert len(tags) == 12
        assert all(re.fullmatch(r'"[0-9a-f]{32}"', tag) for tag in tags)

    def test_a_grant_is_called_differently_by_each_recipient(self):
        names = GrantNames(SECRET)
        assert names.of(ONE, 7) == names.of(ONE, 7)
        assert len({names.of(ONE, 7), names.of(ONE, 8), names.of(TWO, 7), GrantNames(b"t" * 32).of(ONE, 7)}) == 4


class TestLimits:
    def made(self, **config):
        clock = Clock()
        return Limits(ApiConfig(**config), monotonic=clock), clock

    def test_requests_come_back_evenly(self):
        limits, clock = self.made(requests_per_minute=60)
        for _ in range(60):
            limits.admit(ONE).release()
        with pytest.raises(RateLimited) as refused:
            limits.admit(ONE)
        assert refused.value.retry_after_s == 1
        clock.now += 1
        limits.admit(ONE).release()
        limits.admit(TWO).release()

    def test_headers_say_when_all_is_back(self):
        limits, clock = self.made(requests_per_minute=60)
        for _ in range(10):
            slot = limits.admit(ONE)
            slot.release()
        assert slot.headers()["RateLimit"].startswith('"requests";r=50;t=10,')
        clock.now += 10
        assert limits.admit(ONE).headers()["RateLimit"].startswith('"requests";r=59;t=1,')

    def test_rows_that_were_given_are_waited_for(self):
        limits, clock = self.made(rows_per_hour=3600)
        slot = limits.admit(ONE)
        slot.charge(3600 + 10)
        slot.release()
        with pytest.raises(RateLimited) as refused:
            limits.admit(ONE)
        assert refused.value.retry_after_s == 11
        clock.now += 11
        limits.admit(ONE)

    def test_requests_and_streams_at_once(self):
        limits, _ = self.made(concurrent=2, streams=1)
        first, second = limits.admit(ONE), limits.admit(ONE)
        with pytest.raises(RateLimited):
            limits.admit(ONE)
        limits.begin_stream(first)
        with pytest.raises(RateLimited):
            limits.begin_stream(second)
        first.release()
        first.release()
        limits.begin_stream(limits.admit(ONE))
        with pytest.raises(RateLimited):
            limits.admit(ONE)

    def test_a_cost_is_devices_times_fields_times_windows(self):
        limits, _ = self.made(rows_per_request=1000)
        day = (0, 24 * HOUR_US)
        assert windows_of(day, Resolution.PT15M) == 96
        assert limits.devices(1, day, Resolution.PT15M, at_most=200) == 10
        assert limits.devices(10, day, Resolution.PT15M, at_most=200) == 1
        assert limits.devices(1, day, Resolution.P1D, at_most=200) == 200
        with pytest.raises(TooCostly):
            limits.devices(11, day, Resolution.PT15M, at_most=200)
        with pytest.raises(TooCostly):
            limits.bound(2, 10, day, Resolution.PT15M)


class TestForms:
    @pytest.mark.parametrize(
        ("accept", "form"),
        [
            (None, Form.COLUMNS),
            ("*/*", Form.COLUMNS),
            ("text/csv", Form.CSV),
            ("application/*;q=0.5, text/csv;q=0.4", Form.COLUMNS),
            ("text/csv;q=0.4, application/vnd.apache.arrow.stream", Form.ARROW),
            ("application/json;q=0, */*", Form.CSV),
            ("TEXT/CSV ; q=1.0", Form.CSV),
        ],
    )
    def test_accept_chooses(self, accept, form):
        assert negotiated(accept, None, MEDIA_TYPES) is form

    def test_format_wins(self):
        assert negotiated("image/png", Form.PARQUET, MEDIA_TYPES) is Form.PARQUET

    @pytest.mark.parametrize("accept", ["image/png", "application/json;q=0", "text/csv;q=x", ""])
    def test_nothing_that_can_be_given(self, accept):
        if accept:
            with pytest.raises(NotAcceptable):
                negotiated(accept, None, MEDIA_TYPES)
        else:
            assert negotiated(accept, None, MEDIA_TYPES) is Form.COLUMNS
