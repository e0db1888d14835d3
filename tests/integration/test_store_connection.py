"""Connections as they are opened: whoever gives up meanwhile leaves no session behind."""

import asyncio
import contextlib

from tests.support.store import Store

MOMENTS = 150  # one in fourteen falls between the session's beginning and its last setting


async def test_a_connection_given_up_while_it_opens_is_closed(store: Store) -> None:
    connect, admin = store.role("views"), await store.admin()
    for number in range(MOMENTS):
        opening = asyncio.create_task(connect())
        await asyncio.sleep(0.012 * number / MOMENTS)
        if opening.done():
            opening.result().terminate()
            continue
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await opening).terminate()
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'telemetry_views'"
    async with asyncio.timeout(20):
        while await admin.fetchval(sessions):
            await asyncio.sleep(0.05)
