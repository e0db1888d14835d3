"""What the database's errors become, where a statement has no handling of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from telemetry.errors import StoreUnavailable
from telemetry.store.connection import UNAVAILABLE, translated


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn errors of the driver into ours, naming ``what`` failed and never what the server said: it quotes rows.

    Raises:
        StoreUnavailable: the connection is lost, refused or timed out, or a deadlock was broken; try again.
        StoreError: the server refused; only its five-character code is given.

    """
    try:
        yield
    except asyncpg.TransactionRollbackError as error:
        raise StoreUnavailable(f"{what}: rolled back (SQLSTATE {error.sqlstate})", remedy="try again") from None
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        ours = translated(error)
        raise type(ours)(f"{what}: {ours.args[0]}", remedy=ours.remedy) from None
