"""The HTTP API in a process of its own over a benchmark's database, and askers of it."""

import asyncio
import hashlib
import multiprocessing
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.stage_views import PASSWORD
from telemetry.access.principal import Role, Scope
from telemetry.access.records import Holder
from telemetry.access.tokens import MachineTokens
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.model.sharing import SharingPurpose
from telemetry.privacy.keys import Kek
from telemetry.store.connection import connector
from telemetry.store.keyring import KeyRing, OwnerSecrets
from telemetry.views.pool import Pool


class Keystore:
    """Secrets that are made of their names."""

    def secret(self, name: str) -> bytes:
        if name.startswith("password-"):
            return PASSWORD.encode()
        return hashlib.sha256(f"benchmark {name}".encode()).digest()


class Keks:
    """One key-encryption key."""

    def __init__(self) -> None:
        self._kek = Kek(Keystore().secret("kek"))

    def named(self, kek_id: bytes) -> Kek:
        """The one there is."""
        if kek_id != self._kek.kek_id:
            raise KeyError
        return self._kek

    def newest(self) -> Kek:
        """The one there is."""
        return self._kek


def _serve(dsns: Mapping[str, str], data_dir: str, pipe: Any) -> None:
    async def main() -> None:
        from telemetry.api.context import open_context
        from telemetry.api.server import serving
        from telemetry.config import load_config
        from telemetry.memory import calm_garbage_collection, keep_freed_memory

        limits = {"requests_per_minute": 10**6, "rows_per_hour": 10**12, "concurrent": 1000, "streams": 1000}
        config = load_config(data_dir=Path(data_dir), embedded=True, api={"port": 0, "cookie_secure": False} | limits)
        async with (
            open_context(config, Keystore(), dsns.__getitem__, keks=Keks()) as context,
            serving(context) as port,
        ):
            keep_freed_memory()  # both as `telemetry api` does
            calm_garbage_collection()
            pipe.send((port, multiprocessing.current_process().pid))
            await asyncio.to_thread(pipe.recv)

    uvloop.run(main())  # as `telemetry api` does


@contextmanager
def api_process(postgres: EmbeddedPostgres) -> Iterator[tuple[str, int]]:
    """The API's address and process id."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    dsns = {database: postgres.dsn(database, "") for database in ("telemetry", "keys")}
    with tempfile.TemporaryDirectory() as directory:
        process = context.Process(target=_serve, args=(dsns, directory, theirs), daemon=True)
        process.start()
        try:
            port, pid = ours.recv()
            yield f"http://127.0.0.1:{port}", pid
            ours.send("end")
            process.join(20)
        finally:
            process.kill()


async def keys_of(postgres: EmbeddedPostgres, owners: int) -> None:
    """Token secrets of owners 1 to ``owners``."""
    connection = await connector(postgres.dsn("keys", ""), user="telemetry_keys", password=PASSWORD)()
    made = [OwnerSecrets(key, secrets.token_bytes(96), secrets.token_bytes(32)) for key in range(1, owners + 1)]
    await KeyRing(connection, Keks()).add(made)
    await connection.close()


async def token_of(postgres: EmbeddedPostgres, recipient: int) -> dict[str, str]:
    """Headers of a recipient's machine that may do everything, for maintenance."""
    pool = Pool(connector(postgres.dsn("telemetry", ""), user="telemetry_access", password=PASSWORD))
    holder = Holder(Role.RECIPIENT, recipient_key=recipient)
    issued = await MachineTokens(pool).issue(holder, frozenset(Scope), purposes={SharingPurpose.MAINTENANCE})
    await pool.close()
    return {"Authorization": f"Bearer {issued.secret}"}
