"""A registry of many owners in PostgreSQL, made by SQL: settings as varied as owners, and consistent with their plan.

Every owner has one site with one gateway; devices are spread over the sites. Made up, deterministic by number.
"""

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from telemetry.model.fields import FIELD_NAMES, DataClass
from telemetry.model.sharing import Keeping
from telemetry.privacy.compile import compile_owner
from telemetry.privacy.plan import PlanClass
from telemetry.privacy.settled import LATER, OwnerSettings

VARIANTS: Final = 2_000  # distinct keeping settings

_FILL: Final = """
INSERT INTO consent.owner (owner_key, region, public_key, created_at)
SELECT hashint8extended(n, 1), 'default', decode(repeat('00', 1216), 'hex'), now() - interval '1 day'
FROM generate_series(1, {owners}) AS n;
INSERT INTO consent.keeping_version (owner_key, version, settings)
SELECT hashint8extended(n, 1), 1, v.settings FROM generate_series(1, {owners}) AS n
JOIN variant AS v ON v.number = n % {variants};
INSERT INTO consent.keeping SELECT owner_key, version, settings FROM consent.keeping_version;
INSERT INTO consent.site (site_key, owner_key, plan_classes)
SELECT hashint8extended(n, 2), hashint8extended(n, 1), array_fill(v.plan_class, ARRAY[6])
FROM generate_series(1, {owners}) AS n JOIN variant AS v ON v.number = n % {variants};
INSERT INTO consent.owner_plan (owner_key, site_classes)
SELECT hashint8extended(n, 1), array_fill(v.plan_class, ARRAY[6])
FROM generate_series(1, {owners}) AS n JOIN variant AS v ON v.number = n % {variants};
INSERT INTO consent.gateway (gateway_key, site_key, name_blind, backfill_us)
SELECT hashint8extended(n, 3), hashint8extended(n, 2), substr(sha256(int8send(n)), 1, 16), 3024000000000
FROM generate_series(1, {owners}) AS n;
INSERT INTO consent.device (device_key, site_key, gateway_key, kind, serial_blind, plan_class)
SELECT hashint8extended(n, 4), hashint8extended(h, 2), hashint8extended(h, 3), 1 + n % 6,
       substr(sha256(int8send(-n)), 1, 16), v.plan_class
FROM (SELECT n, 1 + n % {owners} AS h FROM generate_series(1, {devices}) AS n) AS d
JOIN variant AS v ON v.number = h % {variants};
ANALYZE consent.owner, consent.site, consent.gateway, consent.device, consent.keeping;
"""


@dataclass(frozen=True)
class Variant:
    """Keeping settings and the class that they compile to."""

    settings: str
    compiled: PlanClass


def variants(count: int = VARIANTS) -> list[Variant]:
    """Distinct settings, each with a class of its own; production is kept by none, so that a grant changes it."""
    chosen = random.Random(1)
    others = [each for each in DataClass if each is not DataClass.PRODUCTION]
    made: dict[PlanClass, Variant] = {}
    while len(made) < count:
        keeping = Keeping(
            classes=frozenset(chosen.sample(others, chosen.randint(3, len(others)))),
            never=frozenset(chosen.sample(FIELD_NAMES, chosen.randint(0, 6))),
            retention_days={DataClass.GRID: chosen.choice([365, 1098])},
        )
        compiled = compile_owner(OwnerSettings(1, keeping=keeping), datetime.now(UTC)).classes
        (only,) = {each for (site, _), each in compiled.items() if site == LATER}
        made[only] = Variant(json.dumps(keeping.model_dump(mode="json")), only)
    return list(made.values())


async def fill(connection: Any, *, owners: int, devices: int) -> None:
    """Fill an empty registry, as superuser: no key is checked and no trigger runs, which the result does not need."""
    chosen = variants()
    await connection.execute("SET session_replication_role = replica; SET synchronous_commit = off")
    await connection.execute("CREATE TEMPORARY TABLE variant (number int PRIMARY KEY, plan_class int, settings jsonb)")
    await connection.executemany(
        "INSERT INTO variant VALUES ($1, $2, $3)",
        [(number, number + 1, each.settings) for number, each in enumerate(chosen)],
    )
    await connection.executemany(
        "INSERT INTO consent.plan_class (plan_class, digest, keep, kept_resolution, retention_days)"
        " VALUES ($1, $2, $3, $4, $5)",
        [
            (number + 1, each.digest, each.keep, each.kept_resolution, list(each.retention_days))
            for number, each in enumerate(one.compiled for one in chosen)
        ],
    )
    await connection.execute(_FILL.format(owners=owners, devices=devices, variants=VARIANTS))
    await connection.execute("RESET session_replication_role; RESET synchronous_commit; SELECT consent.bump_version()")


def owner_key_sql() -> str:
    """The key of owner number $1."""
    return "SELECT hashint8extended($1::bigint, 1)"
