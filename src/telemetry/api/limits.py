"""How much one token or account may ask for: requests a minute, rows an hour, requests at once.

In memory, of one process: a restart forgets it, and two processes allow twice as much (docs/LIMITS.md). Buckets
refill evenly, so that what headers say is what holds: after ``t`` seconds of ``RateLimit`` all of the quota is there
again (draft-ietf-httpapi-ratelimit-headers-10).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Final

from telemetry.access.principal import Principal
from telemetry.config import ApiConfig
from telemetry.errors import RateLimited, TooCostly
from telemetry.model.sharing import Resolution

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_REMEMBERED: Final = 10_000
_EXPORT_ROWS: Final = 30_000_000  # all fields at 15 minutes for eleven years
_US: Final = 1_000_000
_WINDOW_S: Final = {
    Resolution.RAW: 1,  # as fast as a device is taken to report
    Resolution.PT1M: 60,
    Resolution.PT15M: 900,
    Resolution.PT30M: 1800,
    Resolution.PT1H: 3600,
    Resolution.P1D: 82_800,
    Resolution.P1M: 28 * 86_400,
}


def windows_of(range_us: tuple[int, int], resolution: Resolution) -> int:
    """How many windows of a field a range can have, at most."""
    return max(1, -(-(range_us[1] - range_us[0]) // (_WINDOW_S[resolution] * _US)))


@dataclass(slots=True)
class Bucket:
    """``quota`` units that come back evenly over ``window_s``."""

    quota: int
    window_s: int
    left: float
    at: float

    def refill(self, now: float) -> None:
        """Give back what has come back by now."""
        self.left = min(float(self.quota), self.left + (now - self.at) * self.quota / self.window_s)
        self.at = now

    def wait_s(self, wanted: float) -> int:
        """Whole seconds until ``wanted`` units are there; 0 where they are."""
        return max(0, ceil((wanted - self.left) * self.window_s / self.quota))


@dataclass(slots=True)
class _Asker:
    requests: Bucket
    rows: Bucket
    running: int = 0
    streaming: int = 0


@dataclass(slots=True)
class Slot:
    """One request under way. ``headers``: what it says of the limits."""

    asker: _Asker
    streams: bool = False
    over: bool = field(default=False)

    def headers(self) -> dict[str, str]:
        """RateLimit-Policy and RateLimit."""
        policies, states = [], []
        for name, bucket in (("requests", self.asker.requests), ("rows", self.asker.rows)):
            policies.append(f'"{name}";q={bucket.quota};w={bucket.window_s}')
            states.append(f'"{name}";r={max(0, int(bucket.left))};t={bucket.wait_s(bucket.quota)}')
        return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}

    def charge(self, rows: int) -> None:
        """Take what was given from the hour's rows, also below zero: then the next request waits."""
        self.asker.rows.left -= rows

    def release(self) -> None:
        """The request is over."""
        if not self.over:
            self.over = True
            self.asker.running -= 1
            self.asker.streaming -= self.streams


class Limits:
    """One event loop. Forgets whom it has not seen for an hour."""

    def __init__(self, config: ApiConfig, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._monotonic = monotonic
        self._askers: dict[tuple[str, int], _Asker] = {}

    def admit(self, principal: Principal) -> Slot:
        """Begin a request.

        Raises:
            RateLimited: too many requests a minute, rows an hour, or requests at once.

        """
        asker = self._asker(principal)
        slot = Slot(asker)
        if wait := asker.requests.wait_s(1):
            raise _limited("too many requests", wait, slot)
        if wait := asker.rows.wait_s(1):
            raise _limited("too many rows", wait, slot)
        if asker.running >= self._config.concurrent:
            raise _limited("too many requests at once", 1, slot)
        asker.requests.left -= 1
        asker.running += 1
        return slot

    def begin_stream(self, slot: Slot) -> None:
        """The request is a live stream or an export. Raises RateLimited."""
        if slot.asker.streaming >= self._config.streams:
            raise _limited("too many streams and exports at once", 5, slot)
        slot.streams = True
        slot.asker.streaming += 1

    def bound(self, devices: int, fields: int, range_us: tuple[int, int], resolution: Resolution) -> None:
        """Refuse what could be too large, by what is asked alone: it tells nothing of what is there.

        Raises:
            TooCostly: devices x fields x windows is more than one request may ask for.

        """
        rows = devices * fields * windows_of(range_us, resolution)
        if rows > self._config.rows_per_request:
            raise TooCostly(
                f"this could be {rows:,} values, and one request may ask for {self._config.rows_per_request:,}",
                remedy="fewer fields, a shorter range, a coarser resolution or fewer devices; or use an export",
            )

    def bound_export(self, fields: int, range_us: tuple[int, int], resolution: Resolution) -> None:
        """The same of what an export could hold of one device. Raises TooCostly."""
        if fields * windows_of(range_us, resolution) > _EXPORT_ROWS:
            raise TooCostly(
                f"this could be more than {_EXPORT_ROWS:,} values of one device",
                remedy="fewer fields, a shorter range or a coarser resolution",
            )

    def devices(self, fields: int, range_us: tuple[int, int], resolution: Resolution, *, at_most: int) -> int:
        """How many devices a page can have. Raises TooCostly where it is not one."""
        each = fields * windows_of(range_us, resolution)
        self.bound(1, fields, range_us, resolution)
        return max(1, min(at_most, self._config.rows_per_request // each))

    def _asker(self, principal: Principal) -> _Asker:
        now = self._monotonic()
        name = _name(principal)
        asker = self._askers.get(name)
        if asker is None:
            if len(self._askers) >= _REMEMBERED:
                self._forget(now)
            config = self._config
            requests = Bucket(config.requests_per_minute, _MINUTE_S, float(config.requests_per_minute), now)
            asker = _Asker(requests, Bucket(config.rows_per_hour, _HOUR_S, float(config.rows_per_hour), now))
            self._askers[name] = asker
        asker.requests.refill(now)
        asker.rows.refill(now)
        return asker

    def _forget(self, now: float) -> None:
        idle = [name for name, asker in self._askers.items() if not asker.running and now - asker.rows.at > _HOUR_S]
        for name in idle:
            del self._askers[name]


def _name(principal: Principal) -> tuple[str, int]:
    if principal.token_key is not None:
        return "token", principal.token_key
    if principal.account_key is not None:
        return "account", principal.account_key
    return principal.role.value, principal.key


def _limited(message: str, wait_s: int, slot: Slot) -> RateLimited:
    error = RateLimited(message, retry_after_s=max(1, wait_s))
    error.headers = slot.headers()
    return error
