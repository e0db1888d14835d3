"""Where recorded data lies, outside of this repository."""

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


def shared_data(*parts: str) -> Path:
    """A file or folder of the shared data; the test skips where it is absent."""
    named = os.environ.get("TELEMETRY_SHARED")
    path = (Path(named) if named else _ROOT.parent / "shared" / "data").joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is absent; TELEMETRY_SHARED names another place for the recorded data")
    return path
