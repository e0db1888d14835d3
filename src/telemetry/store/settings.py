"""What owners settled, read for compiling: keeping settings, grants, and what stands against them.

For any role that may read these tables (telemetry_rights, telemetry_operator but for objections).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg

from telemetry.model.sharing import Keeping, SharingPurpose
from telemetry.privacy.settled import OwnerSettings
from telemetry.store.grant_rows import grant_of
from telemetry.store.sql import queries

_SQL: Final = queries("plans")


async def read_settings(connection: asyncpg.Connection, owner_keys: Sequence[int]) -> dict[int, OwnerSettings]:
    """Everything that these owners' plans depend on; owners who do not exist are left out.

    Several statements: run it in a transaction that holds the owners (`lock_owners`) or of one snapshot.
    """
    keys = list(owner_keys)
    owners = await connection.fetch(_SQL["owners"], keys)
    sites = _by_owner(await connection.fetch(_SQL["sites"], keys))
    grants = _by_owner(await connection.fetch(_SQL["grants"], keys))
    objections = _by_owner(await connection.fetch(_SQL["objections"], keys))
    policies = {row["policy"]: row["expires_at"] for row in await connection.fetch(_SQL["policies"])}
    closed = frozenset(row["recipient_key"] for row in await connection.fetch(_SQL["closed_recipients"]))
    return {
        key: OwnerSettings(
            owner_key=key,
            sites=tuple(row["site_key"] for row in sites[key]),
            keeping=Keeping.model_validate_json(owner["keeping"]) if owner["keeping"] else Keeping(),
            grants=tuple(map(grant_of, grants[key])),
            policies=policies,
            closed=closed,
            objections=frozenset((SharingPurpose(row["purpose"]), row["recipient_key"]) for row in objections[key]),
            erased=owner["erased"],
        )
        for owner in owners
        for key in [owner["owner_key"]]
    }


def _by_owner(rows: Sequence[Mapping[str, Any]]) -> defaultdict[int, list[Mapping[str, Any]]]:
    found: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["owner_key"]].append(row)
    return found
