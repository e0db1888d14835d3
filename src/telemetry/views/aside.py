"""Large answers are worked out beside the event loop, so that whoever asks for little does not wait for them."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

MUCH: Final = 2_000  # rows: 1 to 5 ms to write; the way to a thread and back takes 0.05
# As many at a time as there are processors: more would be no quicker, and each thread keeps memory of its own.
_THREADS: Final = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="aside")

_P = ParamSpec("_P")
_R = TypeVar("_R")


async def aside(rows: int, work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """What ``work`` returns; in a thread where it is about ``rows`` rows and these are many.

    Arrow, polars and NumPy let go of the interpreter while they work. Who is cancelled meanwhile does not wait for the
    thread: what ``work`` is given must not be changed by anybody else.
    """
    if rows < MUCH:
        return work(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, partial(work, *args, **kwargs))
