"""What the database's errors become. The server's own text may quote a row, so it goes no further."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from telemetry.errors import StoreError, StoreUnavailable

# 08 connection, 53 resources, 55006/55P03 in use, 57 operator intervention, 40 serialisation and deadlock
_TRANSIENT = ("08", "53", "55", "57", "40")


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn errors of the driver into StoreUnavailable (try again) or StoreError, naming ``what`` failed.

    Raises:
        StoreUnavailable: the connection is lost, refused or timed out, or the server is busy; outcome unknown.
        StoreError: the server refused; only its five-character code is given.

    """
    try:
        yield
    except (OSError, TimeoutError, asyncpg.InterfaceError) as error:
        raise StoreUnavailable(f"{what}: the database cannot be reached", remedy="`telemetry doctor`") from error
    except asyncpg.PostgresError as error:
        code = str(error.sqlstate or "")
        if code.startswith(_TRANSIENT):
            raise StoreUnavailable(f"{what}: the database is not available now (SQLSTATE {code})") from None
        raise StoreError(
            f"{what}: the database refused (SQLSTATE {code})", remedy="`telemetry doctor` checks schema and roles"
        ) from None
