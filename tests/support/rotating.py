"""A process that replaces the key-encryption key and kills itself after so many steps: python -m … DSN KEYS STEPS."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import asyncpg

from telemetry.maintenance.rotation import Step, rotate_kek
from telemetry.store.keks import KeystoreKeks
from telemetry.store.keystore import FileKeystore


async def main(dsn: str, keys: Path, steps: int) -> None:
    left = steps

    def tell(step: Step, _count: int) -> None:
        nonlocal left
        left -= 1
        print(step.value, flush=True)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    keystore = FileKeystore(keys)
    connection = await asyncpg.connect(dsn)
    try:
        await rotate_kek(connection, KeystoreKeks(keystore), keystore, batch=20, tell=tell)
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
