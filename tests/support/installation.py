"""A data directory with keys, a migrated PostgreSQL and a configuration file, and the program run against it."""

import asyncio
import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from telemetry.__main__ import build
from telemetry.embedded.broker_probe import free_port
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.store.keystore import FileKeystore, role_password
from telemetry.store.migrate import ROLES, migrate


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Installation:
    """What is installed, and where."""

    data_dir: Path
    config: Path
    postgres: EmbeddedPostgres
    keystore: FileKeystore

    async def telemetry(self, *arguments: str) -> Ended:
        """Run a command in this process, in a thread of its own as it starts a loop of its own."""
        return await asyncio.to_thread(self._run, [*arguments, "--config", str(self.config)])

    def _run(self, arguments: list[str]) -> Ended:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                build()(args=arguments, prog_name="telemetry")
            except SystemExit as end:
                code = int(end.code or 0)
        return Ended(code, out.getvalue(), err.getvalue())


@asynccontextmanager
async def installation(settings: Mapping[str, str] | None = None) -> AsyncIterator[Installation]:
    """Install into a short directory, and remove it afterwards."""
    data_dir = Path(tempfile.mkdtemp(prefix="tin-"))
    try:
        data_dir.chmod(0o711)  # root's PostgreSQL runs as another user and must get there
        (data_dir / "postgres").mkdir(mode=0o711)
        (data_dir / "postgres").chmod(0o711)
        config = data_dir / "telemetry.toml"
        config.write_text(f'data_dir = "{data_dir}"\n[observe]\nport = {free_port("127.0.0.1")}\n')
        keystore = FileKeystore(data_dir / "keys")
        keystore.create()
        async with EmbeddedPostgres(data_dir / "postgres", settings=settings) as postgres:
            passwords = {role: role_password(keystore, role) for role in ROLES}
            await migrate(lambda database: asyncpg.connect(postgres.dsn(database)), passwords)
            yield Installation(data_dir, config, postgres, keystore)
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)
