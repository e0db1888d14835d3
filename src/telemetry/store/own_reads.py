"""What a recipient read, as it is recorded for owners: its own log, without whose data it was."""

from typing import Any, Final

from telemetry.store.failures import reported
from telemetry.store.sql import queries

_SQL: Final = queries("sharing")


async def own_reads(connection: Any, recipient_key: int, *, before: int | None, limit: int) -> list[dict[str, Any]]:
    """Newest first: read_key, at, purpose, way, fields, resolution (rank), from_at, to_at.

    ``connection``: of the role ``telemetry_rights``. ``before``: only those with a lower read_key.
    """
    with reported("listing reads"):
        return [dict(row) for row in await connection.fetch(_SQL["own_reads"], recipient_key, before, limit)]
