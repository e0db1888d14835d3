"""Fixtures of real servers."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.store import migrated, store  # noqa: F401


@pytest.fixture
def tmp() -> Iterator[Path]:
    """A directory with a name short enough for a Unix socket in it."""
    directory = Path(tempfile.mkdtemp(prefix="t-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
