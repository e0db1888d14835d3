"""What a scan can read: directories of raw files, databases, and anything that gives bytes (a metrics page)."""

import asyncio
import contextlib
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from telemetry.maintenance.matcher import PIECE, Stream
from telemetry.maintenance.scan import Collector

_RELATIONS: Final = """
select n.nspname as schema, c.relname as name, c.relisshared as shared,
       array(select a.attname::text from pg_attribute a
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum) as columns
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm') and not pg_is_other_temp_schema(n.oid)
order by 1, 2
"""
_DATABASES: Final = "select datname from pg_database where datallowconn order by 1"
_SETTINGS: Final = {"row_security": "off", "statement_timeout": "0", "lock_timeout": "5s"}


@dataclass(frozen=True, slots=True)
class _Table:
    schema: str
    name: str
    columns: Sequence[str]
    only: str = "only "

    def query(self, columns: Sequence[str]) -> str:
        """Rows of this table alone: partitions and heirs are tables of their own."""
        listed = ", ".join(map(_quote, columns))
        return f"select {listed} from {self.only}{_quote(self.schema)}.{_quote(self.name)}"  # noqa: S608 - quoted


# Not a table, but the texts of other sessions that no table holds.
_VIEWS: Final = (_Table("pg_catalog", "pg_stat_activity", ("query", "application_name", "client_hostname"), ""),)


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A file or directory that is left out, and why; the reason is printed."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A file, or all regular files under a directory: their names and their bytes. Links are not followed."""

    label: str
    path: Path
    exclusions: Sequence[Exclusion] = ()

    async def search(self, collector: Collector, token: str | None) -> None:
        """Read all files in a thread; a file that vanishes meanwhile is none."""
        await asyncio.to_thread(self._search, collector, token)

    def _search(self, collector: Collector, token: str | None) -> None:
        if not self.path.exists():
            collector.skip(self.label, "there is no such file or directory")
            return
        with self._planted(collector, token):
            excluded = {entry.path.resolve(): entry.reason for entry in self.exclusions}
            for path in self._files(self.path, excluded, collector):
                self._read(path, collector)

    @contextlib.contextmanager
    def _planted(self, collector: Collector, token: str | None) -> Iterator[None]:
        if token is None:
            yield
            return
        if not self.path.is_dir():
            collector.add(self.label, f"{self.label}: control", Counter(collector.matcher.search(token.encode())), 0)
            yield
            return
        control = self.path / "scan-control.tmp"
        try:
            control.write_text(f"{token}\n{token.encode().hex()}\n")
        except OSError:
            collector.skip(self.label, "the positive control cannot be written here")
        try:
            yield
        finally:
            control.unlink(missing_ok=True)

    def _files(self, path: Path, excluded: dict[Path, str], collector: Collector) -> Iterator[Path]:
        if (reason := excluded.get(path.resolve())) is not None:
            collector.skip(collector.label(self.label, self._part(path)), reason, intended=True)
            return
        try:
            mode = path.stat().st_mode if path == self.path else path.lstat().st_mode
            children = sorted(path.iterdir()) if stat.S_ISDIR(mode) else []
        except FileNotFoundError:
            return
        except OSError:
            collector.skip(collector.label(self.label, self._part(path)), "not readable by this user")
            return
        if stat.S_ISREG(mode):
            yield path
        for child in children:
            yield from self._files(child, excluded, collector)

    def _part(self, path: Path) -> str:
        return path.name if path == self.path else path.relative_to(self.path).as_posix()

    def _read(self, path: Path, collector: Collector) -> None:
        label = collector.label(self.label, self._part(path))
        stream = Stream(collector.matcher)
        try:
            with path.open("rb", buffering=0) as file:
                while piece := file.read(PIECE):
                    stream.feed(piece)
        except FileNotFoundError:
            return
        except OSError:
            collector.skip(label, "not readable by this user")
        collector.add(self.label, label, stream.hits, stream.size)


@dataclass(frozen=True, slots=True)
class BytesPlace:
    """Whatever ``read`` gives, such as a metrics page. ``read`` runs in a thread."""

    label: str
    read: Callable[[], bytes]

    async def search(self, collector: Collector, token: str | None) -> None:
        """Read once."""
        try:
            content = await asyncio.to_thread(self.read)
        except OSError:
            collector.skip(self.label, "cannot be read; is the service running?")
            return
        stream = Stream(collector.matcher)
        stream.feed(content)
        if token is not None:
            stream.feed(b"\n" + token.encode())
        collector.add(self.label, self.label, stream.hits, len(content))


@dataclass(frozen=True, slots=True)
class MissingPlace:
    """What should be searched and is not there: it makes the scan incomplete, with this reason."""

    label: str
    reason: str

    async def search(self, collector: Collector, token: str | None) -> None:  # noqa: ARG002 - a Place
        """Say that nothing was searched."""
        collector.skip(self.label, self.reason)


@dataclass(frozen=True, slots=True)
class DatabasePlace:
    """Every column of every table of every database of a server, catalogues and statistics included.

    The role must be superuser, or have pg_read_all_data and BYPASSRLS: what it may not read is reported as not
    searched, and row-level security raises an error instead of hiding rows. Deleted rows and indexes are in the
    raw files only. PostgreSQL may keep long values and page images compressed there: both views are needed.
    """

    label: str
    dsn: str

    async def search(self, collector: Collector, token: str | None) -> None:
        """One database after the other; shared catalogues once."""
        try:
            connection = await asyncpg.connect(self.dsn, server_settings=_SETTINGS)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            collector.skip(self.label, "the server cannot be reached or refused the role")
            return
        try:
            names = [row["datname"] for row in await connection.fetch(_DATABASES)]
        finally:
            await connection.close()
        for number, name in enumerate(names):
            label = collector.label(self.label, name)
            try:
                connection = await asyncpg.connect(self.dsn, database=name, server_settings=_SETTINGS)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                collector.skip(label, "the role may not connect to this database")
                continue
            try:
                await self._search_database(connection, label, collector, token, shared=number == 0)
            finally:
                await connection.close()

    async def _search_database(
        self, connection: Any, label: str, collector: Collector, token: str | None, *, shared: bool
    ) -> None:
        if token is not None:
            await self._plant(connection, label, collector, token)
        tables = [
            _Table(row["schema"], row["name"], tuple(row["columns"]))
            for row in await connection.fetch(_RELATIONS)
            if shared or not row["shared"]
        ]
        for table in tables + (list(_VIEWS) if shared else []):
            await self._search_table(connection, label, collector, table)

    async def _plant(self, connection: Any, label: str, collector: Collector, token: str) -> None:
        try:
            await connection.execute("create temp table scan_control (as_text text, as_bytes bytea)")
            await connection.execute("insert into scan_control values (upper($1), convert_to($1, 'UTF8'))", token)
        except asyncpg.PostgresError:
            collector.skip(label, "the positive control cannot be written here")

    async def _search_table(self, connection: Any, database: str, collector: Collector, table: _Table) -> None:
        label = collector.label(database, f"{table.schema}.{table.name}")
        try:
            stream = await _copy(connection, collector, table.query(table.columns))
            found: Counter[Any] = Counter()
            for column in table.columns if stream.hits else ():
                part = await _copy(connection, collector, table.query([column]))
                collector.add(self.label, f"{label}.{column}", part.hits, 0)
                found += part.hits
            collector.add(self.label, label, stream.hits - found, stream.size)
        except asyncpg.UndefinedTableError:
            return  # dropped meanwhile; its files are searched as files
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            collector.skip(label, "the role may not read all of it, or the server broke off")


async def _copy(connection: Any, collector: Collector, query: str) -> Stream:
    """Search the text form of a query's rows, as COPY writes it: bytea in hexadecimal, long values whole."""
    stream = Stream(collector.matcher)
    pieces: list[bytes] = []
    waiting = 0

    async def take(data: bytes) -> None:
        nonlocal waiting
        pieces.append(data)
        waiting += len(data)
        if waiting >= PIECE:
            await asyncio.to_thread(stream.feed, b"".join(pieces))
            pieces.clear()
            waiting = 0

    await connection.copy_from_query(query, output=take)
    stream.feed(b"".join(pieces))
    return stream


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
