"""What holds for every test: one seed for the run, and nothing that a test started stays on the machine.

Every test's own seed follows from the run's and its name. TELEMETRY_TEST_SEED gives it again.
"""

import os
import secrets
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from telemetry.embedded.postgres_files import SHARED_NAME, SHARED_PLACES

_SEED = pytest.StashKey[int]()

# No test asserts how fast it is: a busy machine would fail it. With a seed given, hypothesis repeats its examples too.
settings.register_profile("calm", deadline=None)
settings.register_profile("repeated", settings.get_profile("calm"), derandomize=True)
settings.load_profile("repeated" if os.environ.get("TELEMETRY_TEST_SEED") else "calm")


def pytest_configure(config: pytest.Config) -> None:
    given = getattr(config, "workerinput", {}).get("seed") or os.environ.get("TELEMETRY_TEST_SEED")
    config.stash[_SEED] = int(given or secrets.randbelow(2**32))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """pytest-xdist's processes have the seed of the run."""
    node.workerinput["seed"] = node.config.stash[_SEED]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.write_line(f"what happened at random: TELEMETRY_TEST_SEED={config.stash[_SEED]}")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This test's seed, the same for the same name and TELEMETRY_TEST_SEED."""
    run = request.config.stash[_SEED]
    print(f"TELEMETRY_TEST_SEED={run}")
    return zlib.crc32(f"{run}/{request.node.name}".encode())


def pytest_sessionfinish() -> None:
    """Remove clusters that root's tests kept outside of a temporary data directory that is gone."""
    temporary = Path(tempfile.gettempdir())
    for place in SHARED_PLACES:
        for note in (place / SHARED_NAME).glob("*/belongs-to"):
            try:
                owner = Path(note.read_text().strip())
            except OSError:
                continue  # another user's
            if temporary in owner.parents and not owner.exists():
                shutil.rmtree(note.parent, ignore_errors=True)
