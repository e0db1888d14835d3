"""One seed for the run; every test's own follows from it and its name. TELEMETRY_TEST_SEED gives it again."""

import os
import secrets

import pytest

from tests.support.system import derived_seed

_SEED = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SEED] = int(os.environ.get("TELEMETRY_TEST_SEED") or secrets.randbelow(2**32))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _SEED in config.stash:
        terminalreporter.write_line(f"what happened at random: TELEMETRY_TEST_SEED={config.stash[_SEED]}")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This test's seed, the same for the same name and TELEMETRY_TEST_SEED."""
    run = request.config.stash[_SEED]
    print(f"TELEMETRY_TEST_SEED={run}")
    return derived_seed(run, request.node.name)
