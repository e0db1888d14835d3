"""Fixtures of real servers."""

from tests.support.store import migrated, store  # noqa: F401
