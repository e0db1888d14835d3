"""Large answers are worked out beside the event loop, small ones at once."""

import asyncio
import threading

import pytest

from telemetry.views.aside import MUCH, aside


async def test_what_is_small_is_done_where_it_is_asked() -> None:
    assert await aside(MUCH - 1, threading.get_ident) == threading.get_ident()


async def test_what_is_large_leaves_the_event_loop_to_others() -> None:
    reached, going_on = threading.Event(), threading.Event()

    def work(first: int, *, second: int) -> int:
        reached.set()
        assert going_on.wait(20)
        return first + second

    answer = asyncio.create_task(aside(MUCH, work, 1, second=2))
    async with asyncio.timeout(20):
        while not reached.is_set():
            await asyncio.sleep(0)
    going_on.set()
    assert await answer == 3


@pytest.mark.parametrize("rows", [0, MUCH])
async def test_what_goes_wrong_is_raised(rows: int) -> None:
    with pytest.raises(ZeroDivisionError):
        await aside(rows, divmod, 1, 0)
