"""Live batches: what has become visible since the last one, each from a snapshot of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from telemetry.errors import NoLongerAvailable, NotVisible, StoreUnavailable
from telemetry.model.series import LATENESS_US
from telemetry.model.sharing import Resolution
from telemetry.privacy.combine import instant_us
from telemetry.privacy.resolution import next_boundary
from telemetry.store.connection import UNAVAILABLE, Connect, closed_is_lost, translated
from telemetry.views.query import Query, Way
from telemetry.views.sight import Viewer
from telemetry.views.view import View, Views

CHANNELS: Final = ("telemetry_consent", "telemetry_change")
_LOOK_BACK: Final = {
    Resolution.RAW: timedelta(minutes=15),
    Resolution.PT1M: timedelta(hours=1),
    Resolution.PT15M: timedelta(hours=3),
    Resolution.PT30M: timedelta(hours=3),
    Resolution.PT1H: timedelta(hours=6),
    Resolution.P1D: timedelta(days=3),
    Resolution.P1M: timedelta(days=93),
}
_SECOND_US: Final = 1_000_000


class _Woken:
    """Told by the database that settings changed, or that it can no longer tell."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self._connection: Any = None

    async def listen(self, connect: Connect) -> None:
        """Listen, on a connection of its own. Raises StoreUnavailable."""
        if self._connection is not None and not self._connection.is_closed():
            return
        connection = await connect()
        try:
            with closed_is_lost():
                connection.add_termination_listener(lambda _: self.event.set())
                for channel in CHANNELS:
                    await connection.add_listener(channel, lambda *_: self.event.set())
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            connection.terminate()
            raise translated(error) from None
        except BaseException:  # whoever listened is gone meanwhile
            connection.terminate()
            raise
        self._connection = connection

    async def wait(self, seconds: float) -> None:
        """Until woken, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.event.wait()
        self.event.clear()

    def close(self) -> None:
        """Stop listening."""
        if self._connection is not None:
            self._connection.terminate()


async def stream(
    views: Views, connect: Connect, recipient_key: int, query: Query, *, poll_s: float = 5.0
) -> AsyncIterator[View]:
    """What becomes visible, batch by batch; the first one is of the recent past. Never ends by itself.

    ``query``: its range is taken as what may be looked back at, by the resolution; ``until`` ends nothing. Each
    batch holds the rows that are new or corrected, from one snapshot, together with the devices seen in it. Grants
    are looked at anew with every change of settings that the database tells of, at every window's end, and every
    ``poll_s`` seconds in any case (each second where readings are raw). One stream is one task; ``connect`` opens a
    connection as ``telemetry_views`` to listen on.

    Raises:
        NotVisible: a site or device asked for does not exist or is not shared at the beginning.
        NoLongerAvailable: nothing (of what was asked for) is shared any more, within a second of the withdrawal.

    """
    woken, viewer, known, began = _Woken(), Viewer(recipient_key, query.purpose), None, False
    try:
        while True:
            try:
                await woken.listen(connect)
                # Settings that change from here on wake the wait below.
                view = await _recent(views, viewer, query, began=began)
            except StoreUnavailable:
                await asyncio.sleep(min(poll_s, 1.0))
                continue
            if view.is_gone:
                raise NoLongerAvailable
            began = True
            fresh = (
                view.rows
                if known is None
                else view.rows.join(known, on=view.rows.columns, how="anti", nulls_equal=True)
            )
            known = view.rows
            if not fresh.is_empty():
                yield replace(view, rows=fresh)
            await woken.wait(_next_s(view, views.now(), poll_s))
    finally:
        woken.close()


async def _recent(views: Views, viewer: Viewer, query: Query, *, began: bool) -> View:
    now = views.now()
    recent = replace(query, since=now - _LOOK_BACK[query.resolution], until=now + timedelta(hours=1))
    try:
        return (await views.read(viewer, recent, way=Way.STREAM))[0]
    except NotVisible:
        if began:
            raise NoLongerAvailable from None
        raise


def _next_s(view: View, now: datetime, poll_s: float) -> float:
    """Seconds until something may become visible."""
    now_us = instant_us(now)
    served = {Resolution(name) for name in view.shared["resolution"].unique()}
    if Resolution.RAW in served:
        return min(1.0, poll_s)
    ends = [next_boundary(now_us - LATENESS_US, resolution) + LATENESS_US for resolution in served]
    return min(poll_s, max(0.0, (min(ends, default=now_us + 3600 * _SECOND_US) - now_us) / _SECOND_US) + 0.05)
