"""A PostgreSQL for tests: a cluster of its own, in a short directory, gone afterwards."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from telemetry.embedded.postgres import EmbeddedPostgres

# No durability: for tests that never crash the server.
FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_wal_size": "1GB"}


@asynccontextmanager
async def temporary_postgres(
    *, fast: bool = True, settings: Mapping[str, str] | None = None
) -> AsyncIterator[EmbeddedPostgres]:
    """Start a server with an empty cluster; ``fast=False`` where a test kills it or asks what survived."""
    directory = Path(tempfile.mkdtemp(prefix="tpg-"))
    directory.chmod(0o711)  # so that root's servers, which run as another user, need no place elsewhere
    try:
        async with EmbeddedPostgres(directory, settings=(FAST if fast else {}) | dict(settings or {})) as postgres:
            yield postgres
    finally:
        shutil.rmtree(directory, ignore_errors=True)
