"""Connections to PostgreSQL, and what its errors mean to us."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import asyncpg

from telemetry.errors import StoreError, StoreUnavailable

Connect = Callable[[], Awaitable[Any]]
"""Opens a new asyncpg connection. Raises StoreUnavailable or StoreError."""

CONNECT_TIMEOUT_S: Final = 10.0

# What passes: no server, no connection, no resources, a shutdown, a time limit, a failover to a read-only copy.
UNAVAILABLE: Final = (
    OSError,  # TimeoutError is one
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)


def connector(
    dsn: str, *, user: str | None = None, password: str | None = None, statement_timeout_s: float = 120.0
) -> Connect:
    """Make a function that opens connections to ``dsn`` as ``user``.

    Sessions run in UTC, with every name qualified, and wait for the commit to be on disk whatever the server's
    default says.
    """
    settings = {
        "application_name": user or "telemetry",
        "timezone": "UTC",
        "search_path": "pg_catalog",
        "statement_timeout": str(round(statement_timeout_s * 1000)),
        "jit": "off",  # statements are short
        "temp_buffers": "32MB",  # the staging table of one batch
    }

    async def connect() -> Any:
        connection: Any = None
        try:
            connection = await asyncpg.connect(
                dsn,
                user=user,
                password=password,
                timeout=CONNECT_TIMEOUT_S,
                server_settings=settings,
            )
            await connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') IN ('off', 'local')"
            )
        except (*UNAVAILABLE, asyncpg.PostgresError) as error:
            if connection is not None:
                connection.terminate()
            raise translated(error) from None
        except BaseException:  # whoever wanted it is gone meanwhile
            if connection is not None:
                connection.terminate()
            raise
        return connection

    return connect


@contextlib.contextmanager
def closed_is_lost() -> Iterator[None]:
    """Turn uvloop's RuntimeError for a write to a closed transport, which asyncio ignores, into a lost connection.

    asyncpg writes once more (CopyFail) after it lost the connection during COPY.
    """
    try:
        yield
    except RuntimeError as error:
        if "the handler is closed" not in str(error):
            raise
        raise ConnectionResetError("the connection is closed") from None


def translated(error: BaseException) -> StoreError:
    """What ``error`` of the driver means. The server's own text is left out: it may quote values."""
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return StoreError(
            "the database refused role or password", remedy="`telemetry migrate` sets the roles' passwords"
        )
    if isinstance(
        error, asyncpg.InvalidCatalogNameError | asyncpg.UndefinedTableError | asyncpg.UndefinedFunctionError
    ):
        return StoreError("the database lacks what this version needs", remedy="run `telemetry migrate`")
    if isinstance(error, UNAVAILABLE):
        return StoreUnavailable(
            f"the database is not available ({getattr(error, 'sqlstate', None) or type(error).__name__})",
            remedy="it is tried again; nothing was acknowledged",
        )
    state = getattr(error, "sqlstate", None) or type(error).__name__
    return StoreError(f"the database refused a statement (SQLSTATE {state})", remedy="see the server's log")
