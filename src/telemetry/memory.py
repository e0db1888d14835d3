"""What the C library does with memory that is given back to it.

Decoding and the core allocate and free arrays of some megabytes for every batch. By default glibc hands such blocks
back to the kernel at once, and the kernel clears every page again on the next batch: a tenth to a third of the time
that decoding takes. Keeping them costs some tens of megabytes of resident memory, bounded by the trim threshold.
"""

import ctypes
import gc
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # malloc.h; see mallopt(3)
_M_MMAP_THRESHOLD: Final = -3
_LARGEST: Final = 32 * 2**20  # the most that mallopt accepts as mmap threshold on 64-bit systems
_KEPT: Final = 64 * 2**20


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks for reuse; once, at the start of a process.

    Returns whether it did: other C libraries have no such setting, and work as before.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _KEPT))


def calm_garbage_collection() -> None:
    """Leave what exists now out of every later collection, and collect less often; once, after all imports.

    Messages, batches and answers form few cycles: reference counts free them. What the collector finds is little, and
    a full pass over the modules of polars and pyarrow stops every thread for a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
