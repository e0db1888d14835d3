"""Fixtures of a real API over a real database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.api_world import ApiWorld, api_world
from tests.support.store import Store, migrated, store  # noqa: F401


@pytest_asyncio.fixture
async def world(store: Store, tmp_path: Path) -> AsyncIterator[ApiWorld]:  # noqa: F811
    """An API that nobody has an account on."""
    async with api_world(store, tmp_path) as made:
        yield made
