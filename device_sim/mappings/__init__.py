"""Mappings that come with the package, one TOML file for each kind of recording: facts about columns, no data."""

from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent


def shipped_mappings() -> tuple[str, ...]:
    """The names of the mappings that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def find_mapping(name: str) -> Path:
    """A file by path, or a shipped mapping by name.

    Raises:
        ValueError: neither exists.

    """
    for path in (Path(name), _FOLDER / f"{name}.toml"):
        if path.is_file():
            return path
    raise ValueError(f"no mapping {name!r}; those that come with it: {', '.join(shipped_mappings())}")
