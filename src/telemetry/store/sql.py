"""SQL lives in files: ordered migrations, and named statements in blocks that start with ``-- name: x``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final

from telemetry.errors import MigrationError

_NAME: Final = re.compile(r"^-- name: ([a-z_]+)\s*$", re.MULTILINE)
_FILE: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_AS_ADMIN: Final = "-- run as: admin"


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration file. ``as_admin``: runs as the administrator, all others as ``telemetry_owner``."""

    position: int
    name: str
    text: str
    as_admin: bool

    @property
    def checksum(self) -> bytes:
        """SHA-256 of the file."""
        return sha256(self.text.encode()).digest()


def sql_root() -> Path:
    """The folder of SQL files: beside the sources in a checkout, inside the package once installed."""
    here = Path(__file__).resolve()
    for candidate in (here.parents[3] / "sql", here.parents[1] / "sql"):
        if (candidate / "migrations").is_dir():
            return candidate
    raise MigrationError("the SQL files are missing", remedy="install the package again")


@cache
def queries(name: str) -> Mapping[str, str]:
    """The named statements of ``sql/queries/<name>.sql``, without comment lines and trailing semicolon."""
    parts = _NAME.split((sql_root() / "queries" / f"{name}.sql").read_text())
    names, texts = parts[1::2], parts[2::2]
    if len(set(names)) != len(names):
        raise ValueError(f"queries/{name}.sql names a statement twice")
    return MappingProxyType({key: _statement(text) for key, text in zip(names, texts, strict=True)})


def _statement(text: str) -> str:
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("--"))
    return "\n".join(lines).strip().removesuffix(";")


def migrations(database: str, root: Path | None = None) -> tuple[Migration, ...]:
    """The migrations of ``database`` ("telemetry" or "keys") in order.

    Raises:
        MigrationError: numbers repeat, start elsewhere than at 1, or leave one out.

    """
    found: list[Migration] = []
    for path in sorted(((root or sql_root()) / "migrations" / database).glob("*.sql")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not named like 0001_what_it_does.sql")
        text = path.read_text()
        found.append(Migration(int(match[1]), path.stem, text, text.startswith(_AS_ADMIN)))
    if [migration.position for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"the migrations of {database} are not numbered 0001, 0002, … without gaps")
    return tuple(found)
