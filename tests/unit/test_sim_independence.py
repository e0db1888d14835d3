"""The simulator judges the service, so it shares no code with it."""

import ast
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_device_sim_imports_nothing_of_the_service() -> None:
    files = sorted((_ROOT / "device_sim").glob("**/*.py"))
    assert files

    for path in files:
        assert not {name for name in imported(path) if name.split(".")[0] == "telemetry"}, path.name


def test_nor_does_the_load_generator() -> None:
    names = imported(_ROOT / "benchmarks" / "generator.py")

    assert not {name for name in names if name.split(".")[0] in {"telemetry", "device_sim"}}
