"""How the service does, in counts and instants: nothing here is about anybody. For role telemetry_operator."""

from typing import Any, Final

from telemetry.store.failures import reported
from telemetry.store.sql import migrations, queries

_SQL: Final = queries("operations")
Row = dict[str, Any]


async def health(connection: Any) -> Row:
    """now, plan_version, owners_to_compile, compiling_since, rolled_up_to, migrations, migrations_known, connections
    (by role).
    """
    with reported("asking how the service does"):
        row = await connection.fetchrow(_SQL["health"])
        roles = await connection.fetch(_SQL["connections"])
    by_role = {each["role"].removeprefix("telemetry_"): each["connections"] for each in roles}
    return dict(row) | {"migrations_known": len(migrations("telemetry")), "connections": by_role}


async def ingest(connection: Any) -> Row:
    """owners, sites, gateways, devices, gateways_counting (whose messages are numbered), and by hour (hour, kind,
    readings) how many rows were written.
    """
    with reported("asking what was taken in"):
        row = await connection.fetchrow(_SQL["registry"])
        hours = await connection.fetch(_SQL["hours"])
    return dict(row) | {"hours": [dict(each) for each in hours]}
