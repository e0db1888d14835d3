"""The repository checks itself: layers, sizes, dead files, and what must not stand in it."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src"
PACKAGE = SOURCES / "telemetry"
SIMULATOR = ROOT / "device_sim"

MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 60
AIMED_FILE_LINES, AIMED_FUNCTION_LINES = 300, 40

# What each layer may import of this package, its own modules aside (docs/ARCHITECTURE.md).
_PURE = {"errors", "model"}
_ADAPTERS = _PURE | {"codecs", "privacy", "ports", "config", "observe", "pipeline"}
_INNER = _ADAPTERS | {"sources", "store"}
MAY_IMPORT = {
    "errors": set(),
    "config": _PURE | {"config_outward"},
    "config_outward": set(),
    "config_text": {"errors", "config"},
    "model": {"errors"},
    "codecs": _PURE,
    "privacy": _PURE,
    "memory": set(),
    "ports": _PURE | {"privacy"},
    "observe": _PURE | {"config"},
    "health": {"errors", "config", "observe"},
    "embedded": {"errors", "config"},
    "pipeline": _PURE | {"codecs", "privacy", "ports", "config", "observe"},
    "sources": _ADAPTERS - {"pipeline"},
    "store": _ADAPTERS - {"pipeline"},
    "maintenance": _INNER,
    "rights": _INNER,
    "views": _INNER,
    "access": _INNER | {"deliver"},
    "deliver": _INNER,
    "alerts": _INNER | {"views", "deliver"},
    "client": set(),
}
OUTERMOST = {
    "app",
    "api",
    "bluetooth",
    "background",
    "servers",
    "service",
    "demo",
    "demo_feeds",
    "recovery",
    "cli",
    "__main__",
}  # may import everything but the cli
ENTRY_POINTS = {"telemetry.__main__", "device_sim.__main__"}


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    base = SOURCES if path.is_relative_to(SOURCES) else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> set[str]:
    """Every module that ``path`` imports anywhere in it, as far as the names tell."""
    found = set()
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            found.add(base)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def layer_of(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


def all_files() -> list[Path]:
    """What git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: what is tracked cannot be told")
    found = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in found if path.is_file()]


@pytest.mark.parametrize("path", modules(PACKAGE), ids=name_of)
def test_imports_go_one_way(path):
    layer = layer_of(name_of(path))
    wanted = {layer_of(name) for name in imports_of(path) if name.startswith("telemetry.")} - {layer}
    if layer in OUTERMOST:
        assert layer in {"cli", "__main__"} or "cli" not in wanted
    elif layer:
        assert layer in MAY_IMPORT, f"say in MAY_IMPORT what {layer} may import"
        layers = {entry.stem if entry.is_file() else entry.name for entry in PACKAGE.iterdir()}
        assert (wanted & layers) <= MAY_IMPORT[layer]


def test_the_simulator_shares_nothing_with_the_service():
    for path in modules(SIMULATOR):
        assert not {name for name in imports_of(path) if name.split(".")[0] == "telemetry"}, name_of(path)
    for path in modules(PACKAGE):
        assert not {name for name in imports_of(path) if name.split(".")[0] == "device_sim"}, name_of(path)


def functions_of(path: Path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def test_files_and_functions_stay_short():
    long_files, long_functions, over = [], [], []
    for path in [*modules(PACKAGE), *modules(SIMULATOR)]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > AIMED_FILE_LINES:
            long_files.append(f"{name_of(path)}: {lines} lines")
        if lines > MAX_FILE_LINES:
            over.append(f"{name_of(path)}: {lines} lines")
        for name, length in functions_of(path):
            if length > AIMED_FUNCTION_LINES:
                long_functions.append(f"{name_of(path)}.{name}: {length} lines")
            if length > MAX_FUNCTION_LINES:
                over.append(f"{name_of(path)}.{name}: {length} lines")
    print(f"above {AIMED_FILE_LINES} lines a file or {AIMED_FUNCTION_LINES} a function, which is the aim:")
    print("\n".join([*long_files, *long_functions]) or "none")
    assert not over


def _commands_by_module() -> set[str]:
    """Modules that are run as ``python -m`` or named in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text()
    return ENTRY_POINTS | {match[1] for match in re.finditer(r'= "([\w.]+):\w+"', text)}


def test_no_module_is_dead():
    ours = [*modules(PACKAGE), *modules(SIMULATOR)]
    users = [*ours, *(modules(ROOT / "benchmarks") if (ROOT / "benchmarks").is_dir() else [])]
    wanted = {name for path in users for name in imports_of(path)} | _commands_by_module()
    # Commands and programs of child processes are named in strings: "package.module" or "package.module:name".
    texts = "\n".join(path.read_text(encoding="utf-8") for path in users)
    wanted |= set(re.findall(r"[\"']((?:telemetry|device_sim)(?:\.\w+)+)(?::\w+)?[\"']", texts))
    dead = [name_of(path) for path in ours if path.name != "__init__.py" and name_of(path) not in wanted]
    assert dead == []


# Built from pieces, so that this file does not hold what it looks for.
_MACHINE = "|".join("/" + name for name in ("work/", "home/\\w", "Users/\\w", "root/", "mnt/\\w"))
_REGISTRIES = "|".join(
    "[.]".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "(org|com)"),
        ("crates", "io"),
        ("proxy", "golang"),
        ("jfrog", "io"),
        ("docker", "io"),
        ("deb", "debian"),
    )
)
FORBIDDEN = {
    "an absolute path of a machine": rf"(?<![\w.}}/~-])({_MACHINE})",
    "a registry's host name": rf"(?i)\b({_REGISTRIES})",
    "an index address": r"--(extra-)?index-" + "url|find-" + "links",
    "work that nobody explains": r"\b(TO" + "DO|FIX" + r"ME|X" + r"XX)\b(?!\([^)]{10,}\))",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_repository_does_not_hold(what):
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in all_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}")
    assert found == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("an absolute path of a machine", 'open("' + "/ho" + 'me/somebody/x")'),
        ("a registry's host name", "https://" + "py" + "pi.org/simple"),
        ("an index address", "pip install --index-" + "url x"),
        ("work that nobody explains", "# TO" + "DO later"),
    ],
)
def test_what_is_forbidden_would_be_found(what, line):
    assert re.search(FORBIDDEN[what], line)


def test_test_files_have_names_of_their_own():
    names = [path.name for path in modules(ROOT / "tests") if path.name.startswith("test_")]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


def test_every_metric_is_documented_and_no_other():
    from telemetry.observe import Metrics

    text = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(telemetry_\w+)", text, flags=re.MULTILINE))
    exposed = set()
    for family in Metrics().registry.collect():
        exposed.add(f"{family.name}_total" if family.type == "counter" else family.name)
    assert documented == exposed


def _commands(command, path=()):
    """The full names of all commands below ``command``."""
    command = command.load() if hasattr(command, "load") else command
    inner = getattr(command, "commands", None)
    if inner is None:
        return {" ".join(path)}
    return {name for key, below in inner.items() for name in _commands(below, (*path, key))}


def test_every_command_is_documented_and_no_other():
    from telemetry.__main__ import build

    text = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `telemetry ([a-z][a-z-]*(?: [a-z][a-z-]*)*)", text, flags=re.MULTILINE))
    assert documented == _commands(build())
